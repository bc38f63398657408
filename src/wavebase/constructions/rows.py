"""A net's weights as rows, on which the discrete symmetries act at once: the search for the nearest ones tries many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from wavebase.constructions.construction import STATE_NAMES
from wavebase.constructions.symmetry import Element
from wavebase.recurrence.cells import GATES


class Rows(NamedTuple):
    """All weights of a net as rows.

    Attributes:
        gates: Recurrent weights, input weight and bias, [4, H, H + 2].
        state: hidden_0 and cell_0, [2, H].
        readout: Weights and bias, [F, H + 1].
    """

    gates: Tensor
    state: Tensor
    readout: Tensor


def rows_of(weights: Mapping[str, Tensor]) -> Rows:
    """Return a net's weights as rows, float64 on the CPU. The two biases count by their sum."""
    w = {name: weight.detach().to("cpu", torch.float64) for name, weight in weights.items()}
    gates = [
        torch.cat([w[f"weight_hh_{g}"], w[f"weight_ih_{g}"], (w[f"bias_ih_{g}"] + w[f"bias_hh_{g}"])[:, None]], 1)
        for g in GATES
    ]
    return Rows(
        torch.stack(gates),
        torch.stack([w[name] for name in STATE_NAMES]),
        torch.cat([w["readout.weight"], w["readout.bias"][:, None]], 1),
    )


def act_on_rows(element: Element, rows: Rows) -> Rows:
    """Return `rows_of(act(element, weights))` from `rows_of(weights)`, several times as fast, without rounding."""
    p, state = element.permutation, element.sign_state.to(torch.float64)
    i, f, g, o = rows.gates[:, p].unbind()
    swap = element.swap[:, None]
    swapped = (
        torch.where(swap, g, i) * element.sign_input[:, None],
        torch.where(swap, i, g) * element.sign_cell[:, None],
    )
    gates = torch.stack([swapped[0], f, swapped[1], o])
    gates[..., : len(p)] = gates[..., p] * state
    readout = torch.cat([rows.readout[:, p] * state, rows.readout[:, -1:]], 1)
    return Rows(gates, rows.state[:, p] * state, readout)
