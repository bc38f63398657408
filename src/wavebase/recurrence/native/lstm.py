"""One LSTM sequence of a stack of nets in the native library: forward, and the gradients of everything.

Tensors may have any strides, float32 or float64 on the CPU, with the same leading axes (a stack); the caller has checked
shapes. What forward keeps for backward, with P the batch rounded up to whole vectors: states [..., N + 1, *], whose step
n starts with [H + I + 1, P] of h_{n-1}, x_n and 1; tape [..., N, H, 5, P] of gates and cell.
"""

from __future__ import annotations

import ctypes
import math
from array import array
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from wavebase.recurrence.native import build


def available() -> bool:
    """Whether the native library is built or can be; the first call may build it."""
    return build.library() is not None


def vectors() -> str:
    """Return the path that the library was compiled for: avx512, avx2, the vectors' bits elsewhere; plain without it."""
    found = build.library()
    if found is None:
        return "plain"
    size = int(found.wavebase_vector_bytes())
    return {64: "avx512", 32: "avx2"}.get(size, f"{8 * size} bits")


def forward(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    at: range,
    tanh_input_gate: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hidden states of the steps `at` and of the last (views of the kept states), last cell, kept states and tape.

    keep: whether `backward` will follow; the tape is empty where not. Shapes as in `wavebase.recurrence.lstm.lstm_sequence`.
    """
    (*lead, B, N, I), H = inputs.shape, hidden.shape[-1]  # noqa: E741
    P = _padded(B, inputs.dtype)
    step = _step(H + I + 1, P, inputs.dtype)
    states = inputs.new_empty((*lead, N + 1, step))
    tape = inputs.new_empty((*lead, N, H, 5, P) if keep else 0)
    last_cell = inputs.new_empty((*lead, H, P))
    tensors = (inputs, hidden, cell, weight_ih, weight_hh, bias, None, None, None)
    _run("forward", tensors, at, tanh_input_gate, (states, tape if keep else None, last_cell, None, None, None, None))
    outer = states.stride()[:-2]
    after = states.as_strided((*lead, B, len(at), H), (*outer, 1, at.step * step, P), (at.start + 1) * step)
    last = states.as_strided((*lead, B, H), (*outer, 1, P), N * step)
    return after, last, (last_cell if B == P else last_cell[..., :B]).mT, states, tape


def backward(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    states: Tensor,
    tape: Tensor,
    grad_states: Tensor | None,
    grad_hidden: Tensor | None,
    grad_cell: Tensor | None,
    at: range,
    tanh_input_gate: bool,
    of_inputs: bool,
    of_hidden: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of inputs, hidden, cell, weight_ih, weight_hh and bias, from those of what `forward` returned first.

    states, tape: what `forward` kept. The first two gradients only where asked for: each costs a product.
    """
    (*lead, B, N, I), H = inputs.shape, hidden.shape[-1]  # noqa: E741
    P = _padded(B, inputs.dtype)
    states, tape = states.contiguous(), tape.contiguous()  # vmap may have expanded them
    members = math.prod(lead)
    # where nobody else needs them, the library keeps them in memory of its own, one member's at a time
    own = not of_inputs and members >= torch.get_num_threads()
    deltas = None if own else inputs.new_empty((*lead, N, _step(4 * H, P, inputs.dtype)))
    grad_hidden_0 = inputs.new_empty((*lead, H, P)) if of_hidden else None
    grad_cell_0 = inputs.new_empty((*lead, H, P))
    weight_sizes = [members * 4 * H * columns for columns in (I, H, 1)]
    weights = inputs.new_empty(sum(weight_sizes))
    tensors = (inputs, hidden, cell, weight_ih, weight_hh, bias, grad_states, grad_hidden, grad_cell)
    _run("backward", tensors, at, tanh_input_gate, (states, tape, None, deltas, grad_hidden_0, grad_cell_0, weights))
    of_weight_ih, of_weight_hh, of_bias = weights.split(weight_sizes)
    grad_inputs = None
    if of_inputs and deltas is not None:
        by_step = deltas[..., : 4 * H * P].unflatten(-1, (4 * H, P))
        grad_inputs = (weight_ih.mT.unsqueeze(-3) @ by_step)[..., :B].movedim(-1, -3)
    return (
        grad_inputs,
        None if grad_hidden_0 is None else grad_hidden_0[..., :B].mT,
        grad_cell_0[..., :B].mT,
        of_weight_ih.view(*lead, 4 * H, I),
        of_weight_hh.view(*lead, 4 * H, H),
        of_bias.view(*lead, 4 * H),
    )


class LoneSequence:
    """Forward and backward of one net again and again: buffers and sizes are described to the library once.

    Args:
        tensors: The first six of `forward`, without a stack. The weights are read where they are at each call.
        at, tanh_input_gate: As for `forward`.
        gradients: Where `backward` puts the gradients of weight_ih, weight_hh and bias, one after the other.
        workspace: Buffers by shape, for other nets whose turns do not overlap: then they stay in the processor's caches.

    Attributes:
        states: Hidden states of the steps `at`, [B, len(at), H], of the last `forward`.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        at: range,
        tanh_input_gate: bool,
        gradients: Tensor,
        workspace: dict[Any, Tensor],
    ):
        inputs, hidden = tensors[:2]
        (B, N, I), H, P = inputs.shape, hidden.shape[-1], _padded(len(inputs), inputs.dtype)  # noqa: E741
        step = _step(H + I + 1, P, inputs.dtype)
        shapes = {"states": (N + 1, step), "tape": (N, H, 5, P), "cells": (2, H, P)}
        if torch.get_num_threads() > 1:
            shapes["deltas"] = N, _step(4 * H, P, inputs.dtype)
        states, tape, cells, *deltas = (
            workspace.setdefault((name, shape, inputs.dtype), inputs.new_empty(shape)) for name, shape in shapes.items()
        )
        buffers = states, tape, cells[0], deltas[0] if deltas else None, None, cells[1], gradients
        self._job = _described((*tensors, None, None, None), at, tanh_input_gate, buffers)
        self._alive: Any = tensors, buffers
        self._forward, self._backward = (_entry(name, inputs.dtype) for name in ("forward", "backward"))
        self.states = states.as_strided((B, len(at), H), (1, at.step * step, P), (at.start + 1) * step)

    def forward(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> None:
        """Compute `states`, and what `backward` needs, from tensors of the shapes that were described."""
        self._arguments = inputs, hidden, cell
        for place, tensor in enumerate(self._arguments):
            self._put(place, tensor)
        _call(self._forward, self._job)

    def backward(self, grad_states: Tensor) -> None:
        """Compute the gradients of the weights from that of `states`."""
        self._put(6, grad_states)
        _call(self._backward, self._job)

    def _put(self, place: int, tensor: Tensor) -> None:
        """Describe one tensor anew."""
        word, strides = SIZES + VIEW * place, tensor.stride()
        self._job[word] = tensor.data_ptr()
        for axis, stride in enumerate(strides, word + 2):
            self._job[axis] = stride


_AXES = (3, 2, 2, 2, 2, 1, 3, 2, 2)  # of the tensors of a job, without the stack
SIZES, VIEW = 13, 5  # 64-bit words of `Job` before its views, and of a view
_NO_VIEW = [0] * VIEW


def _run(
    name: str, tensors: tuple[Tensor | None, ...], at: range, tanh_input_gate: bool, buffers: tuple[Tensor | None, ...]
) -> None:
    """Run one of the two entries."""
    # at most one leading axis; the list keeps copies alive until the call is over
    alive = [t if t is None or t.ndim <= n + 1 else t.flatten(0, -n - 1) for t, n in zip(tensors, _AXES, strict=True)]
    assert alive[0] is not None
    _call(_entry(name, alive[0].dtype), _described(alive, at, tanh_input_gate, buffers))


def _described(
    tensors: Iterable[Tensor | None], at: range, tanh_input_gate: bool, buffers: Iterable[Tensor | None]
) -> array[int]:
    """Return `Job` of lstm.cpp, all of whose fields are 64-bit words."""
    inputs, hidden, *rest = tensors
    assert inputs is not None and hidden is not None
    (B, N, I), H = inputs.shape[-3:], hidden.shape[-1]  # noqa: E741
    dtype, P = inputs.dtype, _padded(B, inputs.dtype)
    members = inputs.shape[0] if inputs.ndim == 4 else 1
    words = [members, B, N, I, H, torch.get_num_threads(), tanh_input_gate, P]
    words += [_step(H + I + 1, P, dtype), _step(4 * H, P, dtype), at.start, at.step, len(at)]
    for tensor, axes in zip((inputs, hidden, *rest), _AXES, strict=True):
        if tensor is None:
            words += _NO_VIEW
            continue
        strides = tensor.stride()
        words.append(tensor.data_ptr())
        words += strides if len(strides) > axes else (0, *strides)
        words += [0] * (3 - axes)
    words += [0 if buffer is None else buffer.data_ptr() for buffer in buffers]
    return array("q", words)


def _call(entry: Any, job: array[int]) -> None:
    if entry(job.buffer_info()[0]):
        raise MemoryError("the native recurrence got no memory for its weights; use a smaller net or stack")


@cache
def _entry(name: str, dtype: torch.dtype) -> Any:
    entry = getattr(build.library(), f"wavebase_lstm_{name}_{'f32' if dtype == torch.float32 else 'f64'}")
    entry.argtypes = [ctypes.c_void_p]
    return entry


@cache
def _padded(batch: int, dtype: torch.dtype) -> int:
    """The batch rounded up to whole vectors of the library."""
    lanes = build.library().wavebase_vector_bytes() // dtype.itemsize  # type: ignore[union-attr]
    return -(-batch // lanes) * lanes


@cache
def _step(rows: int, padded: int, dtype: torch.dtype) -> int:
    """Elements from one step to the next: no multiple of a page, or the steps of a row share few sets of the cache."""
    size = rows * padded
    return size + padded if size * dtype.itemsize % 4096 == 0 else size
