"""A ReLU recurrent net without biases that reads n numbers and answers once, after the last of them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from wavebase.constructions.options import refuse_ignored
from wavebase.constructions.second_argmax import second_argmax_construction, second_argmax_units
from wavebase.models.base import build_within_memory, draw_uniform
from wavebase.models.unit_scaled import Parametrization, UnitScaled, is_unit_scaled
from wavebase.recurrence.cells import relu_states
from wavebase.registry import registered


class ReluRNN(UnitScaled):
    """h' = relu(W_hh h + W_ih x) from h = 0, and the readout V h after the last number; no biases.

    Maps [batch, numbers] to [batch, outputs], cast to its dtype. The function is homogeneous: c x gives c times the
    output for every c > 0. Parameters: weight_ih [H, 1], weight_hh [H, H], readout.weight [outputs, H].

    Attributes:
        blocks: Units by name where the weights are a construction, else empty.
    """

    construction = None  # the cell has one matrix and no gates: see `blocks`

    def __init__(self, hidden_size: int, outputs: int, dtype: torch.dtype = torch.float64):
        super().__init__()
        self.weight_ih = nn.Parameter(torch.zeros(hidden_size, 1, dtype=dtype))
        self.weight_hh = nn.Parameter(torch.zeros(hidden_size, hidden_size, dtype=dtype))
        self.readout = nn.Linear(hidden_size, outputs, bias=False, dtype=dtype)
        self.blocks: dict[str, slice] = {}

    def forward(self, numbers: Tensor) -> Tensor:
        """Return the readout after the last number: [batch, numbers] to [batch, outputs]."""
        last = relu_states(
            numbers.to(self.weight_hh.dtype), *(self._weight(f"weight_{kind}") for kind in ("ih", "hh"))
        )[-1]
        return nn.functional.linear(last.mT, self._weight("readout.weight"))

    def named_weights(self) -> dict[str, Tensor]:
        """Return the weights by name, detached."""
        return {name: self._weight(name).detach() for name, _ in self.named_parameters()}

    def _weight(self, name: str) -> Tensor:
        return self.in_weights(name, self.readout.weight if name == "readout.weight" else getattr(self, name))


@registered
def build(
    T: int,
    outputs: int,
    dtype: torch.dtype,
    init: torch.Generator,
    *,
    start: Literal["random", "exact"] = "random",
    hidden_size: int = 16,
    parametrization: Parametrization = "raw",
) -> ReluRNN:
    """Build the net of a run.

    Args:
        start: random as torch.nn.RNN draws it, uniform in +-1/sqrt(H) and in float64, so that nets of every dtype start
            alike; or the exact second argmax, 2T + 2 units.
        hidden_size: Units of a random start, H.
        parametrization: What is trained, see `models.unit_scaled`. Configurations of version 0.1 lack it.
    """
    unit_scaled = is_unit_scaled(parametrization, start)
    if start not in ("random", "exact"):
        raise ValueError(f"model.start must be random or exact, got {start!r}; use random")
    if hidden_size < 1:
        raise ValueError(f"model.hidden_size must be at least 1, got {hidden_size}; use 16")
    remedy = "use a smaller T or model.hidden_size"
    if start == "exact":
        if outputs != T:
            raise ValueError(
                f"model.start=exact needs one output a position, {T}, got {outputs}; use task=second_argmax"
            )
        refuse_ignored(
            "with model.start=exact, which has 2T + 2 units", "leave it out", ("hidden_size", hidden_size, 16)
        )
        net = build_within_memory(lambda: ReluRNN(2 * T + 2, T, dtype), remedy)
        # sharp logits: a cross-entropy loss sees the positions, not the distances between the numbers
        weights, blocks = second_argmax_construction(T, sharpness=2.0**10)
        units = second_argmax_units(weights, blocks) if unit_scaled else {}
        net.load_state_dict({name: net.in_units(name, w.to(dtype), units.get(name)) for name, w in weights.items()})
        net.blocks = blocks
        return net
    if unit_scaled:
        raise ValueError("model.parametrization must be raw or auto with start=random, got unit_scaled; use auto")
    net = build_within_memory(lambda: ReluRNN(hidden_size, outputs, dtype), remedy)
    draw_uniform(net, hidden_size**-0.5, init)
    return net
