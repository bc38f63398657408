"""One net under training, or many as one program: losses, gradients, updates. The loop around them is `training`."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn, optim
from torch.utils._pytree import tree_map

from wavebase.training.optimizers import AdamL1, GaussNewton, needs_closure

# optimisers that treat every number of a tensor by itself: those of many nets can be one tensor. Of torch's others Adafactor
# and Muon treat a matrix as a whole, LBFGS all parameters, and SparseAdam takes sparse gradients only.
ELEMENTWISE = (
    optim.SGD, optim.Adam, optim.AdamW, optim.Adamax, optim.NAdam, optim.RAdam, optim.RMSprop, optim.Rprop, optim.Adadelta,
    optim.Adagrad, optim.ASGD, AdamL1,
)  # fmt: skip

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)
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


class Member(NamedTuple):
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


class Program(Protocol):
    """Members as the loop sees them."""

    def losses(self, batches: Sequence[Batch]) -> Tensor:
        """Each member's loss [S] on its batch; keeps the gradients for `update`."""

    def update(self, step: int) -> None:
        """One step of every member's optimiser, along the gradients kept."""

    def settle(self) -> None:
        """Give every member's optimiser its own state, which it may not have had since the last update."""


def program(members: Sequence[Member]) -> Program:
    """A run alone as it is, several as a stack. Several must agree in everything but the values of tensors (`stack_key`)."""
    return Stack(members) if len(members) > 1 else Alone(members[0])


class Alone:
    """One member, by torch's usual means. An optimiser that wants a closure gets one that evaluates the same batch again."""

    def __init__(self, member: Member):
        self.member = member
        self.again = needs_closure(member.optimizer)

    def losses(self, batches: Sequence[Batch]) -> Tensor:
        """See `Program`."""
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
        """See `Program`."""
        member = self.member
        _set_rate([member.optimizer], member.learning_rate(step))
        if member.clip_norm is not None:
            parameters = [parameter for parameter in member.trained.values() if parameter.grad is not None]
            factor = _clipping([parameter.grad for parameter in parameters], member.clip_norm)  # type: ignore[misc]
            for parameter in parameters:
                parameter.grad = parameter.grad * factor  # type: ignore[operator]
        if isinstance(member.optimizer, GaussNewton):
            member.optimizer.step(self._residuals)
        elif self.again:
            member.optimizer.step(self._evaluate_again)  # type: ignore[arg-type]  # a tensor, as torch says elsewhere
        else:
            member.optimizer.step()

    def settle(self) -> None:
        """See `Program`: nothing to do."""


class Stack:
    """Members as one program: their parameters become views on storage with a leading stack axis, and the net's own forward
    is batched over it (torch.func.vmap). A net that carries a state from step to step keeps it in buffers and writes them in place.

    Members with equal settings of an elementwise optimiser are stepped together, as one parameter: the same arithmetic,
    without torch's bookkeeping for every member and tensor.
    """

    def __init__(self, members: Sequence[Member]):
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
        groups = groupby(range(len(ordered)), key=lambda n: repr(_settings(self.members[n])))
        self.parts = [self._part(list(numbers)) for _, numbers in groups]

    def _part(self, numbers: list[int]) -> _Part:
        part = slice(numbers[0], numbers[-1] + 1)
        return _Part(self.members[part], part, {name: leaf.detach()[part] for name, leaf in self.leaves.items()})

    def losses(self, batches: Sequence[Batch]) -> Tensor:
        """See `Program`."""

        def one(leaf: dict[str, Tensor], fixed: dict[str, Tensor], inputs: Any, target: Tensor) -> Tensor:
            return self.task.loss(torch.func.functional_call(self.net, {**leaf, **fixed}, (inputs,)), target)

        inputs, targets = tree_map(lambda *parts: torch.stack(parts), *(batches[n] for n in self.ordered))
        losses = torch.func.vmap(one)(self.leaves, self.fixed, inputs, targets)
        self.gradients = torch.autograd.grad(losses.sum(), list(self.leaves.values()), allow_unused=True)
        return losses.detach()[self.places]

    def update(self, step: int) -> None:
        """See `Program`."""
        for part in self.parts:
            part.update(step, [None if gradient is None else gradient[part.place] for gradient in self.gradients])

    def settle(self) -> None:
        """See `Program`."""
        for part in self.parts:
            part.settle()


