"""One step and one sequence of a long short-term memory cell whose input gate may be signed; one step of a GRU.

Letters: B batch, N time steps, I inputs, H hidden units, S stack. Gate order everywhere: input, forget, cell, output.
`lstm_sequence` is the only door to the recurrence; what is fast may change behind it, what it computes may not. It runs
a compiled kernel for the tensors' device (`wavebase.recurrence.native`); where there is none, or it cannot be built, the plain loop,
its oracle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from wavebase.recurrence.native import lstm as native
from wavebase.recurrence.native import triton_lstm

GATES = ("input", "forget", "cell", "output")
GRU_GATES = ("reset", "update", "new")
InputGate = Literal["tanh", "sigmoid"]


class Trace(NamedTuple):
    """States and gates of every time step, each [..., B, N, H]."""

    hidden: Tensor
    cell: Tensor
    input_gate: Tensor
    forget_gate: Tensor
    candidate: Tensor
    output_gate: Tensor


def lstm_step(pre: Tensor, cell: Tensor, input_gate: InputGate = "tanh") -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """One step from the four pre-activations.

        i = tanh(pre_i) or sigmoid(pre_i);  f = sigmoid(pre_f);  g = tanh(pre_g);  o = sigmoid(pre_o)
        cell' = f * cell + i * g;           hidden' = o * tanh(cell')

    pre: [..., 4H] in gate order; cell: [..., H]. Returns hidden', cell' and (i, f, g, o), each [..., H].
    A tanh input gate can be negative, so that the product i * g multiplies two signed numbers.
    """
    pre_i, pre_f, pre_g, pre_o = pre.chunk(4, -1)
    i = torch.tanh(pre_i) if input_gate == "tanh" else torch.sigmoid(pre_i)
    f, g, o = torch.sigmoid(pre_f), torch.tanh(pre_g), torch.sigmoid(pre_o)
    cell = f * cell + i * g
    return o * torch.tanh(cell), cell, (i, f, g, o)


def lstm_sequence(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    input_gate: InputGate = "tanh",
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states of every step of one sequence, and the last hidden and cell state.

    inputs: [..., B, N, I]; hidden, cell: [..., B, H]; weight_ih: [..., 4H, I]; weight_hh: [..., 4H, H]; bias: [..., 4H]
    (the sum of both biases of torch.nn.LSTM). Leading axes, if any, are a stack of independent nets.
    Returns hidden states [..., B, N, H], last hidden and last cell [..., B, H].
    With input_gate="sigmoid" the cell is torch.nn.LSTM's. All are of one dtype and device.

    float32 and float64 run in compiled kernels: one call for the sequence and the whole stack, forward and backward.
    Differentiable twice (create_graph, torch.func) and batched by torch.func.vmap as one more stack axis. Forward-mode
    derivatives need `plain`. The hidden states returned are a view, on the CPU with the batch innermost in memory.
    Raises ValueError for shapes that do not fit together.
    """
    arguments = (inputs, hidden, cell, weight_ih, weight_hh, bias)
    backend = _backend(arguments, input_gate == "tanh")
    if backend is None:
        return _plain_sequence(*arguments, input_gate)
    stacked = _one_stack(arguments)
    states, last_cell, *_ = _Sequence.apply(*stacked, backend, input_gate == "tanh", _any_needs_gradient(stacked))
    return states, states.select(-2, -1), last_cell


@contextmanager
def plain() -> Iterator[None]:
    """Inside it `lstm_sequence` runs the plain loop, for what the kernel does not offer: forward-mode derivatives, and
    many Hessian-vector products of one graph (each of the kernel's runs the plain loop anew).
    """
    token = _plain_asked.set(True)
    try:
        yield
    finally:
        _plain_asked.reset(token)


def join_gates(
    parts: Sequence[Tensor], others: Sequence[Tensor] = (), units: Sequence[Tensor] = ()
) -> tuple[Tensor, ...]:
    """One matrix a gate to what `lstm_sequence` takes, as one node of the graph: half the cost of torch's own.

    Args:
        parts: weight_ih, weight_hh, bias_ih and bias_hh of the four gates, sixteen tensors in that order.
        others: More tensors that come back as they are, or scaled.
        units: One for every tensor returned, which is multiplied by it (`models.unit_scaled`); none: all as they are.

    Returns:
        weight_ih [4H, I], weight_hh [4H, H], bias [4H], and the others. Differentiable as often as wanted; forward mode
        needs `plain`.
    """
    tensors = (*parts, *others, *units)
    if _plain_asked.get():
        return _Joined.forward(len(units), *tensors)
    return _Joined.apply(len(units), *tensors)


def lstm_trace(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    input_gate: InputGate = "tanh",
) -> Trace:
    """The same sequence with the states and gates of every step, for probes. Shapes as in `lstm_sequence`."""
    steps = []
    for pre_input in _input_projections(inputs, weight_ih, bias):
        hidden, cell, gates = lstm_step(pre_input + hidden @ weight_hh.mT, cell, input_gate)
        steps.append((hidden, cell, *gates))
    return Trace(*(torch.stack(series, -2) for series in zip(*steps, strict=True)))


def _input_projections(inputs: Tensor, weight_ih: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """W_ih x + b of all steps in one product, then one [..., B, 4H] a step."""
    return (inputs @ weight_ih.mT.unsqueeze(-3) + bias[..., None, None, :]).unbind(-2)


def gru_step(
    inputs: Tensor, state: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
) -> Tensor:
    """One step of torch.nn.GRUCell in operations that torch.func.vmap can batch (torch's own has no batching rule).

        r, z = sigmoid(W_ih x + b_ih + W_hh h + b_hh);  n = tanh(W_in x + b_in + r * (W_hn h + b_hn));  h' = (1 - z) n + z h

    inputs: [..., B, I]; state: [..., B, H]; weights [..., 3H, I], [..., 3H, H], biases [..., 3H], rows in the order of
    GRU_GATES. Returns h', [..., B, H].
    """
    H = state.shape[-1]
    of_inputs = inputs @ weight_ih.mT + bias_ih.unsqueeze(-2)
    of_state = state @ weight_hh.mT + bias_hh.unsqueeze(-2)
    reset, update = torch.sigmoid(of_inputs[..., : 2 * H] + of_state[..., : 2 * H]).chunk(2, -1)
    new = torch.tanh(torch.addcmul(of_inputs[..., 2 * H :], reset, of_state[..., 2 * H :]))
    return torch.lerp(new, state, update)


def relu_states(numbers: Tensor, weight_ih: Tensor, weight_hh: Tensor) -> list[Tensor]:
    """Hidden states of h' = relu(W_hh h + W_ih x), a net without biases that reads one number a step from h = 0.

    numbers: [..., B, N]; weight_ih: [..., H, 1]; weight_hh: [..., H, H]. Leading axes, if any, are a stack of independent
    nets. Returns one [..., H, B] a step: units before batch, because a small matrix times a wide one is several times
    faster than the other way round.
    """
    steps = numbers.mT.contiguous().unsqueeze(-2).unbind(-3)
    hidden = torch.relu(weight_ih * steps[0])
    states = [hidden]
    for x in steps[1:]:
        hidden = torch.relu(weight_ih * x + weight_hh @ hidden)
        states.append(hidden)
    return states


def _plain_sequence(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    input_gate: InputGate,
) -> tuple[Tensor, Tensor, Tensor]:
    """`lstm_sequence` as a loop of torch operations: any device, dtype and derivative."""
    outputs = []
    for pre_input in _input_projections(inputs, weight_ih, bias):
        hidden, cell, _ = lstm_step(pre_input + hidden @ weight_hh.mT, cell, input_gate)
        outputs.append(hidden)
    return torch.stack(outputs, -2), hidden, cell


# ---- the compiled path ----

_plain_asked: ContextVar[bool] = ContextVar("plain_asked", default=False)


def _backend(arguments: tuple[Tensor, ...], tanh_input_gate: bool) -> ModuleType | None:
    """The compiled recurrence for this: where there is one for the device, it has the dtype, there is something to
    compute, and no tracer is looking.
    """
    inputs, device, dtype = arguments[0], arguments[0].device, arguments[0].dtype
    if (
        dtype not in (torch.float32, torch.float64)
        or not all(a.dtype == dtype and a.device == device and a.numel() for a in arguments)
        or inputs.ndim < 3
        or _plain_asked.get()
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    ):
        return None
    if inputs.is_cpu and native.available():
        return native
    if inputs.is_cuda and triton_lstm.available(inputs, arguments[1].shape[-1], tanh_input_gate, _plain_sequence):
        return triton_lstm
    return None


def _one_stack(arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The arguments with equal leading axes. Raises ValueError for shapes that do not fit together."""
    inputs, hidden = arguments[:2]
    (*lead, B, N, I), H = inputs.shape, hidden.shape[-1]  # noqa: E741
    wanted = ((B, N, I), (B, H), (B, H), (4 * H, I), (4 * H, H), (4 * H,))
    if all(a.shape == (*lead, *shape) for a, shape in zip(arguments, wanted, strict=True)):
        return arguments
    if any(a.shape[-len(shape) :] != shape for a, shape in zip(arguments, wanted, strict=True)):
        raise ValueError(
            "inputs, hidden, cell, weight_ih, weight_hh and bias must end in [B, N, I], [B, H], [B, H], [4H, I], [4H, H] "
            f"and [4H], got {[list(a.shape) for a in arguments]}; gates are rows of the weights"
        )
    lead = torch.broadcast_shapes(*(a.shape[: -len(shape)] for a, shape in zip(arguments, wanted, strict=True)))
    return tuple(a.expand(*lead, *shape) for a, shape in zip(arguments, wanted, strict=True))


class _Function(torch.autograd.Function):
    @classmethod
    def apply(cls, *arguments: Any) -> Any:
        """As ever; but outside torch.func without the inspection of signatures by which torch prepares for it."""
        if torch._C._are_functorch_transforms_active():
            return super().apply(*arguments)  # type: ignore[no-untyped-call]
        return super(torch.autograd.Function, cls).apply(*arguments)  # type: ignore[misc]


class _Joined(_Function):
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


class _Sequence(_Function):
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
        gradient = _SequenceGradient.apply if again else _SequenceGradient.forward  # apply costs, forward suffices
        how = ctx.backend, ctx.tanh_input_gate, of_inputs, of_hidden
        return *gradient(*saved, grad_states, grad_cell, *how), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        *tensors, backend, tanh_input_gate, keep = _stacked(info, in_dims, arguments)
        keep = keep or _any_needs_gradient(tensors)  # what is mapped hides whether it needs a gradient
        return _Sequence.apply(*tensors, backend, tanh_input_gate, keep), (0, 0, 0, 0 if keep else None)


class _SequenceGradient(_Function):
    """Gradients of `_Sequence` as a function of its arguments and of the gradients of its results.

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
            states, _, last_cell = _plain_sequence(*(*tensors, input_gate))
            return states, last_cell

        def gradient(*arguments: Any) -> tuple[Tensor, ...]:
            return torch.func.vjp(results, *arguments[:6])[1](arguments[6:])

        along = tuple(torch.zeros_like(t) if d is None else d for t, d in zip(tensors, directions, strict=True))
        *second, of_states, of_cell = torch.func.vjp(gradient, *tensors, of_states, of_cell)[1](along)
        of_grads = None if grad_states is None else of_states, None if grad_cell is None else of_cell
        return *second, None, None, *of_grads, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        gradients = _SequenceGradient.apply(*_stacked(info, in_dims, arguments))
        return gradients, tuple(None if gradient is None else 0 for gradient in gradients)


def _any_needs_gradient(tensors: Iterable[Tensor]) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _stacked(info: Any, in_dims: tuple[Any, ...], arguments: tuple[Any, ...]) -> list[Any]:
    """The axis that vmap maps, first in every tensor."""

    def first(argument: Any, axis: int | None) -> Any:
        if not isinstance(argument, Tensor):
            return argument
        return argument.expand(info.batch_size, *argument.shape) if axis is None else argument.movedim(axis, 0)

    return [first(argument, axis) for argument, axis in zip(arguments, in_dims, strict=True)]
