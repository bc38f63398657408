"""One sequence of a long short-term memory cell whose input gate may be signed.

Letters: B batch, N time steps, I inputs, H hidden units. Gate order everywhere: input, forget, cell, output.
`lstm_sequence` is the sole entry point. Backends may change; results may not. It runs a compiled kernel for the tensors'
device (`wavebase.recurrence.native`), or the plain loop where there is none or it cannot be built.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

import torch
from torch import Tensor
from torch.nn.functional import linear

from wavebase.recurrence.autograd import CompiledSequence, JoinedGates, any_needs_gradient, numbers_of
from wavebase.recurrence.cells import InputGate, plain_sequence
from wavebase.recurrence.native import lstm as native
from wavebase.recurrence.native import triton_lstm
from wavebase.recurrence.stored import reading


def lstm_sequence(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    input_gate: InputGate = "tanh",
    at: slice = slice(None),
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states of one sequence at every step, or at those of a slice, and the last hidden and cell state.

    inputs: [..., B, N, I]; hidden, cell: [..., B, H]; weight_ih: [..., 4H, I]; weight_hh: [..., 4H, H]; bias: [..., 4H]
    (the sum of both biases of torch.nn.LSTM). Leading axes, if any, are a stack of independent nets.
    Returns hidden states [..., B, N, H] (of the slice `at` of the N steps, for less than slicing them costs), last hidden
    and last cell [..., B, H].
    With input_gate="sigmoid" the cell is torch.nn.LSTM's. All are of one dtype and device.

    float32 and float64 run in compiled kernels: one call for the sequence and the whole stack, forward and backward.
    Differentiable twice (create_graph, torch.func) and batched by torch.func.vmap as one more stack axis. Forward-mode
    derivatives need `plain`. The hidden states returned are a view, on the CPU with the batch innermost in memory.
    Raises ValueError for shapes that do not fit together, and for a slice that selects no step or runs backwards.
    """
    arguments = (inputs, hidden, cell, weight_ih, weight_hh, bias)
    steps = range(*at.indices(inputs.shape[-2]))
    if steps.step < 0 or not steps:
        raise ValueError(
            f"at must select steps of {inputs.shape[-2]} in their order, got {at}; use slice(None) for all of them"
        )
    backend = _backend(arguments, input_gate == "tanh")
    if backend is None:
        return plain_sequence(*arguments, input_gate, at)
    stacked = _one_stack(arguments)
    keep = any_needs_gradient(stacked)
    return CompiledSequence.apply(*stacked, backend, steps, input_gate == "tanh", keep)[:3]


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
    join = JoinedGates.forward if _plain_asked.get() else JoinedGates.apply
    tensors = (*parts, *others)
    return join([tensor.shape for tensor in tensors], numbers_of(units), *tensors)


def read_sequence(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    parts: Sequence[Tensor],
    readout: Sequence[Tensor],
    units: Sequence[Tensor],
    input_gate: InputGate,
    at: slice,
) -> Tensor:
    """Read the states of one sequence: `join_gates`, `lstm_sequence` and a linear layer, or what stands for them inside
    `StoredNet`'s context.

    Args:
        inputs, hidden, cell, input_gate, at: As for `lstm_sequence`, without a stack.
        parts, units: As for `join_gates`.
        readout: Weight [F, H] and bias [F].

    Returns:
        [B, states read, F].
    """
    stored, others = reading(), (inputs, hidden, cell)
    if stored is not None and inputs.ndim == 3 and stored.holds((*parts, *readout), others):
        tanh_input_gate, steps = input_gate == "tanh", range(*at.indices(inputs.shape[-2]))
        if _backend((*others, stored.numbers), tanh_input_gate) is native:
            return stored.read(*others, units, steps, tanh_input_gate)
    w_ih, w_hh, b, weight, bias = join_gates(parts, readout, units)
    return linear(lstm_sequence(inputs, hidden, cell, w_ih, w_hh, b, input_gate, at)[0], weight, bias)


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
    if inputs.is_cuda and triton_lstm.available(inputs, arguments[1].shape[-1], tanh_input_gate, plain_sequence):
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
