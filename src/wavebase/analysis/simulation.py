"""Trajectories of a cell, and the exact Jacobian of every step along them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from wavebase.analysis.cell import Cell
from wavebase.analysis.nulls import NULLS
from wavebase.recurrence.cells import lstm_trace


@dataclass(frozen=True)
class Run:
    """States of every step, each [samples, steps, H].

    Attributes:
        hidden: h.
        pre: W h + w x + b of a plain net, else None.
        cell: c of an LSTM, else None.
        gates: Gate to its value after its nonlinearity; of a GRU also "recurrent_new", W_new h + b_hh.
    """

    hidden: np.ndarray
    pre: np.ndarray | None
    cell: np.ndarray | None
    gates: dict[str, np.ndarray]


def simulate(cell: Cell, inputs: np.ndarray) -> Run:
    """Run a cell with input weights over inputs [samples, steps, I]."""
    assert cell.w_ih is not None
    if cell.activation in ("lstm", "lstm_signed"):
        return _simulate_lstm(cell, inputs)
    if cell.activation == "gru":
        return _simulate_gru(cell, inputs)
    weight, bias = cell.w_hh["recurrent"], cell.bias_ih["recurrent"] + cell.bias_hh["recurrent"]
    from_input = inputs @ cell.w_ih["recurrent"].T + bias
    hidden = np.broadcast_to(cell.hidden_0, from_input[:, 0].shape)
    pre, states = [], []
    for t in range(inputs.shape[1]):
        pre.append(from_input[:, t] + hidden @ weight.T)
        hidden = np.maximum(pre[-1], 0) if cell.activation == "relu" else np.tanh(pre[-1])
        states.append(hidden)
    return Run(np.stack(states, 1), np.stack(pre, 1), None, {})


def _simulate_lstm(cell: Cell, inputs: np.ndarray) -> Run:
    def packed(parts: dict[str, np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(list(parts.values())))

    assert cell.w_ih is not None
    hidden, memory = (torch.from_numpy(state).expand(len(inputs), -1) for state in (cell.hidden_0, cell.cell_0))
    trace = lstm_trace(
        torch.from_numpy(inputs),
        hidden,
        memory,
        packed(cell.w_ih),
        packed(cell.w_hh),
        packed(cell.bias_ih) + packed(cell.bias_hh),
        "tanh" if cell.activation == "lstm_signed" else "sigmoid",
    )
    gates = {
        "input": trace.input_gate,
        "forget": trace.forget_gate,
        "cell": trace.candidate,
        "output": trace.output_gate,
    }
    return Run(trace.hidden.numpy(), None, trace.cell.numpy(), {name: gate.numpy() for name, gate in gates.items()})


def _simulate_gru(cell: Cell, inputs: np.ndarray) -> Run:
    """Run r = sigmoid(W_r), z = sigmoid(W_z), n = tanh(w_n x + b + r (W_n h + b')), h' = (1 - z) n + z h, as torch.nn.GRU."""
    assert cell.w_ih is not None
    from_input = {gate: inputs @ w.T + cell.bias_ih[gate] for gate, w in cell.w_ih.items()}
    hidden = np.broadcast_to(cell.hidden_0, from_input["new"][:, 0].shape)
    steps = []
    for t in range(inputs.shape[1]):
        recurrent = {gate: hidden @ w.T + cell.bias_hh[gate] for gate, w in cell.w_hh.items()}
        r, z = (_sigmoid(from_input[gate][:, t] + recurrent[gate]) for gate in ("reset", "update"))
        n = np.tanh(from_input["new"][:, t] + r * recurrent["new"])
        hidden = (1 - z) * n + z * hidden
        steps.append((hidden, r, z, n, recurrent["new"]))
    series = [np.stack(part, 1) for part in zip(*steps, strict=True)]
    return Run(series[0], None, None, dict(zip(("reset", "update", "new", "recurrent_new"), series[1:], strict=True)))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(x / 2)) / 2


def jacobian(cell: Cell, run: Run, sample: int, step: int) -> np.ndarray:
    """Return d state(step) / d state(step - 1) along one trajectory, [S, S]. The state is h (S = H), or (h, c) of an LSTM (2H).

    For a ReLU net it is D_t W, where D_t masks the active units.
    """
    W = cell.w_hh
    before = run.hidden[sample, step - 1] if step else cell.hidden_0
    if run.pre is not None:
        h = run.hidden[sample, step]
        slope = (run.pre[sample, step] > 0).astype(float) if cell.activation == "relu" else 1 - h**2
        return slope[:, None] * W["recurrent"]
    gate = {name: value[sample, step] for name, value in run.gates.items()}
    if cell.activation == "gru":
        r, z, n = gate["reset"], gate["update"], gate["new"]
        inner = r[:, None] * W["new"] + (gate["recurrent_new"] * r * (1 - r))[:, None] * W["reset"]
        through = ((1 - z) * (1 - n**2))[:, None] * inner + ((before - n) * z * (1 - z))[:, None] * W["update"]
        return through + np.diag(z)
    assert run.cell is not None
    i, f, g, o = (gate[name] for name in ("input", "forget", "cell", "output"))
    cell_before = run.cell[sample, step - 1] if step else cell.cell_0
    squashed = np.tanh(run.cell[sample, step])
    slope_i = 1 - i**2 if cell.activation == "lstm_signed" else i * (1 - i)
    c_h = (
        (cell_before * f * (1 - f))[:, None] * W["forget"]
        + (g * slope_i)[:, None] * W["input"]
        + (i * (1 - g**2))[:, None] * W["cell"]
    )
    out = o * (1 - squashed**2)
    h_h = (squashed * o * (1 - o))[:, None] * W["output"] + out[:, None] * c_h
    return np.block([[h_h, np.diag(out * f)], [c_h, np.diag(f)]])


def null_cells(cell: Cell, kind: str, draws: int, generator: torch.Generator) -> list[Cell]:
    """Draw cells with other matrices (recurrent, input, readout), each at its own Frobenius norm; biases and starting states
    stay. kind: random or shuffled."""
    redraw = NULLS[kind]
    hh = {gate: redraw(w, draws, generator) for gate, w in cell.w_hh.items()}
    ih = {gate: redraw(w, draws, generator) for gate, w in (cell.w_ih or {}).items()}
    out = None if cell.w_out is None else redraw(cell.w_out, draws, generator)
    return [
        replace(
            cell,
            w_hh={gate: w[n] for gate, w in hh.items()},
            w_ih={gate: w[n] for gate, w in ih.items()} or None,
            w_out=None if out is None else out[n],
        )
        for n in range(draws)
    ]
