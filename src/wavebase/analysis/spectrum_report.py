"""The value that `analyze` returns, with a table and a JSON form."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wavebase.analysis import report_text
from wavebase.analysis.cell import Cell
from wavebase.analysis.effective import Effective
from wavebase.analysis.impulse import Impulse
from wavebase.analysis.modes import Mode, SelfRecurrence
from wavebase.analysis.nulls import Quantity
from wavebase.analysis.readout import Readout
from wavebase.analysis.rotations import RotationPair
from wavebase.analysis.trajectory import Trajectory


@dataclass(frozen=True)
class Gate:
    """The modes, strongest rotation pairs and self-recurrence of one recurrent matrix, of a ReLU net in balanced coordinates."""

    modes: tuple[Mode, ...]
    rotation_pairs: tuple[RotationPair, ...]
    self_recurrence: tuple[SelfRecurrence, ...]


@dataclass(frozen=True)
class Report:
    """What `analyze` found. A part that the inputs do not allow is None, and a note says so.

    Attributes:
        activation: Kind of the cell.
        hidden_size: Number of units H.
        balanced: Whether gauge-dependent numbers were measured after balancing (ReLU), because rescaling units moves them.
        scale: The balancing scale [H]: h = scale * h_balanced.
        gates: By gate.
        readout, trajectory, effective, impulse: See the modules of these names.
        quantities: By name; those of a gate are "<gate>.<name>" where there are several gates.
        notes: What was left out, and why.
        cell: The weights, in balanced coordinates.
    """

    activation: str
    hidden_size: int
    balanced: bool
    scale: tuple[float, ...]
    gates: dict[str, Gate]
    readout: Readout | None
    trajectory: Trajectory | None
    effective: Effective | None
    impulse: Impulse | None
    quantities: dict[str, Quantity]
    notes: tuple[str, ...]
    cell: Cell = dataclasses.field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the weights as numbers, text, lists and mappings; complex numbers as [real, imaginary]."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "cell"} | {
            "flagged": [name for name, quantity in self.quantities.items() if quantity.flagged]
        }

    def short(self, name: str) -> str:
        """Return a few lines for a console about a net of this name; see `report_text.short`."""
        return report_text.short(self, name)

    def table(self) -> str:
        """Return the quantities as a table of at most 80 columns; see `report_text.table`."""
        return report_text.table(self)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, complex):
        return [value.real, value.imag]
    return value.item() if isinstance(value, np.generic) else value
