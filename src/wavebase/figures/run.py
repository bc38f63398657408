"""Figures of runs, drawn from their records alone. No pyplot: nothing global, safe in any process.

A run draws the functions that its `probe.figures` names: each takes a run folder and its summary and returns a Figure,
saved under the function's name, or None where the run holds nothing to draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from wavebase.figures.common import COLOURS, GREY
from wavebase.figures.curves import loss_curves
from wavebase.records.folder import RunFolder
from wavebase.registry import registered


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


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2g}"
