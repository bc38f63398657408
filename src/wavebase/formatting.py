"""Numbers and tables as text, one way for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def short_cell(value: Any) -> str:
    """A number with three digits, anything else as it is."""
    return f"{value:.3g}" if isinstance(value, float) else "-" if value is None else str(value)


def brief(value: float) -> str:
    """A number to one digit, as short as can be: 2e-3."""
    return f"{value:.0e}".replace("e-0", "e-").replace("e+00", "")


def text_table(rows: Sequence[Mapping[str, Any]], markdown: bool = False) -> str:
    """Rows as text, numbers to the right; as a Markdown table if asked."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, *([short_cell(row.get(column)) for column in columns] for row in rows)]
    if markdown:
        lines.insert(1, ["---:"] * len(columns))
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)


def number(value: float | None) -> str:
    """A number in at most seven characters."""
    return "-" if value is None else f"{value:.1e}" if value and not 0.01 <= abs(value) < 1000 else f"{value:.3g}"
