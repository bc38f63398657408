"""Recurrent weights as images, and the eigenvalues of the oscillators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure

from wavebase.figures.common import COLOURS, GREY, png
from wavebase.probes import dynamics
from wavebase.records.folder import RunFolder
from wavebase.recurrence.cells import GATES
from wavebase.registry import registered


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


def _blocks(checkpoint: Mapping[str, Any]) -> dict[str, slice]:
    return {name: slice(*units) for name, units in checkpoint["blocks"].items()}
