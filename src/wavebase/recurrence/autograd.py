"""The compiled recurrence and the joining of gates as nodes of autograd's graph, batched by torch.func.vmap."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from wavebase.recurrence.cells import plain_sequence


class _Function(torch.autograd.Function):
    @classmethod
    def apply(cls, *arguments: Any) -> Any:
        """Apply the function; outside torch.func, skip the inspection of signatures that only torch.func needs."""
        if torch._C._are_functorch_transforms_active():
            return super().apply(*arguments)  # type: ignore[no-untyped-call]
        return super(torch.autograd.Function, cls).apply(*arguments)  # type: ignore[misc]


class JoinedGates(_Function):
    """See `join_gates`: the number of units, then all tensors."""

    generate_vmap_rule = True

    @staticmethod
    def forward(scaled: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        weight_ih, weight_hh, bias_ih, bias_hh = (torch.cat(tensors[n : n + 4]) for n in range(0, 16, 4))
        joined = (weight_ih, weight_hh, bias_ih + bias_hh, *tensors[16 : len(tensors) - scaled])
        if not scaled:
            return tuple(part.view_as(part) if n > 2 else part for n, part in enumerate(joined))
        return tuple(part * unit for part, unit in zip(joined, tensors[-scaled:], strict=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.scaled, *tensors = inputs
        ctx.save_for_backward(*tensors[len(tensors) - ctx.scaled :])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.scaled:
            gradients = tuple(g * unit for g, unit in zip(gradients, ctx.saved_tensors, strict=True))
        of_ih, of_hh, of_bias = (g.chunk(4) for g in gradients[:3])
        return None, *of_ih, *of_hh, *of_bias, *of_bias, *gradients[3:], *[None] * ctx.scaled


class CompiledSequence(_Function):
    """The six arguments, the compiled recurrence, whether the input gate is tanh, whether to keep what backward needs; to
    the hidden states, the last cell, and what is kept.
    """

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        *tensors, backend, tanh_input_gate, keep = arguments
        return backend.forward(*tensors, tanh_input_gate, keep)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.backend, ctx.tanh_input_gate, ctx.keep = inputs
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)
        if ctx.keep:
            ctx.save_for_backward(*tensors, *output[2:])

    @staticmethod
    def backward(ctx: Any, grad_states: Tensor | None, grad_cell: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        saved, (of_inputs, of_hidden) = ctx.saved_tensors, ctx.needs_input_grad[:2]
        again = torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
        gradient = SequenceGradient.apply if again else SequenceGradient.forward  # apply costs, forward suffices
        how = ctx.backend, ctx.tanh_input_gate, of_inputs, of_hidden
        return *gradient(*saved, grad_states, grad_cell, *how), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        *tensors, backend, tanh_input_gate, keep = _stacked(info, in_dims, arguments)
        keep = keep or any_needs_gradient(tensors)  # what is mapped hides whether it needs a gradient
        return CompiledSequence.apply(*tensors, backend, tanh_input_gate, keep), (0, 0, 0, 0 if keep else None)


class SequenceGradient(_Function):
    """Gradients of `CompiledSequence` as a function of its arguments and of the gradients of its results.

    Its own derivative, for second derivatives, is that of the plain loop's gradients.
    """

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor | None, ...]:
        *tensors, backend, tanh_input_gate, of_inputs, of_hidden = arguments
        return backend.backward(*tensors, tanh_input_gate, of_inputs, of_hidden)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        *tensors, _, _, grad_states, grad_cell, _, ctx.tanh_input_gate, _, _ = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, grad_states, grad_cell)

    @staticmethod
    def backward(ctx: Any, *directions: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, grad_states, grad_cell = ctx.saved_tensors
        inputs, hidden, cell = tensors[:3]
        steps, input_gate = inputs.shape[-2], "tanh" if ctx.tanh_input_gate else "sigmoid"
        of_states = (
            hidden.new_zeros(*hidden.shape[:-1], steps, hidden.shape[-1]) if grad_states is None else grad_states
        )
        of_cell = torch.zeros_like(cell) if grad_cell is None else grad_cell

        def results(*tensors: Any) -> tuple[Tensor, Tensor]:
            states, _, last_cell = plain_sequence(*(*tensors, input_gate))
            return states, last_cell

        def gradient(*arguments: Any) -> tuple[Tensor, ...]:
            return torch.func.vjp(results, *arguments[:6])[1](arguments[6:])

        along = tuple(torch.zeros_like(t) if d is None else d for t, d in zip(tensors, directions, strict=True))
        *second, of_states, of_cell = torch.func.vjp(gradient, *tensors, of_states, of_cell)[1](along)
        of_grads = None if grad_states is None else of_states, None if grad_cell is None else of_cell
        return *second, None, None, *of_grads, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        gradients = SequenceGradient.apply(*_stacked(info, in_dims, arguments))
        return gradients, tuple(None if gradient is None else 0 for gradient in gradients)


def any_needs_gradient(tensors: Iterable[Tensor]) -> bool:
    """Return whether autograd will record operations on these tensors."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _stacked(info: Any, in_dims: tuple[Any, ...], arguments: tuple[Any, ...]) -> list[Any]:
    """The axis that vmap maps, first in every tensor."""

    def first(argument: Any, axis: int | None) -> Any:
        if not isinstance(argument, Tensor):
            return argument
        return argument.expand(info.batch_size, *argument.shape) if axis is None else argument.movedim(axis, 0)

    return [first(argument, axis) for argument, axis in zip(arguments, in_dims, strict=True)]
