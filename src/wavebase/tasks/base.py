"""The contract of tasks with the training loop, the probes and the verdict, and what most tasks share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Batch(NamedTuple):
    """A batch in the run's dtype and on its device.

    Attributes:
        input: What the model's forward takes, a tensor or a tuple of tensors.
        target: A tensor.
    """

    input: Any
    target: Tensor


class Task(Protocol):
    """A stream of (input, target) pairs, a loss, and the numbers that a model is judged by.

    Attributes:
        sizes: What a model's builder may ask for by parameter name, such as `T` or `horizon`.
        held_out: Fixed batches by name, drawn from the probes' generator alone. "training" is always there: fresh data
            of the training distribution.
        baselines: Losses of constant predictions on held_out["training"]: "zero", and "mean", the best constant. Also "optimum",
            the least loss there of the nets that the task is for, where it is not zero: relative losses are measured from it.

    A task may also have `residuals(output, target)`, numbers whose squares add up to the loss (Gauss-Newton needs them);
    `mean_over_sequences`, True where the loss is a mean over the batch's first axis, so that it can be cut into chunks;
    `examples(rows)`, what a run stores for its figures; and `check_output(output, target)`, which replaces the rule that
    both have one shape.
    """

    sizes: Mapping[str, Any]
    held_out: Mapping[str, Batch]
    baselines: Mapping[str, float]

    def sample_batch(self, batch: int, generator: torch.Generator, step: int = 0) -> Batch:
        """Return the batch of a training step: fresh from the generator, or the step's place in a fixed order."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the scalar that training minimises."""

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """Return named numbers; "relative_error" is always among them and is 1 for a model that has learned nothing."""


class SquaredErrorTask:
    """A task whose loss is the mean squared error. Output and target have one shape."""

    mean_over_sequences = True
    label_noise = 0.0  # of training targets, in units of their rms
    baselines: Mapping[str, float]

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared error over all numbers of the batch, in the target's units squared."""
        return torch.nn.functional.mse_loss(output, target)

    def residuals(self, output: Tensor, target: Tensor) -> Tensor:
        """Return numbers whose squares add up to the loss."""
        return (output - target) / output.numel() ** 0.5

    def with_label_noise(self, drawn: Batch, rms: float, generator: torch.Generator) -> Batch:
        """Return a batch whose targets have normal noise of standard deviation label_noise * rms added."""
        if not self.label_noise:
            return drawn
        noise = torch.randn(drawn.target.shape, generator=generator, dtype=torch.float64).to(drawn.target)
        return Batch(drawn.input, drawn.target + self.label_noise * rms * noise)


def has_plain_squared_error(task: Any) -> bool:
    """Return whether `squared_error_and_slope` gives the task's loss, for an output of the target's shape and dtype."""
    return getattr(type(task), "loss", None) is SquaredErrorTask.loss


def squared_error_and_slope(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean squared error and its gradient with respect to the output, with the bits that autograd gives."""
    error = output.detach() - target
    return error.square().mean(), error.mul_(2 / error.numel())


def check_label_noise(label_noise: float) -> float:
    """Return a task's label noise. Raises ValueError if it is negative or not finite."""
    if not (math.isfinite(label_noise) and label_noise >= 0):
        raise ValueError(f"task.label_noise must be finite and not negative, got {label_noise}; use 0.1")
    return label_noise


def relative_errors(output: Tensor, target: Tensor) -> dict[str, float]:
    """Compare an output with its target.

    Args:
        output, target: Equal shapes [..., numbers].

    Returns:
        relative_error, ||output - target|| / ||target|| over everything; worst_window_error, the same for the row of
        numbers that is worst.
    """
    difference, size = (output - target).double().norm(dim=-1), target.double().norm(dim=-1)
    worst = (difference / size.clamp_min(torch.finfo(torch.float64).tiny)).max()
    return {"relative_error": (difference.norm() / size.norm()).item(), "worst_window_error": worst.item()}


def constant_losses(target: Tensor) -> dict[str, float]:
    """Return the mean squared errors of two constant predictions: zero, and the target's mean over the first axis.

    Raises:
        ValueError: If every target is zero, because no error is relative to that.
    """
    target = target.double()
    zero, mean = target.square().mean().item(), (target - target.mean(0)).square().mean().item()
    return require_signal({"zero": zero, "mean": mean})


def require_signal(baselines: dict[str, float]) -> dict[str, float]:
    """Return the baselines of a held-out set.

    Raises:
        ValueError: If predicting zero has no error, which means that the set is silent.
    """
    if not baselines["zero"] > 0:
        raise ValueError(
            "signal must not be silent where it is held out, got zeros only; use another signal or another part of it"
        )
    return baselines


def require_at_least(least: Mapping[str, int], **values: int) -> None:
    """Check settings of a task's configuration.

    Raises:
        ValueError: For the first value below its bound.
    """
    for name, value in values.items():
        if value < least[name]:
            raise ValueError(f"task.{name} must be at least {least[name]}, got {value}; use {least[name]} or more")


def check_output(task: Task, output: Any, target: Tensor) -> None:
    """Check that a model's output is what the task compares with its target.

    Raises:
        ValueError: If it is not a tensor, or has another shape and the task has no `check_output` of its own.
    """
    own = getattr(task, "check_output", None)
    if own is not None:
        own(output, target)
    elif not isinstance(output, Tensor):
        raise ValueError(f"the model's output must be a tensor, got {type(output).__name__}; choose another model=")
    elif output.shape != target.shape:
        raise ValueError(
            f"the model's output must have the target's shape {list(target.shape)}, got {list(output.shape)}; choose another model= or task="
        )
