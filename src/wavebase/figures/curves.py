"""Learning curves of one run or of groups of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wavebase.figures.style import FONT, GREY, WIDTH, literal, look


def loss_curves(
    groups: Mapping[str, Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]]],
    baseline: Mapping[str, float] | None,
    styles: Mapping[str, tuple[str, str]] | None = None,
    title: str = "",
) -> Figure:
    """Draw the training loss against the step: the median of each group's runs, and their range as a band.

    A cross marks where a run left the picture at a million times the mean predictor's loss, or was no longer finite.

    Args:
        groups: Label to runs, each tag to (steps, values).
        baseline: Losses of predicting zero and the mean, drawn as lines. None: the runs do not share them, and each loss is
            relative to its own mean predictor's.
        styles: Label to (colour, line style).
        title: Above the figure.
    """
    lines = {name: loss for name, loss in (baseline or {"mean": 1.0}).items() if loss > 0}
    what = "training loss" if baseline else "loss / mean predictor's"
    return _curves(
        groups, "loss/train" if baseline else "loss/relative", what, lines, 1e6 * max(lines.values()), styles, title
    )


def error_curves(
    groups: Mapping[str, Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]]],
    baseline: Mapping[str, float] | None,
    styles: Mapping[str, tuple[str, str]] | None = None,
    title: str = "",
) -> Figure:
    """Draw the relative error on held-out signals against the step; see `loss_curves`."""
    lines = {"zero": 1.0}
    if baseline and baseline.get("zero"):
        lines["mean"] = (baseline["mean"] / baseline["zero"]) ** 0.5
    return _curves(groups, "error/training", "relative error, held out", lines, 1e3, styles, title)


def _curves(
    groups: Mapping[str, Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]]],
    tag: str,
    what: str,
    lines: Mapping[str, float],
    top: float,
    styles: Mapping[str, tuple[str, str]] | None,
    title: str,
) -> Figure:
    middle = lines.get("mean", max(lines.values()))
    curves = []
    for n, (label, runs) in enumerate(groups.items()):
        series = [run[tag] for run in runs if tag in run]
        if series:
            steps = np.unique(np.concatenate([at for at, _ in series]))
            table = np.full((len(series), len(steps)), np.nan)
            for row, (at, values) in zip(table, series, strict=True):
                row[np.searchsorted(steps, at)] = np.where(values < top, values, np.nan)
            curves.append((literal(label), (styles or {}).get(label, look(n)), steps, table))
    lowest = min((np.nanmin(table) for *_, table in curves if np.isfinite(table).any()), default=1.0)
    near = 2e-5 if tag.startswith("loss") else 2e-3
    deep = lowest < 1e-9 * middle  # an exact run would compress all others: give them a panel
    figure = Figure(figsize=(WIDTH, 7 if deep else 4.6), layout="constrained")
    axes = figure.subplots(2 if deep else 1, 1, sharex=True, squeeze=False).flat
    for ax in axes:
        for label, (colour, style), steps, table in curves:
            median_and_range(ax, steps, table, colour, style, label)
        for name, words, style in (("zero", "predicting zero", ":"), ("mean", "predicting the mean", "--")):
            if name in lines:
                ax.axhline(lines[name], color=GREY, linestyle=style, linewidth=1, label=words)
        ax.set(yscale="log", ylabel=what)
        ax.grid(alpha=0.25)
    if deep:
        axes[0].set(ylim=(near * middle, 20 * middle), title="near the baselines", xlabel="")
        axes[1].set_title("all")
    axes[-1].set_xlabel("step")
    figure.suptitle(title, fontsize=11)
    legend_below(figure, axes[-1])
    return figure


def legend_below(figure: Figure, ax: Axes) -> None:
    """Place the legend of curves below a figure; it explains the crosses of `median_and_range` where there are any."""
    handles, labels = ax.get_legend_handles_labels()
    if any(line.get_marker() == "x" for line in ax.lines):
        handles.append(Line2D([], [], color=GREY, marker="x", linestyle=""))
        labels.append("a run left the picture or was no longer finite")
    columns = 2 if max(map(len, labels), default=0) < 32 else 1  # wider ones would be cut off
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=FONT, frameon=False)


def median_and_range(ax: Axes, steps: np.ndarray, table: np.ndarray, colour: str, style: str, label: str) -> None:
    """Draw the median and the range over the rows of a table [runs, steps]; a cross where a row ends early."""
    shown = np.isfinite(table).any(0)
    ax.plot(steps[shown], np.nanmedian(table[:, shown], 0), color=colour, linestyle=style, label=label)
    if len(table) > 1:
        low, high = np.nanmin(table[:, shown], 0), np.nanmax(table[:, shown], 0)
        ax.fill_between(steps[shown], low, high, color=colour, alpha=0.2, linewidth=0)
    for row in table:
        ends = np.flatnonzero(np.isfinite(row))
        if ends.size and ends[-1] < len(row) - 1:
            ax.plot(steps[ends[-1]], row[ends[-1]], "x", color=colour, clip_on=True)
