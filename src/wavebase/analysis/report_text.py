"""A report as text: a summary of a few lines, and the table of all quantities."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

import numpy as np

from wavebase.analysis.modes import Mode

if TYPE_CHECKING:
    from wavebase.analysis.analyze import Report

MOST_FLAGGED = 6  # quantities that a summary names


def short(report: Report, name: str) -> str:
    """Summarise a report in a few lines of at most 80 columns: the net, called `name`, and what random weights do not show."""
    lines = [f"{name}: {report.activation}, {report.hidden_size} units"]
    for gate in report.gates:
        radius = report.quantities[f"{gate}.spectral_radius" if len(report.gates) > 1 else "spectral_radius"]
        null = radius.nulls[0] if radius.nulls else None
        beside = f" (random {number(null.low)}..{number(null.high)})" if null else ""
        lines[0] += f"; {radius.name} {number(radius.value)}{beside}"
    flagged = [f"{q.name} {number(q.value)}" for q in report.quantities.values() if q.flagged]
    more = f" and {len(flagged) - MOST_FLAGGED} more" if len(flagged) > MOST_FLAGGED else ""
    judged = sum(math.isfinite(q.value) and bool(q.nulls) for q in report.quantities.values())
    outside = ", ".join(flagged[:MOST_FLAGGED]) + more if flagged else "none"
    lines.append(f"unlike random weights (p <= 0.05, {len(flagged)} of {judged} quantities): {outside}")
    return "\n".join(part for line in lines for part in wrapped(line))


def table(report: Report) -> str:
    """List the quantities in at most 80 columns: the value, and both nulls' 5 to 95 % and p-value."""
    head = f"{report.activation}, {report.hidden_size} units; * p <= 0.05 under the random null; g after balancing"
    lines = [head, f"{'':<28}{'value':>9}  {'random 5..95 %':>16} {'p':>5}  {'shuffled':>8} {'p':>5}"]
    for name, q in report.quantities.items():
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
    for gate, found in report.gates.items():
        title = "modes" if len(report.gates) == 1 else f"modes of {gate}"
        lines.append(f"{title}: |eigenvalue| at angle/pi (period), conjugates once")
        shown = [m for m in found.modes if m.eigenvalue.imag >= 0 or not m.rotating]
        shown = [m for m in shown if m.modulus > 0][:8]
        cells = [f"{_modulus(m)} at {m.omega / np.pi:.3f} ({_period(m)})" for m in shown]
        lines += ["  " + "   ".join(cells[n : n + 3]) for n in range(0, len(cells), 3)]
    if report.trajectory is not None:
        counts = {role: report.trajectory.roles.count(role) for role in dict.fromkeys(report.trajectory.roles)}
        lines.append("roles: " + ", ".join(f"{count} {role}" for role, count in counts.items()))
    lines += [f"note: {note}" for note in report.notes]
    return "\n".join(part for line in lines for part in wrapped(line))


def number(value: float) -> str:
    """Format a number in at most 8 characters."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.1e}" if value and not 0.001 <= abs(value) < 10000 else f"{value:.3g}"


def _modulus(found: Mode) -> str:
    return f"{found.modulus:.3f}" if found.modulus < 100 else number(found.modulus)


def _period(found: Mode) -> str:
    return f"{found.period:.2f}" if found.rotating else "real"


def wrapped(line: str, width: int = 80) -> list[str]:
    """Break a line into lines of at most `width` columns, all but the first indented."""
    return textwrap.wrap(line, width, subsequent_indent="      ") if len(line) > width else [line]
