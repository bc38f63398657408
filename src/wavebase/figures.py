"""Figures of runs, drawn from their records alone. No pyplot: nothing global, safe in any process."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure

from wavebase.probes.dynamics import gen_eigenvalues
from wavebase.records import RunFolder
from wavebase.recurrence import GATES

# Okabe and Ito's palette: distinct for every common kind of colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B8A800")
STYLES = ("-", "--", ":", "-.")
GREY = "#666666"


def png(figure: Figure) -> bytes:
    """The figure as PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def draw_run(folder: RunFolder, summary: Mapping[str, Any]) -> None:
    """Draw every figure of one run into its folder. Figures of units appear if the net names its units."""
    steps = folder.checkpoint_steps()
    start, end = folder.load_checkpoint(steps[0]), folder.load_checkpoint(steps[-1])
    if "weight_hh_cell" in start["weights"]:
        weights = {gate: start["weights"][f"weight_hh_{gate}"].numpy() for gate in GATES}
        blocks = {name: slice(*units) for name, units in start["blocks"].items()}
        folder.save_figure("weight_hh_init", png(weight_sheet(weights, blocks)))
        if "gen" in blocks and end["weights"]["weight_hh_cell"].isfinite().all():
            values = [gen_eigenvalues(state["weights"]["weight_hh_cell"], blocks["gen"]) for state in (start, end)]
            folder.save_figure("gen_eigenvalues", png(eigenvalue_plane(*values, steps[-1])))
    curves = {f"{summary['verdict']}, final error {_number(summary['relative_error']['final'])}": [folder.metrics()]}
    folder.save_figure("train_loss", png(loss_curves(curves, summary["baseline"])))
    folder.save_figure("spectrum", png(spectrum_example(folder.examples(), summary)))


def weight_sheet(weights: Mapping[str, np.ndarray], blocks: Mapping[str, slice]) -> Figure:
    """The four recurrent matrices [H, H], each on its own logarithmic colour scale, with the lines between blocks."""
    figure = Figure(figsize=(10, 9.2), layout="constrained")
    figure.suptitle("Recurrent weights at the start (row: to unit, column: from unit)")
    for ax, (gate, weight) in zip(figure.subplots(2, 2).flat, weights.items(), strict=True):
        _matrix(figure, ax, weight, blocks, f"weight_hh_{gate}")
    return figure


def weight_image(weight: np.ndarray, blocks: Mapping[str, slice], title: str) -> bytes:
    """One recurrent matrix with its block lines, as PNG for the dashboard."""
    figure = Figure(figsize=(5.6, 5), layout="constrained")
    _matrix(figure, figure.subplots(), weight, blocks, title)
    return png(figure)


def _matrix(figure: Figure, ax: Axes, weight: np.ndarray, blocks: Mapping[str, slice], title: str) -> None:
    size = np.abs(weight[np.isfinite(weight) & (weight != 0)])
    top = size.max(initial=1e-300)
    norm = SymLogNorm(linthresh=max(np.min(size, initial=top), top * 1e-12) / 2, vmin=-top, vmax=top)
    picture = ax.imshow(weight, norm=norm, cmap="RdBu_r", interpolation="nearest")
    ticks = [-top, 0, top] if size.size else [0]
    bar = figure.colorbar(picture, ax=ax, shrink=0.75, ticks=ticks)
    bar.ax.set_yticklabels([f"{tick:.2g}" for tick in ticks])
    bar.ax.minorticks_off()
    ax.set_title(title if size.size else f"{title} (all zero)", fontsize=11)
    for units in blocks.values():
        if units.start:
            ax.axhline(units.start - 0.5, color=GREY, linewidth=0.7)
            ax.axvline(units.start - 0.5, color=GREY, linewidth=0.7)
    if blocks:
        centres = [(units.start + units.stop - 1) / 2 for units in blocks.values()]
        ax.set_xticks(centres, list(blocks))
        ax.set_yticks(centres, list(blocks))
        ax.tick_params(length=0)


