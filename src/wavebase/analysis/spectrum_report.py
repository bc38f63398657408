"""The value that `analyze` returns, with a table and a JSON form."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wavebase.analysis.cell import Cell
from wavebase.analysis.effective import Effective
from wavebase.analysis.impulse import Impulse
from wavebase.analysis.modes import Mode, SelfRecurrence
from wavebase.analysis.nulls import Quantity
from wavebase.analysis.readout import Readout
from wavebase.analysis.report_text import number, wrapped
from wavebase.analysis.rotations import RotationPair
from wavebase.analysis.trajectory import Trajectory

FULL_LAYERS, MOST_LAYERS = 2, 5  # of a summary: described in full, named at all
MOST_FLAGGED = 3  # quantities that a summary names
LABEL = 27  # columns of a quantity's name in the table


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
        """Summarise a report in about six lines of at most 80 columns: the net, called `name`, and what random weights lack."""
        several = len(self.gates) > 1
        radii = ", ".join(f"{gate + ' ' if several else ''}{_beside(q)}" for gate, q in self._radii().items())
        flagged, judged = self._judged()
        outside = ", ".join(f"{q.name} {_beside(q)}" for q in flagged[:MOST_FLAGGED]) or "none"
        rest = len(flagged) - MOST_FLAGGED
        lines = [
            f"{name}: {self.activation}, {self.hidden_size} units; spectral_radius (random 5..95 %) {radii}",
            f"unlike random weights (p <= 0.05, {self.draws()} draws, {len(flagged)} of {len(judged)} quantities): {outside}"
            + (f" and {rest} more" if rest > 0 else ""),
        ]
        return "\n".join(part for line in lines for part in wrapped(line))

    def row(self, name: str) -> str:
        """Summarise a report in a line: the largest spectral radius of its gates, and how much random weights lack."""
        gate, radius = max(self._radii().items(), key=lambda item: item[1].value)
        flagged, judged = self._judged()
        which = f"{gate} " if len(self.gates) > 1 else ""
        line = f"  {name}, {self.activation} of {self.hidden_size}: {which}{_beside(radius)}; {len(flagged)} of {len(judged)}"
        return "\n".join(wrapped(line))

    def draws(self) -> str:
        """Return the number of draws of the random null, or the range over quantities."""
        draws = sorted({q.nulls[0].draws for q in self._judged()[1]})
        return "no" if not draws else str(draws[0]) if len(draws) == 1 else f"{draws[0]} to {draws[-1]}"

    def _radii(self) -> dict[str, Quantity]:
        several = len(self.gates) > 1
        return {
            gate: self.quantities[f"{gate}.spectral_radius" if several else "spectral_radius"] for gate in self.gates
        }

    def _judged(self) -> tuple[list[Quantity], list[Quantity]]:
        """Return the quantities that random weights lack, the least p-value first, and all that are judged."""
        judged = [q for q in self.quantities.values() if math.isfinite(q.value) and q.nulls]
        return sorted((q for q in judged if q.flagged), key=lambda q: q.nulls[0].p_value), judged

    def table(self) -> str:
        """List the quantities in at most 80 columns: the value, and both nulls' 5 to 95 % and p-value."""
        head = f"{self.activation}, {self.hidden_size} units; * p <= 0.05 under the random null; g after balancing"
        lines = [head, f"{'':<{LABEL}}{'value':>9}  {'random 5..95 %':>18} {'p':>5}  {'shuffled':>8} {'p':>5}"]
        for name, q in self.quantities.items():
            if not math.isfinite(q.value):
                continue
            label = f"{name}{' g' if q.gauge else ''}"
            if len(label) > LABEL:  # on a line of its own
                lines.append(label)
                label = ""
            line = f"{label:<{LABEL}}{number(q.value):>9}"
            if q.nulls:
                first = q.nulls[0]
                line += f"  {number(first.low) + '..' + number(first.high):>18} {first.p_value:>5.3f}"
            if len(q.nulls) > 1:
                line += f"  {number(q.nulls[1].median):>8} {q.nulls[1].p_value:>5.3f}"
            lines.append((line + (" *" if q.flagged else "")).rstrip())
        for gate, found in self.gates.items():
            title = "modes" if len(self.gates) == 1 else f"modes of {gate}"
            lines.append(f"{title}: |eigenvalue| at angle/pi (period), conjugates once")
            shown = [m for m in found.modes if m.eigenvalue.imag >= 0 or not m.rotating]
            shown = [m for m in shown if m.modulus > 0][:8]
            cells = [f"{_modulus(m)} at {m.omega / np.pi:.3f} ({_period(m)})" for m in shown]
            lines += ["  " + "   ".join(cells[n : n + 3]) for n in range(0, len(cells), 3)]
        if self.trajectory is not None:
            counts = {role: self.trajectory.roles.count(role) for role in dict.fromkeys(self.trajectory.roles)}
            lines.append("roles: " + ", ".join(f"{count} {role}" for role, count in counts.items()))
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(part for line in lines for part in wrapped(line))


def summary(reports: Mapping[str, Report]) -> list[str]:
    """Summarise the layers of a file in about ten lines of at most 80 columns: each in full if there are at most two."""
    if len(reports) <= FULL_LAYERS:
        return [report.short(name) for name, report in reports.items()]
    draws = next(iter(reports.values())).draws()
    head = f"{len(reports)} layers: the largest spectral radius (random 5..95 %); quantities unlike random weights (p <= 0.05, {draws} draws)"
    rows = [report.row(name) for name, report in list(reports.items())[:MOST_LAYERS]]
    rest = len(reports) - MOST_LAYERS
    return [*wrapped(head), *rows, *([f"  and {rest} more in spectrum.txt"] if rest > 0 else [])]


def _beside(quantity: Quantity) -> str:
    """Return a value, and in brackets where 90 % of random weights lie."""
    null = quantity.nulls[0] if quantity.nulls else None
    return number(quantity.value) + (f" ({number(null.low)}..{number(null.high)})" if null else "")


def _modulus(found: Mode) -> str:
    return f"{found.modulus:.3f}" if found.modulus < 100 else number(found.modulus)


def _period(found: Mode) -> str:
    return f"{found.period:.2f}" if found.rotating else "real"


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
