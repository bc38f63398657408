"""How an analysis changes along a training run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from wavebase.analysis.nulls import Quantity
from wavebase.analysis.report_text import number
from wavebase.figures.style import COLOURS, FONT, GREY, WIDTH, styled

READABLE = 12  # panels
LABEL = 30  # columns of a quantity's name
ROUNDING = 1e-9


@styled
def movement(series: Mapping[str, Mapping[str, Quantity]], most: int = READABLE) -> Figure | None:
    """Draw the quantities that moved most over a series of checkpoints, a panel each.

    A band shows the last one's random null, 5 to 95 %. Movement is the range of values over the width of that band, or over
    the largest value where there is no null.

    Args:
        series: Label of a checkpoint to quantities by name.
        most: Largest number of panels.

    Returns:
        None if nothing moved by more than rounding.
    """
    last = list(series.values())[-1]
    moved = {name: _movement(name, series) for name in last}
    chosen = sorted((name for name in last if moved[name] > ROUNDING), key=lambda name: -moved[name])[:most]
    if not chosen:
        return None
    names = [name for name in last if name in chosen]
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    width, height = WIDTH, 1.7 * rows + 0.9
    figure = Figure(figsize=(width, height))  # placed by hand: a constrained layout of 40 panels takes seconds
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=0.7 / width, right=1 - 0.25 / width, bottom=0.4 / height, top=1 - 0.9 / height, hspace=0.6, wspace=0.4
    )
    steps = [_step(label, n) for n, label in enumerate(series)]
    for ax, name in zip(grid.flat, names, strict=False):
        ax.plot(steps, [q[name].value if name in q else np.nan for q in series.values()], ".-", color=COLOURS[0])
        null = last[name].nulls[0] if last[name].nulls else None
        if null is not None and np.isfinite([null.low, null.high]).all():
            ax.axhspan(null.low, null.high, color=GREY, alpha=0.15, linewidth=0)
        ax.set_title(name, fontsize=FONT)
        ax.tick_params(labelsize=FONT)
        ax.set_xscale("symlog", linthresh=max(1, sorted(steps)[1] if len(steps) > 1 else 1))
        ends = sorted({steps[0], steps[-1]})
        ax.set_xticks(ends, [f"{step}" for step in ends])
        ax.minorticks_off()
    for ax in grid.flat[len(names) :]:
        ax.set_axis_off()
    figure.suptitle(
        f"The {len(names)} of {len(last)} quantities that moved most\n(against the step; band: random weights, 5..95 %)",
        fontsize=11,
    )
    return figure


def _movement(name: str, series: Mapping[str, Mapping[str, Quantity]]) -> float:
    found = [quantities[name] for quantities in series.values() if name in quantities]
    values = np.array([quantity.value for quantity in found])
    values = values[np.isfinite(values)]
    if not values.size or not np.ptp(values) > ROUNDING * np.abs(values).max():
        return 0.0
    null = found[-1].nulls[0] if found[-1].nulls else None
    width = null.high - null.low if null is not None else 0.0
    return float(np.ptp(values) / (width if np.isfinite(width) and width > 0 else np.abs(values).max()))


def movement_table(series: Mapping[str, Mapping[str, Quantity]]) -> list[str]:
    """Lines of at most 80 columns: each quantity at the first, the middle and the last checkpoint, and its range."""
    labels = list(series)
    chosen = [labels[0], labels[len(labels) // 2], labels[-1]]
    lines = [
        f"over {len(labels)} checkpoints",
        f"{'':<{LABEL}}" + "".join(f"{label[-9:]:>10}" for label in chosen) + f"{'range':>20}",
    ]
    for name in series[labels[-1]]:
        values = [quantities[name].value if name in quantities else np.nan for quantities in series.values()]
        finite = [value for value in values if np.isfinite(value)]
        if finite:
            if len(name) > LABEL:  # on a line of its own
                lines.append(name)
                name = ""
            cells = "".join(f"{number(values[labels.index(label)]):>10}" for label in chosen)
            lines.append(f"{name:<{LABEL}}{cells}{number(min(finite)) + '..' + number(max(finite)):>20}")
    return lines


def _step(label: str, position: int) -> int:
    digits = label.rpartition("_")[2]
    return int(digits) if digits.isdigit() else position
