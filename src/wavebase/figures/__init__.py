"""Figures of runs, drawn from their records alone. No pyplot: nothing global, safe in any process.

A run draws the functions that its `probe.figures` names: each takes a run folder and its summary and returns a Figure,
saved under the function's name, or None where the run holds nothing to draw.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure

from wavebase import terminal
from wavebase.probes import dynamics
from wavebase.records import RunFolder
from wavebase.recurrence import GATES
from wavebase.registry import registered

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
    return terminal.one_line(text)[:200].replace("$", r"\$")


@registered
def weight_hh_init(folder: RunFolder, summary: Mapping[str, Any]) -> Figure | None:
    """The four recurrent matrices [H, H] at the start, each on its own logarithmic colour scale, with its block lines."""
    start = folder.load_checkpoint(folder.checkpoint_steps()[0])
    if "weight_hh_cell" not in start["weights"]:
        return None
    figure = Figure(figsize=(10, 9.2), layout="constrained")
    figure.suptitle("Recurrent weights at the start (row: to unit, column: from unit)")
    for ax, gate in zip(figure.subplots(2, 2).flat, GATES, strict=True):
        _matrix(figure, ax, start["weights"][f"weight_hh_{gate}"].numpy(), _blocks(start), f"weight_hh_{gate}")
    return figure


def weight_image(weight: np.ndarray, blocks: Mapping[str, slice], title: str) -> bytes:
    """One recurrent matrix with its block lines, as PNG for the dashboard."""
    figure = Figure(figsize=(5.6, 5), layout="constrained")
    _matrix(figure, figure.subplots(), weight, blocks, title)
    return png(figure)


def _matrix(figure: Figure, ax: Axes, weight: np.ndarray, blocks: Mapping[str, slice], title: str) -> None:
    weight = weight.astype(np.float64)  # the bounds below are none of float32's
    size = np.abs(weight[np.isfinite(weight) & (weight != 0)])
    top = size.max(initial=1e-300)
    norm = SymLogNorm(linthresh=max(np.min(size, initial=top), top * 1e-12) / 2, vmin=-top, vmax=top)
    picture = ax.imshow(weight, norm=norm, cmap="RdBu_r", interpolation="nearest")
    ticks = [-top, 0, top] if size.size else [0]
    bar = figure.colorbar(picture, ax=ax, shrink=0.75, ticks=ticks)
    bar.ax.set_yticklabels([f"{tick:.2g}" for tick in ticks])
    bar.ax.minorticks_off()
    lost = int((~np.isfinite(weight)).sum())
    note = f" ({lost} of {weight.size} not finite)" if lost else "" if size.size else " (all zero)"
    ax.set_title(title + note, fontsize=11)
    for units in blocks.values():
        if units.start:
            ax.axhline(units.start - 0.5, color=GREY, linewidth=0.7)
            ax.axvline(units.start - 0.5, color=GREY, linewidth=0.7)
    if blocks:
        centres = [(units.start + units.stop - 1) / 2 for units in blocks.values()]
        ax.set_xticks(centres, list(blocks))
        ax.set_yticks(centres, list(blocks))
        ax.tick_params(length=0)


@registered
def gen_eigenvalues(folder: RunFolder, summary: Mapping[str, Any]) -> Figure | None:
    """Eigenvalues of the gen block before and after training, with the unit circle."""
    steps = folder.checkpoint_steps()
    states = [folder.load_checkpoint(step) for step in (steps[0], steps[-1])]
    blocks = _blocks(states[0])
    weights = [state["weights"].get("weight_hh_cell") for state in states]
    if "gen" not in blocks or any(weight is None or not weight.isfinite().all() for weight in weights):
        return None
    start, end = (dynamics.gen_eigenvalues(weight, blocks["gen"]) for weight in weights)
    figure = Figure(figsize=(5.4, 5.4), layout="constrained")
    ax = figure.subplots()
    turn = np.linspace(0, 2 * np.pi, 400)
    ax.plot(np.cos(turn), np.sin(turn), color=GREY, linewidth=0.8, label="unit circle")
    ax.plot(start.real, start.imag, "o", markersize=11, fillstyle="none", color=COLOURS[0], label="at the start")
    ax.plot(end.real, end.imag, ".", markersize=7, color=COLOURS[1], label=f"after {steps[-1]} steps")
    ax.set(
        aspect="equal", xlabel="real part", ylabel="imaginary part", title="Eigenvalues of the oscillators (gen block)"
    )
    ax.axhline(0, color=GREY, linewidth=0.4)
    ax.axvline(0, color=GREY, linewidth=0.4)
    ax.legend(loc="center", fontsize=9, framealpha=0.9)
    return figure


@registered
def train_loss(folder: RunFolder, summary: Mapping[str, Any]) -> Figure:
    """Training loss against step, with the zero and the mean predictor."""
    label = f"{summary['verdict']}, final error {_number(summary['relative_error']['final'])}"
    return loss_curves({label: [folder.metrics()]}, summary["baseline"])


@registered
def spectrum(folder: RunFolder, summary: Mapping[str, Any]) -> Figure | None:
    """One held-out window: the true spectrum and the net's, before and after training, and their errors below."""
    examples = folder.examples()
    if examples["target"].ndim != 3:  # not [sequence, window, bin]
        return None
    target, before, after = (examples[name][0, 0].astype(np.float64) for name in ("target", "before", "after"))
    bins = np.arange(len(target))
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    top.bar(bins, target, color="#D9D9D9", width=0.8, label="FFT")
    before_shown, after_shown = (np.where(np.abs(v) < 10 * np.abs(target).max(), v, np.nan) for v in (before, after))
    top.plot(bins, before_shown, "o", markersize=9, fillstyle="none", color=COLOURS[0], label="net at the start")
    top.plot(bins, after_shown, "x", markersize=6, color=COLOURS[1], label=f"net after {summary['steps']} steps")
    top.set(ylabel="power", title="Spectrum of one held-out window")
    top.legend(fontsize=9)
    scale = np.abs(target).max()
    tiny = 1e-18
    for values, colour, mark, fill in ((before, COLOURS[0], "o", "none"), (after, COLOURS[1], "x", "full")):
        bottom.plot(bins, np.clip(np.abs(values - target) / scale, tiny, 5e2), mark, fillstyle=fill, color=colour)
    bottom.axhline(1, color=GREY, linestyle=":", linewidth=1)
    bottom.text(bins[-1] + 0.4, 1, "largest power ", color=GREY, fontsize=8, ha="right", va="bottom")
    bottom.set(yscale="log", xlabel="output (bin)", ylabel="error / largest", ylim=(tiny / 2, 1e3))
    bottom.grid(alpha=0.25)
    top.xaxis.get_major_locator().set_params(integer=True)
    return figure


