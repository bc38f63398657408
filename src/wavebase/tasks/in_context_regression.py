"""Linear regression from the examples of a prompt."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from wavebase.constructions.linear_attention import best_preconditioner, best_rate, gradient_step
from wavebase.registry import registered
from wavebase.tasks.base import Batch, SquaredErrorTask, check_label_noise, constant_losses, require_at_least


@registered
class InContextRegression(SquaredErrorTask):
    """Input: prompts [batch, T + 1, d + 1] of T examples (x, y = w'x) and a query (q, 0), w new in each; target: w'q, [batch].

    w ~ N(0, I). x and q ~ N(0, Lambda), Lambda diagonal with eigenvalues that fall geometrically, the first `condition` times the
    last, and mean 1: condition 1 is the isotropic case. label_noise: standard deviation of a normal number added to every training
    target, in units of the targets' rms.

    `held_out` are fixed sets of `held_out_count` prompts: training, whose targets are w'q; gradient_step, the same prompts
    with the predictions of one step of gradient descent of rate T/(T + d + 1), the algorithm itself. No single layer of
    linear attention predicts w'q better than with a relative loss of (d + 1)/(T + d + 1) for condition 1.
    `baselines` are the losses of two constant predictions on the training set, zero and the mean, and optimum, that of the
    best single layer of linear attention.
    """

    shuffle_targets, off_task_steps = False, None

    def __init__(
        self,
        T: int,
        dtype: torch.dtype,
        device: torch.device,
        probe_generator: torch.Generator,
        *,
        dimension: int = 4,
        condition: float = 1.0,
        held_out_count: int = 1024,
        label_noise: float = 0.0,
    ):
        require_at_least({"held_out_count": 2, "dimension": 1}, held_out_count=held_out_count, dimension=dimension)
        if not (math.isfinite(condition) and condition >= 1):
            raise ValueError(f"task.condition must be finite and at least 1, got {condition}; use 1")
        if condition > 1 and dimension == 1:
            raise ValueError(f"task.condition must be 1 for one dimension, got {condition}; use task.dimension=4")
        self.T, self.dimension, self.dtype, self.device = T, dimension, dtype, device
        self.label_noise = check_label_noise(label_noise)
        self.variances = input_variances(dimension, condition)
        self.sizes: dict[str, Any] = {"examples": T, "dimension": dimension}
        training = self._draw(held_out_count, probe_generator)
        step = gradient_step(training.input, best_rate(T, dimension)).to(training.target)
        self.held_out = {"training": training, "gradient_step": Batch(training.input, step)}
        self.baselines = constant_losses(training.target)
        preconditioner = best_preconditioner(T, self.variances).to(device)
        best = gradient_step(training.input, preconditioner).to(training.target)
        self.baselines["optimum"] = self.loss(best, training.target).item()

    def sample_batch(self, batch: int, generator: torch.Generator, step: int = 0) -> Batch:
        """Fresh prompts."""
        return self.with_label_noise(self._draw(batch, generator), self.dimension**0.5, generator)

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """relative_error ||output - target|| / ||target||: 1 for zero outputs, and for the best constant but for its mean."""
        return {"relative_error": ((output - target).double().norm() / target.double().norm()).item()}

    def _draw(self, count: int, generator: torch.Generator) -> Batch:
        w = torch.randn(count, self.dimension, 1, generator=generator, dtype=torch.float64)
        x = torch.randn(count, self.T + 1, self.dimension, generator=generator, dtype=torch.float64)
        # rounded first: the labels belong to the inputs that the net sees
        x = (x * torch.tensor(self.variances, dtype=torch.float64).sqrt()).to(self.dtype).double()
        y = x @ w
        tokens = torch.cat([x, y], -1).to(self.device, self.dtype)
        tokens[:, -1, -1] = 0
        return Batch(tokens, y[:, -1, 0].to(self.device, self.dtype))


def input_variances(dimension: int, condition: float) -> tuple[float, ...]:
    """Return d variances of mean 1 that fall geometrically, the first `condition` times the last."""
    falling = [condition ** (-n / max(dimension - 1, 1)) for n in range(dimension)]
    return tuple(value * dimension / sum(falling) for value in falling)
