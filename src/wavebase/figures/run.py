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

from wavebase.figures.curves import loss_curves, rounding_band, whole_run
from wavebase.figures.style import (
    COLOURS,
    GREY,
    PALE,
    UNMOVED,
    WIDTH,
    after,
    literal,
    log_axis,
    look,
    positive,
    styled,
    titled,
)
from wavebase.formatting import number
from wavebase.records.folder import RunFolder
from wavebase.registry import registered

TINY = 1e-18  # errors below are drawn here
MOST_BLOCKS = 5
Series = Mapping[str, tuple[np.ndarray, np.ndarray]]


@registered
def train_loss(folder: RunFolder, summary: Mapping[str, Any]) -> Figure:
    """Draw the training loss against the step, with those of predicting zero and the mean."""
    label = f"final error {_number(summary['relative_error']['final'])}"
    title = titled("Training loss", summary)
    return loss_curves({label: [folder.metrics()]}, summary["baseline"], None, title, _last_step(folder, summary))


@registered
@styled
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
    figure = Figure(figsize=(WIDTH, 5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(5, 4))
    top.bar(bins, target, color=PALE, width=0.8, label="FFT")
    bottom.step(
        [-0.5, *(bins + 0.5)], np.clip(np.abs(target[[0, *bins]]) / scale, TINY, None),
        color=GREY, linestyle="--", label="zero output",
    )  # fmt: skip
    lowest = 1e-2
    nets = ((before, COLOURS[0], "o", "net at the start"), (trained, COLOURS[1], "x", after(summary)))
    for values, colour, mark, label in nets:
        shown = np.where(np.abs(values) < 10 * scale, values, np.nan)
        top.plot(bins, shown, mark, markersize=7, fillstyle="none", color=colour, label=label)
        error = np.clip(np.abs(values - target) / scale, TINY, 5e2)
        lowest = min(lowest, error.min())
        bottom.plot(bins, error, mark, markersize=7, fillstyle="none", color=colour)
    log_axis(bottom)
    top.set(ylabel="power", title=titled("Spectrum of one held-out window", summary))
    bottom.set(xlabel="output (bin)", ylabel="error / largest power", ylim=(lowest / 5, 1e3))
    top.xaxis.get_major_locator().set_params(integer=True)
    handles = [(handle, label) for ax in (top, bottom) for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)]  # fmt: skip
    figure.legend(*zip(*handles, strict=True), loc="outside lower center", ncols=2, columnspacing=1)
    return figure


@registered
@styled
def drift(folder: RunFolder, summary: Mapping[str, Any]) -> Figure | None:
    """Draw how far the watched weight has moved, whole and by block, above the loss and the relative error.

    Read from metrics.jsonl alone. What lies below rounding is grey: a net there has not moved.

    Returns:
        None where no drift was recorded.
    """
    series = folder.metrics()
    weight = str(summary.get("watched_weight", "weight_hh_cell"))
    whole = f"drift/{weight}"
    if whole not in series:
        return None
    figure = Figure(figsize=(WIDTH, 7.4), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(5, 3, 3))
    _line(top, series[whole], ".-", color="black", linewidth=2.2, label="whole")
    ends = {tag: series[tag][1][-1] for tag in series if tag.startswith(whole + "/")}
    for n, tag in enumerate(sorted(ends, key=lambda tag: -np.nan_to_num(ends[tag]))[:MOST_BLOCKS]):
        if ends[tag] != 0:
            colour, dashes = look(n)
            words = literal(tag.removeprefix(whole + "/").replace("_from_", " from "))
            _line(top, series[tag], "." + dashes, markersize=3, color=colour, label=words)
    for tag, mark, label in (("loss/train", "-", "training"), ("loss/held_out", "o", "held out")):
        if tag in series:
            _line(middle, series[tag], mark, markersize=4, color=COLOURS[0 if mark == "-" else 1], label=label)
    for name, dashes in {"zero": ":", "mean": "--"}.items():
        middle.axhline(summary["baseline"][name], color=GREY, linestyle=dashes, label=f"{name}")
    if "error/training" in series:
        _line(bottom, series["error/training"], "o-", markersize=4, color=COLOURS[1], label="net")
    bottom.axhline(1, color=GREY, linestyle=":", label="zero output")
    for ax, label in ((top, "drift / norm at start"), (middle, "loss"), (bottom, "relative error")):
        log_axis(ax)
        ax.set_ylabel(label)
    rounding_band(top)
    whole_run(bottom, _last_step(folder, summary))
    bottom.set_xlabel("step")
    figure.suptitle(titled(f"Drift of {literal(weight)}", summary))
    for ax in (top, middle, bottom):  # above each panel: beside it, it would take a third of the width
        ax.legend(loc="lower left", bbox_to_anchor=(0, 0.99), ncols=2 if ax is top else 4, columnspacing=1, borderaxespad=0.2)  # fmt: skip
    return figure


