"""Numbers and tables as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def short_cell(value: Any) -> str:
    """Return a table's cell: a number with three digits, "-" for None, anything else as text."""
    return number(value) if isinstance(value, float) or value is None else str(value)


def brief(value: float) -> str:
    """Return a number with one digit, as short as possible: 2e-3."""
    return f"{value:.0e}".replace("e-0", "e-").replace("e+00", "")


def counted(count: int, noun: str) -> str:
    """Return a number of things: 1 run, 2 runs."""
    return f"{count} {noun}" + "s" * (count != 1)


def yaml_word(value: Any) -> str:
    """Return a setting as the command line takes it: null, true, false, or the value's own text."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


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
    """Return a number with three digits, in at most eight characters, nine if negative: the one format of all texts and
    pictures, so that two numbers side by side look alike. None becomes "-"."""
    return "-" if value is None else f"{value:.3g}"
