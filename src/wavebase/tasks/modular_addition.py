"""Which number is n + m modulo p?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wavebase.registry import registered
from wavebase.tasks.base import Batch, SquaredErrorTask, check_label_noise, constant_losses, require_at_least


@registered
class ModularAddition(SquaredErrorTask):
    """Input: two numbers below p, one-hot, [batch, 2, p]; target: their sum modulo p, one-hot, [batch, p].

    Training draws pairs at random with replacement; held_out["training"] are all p^2 pairs, or `held_out_count` of them drawn at
    random where p^2 is larger. label_noise: standard deviation of a normal number added to every training target, in units of
    the targets' rms, 1/sqrt(p). `baselines` are the losses of two constant predictions: zero, 1/p, and the mean, (1/p)(1 - 1/p).
    """

    shuffle_targets, off_task_steps = False, None

    def __init__(
        self,
        dtype: torch.dtype,
        device: torch.device,
        probe_generator: torch.Generator,
        *,
        p: int = 11,
        held_out_count: int = 1024,
        label_noise: float = 0.0,
    ):
        require_at_least({"held_out_count": 2, "p": 3}, held_out_count=held_out_count, p=p)
        if p % 2 == 0:
            raise ValueError(f"task.p must be odd, got {p}; use {p + 1}")
        self.p, self.dtype, self.device, self.label_noise = p, dtype, device, check_label_noise(label_noise)
        self.sizes: dict[str, Any] = {"p": p}
        if p**2 > held_out_count:
            pairs = torch.randint(p**2, (held_out_count,), generator=probe_generator)
        else:
            pairs = torch.arange(p**2)
        self.held_out = {"training": self._batch(pairs)}
        self.baselines = constant_losses(self.held_out["training"].target)

    def sample_batch(self, batch: int, generator: torch.Generator, step: int = 0) -> Batch:
        """Random pairs."""
        drawn = self._batch(torch.randint(self.p**2, (batch,), generator=generator))
        return self.with_label_noise(drawn, self.p**-0.5, generator)

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """relative_error ||output - target|| / ||target - 1/p||, and accuracy.

        The best constant has a relative error of 1, and zero outputs a little more. A row of equal outputs has chosen nothing
        and counts as wrong, as does one that is not finite.
        """
        error, size = (output - target).double().norm(), (target.double() - 1 / self.p).norm()
        chosen = output.isfinite().all(-1) & (output.amax(-1) > output.amin(-1))
        accuracy = (chosen & (output.argmax(-1) == target.argmax(-1))).double().mean().item()
        return {"relative_error": (error / size).item(), "accuracy": accuracy}

    def _batch(self, pairs: Tensor) -> Batch:
        """Pairs as numbers n p + m, [batch]."""
        both = torch.stack([pairs // self.p, pairs % self.p], 1)
        one_hot = torch.nn.functional.one_hot(both, self.p).to(self.device, self.dtype)
        target = torch.nn.functional.one_hot(both.sum(1) % self.p, self.p).to(self.device, self.dtype)
        return Batch(one_hot, target)
