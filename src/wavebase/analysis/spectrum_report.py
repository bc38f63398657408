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

MOST_FLAGGED = 6  # quantities that a summary names


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
        """Summarise a report in a few lines of at most 80 columns: the net, called `name`, and what random weights do not show."""
        lines = [f"{name}: {self.activation}, {self.hidden_size} units"]
        for gate in self.gates:
            radius = self.quantities[f"{gate}.spectral_radius" if len(self.gates) > 1 else "spectral_radius"]
            null = radius.nulls[0] if radius.nulls else None
            beside = f" (random {number(null.low)}..{number(null.high)})" if null else ""
            lines[0] += f"; {radius.name} {number(radius.value)}{beside}"
        flagged = [f"{q.name} {number(q.value)}" for q in self.quantities.values() if q.flagged]
        more = f" and {len(flagged) - MOST_FLAGGED} more" if len(flagged) > MOST_FLAGGED else ""
        judged = sum(math.isfinite(q.value) and bool(q.nulls) for q in self.quantities.values())
        outside = ", ".join(flagged[:MOST_FLAGGED]) + more if flagged else "none"
        lines.append(f"unlike random weights (p <= 0.05, {len(flagged)} of {judged} quantities): {outside}")
        return "\n".join(part for line in lines for part in wrapped(line))

    def table(self) -> str:
        """List the quantities in at most 80 columns: the value, and both nulls' 5 to 95 % and p-value."""
        head = f"{self.activation}, {self.hidden_size} units; * p <= 0.05 under the random null; g after balancing"
        lines = [head, f"{'':<28}{'value':>9}  {'random 5..95 %':>16} {'p':>5}  {'shuffled':>8} {'p':>5}"]
        for name, q in self.quantities.items():
            if not math.isfinite(q.value):
                continue
            label = f"{name[:25]}{' g' if q.gauge else ''}"
            line = f"{label:<28}{number(q.value):>9}"
            if q.nulls:
                first = q.nulls[0]
                line += f"  {number(first.low) + '..' + number(first.high):>16} {first.p_value:>5.3f}"
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
