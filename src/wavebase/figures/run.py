"""Figures of runs, drawn from their records alone. No pyplot: nothing global, safe in any process.

A run draws the functions that its `probe.figures` names: each takes a run folder and its summary and returns a Figure,
saved under the function's name, or None where the run holds nothing to draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wavebase.figures.style import COLOURS, FONT, GREY, UNMOVED, WIDTH, after, literal, look
from wavebase.figures.curves import loss_curves
from wavebase.records.folder import RunFolder
from wavebase.registry import registered

TINY = 1e-18  # errors below are drawn here
MOST_BLOCKS = 6
ROUNDING = float(np.finfo(float).eps)
Series = Mapping[str, tuple[np.ndarray, np.ndarray]]


@registered
def train_loss(folder: RunFolder, summary: Mapping[str, Any]) -> Figure:
    """Draw the training loss against the step, with those of predicting zero and the mean."""
    label = f"{summary['verdict']}, final error {_number(summary['relative_error']['final'])}"
    return loss_curves({label: [folder.metrics()]}, summary["baseline"])


@registered
def spectrum(folder: RunFolder, summary: Mapping[str, Any]) -> Figure | None:
    """Draw one held-out window's spectrum and the net's, before and after training, and their errors on an axis below,
    beside the error of an output of zero.

    Returns:
        None unless targets are [sequence, window, bin].
    """
    examples = folder.examples()
    if examples["target"].ndim != 3:
        return None
    target, before, trained = (examples[name][0, 0].astype(np.float64) for name in ("target", "before", "after"))
    bins, scale = np.arange(len(target)), np.abs(target).max()
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(5, 4))
    top.bar(bins, target, color="#D9D9D9", width=0.8, label="FFT")
    bottom.step(
        [-0.5, *(bins + 0.5)], np.clip(np.abs(target[[0, *bins]]) / scale, TINY, None),
        color=GREY, linestyle="--", label="zero output",
    )  # fmt: skip
    nets = ((before, COLOURS[0], "o", "net at the start"), (trained, COLOURS[1], "x", after(summary)))
    for values, colour, mark, label in nets:
        shown = np.where(np.abs(values) < 10 * scale, values, np.nan)
        top.plot(bins, shown, mark, markersize=8, fillstyle="none", color=colour, label=label)
        error = np.clip(np.abs(values - target) / scale, TINY, 5e2)
        bottom.plot(bins, error, mark, markersize=8, fillstyle="none", color=colour)
    top.set(ylabel="power", title="Spectrum of one held-out window")
    bottom.set(yscale="log", xlabel="output (bin)", ylabel="error / largest power", ylim=(TINY / 5, 1e3))
    bottom.grid(alpha=0.25)
    top.xaxis.get_major_locator().set_params(integer=True)
    handles = [(handle, label) for ax in (top, bottom) for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)]  # fmt: skip
    figure.legend(*zip(*handles, strict=True), loc="outside lower center", ncols=2, fontsize=FONT, frameon=False)
    return figure


@registered
def drift(folder: RunFolder, summary: Mapping[str, Any]) -> Figure | None:
    """Draw how far the recurrent weight of the cell has moved, whole and by block, above the loss and the relative error.

    Read from metrics.jsonl alone. Steps are on a logarithmic axis.

    Returns:
        None where no drift was recorded.
    """
    series = folder.metrics()
    whole = "drift/weight_hh_cell"
    if whole not in series:
        return None
    figure = Figure(figsize=(WIDTH, 7.6), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(5, 3, 3))
    _positive(top, series[whole], ".-", color="black", linewidth=2.2, label="whole matrix")
    ends = {tag: series[tag][1][-1] for tag in series if tag.startswith(whole + "/")}
    for n, tag in enumerate(sorted(ends, key=lambda tag: -np.nan_to_num(ends[tag]))[:MOST_BLOCKS]):
        if ends[tag] != 0:
            colour, style = look(n)
            words = literal(tag.removeprefix(whole + "/").replace("_from_", " from "))
            _positive(top, series[tag], "." + style, markersize=3, color=colour, label=words)
    top.axhline(ROUNDING, color=GREY, linestyle=":", label="rounding")
    for tag, mark, label in (("loss/train", "-", "training"), ("loss/held_out", "o", "held out")):
        if tag in series:
            _positive(middle, series[tag], mark, markersize=4, color=COLOURS[0 if mark == "-" else 1], label=label)
    lines = {"zero": ":", "mean": "--"}
    for name, style in lines.items():
        middle.axhline(summary["baseline"][name], color=GREY, linestyle=style, label=f"predicting {name}")
    if "error/training" in series:
        _positive(bottom, series["error/training"], "o-", markersize=4, color=COLOURS[1])
    bottom.axhline(1, color=GREY, linestyle=":")
    first = min((step for steps, _ in series.values() for step in steps if step > 0), default=1)
    bottom.set_xscale("symlog", linthresh=first)
    bottom.set_xlim(left=0)
    note = f"\n{UNMOVED}" if summary["verdict"] == "unmoved" else ""
    figure.suptitle(f"Drift of weight_hh_cell ({summary['verdict']}){note}", fontsize=11)
    for ax, label in ((top, "drift / norm at start"), (middle, "loss"), (bottom, "relative error")):
        ax.set(yscale="log", ylabel=label)
        ax.grid(alpha=0.25)
    bottom.set_xlabel("step")
    for ax in (top, middle):
        if ax.get_legend_handles_labels()[0]:
            ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=FONT, frameon=False)
    return figure


def _positive(ax: Axes, series: tuple[np.ndarray, np.ndarray], mark: str, **style: Any) -> None:
    """Plot what a logarithmic axis can show."""
    steps, values = series
    shown = values > 0
    if shown.any():
        ax.plot(steps[shown], values[shown], mark, **style)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2g}"
