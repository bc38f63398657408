"""Recurrent layers in any mapping from name to array, by their names: torch's own modules and wavebase's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np

from wavebase.analysis import readout_choice
from wavebase.analysis.cell import GATES_OF, Activation, as_array
from wavebase.analysis.parametrized import multiplied_out
from wavebase.recurrence.cells import GATES

# of torch's layers, in full or short (encoder_w_hh), and of plain ones
NAME = re.compile(
    r"^(?P<prefix>.*?)(?P<stem>weight|(?<![A-Za-z0-9])w)_hh(?P<suffix>_l(?P<level>\d+)(?P<reverse>_reverse)?)?$"
)
PARTS = ("weight_hh", "weight_ih", "bias_ih", "bias_hh")


def is_recurrent(name: str) -> bool:
    """Return whether an array of this name is a recurrent matrix, or one gate of it."""
    return bool(NAME.match(name)) or any(name.endswith(f"weight_hh_{gate}") for gate in (*GATES, *GATES_OF["gru"]))


@dataclass(frozen=True)
class Layer:
    """One recurrent layer found by name: the arguments of `analyze`, and its place in its net.

    Attributes:
        activation: None to let the number of gates decide.
        net: How its names begin.
        level: 0 for the layer that reads the net's inputs.
        reverse: Whether it reads time backwards.
        projection: W_hr [P, H] of torch.nn.LSTM(proj_size=P), else None. w_hh and w_out are multiplied by it, so that they
            act on the H units.
    """

    name: str
    activation: str | None
    w_hh: Any
    w_ih: Any
    bias_ih: Any
    bias_hh: Any
    hidden_0: Any
    cell_0: Any
    w_out: Any
    net: str = ""
    level: int = 0
    reverse: bool = False
    projection: np.ndarray | None = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `analyze`, without inputs."""
        kept = ("activation", "w_hh", "w_ih", "bias_ih", "bias_hh", "hidden_0", "cell_0", "w_out")
        return {key: getattr(self, key) for key in kept}

    @property
    def hidden_size(self) -> int:
        """Number of hidden units H."""
        return _columns(self.w_hh)

    @property
    def input_size(self) -> int:
        """Number of inputs I, 0 without input weights."""
        return 0 if self.w_ih is None else _columns(self.w_ih)

    @property
    def output_size(self) -> int:
        """Number of outputs: H, or P behind a projection."""
        return self.hidden_size if self.projection is None else len(self.projection)

    @property
    def gates(self) -> int:
        """Number of gates; 0 for a matrix whose shape allows none."""
        if isinstance(self.w_hh, Mapping):
            return len(self.w_hh)
        shape = np.shape(self.w_hh)
        return shape[0] // shape[1] if len(shape) == 2 and shape[1] and shape[0] % shape[1] == 0 else 0


def layers(weights: Mapping[str, Any], activation: str | None = None, readout: str | None = None) -> list[Layer]:
    """Return the layers that `find` finds."""
    return find(weights, activation, readout)[0]


# long: half of it documents the names that are recognised
def find(
    weights: Mapping[str, Any], activation: str | None = None, readout: str | None = None
) -> tuple[list[Layer], list[str]]:
    """Find every recurrent layer in a mapping from name to array or tensor.

    Known names: torch.nn.RNN, GRU, LSTM and their cells (`<prefix>weight_hh_l0`, ..., `_reverse`, `weight_hh`, `weight_hr_l0`
    of a projection); one matrix a gate (`weight_hh_cell`, ...); and the plain arrays w_hh, w_ih, w_out. Weights under a
    known parametrization are multiplied out (see `parametrized`).

    Args:
        weights: Name to array or tensor, in the order of the modules if it is known.
        activation: The kind of plain nets and of LSTMs with a tanh input gate, which names do not show. One kind applies to
            all layers with its number of gates. Several, separated by commas, apply to names that begin so: `encoder:tanh`.
        readout: See `readout_choice.choose`.

    Returns:
        The layers in the order of the file, those of one net by their level; and notes on what was chosen or left out.

    Raises:
        ValueError: If there is none, and for an activation or a readout that fits nothing.
    """
    if "w_hh" in weights:
        if readout is not None:
            raise ValueError(
                f"readout is for weights with the names of modules, got {readout!r} beside w_hh; name the matrix w_out"
            )
        pick: dict[str, Any] = {key: weights.get(key) for key in ("hidden_0", "cell_0")}
        pick |= {f"bias_{end}": weights.get(f"bias_{end}", weights.get(f"b_{end}")) for end in ("ih", "hh")}
        plain = Layer("w_hh", None, weights["w_hh"], weights.get("w_ih"), w_out=weights.get("w_out"), **pick)
        return _activated([plain], activation)
    whole, unknown = multiplied_out(weights)
    found = _found(whole)
    left_out = [name for name in unknown if "weight_hh" in name]
    if not found:
        some = ", ".join(sorted(weights)[:4]) or "nothing"
        remedy = "remove the parametrization of " + left_out[0] if left_out else "name the matrix w_hh"
        raise ValueError(
            f"the weights must hold a recurrent layer (weight_hh_l0, weight_hh_cell or w_hh), got {some}; {remedy}"
        )
    notes = [f"{name} is left out: the file does not hold the formula of its parametrization" for name in left_out]
    notes += [
        f"{layer.name} acts on the units through its projection: W_hh W_hr"
        for layer in found
        if layer.projection is not None
    ]
    found, more = _activated(found, activation)
    last = {layer.net: max(other.level for other in found if other.net == layer.net) for layer in found}
    top = {net: [layer for layer in found if layer.net == net and layer.level == last[net]] for net in last}
    nets = [
        readout_choice.Net(net, next(x.input_size for x in found if x.net == net), sum(x.output_size for x in ends))
        for net, ends in top.items()
    ]
    names, about = readout_choice.choose(whole, nets, readout)
    for net, name in names.items():
        matrix, first = as_array(whole[name], name), 0
        for end in sorted(top[net], key=lambda layer: layer.reverse):  # the order in which torch joins them
            part = matrix[:, first : first + end.output_size]
            first += end.output_size
            part = part if end.projection is None else part @ end.projection
            found[found.index(end)] = replace(end, w_out=part)
    return found, [*notes, *more, *about]


