"""Which matrix of a file reads a net's state: chosen if names and shapes leave one possibility, otherwise asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# parts of a recurrent layer's own names
OWN = re.compile(r"(weight|w)_(hh|ih|hr)|bias_|b_hh|b_ih|hidden_0|cell_0|inputs")
RECURRENT = re.compile(r"(weight|w)_[hi][hr]")
EMBEDDING = re.compile(r"(^|[._])(\w*emb\w*|wte|wpe)([._]|$)", re.IGNORECASE)
READOUT = re.compile(r"(^|_)(readout|out|output|linear|fc|head|decoder|classifier|logits?)\d*(_|$)", re.IGNORECASE)
IN_SEQUENCE = re.compile(r"^(?P<stem>.+)\.(?P<index>\d+)\.\w+$")


@dataclass(frozen=True)
class Net:
    """A recurrent module.

    Attributes:
        prefix: How its names begin.
        inputs: Number of its inputs.
        outputs: Number of outputs of its last layer, both directions together.
    """

    prefix: str
    inputs: int
    outputs: int

    @property
    def label(self) -> str:
        """Name for messages."""
        return self.prefix.rstrip("._") or "net"


def choose(weights: Mapping[str, Any], nets: Sequence[Net], asked: str | None) -> tuple[dict[str, str], list[str]]:
    """Choose the readout of each net.

    A readout is a matrix [n, outputs of the net]. Left out are embeddings, by name or because they could be one (as wide as
    the net's input, and not named as a readout), matrices that follow another one in a Sequential, and those that could
    follow another matrix. If several remain, the only one named as a readout is chosen. A matrix that fits several nets
    belongs to the decoder rather than to the encoder.

    Args:
        weights: Name to array or tensor, in the file's order.
        nets: The nets of the file.
        asked: None to choose; "none"; the name of a matrix; or "net:matrix".

    Returns:
        The name of each net's readout by the net's prefix, and notes on what was chosen and why nothing was.

    Raises:
        ValueError: For a matrix that is not in the file or does not fit.
    """
    matrices = {name: tuple(value.shape) for name, value in weights.items() if _is_matrix(name, value)}
    if asked is not None:
        return _as_asked(asked, matrices, nets), []
    order = list(weights)
    in_order = order != sorted(order)  # sorted names tell nothing about the order of the modules
    chosen: dict[str, str] = {}
    notes: list[str] = []
    for net in nets:
        fitting = [
            name
            for name, shape in matrices.items()
            if shape[1] == net.outputs and _nearest(name, net, nets) and not _follows(name, matrices)
        ]
        start = min(
            n
            for n, name in enumerate(order)
            if name.startswith(net.prefix) and RECURRENT.search(name[len(net.prefix) :])
        )
        before = set(order[:start]) if in_order else set()
        usable = [name for name in fitting if _may_read(name, net, matrices, before)]
        named = [name for name in fitting if READOUT.search(_module(name))]
        candidates = named or fitting
        if len(candidates) == 1 and candidates[0] in usable:
            chosen[net.prefix] = candidates[0]
        elif fitting:
            names = ", ".join(fitting)
            notes.append(
                f"no readout of {net.label} is read, because names and shapes do not tell it; readout=NAME of {names}"
            )
    return chosen, [*notes, *_share(chosen, nets)]


def _share(chosen: dict[str, str], nets: Sequence[Net]) -> list[str]:
    """Leave a matrix that was chosen for several nets to one of them, or to none; return notes on it."""
    notes = []
    for name in dict.fromkeys(chosen.values()):
        owners = [net for net in nets if chosen.get(net.prefix) == name]
        kept = [net for net in owners if not re.search(r"enc(oder)?\d*([._]|$)", net.prefix, re.IGNORECASE)] or owners
        for net in owners:
            if net not in kept or len(kept) > 1:
                del chosen[net.prefix]
        if len(kept) > 1:
            labels = ", ".join(net.label for net in kept)
            notes.append(
                f"{name} fits {labels}, and is read for none; give readout={kept[-1].label}:{name} or another of them"
            )
        elif len(nets) > 1 or not READOUT.search(_module(name)):
            whose = f" of {kept[0].label}" if len(nets) > 1 else ""
            notes.append(f"{name} is taken for the readout{whose}; readout=NAME or readout=none decides otherwise")
    return notes


def _is_matrix(name: str, value: Any) -> bool:
    if not isinstance(value, np.ndarray | torch.Tensor) or value.ndim != 2 or 0 in value.shape:
        return False
    return not OWN.search(name) and not EMBEDDING.search(name)


def _may_read(name: str, net: Net, matrices: Mapping[str, tuple[int, ...]], before: set[str]) -> bool:
    """Whether this matrix, of fitting width, cannot read anything but the net."""
    width = matrices[name][1]
    if not READOUT.search(_module(name)) and width == net.inputs:
        return False  # it could be an embedding
    return all(
        other == name or other in before or rows != width or _precedes(name, other)
        for other, (rows, _) in matrices.items()
    )


def _follows(name: str, matrices: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether an earlier matrix of the same Sequential leads to this one."""
    return any(_precedes(other, name) and rows == matrices[name][1] for other, (rows, _) in matrices.items())


def _precedes(name: str, other: str) -> bool:
    """Whether two matrices belong to one Sequential, the first before the second."""
    one, two = IN_SEQUENCE.match(name), IN_SEQUENCE.match(other)
    return bool(one and two and one["stem"] == two["stem"] and int(one["index"]) < int(two["index"]))


def _module(name: str) -> str:
    """Return the last part of a dotted name that is no index or parameter: head of head.2.weight."""
    parts = [part for part in name.removesuffix(".weight").split(".") if not part.isdigit()]
    return parts[-1] if parts else name


def _nearest(name: str, net: Net, nets: Sequence[Net]) -> bool:
    """Whether no other net shares more of the dotted name's beginning with this matrix."""

    def shared(prefix: str) -> int:
        parts, count = prefix.rstrip("._").split("."), 0
        for one, two in zip(parts, name.split("."), strict=False):
            if one != two:
                break
            count += 1
        return count

    return shared(net.prefix) == max(shared(other.prefix) for other in nets)


def _as_asked(asked: str, matrices: Mapping[str, tuple[int, ...]], nets: Sequence[Net]) -> dict[str, str]:
    if asked == "none":
        return {}
    label, _, name = asked.rpartition(":")
    name = name if name in matrices else f"{name}.weight"
    if name not in matrices:
        raise ValueError(
            f"readout must be none or one of {', '.join(matrices) or 'no matrix'}, got {asked!r}; use none"
        )
    named = [net for net in nets if label in ("", net.label)]
    if not named:
        raise ValueError(f"readout must name one of the nets {', '.join(n.label for n in nets)}, got {label!r}; use {nets[-1].label}:{name}")  # fmt: skip
    fitting = [net for net in named if net.outputs == matrices[name][1]]
    if not fitting:
        sizes = " or ".join(str(net.outputs) for net in named)
        raise ValueError(f"readout must have {sizes} columns, one for each output of the net, got {list(matrices[name])} in {name}; use none")  # fmt: skip
    if len(fitting) > 1:
        raise ValueError(f"readout must name its net, got {name}, which fits {', '.join(n.label for n in fitting)}; use readout={fitting[-1].label}:{name}")  # fmt: skip
    return {fitting[0].prefix: name}
