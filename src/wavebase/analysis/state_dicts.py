"""Recurrent layers in somebody's weights, by their names: torch's own modules, and wavebase's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wavebase.analysis.cell import GATES_OF
from wavebase.recurrence.cells import GATES

# of torch's layers, and of plain ones
NAME = re.compile(r"^(?P<prefix>.*?)(?P<stem>weight|(?<![A-Za-z0-9])w)_hh(?P<suffix>_l\d+(?:_reverse)?)?$")


def is_recurrent(name: str) -> bool:
    """Whether an array of this name is a recurrent matrix, or one gate of it."""
    return bool(NAME.match(name)) or any(name.endswith(f"weight_hh_{gate}") for gate in (*GATES, *GATES_OF["gru"]))


@dataclass(frozen=True)
class Layer:
    """One recurrent layer found by name: the arguments of `analyze`. activation None: left to the number of gates."""

    name: str
    activation: str | None
    w_hh: Any
    w_ih: Any
    bias_ih: Any
    bias_hh: Any
    hidden_0: Any
    cell_0: Any
    w_out: Any

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `analyze`, without inputs."""
        return {key: value for key, value in vars(self).items() if key != "name"}


def layers(weights: Mapping[str, Any], activation: str | None = None) -> list[Layer]:
    """Every recurrent layer in a mapping from name to array or tensor, in the mapping's order.

    Known names: torch.nn.RNN, GRU, LSTM and their cells (`<prefix>weight_hh_l0`, ..., `_reverse`, `weight_hh`); the same
    with w and b for weight and bias (`encoder_w_hh`, `encoder_b_ih`); one matrix a gate (`weight_hh_cell`, ...); and the
    plain arrays w_hh, w_ih, w_out. The readout is the one matrix [n, H] left that
    is not another layer's, preferably named readout, out, linear, fc, head or decoder, and reads the last layer.
    activation: of plain nets and LSTMs with a tanh input gate, whose names do not tell. Raises ValueError if there is none.
    """
    found: list[Layer] = []
    names = set(weights)
    if "w_hh" in weights:
        pick = {key: weights.get(key) for key in ("hidden_0", "cell_0")}
        pick |= {f"bias_{end}": weights.get(f"bias_{end}", weights.get(f"b_{end}")) for end in ("ih", "hh")}
        return [Layer("w_hh", activation, weights["w_hh"], weights.get("w_ih"), w_out=weights.get("w_out"), **pick)]
    for name in weights:
        for gates, kind in ((GATES, "lstm"), (GATES_OF["gru"], "gru")):
            if name.endswith(f"weight_hh_{gates[0]}"):
                prefix = name.removesuffix(f"weight_hh_{gates[0]}")
                missing = [gate for gate in gates if f"{prefix}weight_hh_{gate}" not in names]
                if missing:
                    raise ValueError(
                        f"a {kind}'s weights must hold {len(gates)} gates, got none named {prefix}weight_hh_{missing[0]}; give the whole layer"
                    )
                parts = {
                    part: _by_gate(weights, f"{prefix}{part}", gates)
                    for part in ("weight_hh", "weight_ih", "bias_ih", "bias_hh")
                }
                found.append(_layer(weights, prefix + "weight_hh", activation or kind, prefix, parts))
        match = NAME.match(name)
        if match:
            prefix, suffix, w = match["prefix"], match["suffix"] or "", match["stem"]
            parts = {
                f"{part}_{end}": weights.get(f"{prefix}{stem}_{end}{suffix}")
                for part, stem in (("weight", w), ("bias", "bias" if w == "weight" else "b"))
                for end in ("hh", "ih")
            }
            found.append(_layer(weights, name, activation, prefix, parts))
    if not found:
        some = ", ".join(sorted(names)[:4]) or "nothing"
        raise ValueError(
            f"the weights must hold a recurrent layer (weight_hh_l0, weight_hh_cell or w_hh), got {some}; name the matrix w_hh"
        )
    last = found[-1]
    readout = _readout(weights, found)
    return [*found[:-1], Layer(**{**vars(last), "w_out": readout})]


def _layer(
    weights: Mapping[str, Any], name: str, activation: str | None, prefix: str, parts: Mapping[str, Any]
) -> Layer:
    return Layer(
        name=name,
        activation=activation,
        w_hh=parts["weight_hh"],
        w_ih=parts["weight_ih"],
        bias_ih=parts["bias_ih"],
        bias_hh=parts["bias_hh"],
        hidden_0=weights.get(f"{prefix}hidden_0"),
        cell_0=weights.get(f"{prefix}cell_0"),
        w_out=None,
    )


def _by_gate(weights: Mapping[str, Any], stem: str, gates: tuple[str, ...]) -> Any:
    parts = {gate: weights.get(f"{stem}_{gate}") for gate in gates}
    return None if any(part is None for part in parts.values()) else parts


def _readout(weights: Mapping[str, Any], found: list[Layer]) -> Any:
    """The matrix that reads the last layer, None if no name or shape tells."""
    hidden = found[-1].w_hh
    H = np.shape(next(iter(hidden.values())) if isinstance(hidden, Mapping) else hidden)[-1]
    own = ("weight_hh", "weight_ih", "w_hh", "w_ih", "bias_", "hidden_0", "cell_0")
    candidates = [
        name
        for name, value in weights.items()
        if isinstance(value, np.ndarray | torch.Tensor)
        and value.ndim == 2
        and value.shape[1] == H
        and not any(word in name for word in own)
    ]
    known = re.compile(r"(^|\.|_)(readout|out|output|linear|fc|head|decoder|w_out)(\.|_|$)")
    named = [name for name in candidates if known.search(name)]
    chosen = named[-1:] or (candidates if len(candidates) == 1 else [])
    return weights[chosen[0]] if chosen else None
