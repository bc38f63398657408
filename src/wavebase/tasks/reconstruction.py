"""Give back the window that was given: the target of a transform followed by its inverse."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from wavebase.registry import registered
from wavebase.signals import Signal
from wavebase.signals.generators import Impulse, Tones, WhiteNoise


class Batch(NamedTuple):
    """input and target [batch, N], the same, in the run's dtype and on its device."""

    input: Tensor
    target: Tensor


@registered
class Reconstruction:
    """Input and target: windows of N = T samples of a signal; loss: mean squared error.

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
    ):
        if held_out_count < 2:
            raise ValueError(f"task.held_out_count must be at least 2, got {held_out_count}; use 512")
        self.signal, self.N, self.dtype, self.device = signal, T, dtype, device
        self.sizes: dict[str, Any] = {"N": T}
        peak, n = signal.peak, held_out_count
        drawn = {
            "training": signal.sample(n, T, probe_generator, held_out=True),
            "white_noise": WhiteNoise(peak).sample(n, T, probe_generator),
            "impulses": Impulse(peak, spacing=T).sample(n, T, probe_generator),
            "tones": Tones(peak, T=T, off_bin=False).sample(max(n, T // 2 + 1), T, probe_generator),
        }
        self.held_out = {name: self._batch(x) for name, x in drawn.items()}
        target = self.held_out["training"].target.double()
        self.baselines = {
            "zero": target.square().mean().item(),
            "mean": (target - target.mean(0)).square().mean().item(),
        }

    def sample_batch(self, batch: int, generator: torch.Generator, step: int = 0) -> Batch:
        """A fresh batch of the training signal."""
        return self._batch(self.signal.sample(batch, self.N, generator))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean squared error over windows and samples, in the signal's units squared."""
        return torch.nn.functional.mse_loss(output, target)

    def residuals(self, output: Tensor, target: Tensor) -> Tensor:
        """Numbers whose squares add up to the loss."""
        return (output - target) / output.numel() ** 0.5

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """relative_error ||output - target||_F / ||target||_F, the same for the worst window, and mean_squared_error."""
        difference, size = (output - target).double(), target.double().norm(dim=-1)
        worst = (difference.norm(dim=-1) / size.clamp_min(torch.finfo(torch.float64).tiny)).max()
        return {
            "relative_error": (difference.norm() / size.norm()).item(),
            "worst_window_error": worst.item(),
            "mean_squared_error": difference.square().mean().item(),
        }

    def _batch(self, signal: Tensor) -> Batch:
        x = signal.to(self.device, self.dtype)  # rounded once: the target is what the net sees
        return Batch(x, x)
