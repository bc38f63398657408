"""Which nets can be trained as one stack, and the memory that one needs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import is_dataclass

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
        mappings and dataclasses too; tensors of a task, such as fixed training data, are each member's own.
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

    def key(value: object) -> Hashable:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype | torch.device):
            return type(value), repr(value)  # repr: nan equals itself, 0.0 is not -0.0
        if isinstance(value, Tensor):
            return of_tensor(value)
        if isinstance(value, list | tuple):
            return type(value), tuple(map(key, value))
        if isinstance(value, Mapping):
            return type(value), tuple((repr(name), key(inner)) for name, inner in value.items())
        if is_dataclass(value):
            return type(value), tuple((name, key(inner)) for name, inner in vars(value).items())
        return getattr(value, "__qualname__", None)  # a function, such as an activation; nothing else is compared

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
