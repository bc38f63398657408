"""How an analysis changes along a training run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from wavebase.analysis.nulls import Quantity
from wavebase.analysis.report_text import number
from wavebase.figures.common import COLOURS, GREY


def movement(series: Mapping[str, Mapping[str, Quantity]]) -> Figure:
    """Every finite quantity over the series, one small panel each, with the last one's random null as a band."""
    last = list(series.values())[-1]
    names = [name for name in last if np.isfinite([q[name].value for q in series.values() if name in q]).any()][:48]
    columns = 6
    rows = -(-len(names) // columns)
    height = 1.9 * rows + 0.8
    figure = Figure(figsize=(15, height))  # placed by hand: a constrained layout of 40 panels takes seconds
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(left=0.04, right=0.985, bottom=0.4 / height, top=1 - 0.8 / height, hspace=0.5, wspace=0.3)
    steps = [_step(label, n) for n, label in enumerate(series)]
    for ax, name in zip(grid.flat, names, strict=False):
        ax.plot(steps, [q[name].value if name in q else np.nan for q in series.values()], ".-", color=COLOURS[0])
        null = last[name].nulls[0] if last[name].nulls else None
        if null is not None and np.isfinite([null.low, null.high]).all():
            ax.axhspan(null.low, null.high, color=GREY, alpha=0.15, linewidth=0)
        ax.set_title(name, fontsize=8)
        ax.tick_params(labelsize=7)
        ax.set_xscale("symlog", linthresh=max(1, sorted(steps)[1] if len(steps) > 1 else 1))
        ends = sorted({steps[0], steps[-1]})
        ax.set_xticks(ends, [f"{step}" for step in ends])
        ax.minorticks_off()
    for ax in grid.flat[len(names) :]:
        ax.set_axis_off()
    figure.suptitle(
        "How each quantity moved over the checkpoints (band: random weights of the last one's norm, 5..95 %)"
    )
    return figure


def movement_table(series: Mapping[str, Mapping[str, Quantity]]) -> list[str]:
    """Lines of at most 80 columns: each quantity at the first, the middle and the last checkpoint, and its range."""
    labels = list(series)
    chosen = [labels[0], labels[len(labels) // 2], labels[-1]]
    lines = [
        f"over {len(labels)} checkpoints",
        f"{'':<30}" + "".join(f"{label[-9:]:>11}" for label in chosen) + f"{'range':>17}",
    ]
    for name in series[labels[-1]]:
        values = [quantities[name].value if name in quantities else np.nan for quantities in series.values()]
        finite = [value for value in values if np.isfinite(value)]
        if finite:
            cells = "".join(f"{number(values[labels.index(label)]):>11}" for label in chosen)
            lines.append(f"{name[:29]:<30}{cells}{number(min(finite)) + '..' + number(max(finite)):>17}")
    return lines


def _step(label: str, position: int) -> int:
    digits = label.rpartition("_")[2]
    return int(digits) if digits.isdigit() else position
