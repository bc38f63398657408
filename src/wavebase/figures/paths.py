"""Errors along paths between two nets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from wavebase.figures.style import COLOURS, GREY, WIDTH, log_axis, styled


@styled
def paths(straight: Sequence[float], curved: Sequence[float], mean: float) -> Figure:
    """Draw the errors along the straight line and along the curve, with zero and mean output.

    Args:
        straight, curved: Relative errors at equidistant points from the first net to the second.
        mean: Relative error of the best constant output.
    """
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    for n, (label, errors) in enumerate((("straight line", straight), ("trained curve", curved))):
        shown = np.clip(np.asarray(errors, dtype=float), 1e-17, 1e3)
        axes.plot(np.linspace(0, 1, len(shown)), shown, color=COLOURS[n], linestyle=("-", "--")[n], label=label)
    for name, level, style in (("zero output", 1.0, ":"), ("mean output", mean, "--")):
        axes.axhline(level, color=GREY, linestyle=style, linewidth=1, label=name)
    log_axis(axes)
    axes.set(xlabel="from the first net to the second", ylabel="relative error", title="Paths between two nets")  # fmt: skip
    axes.legend()
    return figure
