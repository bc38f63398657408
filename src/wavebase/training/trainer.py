"""One net under training: its state, and the trainer that computes its losses, gradients and updates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn, optim

from wavebase.recurrence.stored import StoredNet
from wavebase.tasks.base import Batch, Task, has_plain_squared_error, squared_error_and_slope
from wavebase.training.flat import FlatOptimizer, can_be_flat
from wavebase.training.graphs import ReplayedFunction
from wavebase.training.optimizers import GaussNewton, needs_closure


class TrainState(NamedTuple):
    """One net under training, and the callbacks of its run.

    Attributes:
        trained: The parameters under training, by name.
        learning_rate: Of a step. Members whose functions compare equal are stepped together.
        clip_norm: Largest norm of a gradient; None: gradients are not clipped.
        data: Draws the training batches.
        record: Takes a step and named numbers.
        observe, save: Take a step, measure the probes or write a checkpoint.
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
    """What the training loop does with its S members, one or many."""

    def losses(self, batches: Sequence[Batch]) -> Tensor:
        """Return each member's loss on its batch, [S], and keep the gradients for `update`."""

    def update(self, step: int) -> None:
        """Step every member's optimiser along the gradients kept."""

    def sync_optimizer_state(self) -> None:
        """Give every member's optimiser its own state, which may have been shared since the last update."""


class SingleTrainer:
    """Trains one net; an optimiser's closure evaluates the same batch again.

    Args:
        member: The net.
        cuda_graphs: See `TrainSettings`.
        workspace: See `StoredNet`.
    """

    def __init__(self, member: TrainState, cuda_graphs: bool = True, workspace: dict[Any, Tensor] | None = None):
        self.member = member
        self.has_closure = needs_closure(member.optimizer)
        self.flat = FlatOptimizer(member.optimizer) if can_be_flat(member.optimizer) else None
        self.stored: StoredNet | None = None
        if self.flat and member.clip_norm is None:  # clipping needs the gradient of each parameter
            self.stored = StoredNet(self.flat.numbers, self.flat.parameters, workspace)
        # torch's recurrent nets compute with a list of parameters of their own, which functional_call may leave as it is
        own_list = any(isinstance(module, nn.RNNBase) for module in member.net.modules())
        on_cuda = all(parameter.is_cuda for parameter in member.trained.values())
        self.replayed: ReplayedFunction | None = None
        if on_cuda and cuda_graphs and not (self.has_closure or own_list):
            self.replayed = ReplayedFunction(self._gradients())

    def losses(self, batches: Sequence[Batch]) -> Tensor:
        """See `Trainer`."""
        self.batch = batches[0]
        if self.replayed:
            loss, *gradients = self.replayed(*self.batch)
            for parameter, gradient in zip(self.member.trained.values(), gradients, strict=True):
                parameter.grad = gradient
            return loss[None]  # type: ignore[index]  # a loss is never None
        if self.has_closure:  # a net that carries a state must read the batch from the same state each time
            self.buffers = [(buffer, buffer.clone()) for buffer in self.member.net.buffers()]
        return self._evaluate().detach()[None]

    def _evaluate(self) -> Tensor:
        (inputs, target), member, stored = self.batch, self.member, self.stored
        with stored or nullcontext():
            output = member.net(inputs)
        read = stored.output if stored else None
        slope: Tensor | None = None
        unchanged = read is not None and output is read and not read._version
        alike = unchanged and output.shape == target.shape and output.dtype == target.dtype
        by_hand = alike and has_plain_squared_error(member.task)
        if stored and stored.without_graph != by_hand:  # the first step tells
            again, stored.without_graph = stored.without_graph, by_hand
            if again:
                return self._evaluate()
        (self.flat or member.optimizer).zero_grad()
        if by_hand:
            loss, slope = squared_error_and_slope(output, target)
        else:
            loss = member.task.loss(output, target)
            loss.backward()
            if stored and read is not None:
                slope = stored.leaf.grad
        if stored and self.flat and slope is not None:
            self.flat.numbers.grad = stored.gradient(slope)
        return loss

    def _gradients(self) -> Callable[..., tuple[Tensor | None, ...]]:
        """Return a function of inputs and target that returns the loss and the gradient of each trained parameter.

        It computes with tensors of its own on the parameters' storage, because autograd keeps notes about the parameters
        on the stream where a Hessian-vector product was taken, and a CUDA graph must not be recorded with those.
        """
        leaves = {name: parameter.detach().requires_grad_() for name, parameter in self.member.trained.items()}

        def gradients(inputs: Any, target: Tensor) -> tuple[Tensor | None, ...]:
            loss = self.member.task.loss(torch.func.functional_call(self.member.net, leaves, (inputs,)), target)
            return loss.detach(), *torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)

        return gradients

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
        task: Any = self.member.task  # one with residuals, which is checked where Gauss-Newton is chosen
        return task.residuals(self.member.net(inputs), target)

    def update(self, step: int) -> None:
        """See `Trainer`."""
        member = self.member
        if self.flat and not self.flat.has_gradients():
            self.flat.sync()  # a parameter that the loss does not depend on must stay, whatever its weight decay
            self.flat = self.stored = None
        set_rate([member.optimizer, *([self.flat.optimizer] if self.flat else [])], member.learning_rate(step))
        if member.clip_norm is not None:
            parameters = [parameter for parameter in member.trained.values() if parameter.grad is not None]
            factor = clipping_factor([parameter.grad for parameter in parameters], member.clip_norm)  # type: ignore[misc]
            for parameter in parameters:
                parameter.grad = parameter.grad * factor  # type: ignore[operator]
        if isinstance(member.optimizer, GaussNewton):
            member.optimizer.step(self._residuals)
        elif self.has_closure:
            member.optimizer.step(self._evaluate_again)  # type: ignore[arg-type]  # a tensor, as torch says elsewhere
        elif self.flat:
            self.flat.step()
        else:
            member.optimizer.step()

    def sync_optimizer_state(self) -> None:
        """See `Trainer`."""
        if self.flat:
            self.flat.sync()


def set_rate(optimizers: Iterable[optim.Optimizer], rate: float) -> None:
    """Set the learning rate of every group of parameters."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def clipping_factor(gradients: Sequence[Tensor], most: float) -> Tensor:
    """Return the factor, at most 1, that shortens gradients to the norm `most`.

    torch's clip_grad_norm_ works in place, which is wrong here: gradients of two biases that are added share storage.
    """
    return (most / (nn.utils.get_total_norm(gradients) + 1e-6)).clamp(max=1)
