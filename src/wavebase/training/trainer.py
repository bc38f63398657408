"""One net under training: what it consists of, and its losses, gradients and updates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn, optim

from wavebase.training.optimizers import GaussNewton, needs_closure

Batch = tuple[Any, Tensor]


class Task(Protocol):
    """What training asks of a task."""

    def sample_batch(self, batch: int, generator: torch.Generator, step: int = 0) -> Batch:
        """The (input, target) of a training step: fresh ones from the generator, or the step's place in a fixed order.

        An input is a tensor or a tuple of tensors, whatever the net's forward takes.
        """

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """A scalar."""

    def residuals(self, output: Tensor, target: Tensor) -> Tensor:
        """Numbers whose squares add up to the loss. Only Gauss-Newton asks; a task whose loss is no such sum has none."""


class TrainState(NamedTuple):
    """One net under training, and what is to be done with it on the way.

    learning_rate: of a step; members whose functions are equal are stepped together.
    """

    net: nn.Module
    task: Task
    trained: Mapping[str, nn.Parameter]
    optimizer: optim.Optimizer
    learning_rate: Callable[[int], float]
    clip_norm: float | None
    data: torch.Generator
    record: Callable[[int, dict[str, float]], None]
    observe: Callable[[int], None]
    save: Callable[[int], None]


class Trainer(Protocol):
    """Members as the loop sees them."""

    def losses(self, batches: Sequence[Batch]) -> Tensor:
        """Each member's loss [S] on its batch; keeps the gradients for `update`."""

    def update(self, step: int) -> None:
        """One step of every member's optimiser, along the gradients kept."""

    def sync_optimizer_state(self) -> None:
        """Give every member's optimiser its own state, which it may not have had since the last update."""


class SingleTrainer:
    """One member, by torch's usual means. An optimiser that wants a closure gets one that evaluates the same batch again."""

    def __init__(self, member: TrainState):
        self.member = member
        self.again = needs_closure(member.optimizer)

    def losses(self, batches: Sequence[Batch]) -> Tensor:
        """See `Trainer`."""
        self.batch = batches[0]
        if self.again:  # a net that carries a state reads the batch from where it now stands, each time
            self.buffers = [(buffer, buffer.clone()) for buffer in self.member.net.buffers()]
        return self._evaluate().detach()[None]

    def _evaluate(self) -> Tensor:
        inputs, target = self.batch
        loss = self.member.task.loss(self.member.net(inputs), target)
        self.member.optimizer.zero_grad()
        loss.backward()
        return loss

    def _rewind(self) -> None:
        with torch.no_grad():
            for buffer, value in self.buffers:
                buffer.copy_(value)

    def _evaluate_again(self) -> Tensor:
        self._rewind()
        return self._evaluate()

    def _residuals(self) -> Tensor:
        self._rewind()
        inputs, target = self.batch
        return self.member.task.residuals(self.member.net(inputs), target)

    def update(self, step: int) -> None:
        """See `Trainer`."""
        member = self.member
        set_rate([member.optimizer], member.learning_rate(step))
        if member.clip_norm is not None:
            parameters = [parameter for parameter in member.trained.values() if parameter.grad is not None]
            factor = clipping_factor([parameter.grad for parameter in parameters], member.clip_norm)  # type: ignore[misc]
            for parameter in parameters:
                parameter.grad = parameter.grad * factor  # type: ignore[operator]
        if isinstance(member.optimizer, GaussNewton):
            member.optimizer.step(self._residuals)
        elif self.again:
            member.optimizer.step(self._evaluate_again)  # type: ignore[arg-type]  # a tensor, as torch says elsewhere
        else:
            member.optimizer.step()

    def sync_optimizer_state(self) -> None:
        """See `Trainer`: nothing to do."""


def set_rate(optimizers: Iterable[optim.Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def clipping_factor(gradients: Sequence[Tensor], most: float) -> Tensor:
    """What shortens the gradients to the norm `most`. Not in place, as torch's clip_grad_norm_: gradients of two biases
    that are added may share their storage."""
    return (most / (nn.utils.get_total_norm(gradients) + 1e-6)).clamp(max=1)
