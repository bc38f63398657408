"""What all figures share: colours, PNG, labels."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wavebase import console

# Okabe and Ito's palette: distinct for every common kind of colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B8A800")


STYLES = ("-", "--", ":", "-.")


GREY = "#666666"


def png(figure: Figure) -> bytes:
    """The figure as PNG. The same bytes as savefig's, which draws a figure with a layout twice."""
    file = io.BytesIO()
    figure.set_dpi(120)
    FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def literal(text: str) -> str:
    """Text out of records as a label: on one line, cut where it is long, and with no mathematics for a dollar to open."""
    return console.one_line(text)[:200].replace("$", r"\$")
