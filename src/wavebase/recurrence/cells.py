"""Recurrent cells in plain torch operations: any device, dtype and derivative.

Letters: B batch, N time steps, I inputs, H hidden units. Gate order everywhere: input, forget, cell, output."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

GATES = ("input", "forget", "cell", "output")


GRU_GATES = ("reset", "update", "new")


InputGate = Literal["tanh", "sigmoid"]


class Trace(NamedTuple):
    """States and gates of every time step, each [..., B, N, H], and the function that makes the input gate."""

    hidden: Tensor
    cell: Tensor
    input_gate: Tensor
    forget_gate: Tensor
    candidate: Tensor
    output_gate: Tensor
    input_gate_activation: InputGate = "tanh"


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
    h, c, i, f, g, o = (torch.stack(series, -2) for series in zip(*steps, strict=True))
    return Trace(h, c, i, f, g, o, input_gate)


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


def plain_sequence(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    input_gate: InputGate,
    at: slice = slice(None),
) -> tuple[Tensor, Tensor, Tensor]:
    """`lstm_sequence` as a loop of torch operations: any device, dtype and derivative."""
    outputs = []
    transposed = (
        weight_hh.mT
    )  # one node of the graph: with one a step, second derivatives hold a weight's gradient a step
    for pre_input in _input_projections(inputs, weight_ih, bias):
        hidden, cell, _ = lstm_step(pre_input + hidden @ transposed, cell, input_gate)
        outputs.append(hidden)
    return torch.stack(outputs[at], -2), hidden, cell
