"""The power spectrum of every window of a signal, target by FFT in float64."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from wavebase.limits import check_memory
from wavebase.registry import registered
from wavebase.signals import Signal
from wavebase.signals.generators import Impulse, Tones, WhiteNoise
from wavebase.spectrum import normalisation_factor, power_spectrum, resolve_bins
from wavebase.tasks.base import (
    Batch,
    SquaredErrorTask,
    check_label_noise,
    constant_losses,
    relative_errors,
    require_at_least,
)


def stream_windows(T: int) -> int:
    """Return the windows of the held-out stream: 20, or fewer for large T, whose streams would cost more than all other probes."""
    return min(20, max(2, 640 // T))


@registered
class PowerSpectrum(SquaredErrorTask):
    """Compute the power spectra of windows of a signal, with the mean squared error as loss.

    `held_out` are fixed sets, drawn from `probe_generator` alone: the training signal (the held-out part of a recording),
    and signals that training may never show. `baselines` are the losses of two constant predictions on
    held_out["training"]: zero, and the mean target of each bin. The last four settings concern training alone.

    Args:
        signal, T, dtype, device, probe_generator: Supplied by the run.
        bins: full, or the bins of the target; see `spectrum.resolve_bins`.
        normalisation: See `spectrum.normalisation_factor`.
        windows: Windows of T samples in a sequence.
        held_out_count: Sequences of a held-out set.
        training_count: None draws fresh sequences for every batch. A number draws so many once, from `probe_generator`; a
            batch takes some of them with replacement, or all in order if it is at least as large (full-batch descent).
        label_noise: Standard deviation of normal noise on every target, in units of the targets' rms.
        shuffle_targets: Whether the sequences of a batch exchange their targets at random.
        off_task_steps: Step from which there is neither label noise nor shuffling; None: never.

    Raises:
        ValueError: For a setting out of range, and for a signal that is silent where it is held out.
    """

    def __init__(
        self,
        signal: Signal,
        T: int,
        dtype: torch.dtype,
        device: torch.device,
        probe_generator: torch.Generator,
        *,
        bins: str | list[int] = "full",
        normalisation: Literal["power", "power_per_sample", "amplitude_squared"] = "power_per_sample",
        windows: int = 1,
        held_out_count: int = 64,
        training_count: int | None = None,
        label_noise: float = 0.0,
        shuffle_targets: bool = False,
        off_task_steps: int | None = None,
    ):
        require_at_least({"windows": 1, "held_out_count": 2}, windows=windows, held_out_count=held_out_count)
        self.label_noise = check_label_noise(label_noise)
        if training_count is not None and training_count < 1:
            raise ValueError(
                f"task.training_count must be at least 1, got {training_count}; use null for fresh sequences"
            )
        if off_task_steps is not None and (off_task_steps < 0 or not (label_noise or shuffle_targets)):
            raise ValueError(
                f"task.off_task_steps must be at least 0 and end some label_noise or shuffle_targets, got {off_task_steps}; use null"
            )
        self.signal, self.T, self.bins, self.normalisation = signal, T, resolve_bins(T, bins), normalisation
        self.samples, self.dtype, self.device = windows * T, dtype, device
        self.sizes: dict[str, Any] = {
            "T": T,
            "scale": normalisation_factor(T, normalisation),
            "signal_amplitude": signal.peak,
            "windows": windows,
        }
        rows = 8 * held_out_count + T // 2 + 1  # of all held-out sets; the set of tones has one row per frequency
        check_memory(5 * 8 * rows * self.samples, f"held-out signals for T={T}", "use a smaller T")
        self.held_out = {
            name: self._batch(x) for name, x in self._probe_signals(held_out_count, probe_generator).items()
        }
        self.baselines = constant_losses(self.held_out["training"].target.flatten(0, 1))
        self.shuffle_targets, self.off_task_steps = shuffle_targets, off_task_steps
        self.fixed = None
        if training_count is not None:
            needed = 4 * 8 * training_count * self.samples
            check_memory(needed, f"task.training_count={training_count} signals", "use a smaller task.training_count")
            self.fixed = self._batch(signal.sample(training_count, self.samples, probe_generator))

    def sample_batch(self, batch: int, generator: torch.Generator, step: int = 0) -> Batch:
        """Draw a batch, fresh or from the fixed sequences, with label noise and shuffling if this step has them."""
        drawn = self._draw(batch, generator)
        if self.off_task_steps is not None and step >= self.off_task_steps:
            return drawn
        if self.shuffle_targets:
            order = torch.randperm(len(drawn.target), generator=generator).to(drawn.target.device)
            drawn = Batch(drawn.input, drawn.target[order])
        return self.with_label_noise(drawn, self.baselines["zero"] ** 0.5, generator)

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """Return relative_error, ||output - target||_F / ||target||_F, and worst_window_error, that of the worst window."""
        return relative_errors(output, target)

    def _draw(self, batch: int, generator: torch.Generator) -> Batch:
        if self.fixed is None:
            return self._batch(self.signal.sample(batch, self.samples, generator))
        count = len(self.fixed.input)
        if batch >= count:
            return self.fixed
        rows = torch.randint(count, (batch,), generator=generator).to(self.device)
        return Batch(self.fixed.input[rows], self.fixed.target[rows])

    def _batch(self, signal: Tensor) -> Batch:
        # the target of the rounded input, which the net sees
        x = signal.to(self.dtype)
        target = power_spectrum(x, self.T, self.bins, self.normalisation)
        return Batch(x.to(self.device), target.to(self.device, self.dtype))

    def _probe_signals(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        peak, n = self.signal.peak, self.samples
        training = self.signal.sample(count, n, generator, held_out=True)
        return {
            "training": training,
            "white_noise": WhiteNoise(peak).sample(count, n, generator),
            "impulses": Impulse(peak, spacing=self.T).sample(count, n, generator),
            "tones": Tones(peak, T=self.T, off_bin=False).sample(max(count, self.T // 2 + 1), n, generator),
            "half_amplitude": training / 2,
            "double_amplitude": training * 2,
            "two_windows": WhiteNoise(peak).sample(count, 2 * self.T, generator),
            "stream": WhiteNoise(peak).sample(min(count, 16), self.T * stream_windows(self.T), generator),
        }
