"""The compiled recurrence and the joining of gates as nodes of autograd's graph, batched by torch.func.vmap."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from wavebase.recurrence.cells import InputGate, plain_sequence


class _Function(torch.autograd.Function):
    @classmethod
    def apply(cls, *arguments: Any) -> Any:
        """Apply the function; outside torch.func, skip the inspection of signatures that only torch.func needs."""
        if torch._C._are_functorch_transforms_active():
            return super().apply(*arguments)  # type: ignore[no-untyped-call]
        return super(torch.autograd.Function, cls).apply(*arguments)  # type: ignore[misc]


class JoinedGates(_Function):
    """See `join_gates`: the shapes of all tensors, the units of all numbers in one tensor, or None; then the tensors.
    `forward` also takes the one that holds all of their numbers.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(shapes: Sequence[Sequence[int]], units: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
        # one operation on all numbers costs less than one on each tensor
        numbers = flattened(tensors) if len(tensors) > 1 else tensors[0]
        if units is not None:
            numbers = numbers * units
        (H, I), others = shapes[0], shapes[16:]  # noqa: E741
        sizes = [4 * H * I, 4 * H * H, 4 * H, 4 * H, *map(math.prod, others)]  # torch.func makes tuples of sizes
        weight_ih, weight_hh, bias_ih, bias_hh, *rest = numbers.split(sizes)
        joined = weight_ih.view(4 * H, I), weight_hh.view(4 * H, H), bias_ih + bias_hh
        return *joined, *(part.view(other) for part, other in zip(rest, others, strict=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.shapes, units, *_ = inputs
        ctx.save_for_backward(units)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (units,) = ctx.saved_tensors
        parts = JoinedGates.gradient(units, gradients).split([math.prod(shape) for shape in ctx.shapes])
        return None, None, *(part.view(shape) for part, shape in zip(parts, ctx.shapes, strict=True))

    @staticmethod
    def gradient(units: Tensor | None, gradients: Sequence[Tensor]) -> Tensor:
        """Return the gradient of all numbers from those of what `forward` returns."""
        numbers = flattened((*gradients[:3], *gradients[2:]))  # both biases have one gradient
        return numbers if units is None else numbers * units


class CompiledSequence(_Function):
    """The six arguments, the compiled recurrence, the steps whose hidden states are wanted, whether the input gate is tanh,
    whether to keep what backward needs; to those states, the last hidden and cell state, and what is kept.
    """

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        *tensors, backend, at, tanh_input_gate, keep = arguments
        return backend.forward(*tensors, at, tanh_input_gate, keep)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.backend, ctx.at, ctx.tanh_input_gate, ctx.keep = inputs
        ctx.mark_non_differentiable(*output[3:])
        ctx.set_materialize_grads(False)
        if ctx.keep:
            ctx.save_for_backward(*tensors, *output[3:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        saved, (of_inputs, of_hidden) = ctx.saved_tensors, ctx.needs_input_grad[:2]
        again = torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
        gradient = SequenceGradient.apply if again else SequenceGradient.forward  # apply costs, forward suffices
        how = ctx.backend, ctx.at, ctx.tanh_input_gate, of_inputs, of_hidden
        return *gradient(*saved, *gradients[:3], *how), None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        *tensors, backend, at, tanh_input_gate, keep = _stacked(info, in_dims, arguments)
        keep = keep or any_needs_gradient(tensors)  # what is mapped hides whether it needs a gradient
        return CompiledSequence.apply(*tensors, backend, at, tanh_input_gate, keep), (0, 0, 0, 0, 0 if keep else None)


class SequenceGradient(_Function):
    """Gradients of `CompiledSequence` as a function of its arguments and of the gradients of its results.

    Its own derivative, for second derivatives, is that of the plain loop's gradients.
    """

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor | None, ...]:
        *tensors, backend, at, tanh_input_gate, of_inputs, of_hidden = arguments
        return backend.backward(*tensors, at, tanh_input_gate, of_inputs, of_hidden)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        *tensors, _, _, grad_states, grad_hidden, grad_cell, _, ctx.at, ctx.tanh_input_gate, _, _ = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, grad_states, grad_hidden, grad_cell)

    @staticmethod
    def backward(ctx: Any, *directions: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors, given = ctx.saved_tensors[:6], ctx.saved_tensors[6:]
        input_gate: InputGate = "tanh" if ctx.tanh_input_gate else "sigmoid"

        def results(*tensors: Any) -> tuple[Tensor, ...]:
            """Those of the results whose gradients are given."""
            every = plain_sequence(*(*tensors, input_gate, slice(ctx.at.start, ctx.at.stop, ctx.at.step)))
            return tuple(result for result, gradient in zip(every, given, strict=True) if gradient is not None)

        def gradient(*arguments: Any) -> tuple[Tensor, ...]:
            return torch.func.vjp(results, *arguments[:6])[1](arguments[6:])

        along = tuple(torch.zeros_like(t) if d is None else d for t, d in zip(tensors, directions, strict=True))
        found = iter(torch.func.vjp(gradient, *tensors, *(g for g in given if g is not None))[1](along))
        second = [next(found) for _ in tensors]
        return *second, None, None, *(None if g is None else next(found) for g in given), *[None] * 5

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        gradients = SequenceGradient.apply(*_stacked(info, in_dims, arguments))
        return gradients, tuple(None if gradient is None else 0 for gradient in gradients)


def any_needs_gradient(tensors: Iterable[Tensor]) -> bool:
    """Return whether autograd will record operations on these tensors."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def flattened(tensors: Sequence[Tensor]) -> Tensor:
    """Return the numbers of all tensors in one, [sum of their sizes]."""
    if torch._C._are_functorch_transforms_active():  # what follows has no batching rule
        return torch.cat([tensor.reshape(-1) for tensor in tensors])
    return torch._C._nn.flatten_dense_tensors(list(tensors))  # one call, a third of the time


def numbers_of(units: Sequence[Tensor]) -> Tensor | None:
    """Return the units of all numbers in one tensor, of those that `join_gates` takes: both biases have one unit."""
    return flattened((*units[:3], *units[2:])) if units else None


def _stacked(info: Any, in_dims: tuple[Any, ...], arguments: tuple[Any, ...]) -> list[Any]:
    """The axis that vmap maps, first in every tensor."""

    def first(argument: Any, axis: int | None) -> Any:
        if not isinstance(argument, Tensor):
            return argument
        return argument.expand(info.batch_size, *argument.shape) if axis is None else argument.movedim(axis, 0)

    return [first(argument, axis) for argument, axis in zip(arguments, in_dims, strict=True)]