class _Part:
    """Neighbours in a stack whose optimisers have equal settings, and the one optimiser that steps them."""

    def __init__(self, members: Sequence[Member], place: slice, storage: Mapping[str, Tensor]):
        self.members, self.place = members, place
        own = members[0].optimizer
        numbers = any(tensor.ndim == 1 for tensor in storage.values())  # no shape to tell them from counts of steps
        self.together = len(members) > 1 and type(own) in ELEMENTWISE and len(own.param_groups) == 1 and not numbers
        if not self.together:
            return
        self.parameters = {name: nn.Parameter(tensor) for name, tensor in storage.items()}
        settings = {key: value for key, value in own.param_groups[0].items() if key != "params"}
        kind: Any = type(own)
        self.optimizer = kind([{"params": list(self.parameters.values()), **settings}])
        for name, parameter in self.parameters.items():
            states = [member.optimizer.state.get(member.trained[name], {}) for member in members]
            for key, value in states[0].items():  # what is no tensor of the parameter's shape counts steps
                numbers = isinstance(value, Tensor) and value.shape == parameter.shape[1:]
                self.optimizer.state[parameter][key] = (
                    torch.stack([state[key] for state in states]) if numbers else value
                )

    def update(self, step: int, gradients: Sequence[Tensor | None]) -> None:
        """None for a parameter that the loss does not depend on: as in a run alone, it is not decayed either."""
        steppers = [self.optimizer] if self.together else []
        _set_rate([*steppers, *(member.optimizer for member in self.members)], self.members[0].learning_rate(step))
        if self.members[0].clip_norm is not None:
            factors = torch.stack(
                [_clipping([g[n] for g in gradients if g is not None], m.clip_norm) for n, m in enumerate(self.members)]  # type: ignore[arg-type]
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

    def settle(self) -> None:
        if not self.together:
            return
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                numbers = isinstance(value, Tensor) and value.shape == parameter.shape
                for n, member in enumerate(self.members):
                    member.optimizer.state[member.trained[name]][key] = (
                        value[n] if numbers else value.clone() if isinstance(value, Tensor) else value
                    )


def _settings(member: Member) -> tuple[Any, ...]:
    """What members must share to be stepped together."""
    groups = [
        {key: value for key, value in group.items() if key != "params"} for group in member.optimizer.param_groups
    ]
    return type(member.optimizer).__name__, groups, member.learning_rate, member.clip_norm


def _set_rate(optimizers: Iterable[optim.Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def _clipping(gradients: Sequence[Tensor], most: float) -> Tensor:
    """What shortens the gradients to the norm `most`. Not in place, as torch's clip_grad_norm_: gradients of two biases
    that are added may share their storage."""
    return (most / (nn.utils.get_total_norm(gradients) + 1e-6)).clamp(max=1)


@cache
def _keep_freed_memory() -> None:
    """Let glibc keep what is freed. Blocks from 32 MiB on, such as what a stack keeps for its backward pass, would go back to
    the system and be mapped anew in every step: a tenth of a step's time for 32 nets at T = 8 in float64."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def stack_key(member: Member) -> Hashable:
    """Members with equal keys can be trained as one stack: same classes, plain attributes and shapes of tensors."""
    plain = (bool, int, float, str, tuple, type(None), torch.dtype)

    def is_plain(value: object) -> bool:  # a pair of tensors, such as fixed training data, is each member's own
        return isinstance(value, plain) and (not isinstance(value, tuple) or all(map(is_plain, value)))

    def attributes(thing: object) -> tuple[tuple[str, str], ...]:
        return tuple(sorted((k, repr(v)) for k, v in vars(thing).items() if is_plain(v)))

    shapes = tuple(
        (name, tuple(tensor.shape), tensor.dtype, tensor.device) for name, tensor in member.net.state_dict().items()
    )
    return (
        type(member.net),
        attributes(member.net),
        type(member.task),
        attributes(member.task),
        shapes,
        tuple(member.trained),
    )


def stacks_not_because(optimizer: optim.Optimizer) -> str | None:
    """Why runs with this optimiser are trained alone, or None."""
    return f"{type(optimizer).__name__} evaluates a batch several times a step" if needs_closure(optimizer) else None


def saved_bytes(member: Member, batch: int) -> int:
    """Bytes that one forward pass of the member keeps for its backward pass, measured."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    generator = torch.Generator().manual_seed(0)
    inputs, target = member.task.sample_batch(batch, generator)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = member.task.loss(member.net(inputs), target)
    del loss
    return sum(sizes.values())