def loss_curves(
    groups: Mapping[str, Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]]],
    baseline: Mapping[str, float] | None,
    styles: Mapping[str, tuple[str, str]] | None = None,
    title: str = "",
) -> Figure:
    """Training loss against step on a logarithmic axis: the median of each group's runs, their range as a band, and the
    zero and mean predictors as lines. A cross marks where a run left the picture's top, a million times the mean
    predictor's loss, or stopped being finite. baseline None: each run's loss is
    shown relative to its own mean predictor, because the runs do not share one."""
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
    """Relative error on held-out signals against step: as `loss_curves`, of what the probes recorded."""
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
        look = (styles or {}).get(label, (COLOURS[n % len(COLOURS)], STYLES[n // len(COLOURS) % len(STYLES)]))
        series = [run[tag] for run in runs if tag in run]
        if series:
            steps = np.unique(np.concatenate([at for at, _ in series]))
            table = np.full((len(series), len(steps)), np.nan)
            for row, (at, values) in zip(table, series, strict=True):
                row[np.searchsorted(steps, at)] = np.where(values < top, values, np.nan)
            curves.append((literal(label), look, steps, table))
    lowest = min((np.nanmin(table) for *_, table in curves if np.isfinite(table).any()), default=1.0)
    near = 2e-5 if tag.startswith("loss") else 2e-3
    deep = lowest < 1e-9 * middle  # an exact run would flatten all others against the top: give them a panel
    figure = Figure(figsize=(8, 7.5 if deep else 5), layout="constrained")
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
    handles, labels = axes[-1].get_legend_handles_labels()
    columns = 2 if max(map(len, labels)) < 48 else 1  # wider ones would be cut off
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)
    return figure


def median_and_range(ax: Axes, steps: np.ndarray, table: np.ndarray, colour: str, style: str, label: str) -> None:
    """Median and range over the rows of a table [runs, steps]; a cross where a row ends early."""
    shown = np.isfinite(table).any(0)
    ax.plot(steps[shown], np.nanmedian(table[:, shown], 0), color=colour, linestyle=style, label=label)
    if len(table) > 1:
        low, high = np.nanmin(table[:, shown], 0), np.nanmax(table[:, shown], 0)
        ax.fill_between(steps[shown], low, high, color=colour, alpha=0.2, linewidth=0)
    for row in table:
        ends = np.flatnonzero(np.isfinite(row))
        if ends.size and ends[-1] < len(row) - 1:
            ax.plot(steps[ends[-1]], row[ends[-1]], "x", color=colour, clip_on=True)


def _blocks(checkpoint: Mapping[str, Any]) -> dict[str, slice]:
    return {name: slice(*units) for name, units in checkpoint["blocks"].items()}


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2g}"