def _found(weights: Mapping[str, Any]) -> list[Layer]:
    """Return the layers without readouts, nets in the order of the file, layers of one net by level."""
    found = []
    for name in weights:
        for gates, kind in ((GATES, "lstm"), (GATES_OF["gru"], "gru")):
            if name.endswith(f"weight_hh_{gates[0]}"):
                prefix = name.removesuffix(f"weight_hh_{gates[0]}")
                missing = [gate for gate in gates if f"{prefix}weight_hh_{gate}" not in weights]
                if missing:
                    raise ValueError(
                        f"a {kind}'s weights must hold {len(gates)} gates, got none named {prefix}weight_hh_{missing[0]}; give the whole layer"
                    )
                parts = {part: _by_gate(weights, f"{prefix}{part}", gates) for part in PARTS}
                found.append(_layer(weights, prefix + "weight_hh", prefix, parts, activation=kind))
        if match := NAME.match(name):
            prefix, suffix, stem = match["prefix"], match["suffix"] or "", match["stem"]
            short = {"weight": stem, "bias": "bias" if stem == "weight" else "b"}
            parts = {part: weights.get(f"{prefix}{short[part[:-3]]}{part[-3:]}{suffix}") for part in PARTS}
            place: dict[str, Any] = {"level": int(match["level"] or 0), "reverse": bool(match["reverse"])}
            projection = weights.get(f"{prefix}{stem}_hr{suffix}")
            if projection is not None:
                place["projection"] = as_array(projection, f"{prefix}{stem}_hr{suffix}")
                parts["weight_hh"] = as_array(parts["weight_hh"], name) @ place["projection"]
            found.append(_layer(weights, name, prefix, parts, **place))
    order = list(dict.fromkeys(layer.net for layer in found))
    return sorted(found, key=lambda layer: (order.index(layer.net), layer.level, layer.reverse))


def _layer(weights: Mapping[str, Any], name: str, prefix: str, parts: Mapping[str, Any], **more: Any) -> Layer:
    return Layer(
        name=name,
        activation=more.pop("activation", None),
        w_hh=parts["weight_hh"],
        w_ih=parts["weight_ih"],
        bias_ih=parts["bias_ih"],
        bias_hh=parts["bias_hh"],
        hidden_0=weights.get(f"{prefix}hidden_0"),
        cell_0=weights.get(f"{prefix}cell_0"),
        w_out=None,
        net=prefix,
        **more,
    )


def _activated(found: list[Layer], text: str | None) -> tuple[list[Layer], list[str]]:
    """Return the layers with the activations of the text, and a note on plain layers for which it has none.

    Raises ValueError for a part of the text that fits no layer.
    """
    chosen: dict[str, tuple[str, str]] = {}  # layer to (prefix, kind)
    for word in (text or "").split(",") if text else []:
        prefix, _, kind = word.strip().rpartition(":")
        if kind not in get_args(Activation):
            raise ValueError(f"activation must be one of {', '.join(get_args(Activation))}, got {kind!r}; use relu")
        named = [layer for layer in found if layer.name.startswith(prefix)]
        if not named:
            raise ValueError(f"activation must name layers, got {prefix!r}, with which none of {', '.join(x.name for x in found)} begins; use one of them")  # fmt: skip
        fitting = [layer for layer in named if layer.gates == len(GATES_OF[kind])]
        if not fitting:
            first = named[0]
            raise ValueError(
                f"w_hh must hold {len(GATES_OF[kind])} for {kind} gates, got {first.gates} of {first.hidden_size} units; choose the activation= that fits"
            )
        for layer in fitting:
            before = chosen.get(layer.name)
            if before is not None and before[0] == prefix:
                raise ValueError(
                    f"activation must be one kind for each layer, got {before[1]} and {kind} for {layer.name}; leave out one"
                )
            if before is None or len(before[0]) < len(prefix):
                chosen[layer.name] = prefix, kind
    guessed = [layer.name for layer in found if layer.gates == 1 and layer.name not in chosen]
    notes = [f"{', '.join(guessed)} is read as relu, because names do not tell it from tanh; activation=tanh if it is one"] if guessed else []  # fmt: skip
    return [replace(x, activation=chosen[x.name][1]) if x.name in chosen else x for x in found], notes


def _by_gate(weights: Mapping[str, Any], stem: str, gates: tuple[str, ...]) -> Any:
    parts = {gate: weights.get(f"{stem}_{gate}") for gate in gates}
    return None if any(part is None for part in parts.values()) else parts


def _columns(value: Any) -> int:
    """Return the number of columns of a matrix, of a mapping from gate to matrix, or of a vector (1)."""
    shape = np.shape(next(iter(value.values())) if isinstance(value, Mapping) else value)
    return int(shape[1]) if len(shape) > 1 else 1
