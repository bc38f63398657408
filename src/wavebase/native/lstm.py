"""One LSTM sequence of a stack of nets in the native library: forward, and the gradients of everything.

Tensors may have any strides, float32 or float64 on the CPU, with the same leading axes (a stack); the caller has checked
shapes. Layouts of what forward keeps for backward, with P the batch rounded up to whole vectors and K = H + I + 1:
states [..., K, row], whose columns hold h_{n-1}, x_n and 1 of step n = 0..N, P a step; tape [..., N, H, 6, P].
"""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wavebase.native import build


class _View(ctypes.Structure):
    _fields_ = (("data", c_void_p), ("stride", c_int64 * 4))


class _Job(ctypes.Structure):
    """As `Job` in lstm.cpp."""

    _fields_ = (
        *((name, c_int64) for name in "members batch steps inputs units threads tanh_input_gate padded row".split()),
        *((name, _View) for name in "signal hidden cell weight_ih weight_hh bias grad_states grad_cell".split()),
        *((name, c_void_p) for name in "states tape last_cell deltas grad_hidden_0 grad_cell_0".split()),
    )


class Kept(NamedTuple):
    """What forward leaves for backward; `tape` is empty where nothing needs a gradient."""

    states: Tensor
    tape: Tensor


def available() -> bool:
    """Whether the native library is built or can be; the first call may build it."""
    return build.library() is not None


@cache
def _entry(name: str, dtype: torch.dtype) -> Any:
    return getattr(build.library(), f"wavebase_lstm_{name}_{'f32' if dtype == torch.float32 else 'f64'}")


@cache
def _vector_bytes() -> int:
    return build.library().wavebase_vector_bytes()  # type: ignore[union-attr]


def forward(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    tanh_input_gate: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Kept]:
    """Hidden states [..., B, N, H] (a view of `Kept.states`), last cell [..., B, H], and what backward needs.

    Shapes as in `wavebase.recurrence.lstm_sequence`.
    """
    lead, (B, N, inputs_size), H = inputs.shape[:-3], inputs.shape[-3:], hidden.shape[-1]
    job, _alive = _job(inputs, hidden, cell, weight_ih, weight_hh, bias, tanh_input_gate)
    states = inputs.new_empty((*lead, H + inputs_size + 1, job.row))
    tape = inputs.new_empty((*lead, N, H, 6, job.padded) if keep else 0)
    last_cell = inputs.new_empty((*lead, H, job.padded))
    job.states, job.last_cell = states.data_ptr(), last_cell.data_ptr()
    job.tape = tape.data_ptr() if keep else None
    _run("forward", job, inputs.dtype)
    after_first = states[..., :H, job.padded : job.padded * (N + 1)].unflatten(-1, (N, job.padded))
    return after_first[..., :B].movedim(-3, -1).transpose(-3, -2), last_cell[..., :B].mT, Kept(states, tape)


def backward(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    tanh_input_gate: bool,
    kept: Kept,
    grad_states: Tensor | None,
    grad_cell: Tensor | None,
    of_inputs: bool,
    of_hidden: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of inputs, hidden, cell, weight_ih, weight_hh and bias, from those of the states and the last cell.

    The first two only where asked for: each costs a product.
    """
    lead, (B, N, inputs_size), H = inputs.shape[:-3], inputs.shape[-3:], hidden.shape[-1]
    job, _alive = _job(inputs, hidden, cell, weight_ih, weight_hh, bias, tanh_input_gate, grad_states, grad_cell)
    states, tape = (tensor.contiguous() for tensor in kept)
    deltas = inputs.new_empty((*lead, 4 * H, job.row))
    grad_hidden_0 = inputs.new_empty((*lead, H, job.padded)) if of_hidden else None
    grad_cell_0 = inputs.new_empty((*lead, H, job.padded))
    job.states, job.tape, job.deltas = states.data_ptr(), tape.data_ptr(), deltas.data_ptr()
    job.grad_hidden_0 = grad_hidden_0.data_ptr() if grad_hidden_0 is not None else None
    job.grad_cell_0 = grad_cell_0.data_ptr()
    _run("backward", job, inputs.dtype)
    deltas, states = deltas[..., : N * job.padded], states[..., : N * job.padded]
    weights = deltas @ states.mT
    grad_inputs = None
    if of_inputs:
        steps = (weight_ih.mT @ deltas).unflatten(-1, (N, job.padded))
        grad_inputs = steps[..., :B].movedim(-3, -1).transpose(-3, -2)
    return (
        grad_inputs,
        grad_hidden_0[..., :B].mT if grad_hidden_0 is not None else None,
        grad_cell_0[..., :B].mT,
        weights[..., H : H + inputs_size],
        weights[..., :H],
        weights[..., -1],
    )


def _job(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    tanh_input_gate: bool,
    grad_states: Tensor | None = None,
    grad_cell: Tensor | None = None,
) -> tuple[_Job, list[Tensor | None]]:
    """The call's sizes and tensors, and the tensors it points into, to be kept until it returns."""
    (B, N, inputs_size), H, size = inputs.shape[-3:], hidden.shape[-1], inputs.element_size()
    lanes = _vector_bytes() // size
    padded = -(-B // lanes) * lanes
    row = (N + 1) * padded
    if row * size % 4096 == 0:
        row += lanes  # rows a multiple of the page size apart would share few sets of the cache
    given = (inputs, hidden, cell, weight_ih, weight_hh, bias, grad_states, grad_cell)
    alive = [_one_axis(tensor, axes) for tensor, axes in zip(given, _AXES, strict=True)]
    members, threads = inputs.shape[:-3].numel(), torch.get_num_threads()
    views = map(_view, alive, _AXES)
    return _Job(members, B, N, inputs_size, H, threads, tanh_input_gate, padded, row, *views), alive


_AXES = (3, 2, 2, 2, 2, 1, 3, 2)  # of the tensors of `Job`, without the stack


def _one_axis(tensor: Tensor | None, axes: int) -> Tensor | None:
    """The tensor with at most one leading axis."""
    return tensor if tensor is None or tensor.ndim <= axes + 1 else tensor.flatten(0, -axes - 1)


def _view(tensor: Tensor | None, axes: int) -> _View:
    """Address and strides, the stack's first."""
    if tensor is None:
        return _View()
    strides = tensor.stride()
    return _View(tensor.data_ptr(), (c_int64 * 4)(*(strides if len(strides) > axes else (0, *strides))))


def _run(name: str, job: _Job, dtype: torch.dtype) -> None:
    if _entry(name, dtype)(ctypes.byref(job)):
        raise MemoryError("the native recurrence got no memory for its weights; use a smaller net or stack")
