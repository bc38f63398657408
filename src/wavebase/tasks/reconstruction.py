"""Reproduce a window: the target of a transform followed by its inverse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wavebase.registry import registered
from wavebase.signals import Signal
from wavebase.signals.generators import Impulse, Tones, WhiteNoise
from wavebase.tasks.base import (
    Batch,
    SquaredErrorTask,
    check_label_noise,
    constant_losses,
    relative_errors,
    require_at_least,
)


@registered
class Reconstruction(SquaredErrorTask):
    """Reproduce windows of N = T samples of a signal, with the mean squared error as loss.

    label_noise: standard deviation of a normal number added to every training target, in units of the targets' rms.

    `held_out` are fixed sets of `held_out_count` windows each, drawn from `probe_generator` alone: the training signal (its
    held-out part, if it is a recording), and probes that training need not have shown. `baselines` are the losses of
    two constant predictions on held_out["training"]: zero, and the mean of each sample.
    """

    def __init__(
        self,
        signal: Signal,
        T: int,
        dtype: torch.dtype,
        device: torch.device,
        probe_generator: torch.Generator,
        *,
        held_out_count: int = 512,
        label_noise: float = 0.0,
    ):
        require_at_least({"held_out_count": 2}, held_out_count=held_out_count)
        self.signal, self.N, self.dtype, self.device = signal, T, dtype, device
        self.label_noise = check_label_noise(label_noise)
        self.sizes: dict[str, Any] = {"N": T}
        peak, n = signal.peak, held_out_count
        drawn = {
            "training": signal.sample(n, T, probe_generator, held_out=True),
            "white_noise": WhiteNoise(peak).sample(n, T, probe_generator),
            "impulses": Impulse(peak, spacing=T).sample(n, T, probe_generator),
            "tones": Tones(peak, T=T, off_bin=False).sample(max(n, T // 2 + 1), T, probe_generator),
        }
        self.held_out = {name: self._batch(x) for name, x in drawn.items()}
        self.baselines = constant_losses(self.held_out["training"].target)

    def sample_batch(self, batch: int, generator: torch.Generator, step: int = 0) -> Batch:
        """Draw a fresh batch of the training signal."""
        drawn = self._batch(self.signal.sample(batch, self.N, generator))
        return self.with_label_noise(drawn, self.baselines["zero"] ** 0.5, generator)

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """Return relative_error, ||output - target||_F / ||target||_F, worst_window_error, and mean_squared_error."""
        squared = (output - target).double().square().mean().item()
        return {**relative_errors(output, target), "mean_squared_error": squared}

    def _batch(self, signal: Tensor) -> Batch:
        x = signal.to(self.device, self.dtype)  # rounded once, so that the target is what the net sees
        return Batch(x, x)
