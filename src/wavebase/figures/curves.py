"""Learning curves of one run or of groups of runs: losses, errors and drift against the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wavebase.figures.style import GREY, WIDTH, literal, log_axis, look, positive, styled

Series = Mapping[str, tuple[np.ndarray, np.ndarray]]
Groups = Mapping[str, Sequence[Series]]
Looks = Mapping[str, tuple[str, str]]
Curve = tuple[str, tuple[str, str], np.ndarray, np.ndarray]  # label, look, steps, values [runs, steps]
ROUNDING = float(np.finfo(float).eps)
BASELINES = (("zero", "predicting zero", ":"), ("mean", "predicting the mean", "--"))


def loss_curves(
    groups: Groups,
    baseline: Mapping[str, float] | None,
    styles: Looks | None = None,
    title: str = "",
    last: int | None = None,
) -> Figure:
    """Draw the training loss against the step: the median of each group's runs, and their range as a band.

    A cross marks where a run left the picture at a million times the mean predictor's loss, or was no longer finite.

    Args:
        groups: Label to runs, each tag to (steps, values).
        baseline: Losses of predicting zero and the mean, drawn as lines. None: the runs do not share them, and each loss is
            relative to its own mean predictor's.
        styles: Label to (colour, line style).
        title: Above the figure.
        last: The step that was asked for; a run that ended earlier shows.
    """
    lines = {name: loss for name, loss in (baseline or {"mean": 1.0}).items() if loss > 0}
    what = "training loss" if baseline else "loss / mean predictor's"
    tag = "loss/train" if baseline else "loss/relative"
    return _curves(groups, tag, what, lines, 1e6 * max(lines.values()), styles, title, last)


def error_curves(
    groups: Groups,
    baseline: Mapping[str, float] | None,
    styles: Looks | None = None,
    title: str = "",
    last: int | None = None,
) -> Figure:
    """Draw the relative error on held-out signals against the step; see `loss_curves`."""
    lines = {"zero": 1.0}
    if baseline and baseline.get("zero"):
        lines["mean"] = (baseline["mean"] / baseline["zero"]) ** 0.5
    return _curves(groups, "error/training", "relative error, held out", lines, 1e3, styles, title, last)


@styled
def drift_curves(
    groups: Groups, weight: str, styles: Looks | None = None, title: str = "", last: int | None = None
) -> Figure:
    """Draw the drift of a weight against the step: the median of each group's runs, and their range as a band.

    What lies below rounding is grey. The label of a group in which nothing moved says so, because zero has no place on a
    logarithmic axis.

    Args:
        groups, styles, title, last: As for `loss_curves`.
        weight: The weight's name.
    """
    curves = tables(groups, f"drift/{weight}", 1e6, styles)
    figure = Figure(figsize=(WIDTH, 3.8 + 0.19 * len(curves)), layout="constrained")
    ax = figure.subplots()
    log_axis(ax)
    ax.set(xlabel="step", ylabel=f"drift of {literal(weight)}\n/ its norm at the start", title=title)
    for label, (colour, style), steps, table in curves:
        still = not (table > ROUNDING).any()
        median_and_range(ax, steps, positive(table), colour, style, f"{label} (did not move)" if still else label)
    rounding_band(ax)
    whole_run(ax, last)
    legend_below(figure, ax)
    return figure


def rounding_band(ax: Axes) -> None:
    """Shade what is below rounding on an axis of drifts, if any curve comes near it: a net there has not moved."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.lines] or [np.empty(0)])
    if np.nanmin(drawn, initial=1.0) > 1e4 * ROUNDING and (drawn > 0).any():
        return
    low, high = ax.get_ylim()
    low = min(low, ROUNDING / 10)
    ax.axhspan(low, ROUNDING, color=GREY, alpha=0.12, linewidth=0, label="rounding: nothing moved")
    ax.set_ylim(low, max(high, 10 * ROUNDING))


def whole_run(ax: Axes, last: int | None) -> None:
    """Show every step that was asked for, also those that a run did not reach."""
    if last:
        ax.set_xlim(-0.02 * last, 1.02 * last)


def tables(groups: Groups, tag: str, top: float, styles: Looks | None) -> list[Curve]:
    """Return a curve for each group that recorded the tag; values from `top` on become nan."""
    curves = []
    for n, (label, runs) in enumerate(groups.items()):
        series = [run[tag] for run in runs if tag in run]
        if series:
            steps = np.unique(np.concatenate([at for at, _ in series]))
            table = np.full((len(series), len(steps)), np.nan)
            for row, (at, values) in zip(table, series, strict=True):
                row[np.searchsorted(steps, at)] = np.where(values < top, values, np.nan)
            curves.append((literal(label), (styles or {}).get(label, look(n)), steps, table))
    return curves


@styled
def _curves(
    groups: Groups,
    tag: str,
    what: str,
    lines: Mapping[str, float],
    top: float,
    styles: Looks | None,
    title: str,
    last: int | None,
) -> Figure:
    middle = lines.get("mean", max(lines.values()))
    curves = tables(groups, tag, top, styles)
    lowest = [np.nanmin(table) for *_, table in curves if np.isfinite(table).any()]
    near = 2e-5 if tag.startswith("loss") else 2e-3
    # an exact run would compress all others: give those a panel
    split = min(lowest, default=1.0) < 1e-9 * middle and max(lowest, default=0.0) > near * middle
    words = len(curves) + len(lines)
    figure = Figure(figsize=(WIDTH, (5.8 if split else 3.6) + 0.19 * words), layout="constrained")
    axes = figure.subplots(2 if split else 1, 1, sharex=True, squeeze=False).flat
    for ax in axes:
        log_axis(ax)
        for label, (colour, style), steps, table in curves:
            median_and_range(ax, steps, positive(table), colour, style, label)
        for name, words_, style in BASELINES:
            if name in lines:
                ax.axhline(lines[name], color=GREY, linestyle=style, linewidth=1.2, label=words_)
        ax.set(ylabel=what)
        whole_run(ax, last)
    if split:
        axes[0].set(ylim=(near * middle, 20 * middle), title="near the baselines", xlabel="")
        axes[1].set_title("all")
    axes[-1].set_xlabel("step")
    figure.suptitle(title)
    legend_below(figure, axes[-1])
    return figure


def legend_below(figure: Figure, ax: Axes) -> None:
    """Place the legend of curves below a figure; it explains the crosses of `median_and_range` where there are any."""
    handles, labels = ax.get_legend_handles_labels()
    if any(line.get_marker() == "x" for line in ax.lines):
        handles.append(Line2D([], [], color=GREY, marker="x", linestyle=""))
        labels.append("a run left the picture or was no longer finite")
    columns = 2 if max(map(len, labels), default=0) < 26 else 1  # wider ones would be cut off
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


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