def eigenvalue_plane(start: np.ndarray, end: np.ndarray, step: int) -> Figure:
    """Eigenvalues of the gen block before and after training, with the unit circle."""
    figure = Figure(figsize=(5.4, 5.4), layout="constrained")
    ax = figure.subplots()
    turn = np.linspace(0, 2 * np.pi, 400)
    ax.plot(np.cos(turn), np.sin(turn), color=GREY, linewidth=0.8, label="unit circle")
    ax.plot(start.real, start.imag, "o", markersize=11, fillstyle="none", color=COLOURS[0], label="at the start")
    ax.plot(end.real, end.imag, ".", markersize=7, color=COLOURS[1], label=f"after {step} steps")
    ax.set(aspect="equal", xlabel="real part", ylabel="imaginary part", title="Eigenvalues of the oscillators (gen block)")
    ax.axhline(0, color=GREY, linewidth=0.4)
    ax.axvline(0, color=GREY, linewidth=0.4)
    ax.legend(loc="center", fontsize=9, framealpha=0.9)
    return figure


def loss_curves(
    groups: Mapping[str, Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]]], baseline: Mapping[str, float] | None,
    styles: Mapping[str, tuple[str, str]] | None = None,
) -> Figure:
    """Training loss against step on a logarithmic axis: the median of each group's runs, their range as a band, and the
    zero and mean predictors as lines. A cross marks where a run stopped being finite. baseline None: each run's loss is
    shown relative to its own mean predictor, because the runs do not share one."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    ax = figure.subplots()
    tag = "loss/train" if baseline else "loss/relative"
    for n, (label, runs) in enumerate(groups.items()):
        colour, style = (styles or {}).get(label, (COLOURS[n % len(COLOURS)], STYLES[n // len(COLOURS) % len(STYLES)]))
        series = [run[tag] for run in runs if tag in run]
        if not series:
            continue
        steps = np.unique(np.concatenate([s for s, _ in series]))
        table = np.full((len(series), len(steps)), np.nan)
        for row, (at, values) in zip(table, series, strict=True):
            row[np.searchsorted(steps, at)] = values
        finite = np.isfinite(table).any(0)
        shown = table[:, finite]
        ax.plot(steps[finite], np.nanmedian(shown, 0), color=colour, linestyle=style, label=label)
        if len(series) > 1:
            ax.fill_between(steps[finite], np.nanmin(shown, 0), np.nanmax(shown, 0), color=colour, alpha=0.2, linewidth=0)
        for row in table:
            ends = np.flatnonzero(np.isfinite(row))
            if ends.size and ends[-1] < len(row) - 1 and np.isnan(row[ends[-1] + 1]):
                ax.plot(steps[ends[-1]], row[ends[-1]], "x", color=colour)
    lines = baseline or {"mean": 1.0}
    for name, line in zip(("zero", "mean"), (":", "--"), strict=True):
        if name in lines:
            ax.axhline(lines[name], color=GREY, linestyle=line, linewidth=1, label=f"predicting {'zero' if name == 'zero' else 'the mean'}")
    ax.set(yscale="log", xlabel="step", ylabel="training loss" if baseline else "loss relative to the mean predictor's")
    ax.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def spectrum_example(examples: Mapping[str, np.ndarray], summary: Mapping[str, Any]) -> Figure:
    """One held-out window: the true spectrum and the net's, before and after training, and their errors below."""
    target, before, after = (examples[name][0, 0].astype(np.float64) for name in ("target", "before", "after"))
    bins = np.arange(len(target))
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    top.bar(bins, target, color="#D9D9D9", width=0.8, label="FFT")
    top.plot(bins, before, "o", markersize=9, fillstyle="none", color=COLOURS[0], label="net at the start")
    top.plot(bins, after, "x", markersize=6, color=COLOURS[1], label=f"net after {summary['steps']} steps")
    top.set(ylabel="power", title="Spectrum of one held-out window")
    top.legend(fontsize=9)
    scale = np.abs(target).max()
    tiny = 1e-18
    for values, colour, mark, fill in ((before, COLOURS[0], "o", "none"), (after, COLOURS[1], "x", "full")):
        bottom.plot(bins, np.maximum(np.abs(values - target) / scale, tiny), mark, fillstyle=fill, color=colour)
    bottom.axhline(1, color=GREY, linestyle=":", linewidth=1)
    bottom.text(bins[-1] + 0.4, 1, "largest power ", color=GREY, fontsize=8, ha="right", va="bottom")
    bottom.set(yscale="log", xlabel="output (bin)", ylabel="error / largest", ylim=(tiny / 2, 1e3))
    bottom.grid(alpha=0.25)
    top.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2g}"
