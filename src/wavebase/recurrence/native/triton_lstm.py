"""One LSTM sequence of a stack of nets on a CUDA device: forward, and the gradients of everything, as `lstm` is on the CPU.

One launch of a kernel of `triton_kernels` for the sequence, after a few that lay out its arguments; then one product for
the gradients of the weights. What forward keeps for backward: states [..., N + 1, B, *], whose step n starts with h_{n-1},
x_n and 1; tape [..., N, 5, B, H] of gates and the cell before the step.

triton comes with torch's CUDA builds. Before a kernel is used for the first time it is compared with the plain loop.
"""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor

from wavebase.recurrence.native import build

log = logging.getLogger("wavebase")

LARGEST = 128  # units; at the next power of two a step's gates no longer fit the registers
ROWS = 16  # of the batch, in one program
FORWARD_CHUNK, BACKWARD_CHUNK = 16, 32  # columns of a product at a time; triton multiplies 16 or more
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}  # relative, of norms


def available(inputs: Tensor, units: int, tanh_input_gate: bool, plain_loop: Callable[..., Any]) -> bool:
    """Whether the kernels compute this, or can be made to; the first call for a size compiles them, some seconds.

    inputs: [..., B, N, I] on a CUDA device; plain_loop: the recurrence that they have to agree with. Where there is no
    triton, WAVEBASE_NATIVE forbids it, more than LARGEST units, or anything fails or disagrees: False, with one warning.
    """
    if build.forbidden():
        return False
    return _works(inputs.device, inputs.dtype, inputs.shape[-1], units, tanh_input_gate, plain_loop)


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
    (*lead, B, N, I), H, S = inputs.shape, hidden.shape[-1], math.prod(inputs.shape[:-3])  # noqa: E741
    constants = forward_constants(H, I, tanh_input_gate, keep, inputs)
    states = inputs.new_empty((*lead, N + 1, B, constants["COLUMNS"]))
    states[..., 0, :, :H] = hidden
    states[..., :N, :, H : H + I] = inputs.transpose(-3, -2)
    states[..., H + I] = 1
    states[..., H + I + 1 :] = 0
    weights = inputs.new_zeros((*lead, constants["COLUMNS"], constants["UNITS"], 4))
    joined = torch.cat((weight_hh, weight_ih, bias.unsqueeze(-1)), -1).unflatten(-2, (4, H))
    weights[..., : H + I + 1, :H, :] = joined.movedim(-1, -3).mT
    tape = inputs.new_empty((*lead, N, 5, B, H) if keep else 0)
    last_cell = inputs.new_empty((*lead, B, H))
    buffers = states, weights, cell.contiguous(), last_cell, tape
    with torch.cuda.device_of(inputs):
        _kernels().forward[S, -(-B // ROWS)](*buffers, B, N, **constants)
    after = states[..., 1:, :, :H]
    return after[..., _slice(at), :, :].transpose(-3, -2), after[..., -1, :, :], last_cell, states, tape


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

    states, tape: what `forward` kept. The first two gradients only where asked for.
    """
    (*lead, B, N, I), H, S = inputs.shape, hidden.shape[-1], math.prod(inputs.shape[:-3])  # noqa: E741
    of_cell = inputs.new_zeros((*lead, B, H))  # the kernel replaces the last cell's by the first cell's
    if grad_cell is not None:
        of_cell.copy_(grad_cell)
    of_states = inputs.new_zeros((*lead, B, N, H))
    if grad_states is not None:
        of_states[..., _slice(at), :] = grad_states
    if grad_hidden is not None:
        of_states[..., -1, :] += grad_hidden
    of_first, deltas = torch.empty_like(of_cell), inputs.new_empty((*lead, N, B, 4 * H))
    buffers = of_states, of_cell, of_first, tape.contiguous(), weight_hh.contiguous(), deltas
    with torch.cuda.device_of(inputs):
        _kernels().backward[S, -(-B // ROWS)](*buffers, B, N, **backward_constants(H, tanh_input_gate, inputs))
    rows = states[..., :N, :, : H + I + 1].flatten(-3, -2)
    of_weights = deltas.flatten(-3, -2).mT @ rows
    return (
        (deltas @ weight_ih.unsqueeze(-3)).transpose(-3, -2) if of_inputs else None,
        of_first if of_hidden else None,
        of_cell,
        of_weights[..., H : H + I],
        of_weights[..., :H],
        of_weights[..., -1],
    )


def _slice(steps: range) -> slice:
    return slice(steps.start, steps.stop, steps.step)


def forward_constants(units: int, inputs: int, tanh_input_gate: bool, keep: bool, like: Tensor) -> dict[str, int]:
    """What the forward kernel is compiled for, for tensors like that one."""
    columns = -(-(units + inputs + 1) // FORWARD_CHUNK) * FORWARD_CHUNK
    sizes = _sizes(units, columns, 4, FORWARD_CHUNK, like)
    return {"COLUMNS": columns, "TANH": tanh_input_gate, "TAPE": keep, **sizes}


def backward_constants(units: int, tanh_input_gate: bool, like: Tensor) -> dict[str, int]:
    """What the backward kernel is compiled for, for tensors like that one."""
    return {"TANH": tanh_input_gate, **_sizes(units, 4 * units, 1, BACKWARD_CHUNK, like)}


def _sizes(units: int, columns: int, gates: int, chunk: int, like: Tensor) -> dict[str, int]:
    """For a product of so many columns, with weights of so many gates for each unit."""
    padded = max(16, 1 << (units - 1).bit_length())
    chunks, weights = -(-columns // chunk), chunk * gates * padded * like.itemsize
    free = _shared_memory(like.device) - 2 * ROWS * padded * like.itemsize  # where numbers change threads
    everything_fits = chunks * weights <= free
    kept = chunks if everything_fits else max(0, free // weights - 1)  # one's room is for those read in every step
    sizes = {"H": units, "UNITS": padded, "ROWS": ROWS, "CHUNK": chunk, "KEPT": kept}
    return sizes | {"num_warps": min(16, max(4, padded // 8)), "num_stages": 1}


@cache
def _shared_memory(device: torch.device) -> int:
    """Bytes that a program can have."""
    driver = importlib.import_module("triton").runtime.driver.active
    return int(driver.utils.get_device_properties(device.index)["max_shared_mem"])


@cache
def _kernels() -> Any:
    return importlib.import_module("wavebase.recurrence.native.triton_kernels")


@cache
def _works(
    device: torch.device,
    dtype: torch.dtype,
    inputs: int,
    units: int,
    tanh_input_gate: bool,
    plain_loop: Callable[..., Any],
) -> bool:
    """Whether the kernels of this size agree with the plain loop there; one warning where not."""
    if units > LARGEST:
        reason = f"it has at most {LARGEST} units, wanted {units}"
    else:
        try:
            # a thread of its own has neither torch.func's transforms nor the caller's modes
            with ThreadPoolExecutor(1) as thread:
                error = thread.submit(_error, device, dtype, inputs, units, tanh_input_gate, plain_loop).result()
            if error <= TOLERANCE[dtype]:
                return True
            reason = f"for {units} units in {dtype} it disagrees with the plain loop by {error:.1e}"
        except Exception as failure:  # whatever import, compiler or driver raise: nothing of it is the caller's
            said = str(failure).strip().splitlines() or [""]
            line = said[-1] if said[0].startswith("at ") else said[0]  # triton's compiler begins with the source
            reason = f"{type(failure).__name__}: {line.strip()}"
    _warn(reason)
    return False


@cache
def _warn(reason: str) -> None:
    log.warning(
        "the recurrence's CUDA kernel is not used, so its plain loop runs, many times slower: %s",
        reason,
    )


def _error(
    device: torch.device,
    dtype: torch.dtype,
    inputs: int,
    units: int,
    tanh_input_gate: bool,
    plain_loop: Callable[..., Any],
) -> float:
    """Largest relative error of values and gradients of a small problem, against the plain loop in float64."""
    S, B, N, I, H = 2, ROWS + 1, 3, inputs, units  # noqa: E741
    shapes = ((S, B, N, I), (S, B, H), (S, B, H), (S, 4 * H, I), (S, 4 * H, H), (S, 4 * H), (S, B, N, H), (S, B, H))
    scales = (1.0, 0.5, 0.5, I**-0.5, H**-0.5, 0.1, 1.0, 1.0)
    drawn = []  # quasi-random, for a generator would need a seed of ours
    for seed, (shape, scale) in enumerate(zip(shapes, scales, strict=True), start=1):
        numbers = torch.arange(math.prod(shape), dtype=torch.float64, device=device)
        drawn.append((scale * torch.sin((numbers + 1).square() * 0.1 * seed)).to(dtype).view(shape))
    *tensors, of_states, of_cell = drawn
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # else the product after the loop may be what disagrees
    try:
        states, _, last_cell, *kept = forward(*(*tensors, range(N), tanh_input_gate, True))
        without_tape = forward(*(*tensors, range(N), tanh_input_gate, False))[0]
        gradients = backward(*(*tensors, *kept, of_states, None, of_cell, range(N), tanh_input_gate, True, True))
    finally:
        torch.set_float32_matmul_precision(precision)
    exact = [tensor.double().requires_grad_() for tensor in tensors]
    wanted, _, wanted_cell = plain_loop(*exact, "tanh" if tanh_input_gate else "sigmoid")
    directions = [of_states.double(), of_cell.double()]
    exact_gradients = torch.autograd.grad([wanted, wanted_cell], exact, directions)
    of_kernels = (states, without_tape, last_cell, *gradients)
    of_loop = (wanted, wanted, wanted_cell, *exact_gradients)
    # torch's maximum, for python's may drop a NaN
    return torch.stack([(g - w).norm() / w.norm() for g, w in zip(of_kernels, of_loop, strict=True)]).max().item()
