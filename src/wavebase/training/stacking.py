"""Which nets can be trained as one stack, and the memory that one needs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from types import FunctionType, ModuleType

import numpy as np
import torch
from torch import Tensor, nn, optim

from wavebase.training.optimizers import needs_closure
from wavebase.training.trainer import TrainState

# A stack runs the first member's forward and loss. What those read besides parameters and buffers must therefore agree.
OF_MODULES = {*vars(nn.Module())} - {"training"}  # torch's own bookkeeping
OF_THE_RUN = {"construction", "algorithm"}  # what a net is compared with; no forward pass reads it
OF_THE_DATA = {"held_out", "baselines"}  # drawn by each member for itself


def stack_key(member: TrainState) -> Hashable:
    """Return what members must share to be trained as one stack.

    Args:
        member: One net under training, with its task.

    Returns:
        The shapes of all parameters and buffers, the names of the trained ones, and the classes and attributes of the
        net, of each of its submodules, and of the task. Attributes are compared by value within lists, tuples,
        sets, mappings, functions and objects too; tensors and arrays of a task, such as fixed training data, are each
        member's own.
    """
    shapes = tuple(
        (name, tuple(tensor.shape), tensor.dtype, tensor.device) for name, tensor in member.net.state_dict().items()
    )
    modules = tuple(
        (name, type(module), _attributes(module, OF_MODULES | OF_THE_RUN, _tensor_key))
        for name, module in member.net.named_modules()
    )
    task = type(member.task), _attributes(member.task, OF_THE_DATA, lambda tensor: ())
    return modules, task, shapes, tuple(member.trained)


def _attributes(thing: object, skipped: set[str], of_tensor: Callable[[Tensor], Hashable]) -> Hashable:
    """Return an object's attributes in a form that can be compared, those without a value to compare left out."""

    seen: set[int] = set()  # objects that are being compared: one may hold another that holds it

    def key(value: object) -> Hashable:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype | torch.device):
            return type(value), repr(value)  # repr: nan equals itself, 0.0 is not -0.0
        if isinstance(value, Tensor):
            return of_tensor(value)
        if isinstance(value, np.generic):
            return type(value), repr(value)
        if isinstance(value, np.ndarray):
            return type(value), value.dtype.str, of_tensor(torch.as_tensor(value)) if value.dtype.kind in "biufc" else repr(value)  # fmt: skip
        if isinstance(value, list | tuple):
            return type(value), tuple(map(key, value))
        if isinstance(value, set | frozenset):
            return type(value), tuple(sorted(map(repr, value)))
        if isinstance(value, Mapping):
            return type(value), tuple((repr(name), key(inner)) for name, inner in value.items())
        if isinstance(value, partial):
            return partial, key(value.func), key(value.args), key(value.keywords)
        if isinstance(value, FunctionType):  # such as an activation, with the values that it closes over
            inner = [cell.cell_contents for cell in value.__closure__ or ()]
            return value.__qualname__, within(value, [*inner, value.__defaults__, value.__kwdefaults__])
        if name := getattr(value, "__qualname__", None):  # a class, a method, or a function of torch's
            return name
        if isinstance(value, ModuleType):
            return value.__name__
        return type(value), within(value, getattr(value, "__dict__", {}))

    def within(value: object, parts: object) -> Hashable:
        if id(value) in seen:
            return None
        seen.add(id(value))
        found = key(parts)
        seen.discard(id(value))
        return found

    return tuple((name, key(value)) for name, value in sorted(vars(thing).items()) if name not in skipped)


def _tensor_key(tensor: Tensor) -> Hashable:
    """Return the numbers of a tensor that is neither parameter nor buffer: the first member's would serve for all."""
    return tuple(tensor.shape), tensor.dtype, tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()  # fmt: skip


def unstackable_reason(optimizer: optim.Optimizer) -> str | None:
    """Return why a run with this optimiser is trained alone, or None if it can be stacked."""
    return f"{type(optimizer).__name__} evaluates a batch several times a step" if needs_closure(optimizer) else None


def activation_bytes(member: TrainState, batch: int) -> int:
    """Measure the bytes that one forward pass of `batch` sequences keeps for its backward pass."""
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
