"""Numbers and tables as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def short_cell(value: Any) -> str:
    """Return a table's cell: a number with three digits, "-" for None, anything else as text."""
    return f"{value:.3g}" if isinstance(value, float) else "-" if value is None else str(value)


def brief(value: float) -> str:
    """Return a number with one digit, as short as possible: 2e-3."""
    return f"{value:.0e}".replace("e-0", "e-").replace("e+00", "")


def is_number(text: str) -> bool:
    """Return whether a text is a number as Python reads it, nan and inf included."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def text_table(rows: Sequence[Mapping[str, Any]], markdown: bool = False) -> str:
    """Return rows as an aligned table, or as a Markdown table. Columns are in order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, *([short_cell(row.get(column)) for column in columns] for row in rows)]
    if markdown:
        lines.insert(1, ["---:"] * len(columns))
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)


def number(value: float | None) -> str:
    """Return a number in at most seven characters, eight if negative: the one format of the console. None becomes "-"."""
    return "-" if value is None else f"{value:.1e}" if value and not 0.01 <= abs(value) < 1000 else f"{value:.3g}"
