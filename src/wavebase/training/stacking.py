"""Which nets can be trained as one stack, and the memory that one needs."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor, optim

from wavebase.training.optimizers import needs_closure
from wavebase.training.trainer import TrainState


def stack_key(member: TrainState) -> Hashable:
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


def unstackable_reason(optimizer: optim.Optimizer) -> str | None:
    """Why runs with this optimiser are trained alone, or None."""
    return f"{type(optimizer).__name__} evaluates a batch several times a step" if needs_closure(optimizer) else None


def activation_bytes(member: TrainState, batch: int) -> int:
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