@registered
@styled
def distance(folder: RunFolder, summary: Mapping[str, Any]) -> Figure | None:
    """Draw how far the weights are from the exact ones, modulo symmetry and in natural units, at the start and at the end.

    One row for all weights and one for each block. Zero weights have a distance of 1, which is drawn.

    Returns:
        None for a net without a known algorithm.
    """
    measured = summary["probes"]
    if "position/distance" not in measured["final"]:
        return None
    prefix = "position/block_"
    names = ["position/distance", *(name for name in measured["final"] if name.startswith(prefix))]
    ends = [
        [measured[end].get(name) for name in names] for end in ("initial", "final")
    ]  # None stands for what was not finite
    figure = Figure(figsize=(WIDTH, 1.9 + 0.36 * len(names)), layout="constrained")
    ax = figure.subplots()
    places = np.arange(len(names))
    sizes = [np.array([np.inf if value is None else value for value in values], float) for values in ends]
    before, trained = (np.clip(values, TINY, 1e4) for values in sizes)
    ax.hlines(places, np.minimum(before, trained), np.maximum(before, trained), color=GREY, linewidth=1)
    ax.plot(before, places, "o", markersize=8, fillstyle="none", color=COLOURS[0], label="net at the start")
    ax.plot(trained, places, "x", markersize=8, color=COLOURS[1], label=after(summary))
    ax.axvline(1, color=GREY, linestyle=":", label="zero weights")
    log_axis(ax, "x")
    ax.set_yticks(places, ["all weights", *(literal(name.removeprefix(prefix)) for name in names[1:])])
    ax.set(ylim=(len(names) - 0.5, -0.5), xlabel="distance from the exact weights, modulo symmetry")
    ax.set_xlim(min(TINY, 1) / 10 if min(before.min(), trained.min()) <= TINY else None, None)
    figure.suptitle(_distance_title(sizes[0][0], sizes[1][0], summary))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, columnspacing=1)
    return figure


def _distance_title(start: float, end: float, summary: Mapping[str, Any]) -> str:
    if summary["verdict"] == "unmoved":
        return f"Distance from the exact weights\n{UNMOVED}"
    way = f"\n{100 * (1 - end / start):.0f} % of the way back" if start > TINY * 1e3 and end < start else ""
    return f"Distance from the exact weights: {number(start)} to {number(end)}{way}"


def _line(ax: Axes, series: tuple[np.ndarray, np.ndarray], mark: str, **look: Any) -> None:
    """Plot what a logarithmic axis can show."""
    steps, values = series[0], positive(series[1])
    shown = np.isfinite(values)
    if shown.any():
        ax.plot(steps[shown], values[shown], mark, **look)


def _last_step(folder: RunFolder, summary: Mapping[str, Any]) -> int:
    """Return the step that was asked for: a run that ended earlier shows."""
    asked = folder.config().get("train", {}).get("steps")
    return asked if isinstance(asked, int) else int(summary["steps"])


def _number(value: float | None) -> str:
    return "not finite" if value is None else number(value)
