"""Many nets trained as one: their parameters are stacked, and one forward pass is batched over the stack."""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from wavebase.recurrence.native import lstm as native
from wavebase.tasks.base import Batch, has_plain_squared_error
from wavebase.training.flat import can_be_flat
from wavebase.training.graphs import ReplayedFunction
from wavebase.training.optimizers import ELEMENTWISE
from wavebase.training.trainer import SingleTrainer, Trainer, TrainState, clipping_factor, set_rate

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


def make_trainer(members: Sequence[TrainState], cuda_graphs: bool = True) -> Trainer:
    """Return the trainer of one net, or of several whose `stack_key` is equal."""
    if len(members) == 1:
        return SingleTrainer(members[0], cuda_graphs)
    return OneByOne(members) if all(map(_needs_no_graph, members)) else StackedTrainer(members, cuda_graphs)


def _needs_no_graph(member: TrainState) -> bool:
    """Return whether the step of this net alone leaves autograd out, on one thread: several would share a stack's work."""
    return (
        getattr(member.net, "returns_reading", False)
        and torch.get_num_threads() == 1
        and native.available()
        and all(parameter.is_cpu for parameter in member.trained.values())
        and member.clip_norm is None
        and can_be_flat(member.optimizer)
        and has_plain_squared_error(member.task)
    )


class OneByOne:
    """Trains several nets one after the other, each as if it were alone, in buffers that they share.

    A small net's step without autograd costs less than its share of one program's step (`bench/sweeps.py`).
    """

    def __init__(self, members: Sequence[TrainState]):
        workspace: dict[Any, Tensor] = {}
        self.trainers = [SingleTrainer(member, workspace=workspace) for member in members]

    def losses(self, batches: Sequence[Batch]) -> Tensor:
        """See `Trainer`."""
        return torch.cat([trainer.losses([batch]) for trainer, batch in zip(self.trainers, batches, strict=True)])

    def update(self, step: int) -> None:
        """See `Trainer`."""
        for trainer in self.trainers:
            trainer.update(step)

    def sync_optimizer_state(self) -> None:
        """See `Trainer`."""
        for trainer in self.trainers:
            trainer.sync_optimizer_state()


class StackedTrainer:
    """Trains several nets at once.

    Their parameters become views on storage with a leading stack axis, and the first net's forward pass is batched over
    it (torch.func.vmap). A net that carries a state from step to step must keep it in buffers and write them in place.
    Members with equal settings of an elementwise optimiser are stepped as one parameter: the same arithmetic, without
    torch's bookkeeping for every member and tensor.
    """

    def __init__(self, members: Sequence[TrainState], cuda_graphs: bool = True):
        _keep_freed_memory()
        ordered = sorted(range(len(members)), key=lambda n: repr(_settings(members[n])))
        self.places = torch.tensor(ordered).argsort()
        self.ordered, self.members = ordered, [members[n] for n in ordered]
        self.net, self.task = members[0].net, members[0].task
        every = [{**dict(m.net.named_parameters()), **dict(m.net.named_buffers())} for m in self.members]
        self.fixed = {name: torch.stack([tensors[name].detach() for tensors in every]) for name in every[0]}
        self.leaves = {name: self.fixed.pop(name).requires_grad_() for name in members[0].trained}
        storage = {**self.fixed, **{name: leaf.detach() for name, leaf in self.leaves.items()}}
        for n, tensors in enumerate(every):
            for name, tensor in tensors.items():
                tensor.data = storage[name][n]
        self.gradients: Sequence[Tensor | None] = ()
        self.evaluate = ReplayedFunction(self._evaluate, cuda_graphs)
        groups = groupby(range(len(ordered)), key=lambda n: repr(_settings(self.members[n])))
        self.parts = [self._part(list(numbers)) for _, numbers in groups]

    def _part(self, numbers: list[int]) -> _Part:
        part = slice(numbers[0], numbers[-1] + 1)
        return _Part(self.members[part], part, {name: leaf.detach()[part] for name, leaf in self.leaves.items()})

    def losses(self, batches: Sequence[Batch]) -> Tensor:
        """See `Trainer`."""
        losses, *self.gradients = self.evaluate(*_stack([tuple(batches[n]) for n in self.ordered]))
        return losses[self.places]  # type: ignore[index]  # a loss is never None

    def _evaluate(self, inputs: Any, targets: Tensor) -> tuple[Tensor | None, ...]:
        """Return the losses, [S], and the gradient of each leaf."""

        def one(leaf: dict[str, Tensor], fixed: dict[str, Tensor], inputs: Any, target: Tensor) -> Tensor:
            return self.task.loss(torch.func.functional_call(self.net, {**leaf, **fixed}, (inputs,)), target)

        losses = torch.func.vmap(one)(self.leaves, self.fixed, inputs, targets)
        return losses.detach(), *torch.autograd.grad(losses.sum(), list(self.leaves.values()), allow_unused=True)

    def update(self, step: int) -> None:
        """See `Trainer`."""
        for part in self.parts:
            part.update(step, [None if gradient is None else gradient[part.place] for gradient in self.gradients])

    def sync_optimizer_state(self) -> None:
        """See `Trainer`."""
        for part in self.parts:
            part.sync_optimizer_state()


