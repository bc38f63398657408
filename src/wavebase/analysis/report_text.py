"""Numbers and lines of reports as text."""

from __future__ import annotations

import math
import textwrap


def number(value: float) -> str:
    """Format a number in at most 8 characters."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.1e}" if value and not 0.001 <= abs(value) < 10000 else f"{value:.3g}"


def wrapped(line: str, width: int = 80) -> list[str]:
    """Break a line into lines of at most `width` columns, all but the first indented."""
    return textwrap.wrap(line, width, subsequent_indent="      ") if len(line) > width else [line]
