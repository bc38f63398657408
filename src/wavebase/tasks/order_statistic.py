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
    """Find a position among T numbers of a signal, or their median.

    `held_out` are fixed sets: training; uniform, T numbers of U[0, 1]; double_amplitude, to which a net without biases must
    give the same answer. `baselines` are the losses of two constant predictions: zero (log T for a position), and the best
    constant (the entropy of the target's frequencies; the variance of the median).

    Args:
        signal, T, dtype, device, probe_generator: Supplied by the run.
        statistic: second_argmax and argmax, the position of the second largest and of the largest number; argmedian, that of
            the number of rank T // 2 from below (the middle one for odd T). These need T logits and have the cross-entropy
            as loss. median, the middle number or the mean of the middle two, needs one output and has the squared error.
        nonnegative: Whether the numbers are |x| (a uniform signal of amplitude 1 becomes U[0, 1]).
        held_out_count: Number of held-out sequences.
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
        """Draw a fresh batch of the training signal."""
        return self._batch(self._numbers(batch, generator))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy in nats, or the mean squared error of the median."""
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
        """Compare outputs with targets.

        Returns:
            For positions accuracy, and relative_error: the error rate over that of a blind guess, 1 - 1/T (1 is chance). A
            prediction that is not finite counts as an error. For the median relative_error, ||output - target|| / ||target||.
        """
        if self.statistic == "median":
            return {"relative_error": ((output - target).double().norm() / target.double().norm()).item()}
        # equal logits choose no position, but argmax would be right one time in T
        right = output.isfinite().all(-1) & (output.argmax(-1) == target) & (output.amax(-1) > output.amin(-1))
        accuracy = right.double().mean().item()
        return {"relative_error": (1 - accuracy) / (1 - 1 / self.T), "accuracy": accuracy}

    def _numbers(self, count: int, generator: torch.Generator, held_out: bool = False) -> Tensor:
        x = self.signal.sample(count, self.T, generator, held_out)
        return x.abs() if self.nonnegative else x

    def _batch(self, numbers: Tensor) -> Batch:
        # the target of the rounded numbers, which the net sees
        x = numbers.to(self.device, self.dtype)
        return Batch(x, answer(x, self.statistic))

    def _constant_losses(self, target: Tensor) -> dict[str, float]:
        if self.statistic == "median":
            return constant_losses(target)
        share = torch.bincount(target, minlength=self.T).double() / len(target)
        return {"zero": math.log(self.T), "mean": -torch.special.xlogy(share, share).sum().item()}


def answer(numbers: Tensor, statistic: Statistic) -> Tensor:
    """Return the right answer for numbers [batch, T]: positions [batch], or medians [batch, 1]."""
    T = numbers.shape[-1]
    if statistic == "median":
        return numbers.sort(-1).values[:, (T - 1) // 2 : T // 2 + 1].mean(-1, keepdim=True)
    rank = {"second_argmax": T - 2, "argmax": T - 1, "argmedian": T // 2}[statistic]
    return numbers.argsort(-1)[:, rank]
