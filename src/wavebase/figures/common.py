"""What all figures share: colours, sizes, labels and file formats."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wavebase import console

Format = Literal["png", "svg", "pdf"]
# Okabe and Ito's palette, whose yellow is too pale for lines: violet replaces it. Distinct for common colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#5000C8")
STYLES = ("-", "--", ":", "-.")
GREY = "#666666"
# A figure of one panel is this wide, in inches, and its smallest text is FONT points: 5 points where it is printed at 8 cm.
WIDTH, FONT = 6.0, 9.6
UNMOVED = "no weight moved by more than rounding: this run tests nothing"


def look(n: int) -> tuple[str, str]:
    """Return the colour and the line style of curve n. Neighbours differ in both, and 32 curves in one of them."""
    return COLOURS[n % len(COLOURS)], STYLES[(n + n // len(COLOURS)) % len(STYLES)]


def png(figure: Figure) -> bytes:
    """Return the figure as PNG: what savefig would write, which draws a figure with a layout twice."""
    file = io.BytesIO()
    figure.set_dpi(120 if figure.get_figwidth() > 8 else 170)
    FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def vector(figure: Figure, kind: Literal["svg", "pdf"]) -> bytes:
    """Return the figure as SVG or PDF. Equal figures give equal bytes: neither a date nor random names are in them."""
    file = io.BytesIO()
    date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    with rc_context({"svg.hashsalt": "wavebase"}):
        figure.savefig(file, format=kind, metadata=date)
    return file.getvalue()


def literal(text: str) -> str:
    """Return text from records as a label: one line, at most 200 characters, in which a dollar starts no mathematics."""
    return console.one_line(text)[:200].replace("$", r"\$")


def after(summary: Mapping[str, Any]) -> str:
    """Return the label of a net after training; it says so if no weight moved, because such a run has tested nothing."""
    note = ", no weight moved" if summary.get("verdict") == "unmoved" else ""
    return f"net after {summary['steps']} steps{note}"
