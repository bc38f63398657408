"""An LSTM that reads a stream sample by sample and carries its state from one piece to the next.

Letters: B lanes (streams read side by side), N steps, I inputs, H hidden units, D outputs of the last layer (H, or 2H if
bidirectional).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wavebase.constructions.construction import WEIGHT_KINDS, Construction, packed
from wavebase.models.base import build_within_memory, split_gates
from wavebase.models.unit_scaled import UnitScaled
from wavebase.recurrence.cells import GATES, InputGate
from wavebase.recurrence.lstm import lstm_sequence
from wavebase.registry import registered


class StatefulLSTM(UnitScaled):
    """torch.nn.LSTM's cell in layers with a linear readout of every step, trained by truncated backpropagation.

    A tensor [B, N, I] is a whole sequence: it is read from rest, leaves no state, and gives [B, N, outputs]. A pair
    (rows [lanes, N, I], keep) is a piece of a stream: it continues from the state of the last piece where `keep` is 1,
    from rest where it is 0, and stores its own state, detached. Gradients reach back N steps, the state further.

    Parameters have torch.nn.LSTM's names and shapes, four gates in one matrix, because bookkeeping for every parameter
    is most of the cost of a step of N = 1.

    Args:
        inputs: Numbers per step, I.
        hidden_size: Units per layer, H.
        outputs: Numbers read out per step.
        lanes: Streams whose state is carried.
        layers: Stacked layers.
        input_gate: tanh makes the gate signed, as constructions need it.
        bidirectional: Every layer also reads each piece backwards, from zero at its end. Not causal: a reference.
        attention: Past hidden states of the last layer that each step attends to beside its own; the result is read
            out beside the hidden state.
        unroll: Piece length in which whole sequences are read with `bidirectional` or `attention`, as in training.
        dtype: Of the parameters and of all arithmetic.

    Attributes:
        rest: The state that every sequence starts from, [2, layers, H] (hidden, cell), not trained.
    """

    state: Tensor
    rest: Tensor
    memory: Tensor

    def __init__(
        self,
        inputs: int,
        hidden_size: int,
        outputs: int,
        lanes: int,
        *,
        layers: int = 1,
        input_gate: InputGate = "sigmoid",
        bidirectional: bool = False,
        attention: int | None = None,
        unroll: int = 1,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.layers, self.input_gate, self.lanes = layers, input_gate, lanes
        self.bidirectional, self.attention = bidirectional, attention
        self.piece = unroll if bidirectional or attention else None
        self.construction: Construction | None = None
        with torch.device("meta"):
            shapes = nn.LSTM(inputs, hidden_size, layers, bidirectional=bidirectional).state_dict()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape.shape, dtype=dtype)))
        D = hidden_size * (2 if bidirectional else 1)
        if attention:
            self.query, self.key = (nn.Linear(D, D, bias=False, dtype=dtype) for _ in range(2))
        self.readout = nn.Linear(2 * D if attention else D, outputs, dtype=dtype)
        self.register_buffer("rest", torch.zeros(2, layers, hidden_size, dtype=dtype))
        self.register_buffer("state", torch.zeros(2, layers, lanes, hidden_size, dtype=dtype))
        if attention:
            self.register_buffer("memory", torch.zeros(lanes, attention, D, dtype=dtype))

    def load(
        self, construction: Construction, weights: Mapping[str, Tensor] | None = None, unit_scaled: bool = False
    ) -> None:
        """Take over a construction of one layer: the algorithm, its state at rest, and its weights or others.

        Args:
            construction: The algorithm.
            weights: In place of the construction's, by the same names.
            unit_scaled: Train the weights over their natural units, see `models.unit_scaled`.
        """
        weights = construction.weights if weights is None else weights
        units = packed(construction.unit_scale) if unit_scaled else {}
        thetas = {name: self.in_units(name, weight, units.get(name)) for name, weight in packed(weights).items()}
        self.load_state_dict(thetas, strict=False)
        self.rest.copy_(torch.stack([weights[name] for name in ("hidden_0", "cell_0")])[:, None])
        self.construction = construction

    def forward(self, inputs: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """Return the readout of every step, [B, N, outputs].

        Raises:
            ValueError: For a piece with another number of lanes.
        """
        if isinstance(inputs, Tensor):
            rows, keep = inputs, None
        else:
            rows, keep = inputs
            if rows.shape[0] != self.lanes:
                raise ValueError(
                    f"rows must be the {self.lanes} lanes whose state is carried, got {rows.shape[0]}; use train.batch={rows.shape[0]}"
                )
        rows = rows.to(self.rest.dtype)
        state = self.rest[:, :, None].expand(-1, -1, rows.shape[0], -1)
        memory = rows.new_zeros(rows.shape[0], *self.memory.shape[1:]) if self.attention else None
        if keep is not None:
            state = torch.where(keep > 0, self.state, state)
            memory = None if memory is None else torch.where(keep > 0, self.memory, memory)
        outputs = []
        for piece in rows.split(self.piece or rows.shape[1], 1):
            output, state, memory = self._piece(piece, state, memory)
            outputs.append(output)
        if keep is not None:
            self.state.copy_(state.detach())
            if memory is not None:
                self.memory.copy_(memory.detach())
        return torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]

    def named_weights(self) -> dict[str, Tensor]:
        """Return the weights by canonical name, one matrix per gate, detached; from the second layer on with _l1, ..."""
        weights: dict[str, Tensor] = {}
        for name, theta in self.named_parameters():
            parameter = self.in_weights(name, theta)
            kind, _, layer = name.partition("_l")
            if kind in WEIGHT_KINDS:
                suffix = "" if layer == "0" else f"_l{layer}"
                weights |= {f"{gate}{suffix}": part for gate, part in split_gates([(kind, parameter)], GATES).items()}
            else:
                weights[name] = parameter.detach()
        return weights

    def _piece(self, rows: Tensor, state: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Read a piece [B, N, I] from a state [2, layers, B, H] and a memory [B, attention, D].

        Returns:
            The output, and state and memory after it.
        """
        hidden, last = rows, []
        for layer in range(self.layers):
            states, *after = self._layer(hidden, state[0, layer], state[1, layer], f"l{layer}")
            last.append(torch.stack(after))
            if self.bidirectional:
                zero = torch.zeros_like(state[0, layer])
                backward, *_ = self._layer(hidden.flip(1), zero, zero, f"l{layer}_reverse")
                states = torch.cat([states, backward.flip(1)], -1)
            hidden = states
        if memory is not None and self.attention:
            past = torch.cat([memory, hidden], 1)  # step n is at n + attention
            score = self.query(hidden) @ self.key(past).mT * hidden.shape[-1] ** -0.5
            ahead = (
                torch.arange(past.shape[1], device=rows.device)
                - torch.arange(rows.shape[1], device=rows.device)[:, None]
            )
            seen = (ahead >= 0) & (ahead <= self.attention)
            found = score.masked_fill(~seen, -torch.inf).softmax(-1) @ past
            memory = past[:, -self.attention :]
            hidden = torch.cat([hidden, found], -1)
        weight, bias = (self.in_weights(f"readout.{n}", getattr(self.readout, n)) for n in ("weight", "bias"))
        return nn.functional.linear(hidden, weight, bias), torch.stack(last, 1), memory

    def _layer(self, rows: Tensor, hidden: Tensor, cell: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
        w_ih, w_hh, b_ih, b_hh = (
            self.in_weights(f"{kind}_{name}", getattr(self, f"{kind}_{name}")) for kind in WEIGHT_KINDS
        )
        return lstm_sequence(rows, hidden, cell, w_ih, w_hh, b_ih + b_hh, self.input_gate)


def torch_start(net: StatefulLSTM, generator: torch.Generator) -> None:
    """Draw all parameters as torch.nn.LSTM and torch.nn.Linear do: uniform, in order, in float32.

    A generator of seed s gives the numbers that torch draws after torch.manual_seed(s).
    """
    hidden_size = net.rest.shape[-1]
    for name, parameter in net.named_parameters():
        linear = net.get_submodule(name.rpartition(".")[0])
        bound = (linear.in_features if isinstance(linear, nn.Linear) else hidden_size) ** -0.5
        draw = torch.empty(parameter.shape, dtype=torch.float32)
        parameter.data.copy_(draw.uniform_(-bound, bound, generator=generator))


@registered
def build(
    signal: Any,
    lanes: int,
    unroll: int,
    dtype: torch.dtype,
    init: torch.Generator,
    *,
    hidden_size: int = 64,
    layers: int = 1,
    input_gate: InputGate = "sigmoid",
    bidirectional: bool = False,
    attention: int | None = None,
    torch_seed: int | None = None,
) -> StatefulLSTM:
    """Build the net of a run with torch's own random start.

    Args:
        hidden_size: Units per layer.
        torch_seed: Draw the start as after torch.manual_seed of this; None draws from the run's own generator.

    `layers`, `input_gate`, `bidirectional` and `attention` are those of `StatefulLSTM`.
    """
    for name, value in (("hidden_size", hidden_size), ("layers", layers), ("attention", attention)):
        if value is not None and value < 1:
            raise ValueError(f"model.{name} must be at least 1, got {value}; see conf/model/stateful.yaml")
    if torch_seed is not None and not 0 <= torch_seed < 2**63:
        raise ValueError(f"model.torch_seed must lie in 0..2^63-1, got {torch_seed}; use null")
    net = build_within_memory(
        lambda: StatefulLSTM(
            1 + len(signal.frequencies), hidden_size, 1, lanes, layers=layers, input_gate=input_gate,
            bidirectional=bidirectional, attention=attention, unroll=unroll, dtype=dtype,
        ),
        "use a smaller model.hidden_size",
    )  # fmt: skip
    torch_start(net, init if torch_seed is None else torch.Generator().manual_seed(torch_seed))
    return net
