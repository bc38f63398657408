"""Which of n numbers is the largest, the second largest or the median: the tasks of AlgZoo's recurrent nets."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from wavebase.registry import registered
from wavebase.signals import Signal
from wavebase.tasks.base import Batch, constant_losses, require_at_least

Statistic = Literal["second_argmax", "argmax", "argmedian", "median"]


@registered
class OrderStatistic:
    """Input: T numbers of a signal; target: a position among them, or their median.

    second_argmax, argmax: the position of the second largest and the largest number; argmedian: the position of the
    number of rank T // 2 from below (the middle one for odd T); these three ask for T logits and are judged by
    cross-entropy. median: the middle number or the mean of the middle two, one output, judged by the squared error.
    nonnegative: the numbers are |x| (a uniform signal of amplitude 1 becomes U[0, 1]).

    `held_out` are fixed sets: training; uniform, T numbers of U[0, 1]; double_amplitude, which a net without biases
    must answer alike. `baselines` are the losses of two constant predictions: zero (log T for a position), and the best
    constant (the entropy of the target's frequencies; the variance of the median).
    """

    mean_over_sequences = True

    def __init__(
        self,
        signal: Signal,
        T: int,
        dtype: torch.dtype,
        device: torch.device,
        probe_generator: torch.Generator,
        *,
        statistic: Statistic = "second_argmax",
        nonnegative: bool = False,
        held_out_count: int = 8192,
    ):
        require_at_least({"held_out_count": 2}, held_out_count=held_out_count)
        self.signal, self.T, self.statistic, self.nonnegative = signal, T, statistic, nonnegative
        self.dtype, self.device = dtype, device
        self.sizes: dict[str, Any] = {"T": T, "outputs": 1 if statistic == "median" else T}
        training = self._numbers(held_out_count, probe_generator, held_out=True)
        uniform = torch.rand(held_out_count, T, generator=probe_generator, dtype=torch.float64)
        sets = {"training": training, "uniform": uniform, "double_amplitude": 2 * training}
        self.held_out = {name: self._batch(x) for name, x in sets.items()}
        self.baselines = self._constant_losses(self.held_out["training"].target)

    def sample_batch(self, batch: int, generator: torch.Generator, step: int = 0) -> Batch:
        """A fresh batch of the training signal."""
        return self._batch(self._numbers(batch, generator))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy in nats, or the mean squared error of the median."""
        if self.statistic == "median":
            return torch.nn.functional.mse_loss(output, target)
        return torch.nn.functional.cross_entropy(output, target)

    def check_output(self, output: Tensor, target: Tensor) -> None:
        """Check that the output is one number a sequence for the median, else one logit a position.

        Raises:
            ValueError: For another shape.
        """
        shape = [len(target), self.sizes["outputs"]]
        if list(output.shape) != shape:
            raise ValueError(f"the model's output must be {shape}, got {list(output.shape)}; choose another model=")

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """relative_error and, for positions, accuracy.

        relative_error of a position: the error rate over that of a blind guess, 1 - 1/T (1: no better than chance). A
        prediction that is not finite counts as an error. Of the median: ||output - target|| / ||target||.
        """
        if self.statistic == "median":
            return {"relative_error": ((output - target).double().norm() / target.double().norm()).item()}
        # a net that gives every position the same logit has chosen none: argmax would call it right one time in T
        right = output.isfinite().all(-1) & (output.argmax(-1) == target) & (output.amax(-1) > output.amin(-1))
        accuracy = right.double().mean().item()
        return {"relative_error": (1 - accuracy) / (1 - 1 / self.T), "accuracy": accuracy}

    def _numbers(self, count: int, generator: torch.Generator, held_out: bool = False) -> Tensor:
        x = self.signal.sample(count, self.T, generator, held_out)
        return x.abs() if self.nonnegative else x

    def _batch(self, numbers: Tensor) -> Batch:
        # the target belongs to the rounded numbers, those that the net sees
        x = numbers.to(self.device, self.dtype)
        return Batch(x, answer(x, self.statistic))

    def _constant_losses(self, target: Tensor) -> dict[str, float]:
        if self.statistic == "median":
            return constant_losses(target)
        share = torch.bincount(target, minlength=self.T).double() / len(target)
        return {"zero": math.log(self.T), "mean": -torch.special.xlogy(share, share).sum().item()}


def answer(numbers: Tensor, statistic: Statistic) -> Tensor:
    """The right answer for numbers [batch, T]: positions [batch], or medians [batch, 1]."""
    T = numbers.shape[-1]
    if statistic == "median":
        return numbers.sort(-1).values[:, (T - 1) // 2 : T // 2 + 1].mean(-1, keepdim=True)
    rank = {"second_argmax": T - 2, "argmax": T - 1, "argmedian": T // 2}[statistic]
    return numbers.argsort(-1)[:, rank]