def _stack(parts: Sequence[Any]) -> Any:
    """Stack equal tensors, or tuples of them, along a new first axis."""
    return torch.stack(list(parts)) if isinstance(parts[0], Tensor) else tuple(map(_stack, zip(*parts, strict=True)))


class _Part:
    """Neighbours in a stack whose optimisers have equal settings, and the optimiser that steps them together."""

    def __init__(self, members: Sequence[TrainState], place: slice, storage: Mapping[str, Tensor]):
        self.members, self.place = members, place
        own = members[0].optimizer
        scalars = any(tensor.ndim == 1 for tensor in storage.values())  # their moments look like counts of steps
        self.together = len(members) > 1 and type(own) in ELEMENTWISE and len(own.param_groups) == 1 and not scalars
        if not self.together:
            return
        self.parameters = {name: nn.Parameter(tensor) for name, tensor in storage.items()}
        settings = {key: value for key, value in own.param_groups[0].items() if key != "params"}
        kind: Any = type(own)
        self.optimizer = kind([{"params": list(self.parameters.values()), **settings}])
        for name, parameter in self.parameters.items():
            states = [member.optimizer.state.get(member.trained[name], {}) for member in members]
            for key, value in states[0].items():  # a value of another shape counts steps and is common to all
                numbers = isinstance(value, Tensor) and value.shape == parameter.shape[1:]
                self.optimizer.state[parameter][key] = (
                    torch.stack([state[key] for state in states]) if numbers else value
                )

    def update(self, step: int, gradients: Sequence[Tensor | None]) -> None:
        """Step all members; a gradient is None where the loss does not depend on the parameter, which then stays."""
        steppers = [self.optimizer] if self.together else []
        set_rate([*steppers, *(member.optimizer for member in self.members)], self.members[0].learning_rate(step))
        if self.members[0].clip_norm is not None:
            factors = torch.stack(
                [
                    clipping_factor([g[n] for g in gradients if g is not None], m.clip_norm or math.inf)
                    for n, m in enumerate(self.members)
                ]
            )
            gradients = [None if g is None else g * factors.view(-1, *[1] * (g.ndim - 1)) for g in gradients]
        if self.together:
            for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
                parameter.grad = gradient
            self.optimizer.step()
            return
        for n, member in enumerate(self.members):
            for parameter, gradient in zip(member.trained.values(), gradients, strict=True):
                parameter.grad = None if gradient is None else gradient[n]
            member.optimizer.step()

    def sync_optimizer_state(self) -> None:
        if not self.together:
            return
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                numbers = isinstance(value, Tensor) and value.shape == parameter.shape
                for n, member in enumerate(self.members):
                    member.optimizer.state[member.trained[name]][key] = (
                        value[n] if numbers else value.clone() if isinstance(value, Tensor) else value
                    )


def _settings(member: TrainState) -> tuple[Any, ...]:
    """Return what members must share to be stepped together."""
    groups = [
        {key: value for key, value in group.items() if key != "params"} for group in member.optimizer.param_groups
    ]
    return type(member.optimizer).__name__, groups, member.learning_rate, member.clip_norm


@cache
def _keep_freed_memory() -> None:
    """Let glibc keep freed memory.

    Blocks of 32 MiB and more, such as a stack's activations, would be unmapped and mapped again in every step: a tenth
    of a step's time for 32 nets at T = 8 in float64.
    """
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no mallopt
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
