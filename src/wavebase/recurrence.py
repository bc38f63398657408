"""One step and one sequence of a long short-term memory cell whose input gate may be signed.

Letters: B batch, N time steps, I inputs, H hidden units, S stack. Gate order everywhere: input, forget, cell, output.
`lstm_sequence` is the only door to the recurrence; what is fast may change behind it, what it computes may not.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

GATES = ("input", "forget", "cell", "output")
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
    With input_gate="sigmoid" the cell is torch.nn.LSTM's.
    """
    outputs = []
    for pre_input in _input_projections(inputs, weight_ih, bias):
        hidden, cell, _ = lstm_step(pre_input + hidden @ weight_hh.mT, cell, input_gate)
        outputs.append(hidden)
    return torch.stack(outputs, -2), hidden, cell


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
