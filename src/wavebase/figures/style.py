"""What all figures share: one style sheet, colours, sizes, logarithmic axes, labels and file formats."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
from cycler import cycler
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from wavebase import console
from wavebase.probes.verdict import is_defined

Format = Literal["png", "svg", "pdf"]
# Okabe and Ito's palette, whose yellow is too pale for lines: violet replaces it. Distinct for common colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#5000C8")
STYLES = ("-", "--", ":", "-.")
GREY, PALE = "#666666", "#D9D9D9"
# What a verdict looks like wherever one is drawn: a colour and a mark, which differ together. A run in which nothing moved
# has tested nothing, so it is grey, as is one without an algorithm.
VERDICTS = {
    "preserved": ("#009E73", "o"),
    "deformed": ("#0072B2", "s"),
    "moved": ("#0072B2", "s"),
    "drifted": ("#E69F00", "D"),
    "broken": ("#D55E00", "X"),
    "diverged": ("#D55E00", "^"),
    "failed": ("#D55E00", "^"),
    "unmoved": ("#666666", "_"),
    "no algorithm": ("#666666", "v"),
}
# A figure is this wide, in inches, and its smallest text is FONT points: 6 points where it is printed at 8 cm.
WIDTH, FONT = 5.0, 9.6
UNMOVED = "no weight moved by more than rounding: this run tests nothing"
# A logarithmic axis leaves room beyond its data, and no float beyond these would be left for it.
SMALLEST, LARGEST = 1e-150, 1e150
SHEET: dict[str, Any] = {
    "font.size": 10,
    "figure.titlesize": 10.5,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "xtick.labelsize": FONT,
    "ytick.labelsize": FONT,
    "legend.fontsize": FONT,
    "legend.title_fontsize": FONT,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "lines.linewidth": 1.6,
}
Parameters = ParamSpec("Parameters")
Drawn = TypeVar("Drawn")


def styled(draw: Callable[Parameters, Drawn]) -> Callable[Parameters, Drawn]:
    """Draw a figure under the style sheet, whatever matplotlib's settings are. A decorator."""

    @functools.wraps(draw)
    def drawing(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Drawn:
        with rc_context(SHEET):  # type: ignore[arg-type]  # its keys are literals
            return draw(*args, **kwargs)

    return drawing


def look(n: int) -> tuple[str, str]:
    """Return the colour and the line style of curve n. Neighbours differ in both, and 32 curves in one of them."""
    return COLOURS[n % len(COLOURS)], STYLES[(n + n // len(COLOURS)) % len(STYLES)]


def log_axis(ax: Axes, which: Literal["x", "y"] = "y", ticks: int = 6) -> None:
    """Make an axis logarithmic, with at most `ticks` labels as `decade` writes them: superscripts would be too small."""
    ax.set(**{f"{which}scale": "log"})
    axis = ax.yaxis if which == "y" else ax.xaxis
    axis.set_major_locator(LogLocator(10, numticks=ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: decade(value)))

    def between(value: float, _: int) -> str:
        low, high = axis.get_view_interval()
        near = high < 12 * low and (high < 3 * low or f"{value:e}"[0] in "25")
        return f"{value:.3g}" if near else ""

    axis.set_minor_formatter(FuncFormatter(between))  # an axis within one power of ten has no other labels


def decade(value: float) -> str:
    """Return a power of ten as a label: 0.01, 1, 100, and 1e-16."""
    return f"{value:g}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")  # fmt: skip


def positive(values: Any) -> np.ndarray:
    """Return values as a logarithmic axis can show them: nan for what is not positive, and none beyond its reach."""
    numbers = np.asarray(values, dtype=float)
    return np.where(numbers > 0, np.clip(numbers, SMALLEST, LARGEST), np.nan)


def png(figure: Figure) -> bytes:
    """Return the figure as PNG: what savefig would write, which draws a figure with a layout twice."""
    file = io.BytesIO()
    figure.set_dpi(120 if figure.get_figwidth() > 8 else 200)
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


def titled(title: str, summary: Mapping[str, Any]) -> str:
    """Return a title with the run's verdict below it, if one is defined, or with the note that nothing moved."""
    verdict = summary.get("verdict")
    if not is_defined(summary):
        return title
    return f"{title}\n{UNMOVED if verdict == 'unmoved' else f'verdict: {literal(str(verdict))}'}"
