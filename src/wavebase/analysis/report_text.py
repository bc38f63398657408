"""Numbers and lines of reports as text."""

from __future__ import annotations

import math
import textwrap

from wavebase import formatting


def number(value: float) -> str:
    """Format a number as everywhere, and one that is not finite as "-"."""
    return formatting.number(value) if math.isfinite(value) else "-"


def wrapped(line: str, width: int = 80) -> list[str]:
    """Break a line into lines of at most `width` columns, all but the first indented."""
    return textwrap.wrap(line, width, subsequent_indent="      ") if len(line) > width else [line]
