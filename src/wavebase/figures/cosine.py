"""Figures of a cosine transform's run: its reconstruction, its frequencies and its operator, before and after training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from wavebase.figures.style import COLOURS, GREY, WIDTH, log_axis, styled, titled
from wavebase.figures.style import after as net_after
from wavebase.formatting import number
from wavebase.probes.cosine import PARTS, operators
from wavebase.records.folder import RunFolder
from wavebase.registry import registered
from wavebase.spectrum import dct_frequencies


@registered
@styled
def reconstruction(folder: RunFolder, summary: Mapping[str, Any]) -> Figure:
    """Draw one held-out window, its reconstructions before and after training, and the size of the errors below."""
    examples = folder.examples()
    target, before, after = (examples[name][0].astype(np.float64) for name in ("target", "before", "after"))
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    shown = slice(0, 64)  # more would be a solid band
    n = np.arange(len(target))[shown]
    grey = "#BBBBBB"
    top.plot(n, target[shown], color=grey, linewidth=4, label="window")
    bottom.plot(n, np.abs(target)[shown], color=grey, linewidth=1.5)
    top.plot(n, before[shown], "o", fillstyle="none", color=COLOURS[0], label="net at the start")
    top.plot(n, after[shown], "x", color=COLOURS[1], label=net_after(summary))
    for values, colour, mark in ((before, COLOURS[0], "o"), (after, COLOURS[1], "x")):
        error = np.maximum(np.abs(values - target), 1e-18)
        bottom.plot(n, error[shown], mark, fillstyle="none", color=colour)
    part = "" if len(n) == len(target) else f" ({len(n)} of {len(target)} samples)"
    top.set(ylabel="sample", title=titled(f"One held-out window{part} and its errors", summary))
    log_axis(bottom)
    bottom.set(xlabel="sample n", ylabel="|error|   (line: that of zero)")
    figure.legend(*top.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@registered
@styled
def frequencies(folder: RunFolder, summary: Mapping[str, Any]) -> Figure | None:
    """Draw frequencies in bins from the exact ones, before and after training, and how far each has moved."""
    start, end = _ends(folder)
    if "offset_analysis" not in start:
        return None
    N = folder.examples()["target"].shape[-1]
    parts = [part for part in PARTS if f"offset_{part}" in start]
    figure = Figure(figsize=(WIDTH, 5), layout="constrained")
    figure.suptitle(titled(f"Frequencies, in bins of pi/{N} radians per sample", summary))
    axes = figure.subplots(2, len(parts), squeeze=False, sharex=True, sharey="row")
    for column, part in enumerate(parts):
        top, bottom = axes[:, column]
        before, after = (state[f"offset_{part}"].double().numpy() * N / np.pi for state in (start, end))
        m = np.arange(len(before))
        far = (
            max(np.abs(before).max(), np.abs(after).max()) > 2
        )  # a random start: show where they are, not their distances
        if far:
            exact = dct_frequencies(len(m)).numpy() * N / np.pi
            top.plot(m, exact, color=GREY, linewidth=1, label="exact")
            before_shown, after_shown = (np.sort(_folded(exact + v, N)) for v in (before, after))
        else:
            top.axhline(0, color=GREY, linewidth=1, label="exact")
            before_shown, after_shown = before, after
        size = 7 if len(m) <= 64 else 3
        top.plot(m, before_shown, "o", markersize=size, fillstyle="none", color=COLOURS[0], label="at the start")
        top.plot(m, after_shown, "x", markersize=size - 1, color=COLOURS[1], label=f"after {summary['steps']} steps")
        top.set(title=part if len(parts) > 1 else "analysis and synthesis (tied)")
        moved = np.maximum(np.abs(after - before), 1e-18)
        bottom.plot(m, moved, ".", markersize=size - 1, color=COLOURS[2])
        bottom.axhline(1, color=GREY, linestyle=":", linewidth=1)
        log_axis(bottom)
        bottom.set(xlabel="frequency m")
        axes[0, 0].set_ylabel("w N/pi, sorted" if far else "(w - exact) N/pi")
    axes[1, 0].set_ylabel("|w - start| N/pi  (dotted: one bin)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@registered
@styled
def operator(folder: RunFolder, summary: Mapping[str, Any]) -> Figure | None:
    """Draw |A2 A1|, the whole net as a matrix, before and after training: the identity if it reconstructs."""
    states = _ends(folder)
    if "offset_analysis" not in states[0] or not all(w.isfinite().all() for state in states for w in state.values()):
        return None
    N = folder.examples()["target"].shape[-1]
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    figure.suptitle(titled("The net as a matrix: the identity if it reconstructs", summary))
    norm = LogNorm(1e-16, 1, clip=True)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, state, when in zip(axes, states, ("at the start", f"after {summary['steps']} steps"), strict=True):
        analysis, synthesis = operators(state, N)
        matrix = (synthesis @ analysis).numpy()
        picture = ax.imshow(np.abs(matrix), norm=norm, cmap="viridis", interpolation="nearest")
        distance = np.linalg.norm(matrix - np.eye(N)) / np.sqrt(N)
        ax.set(title=f"|A2 A1| {when}\n{number(distance)} from identity", xlabel="input sample")
    axes[0].set_ylabel("output sample")
    axes[0].grid(False)
    axes[1].grid(False)
    bar = figure.colorbar(picture, ax=axes, label="size of entry", ticks=[1e-16, 1e-12, 1e-8, 1e-4, 1], shrink=0.8)
    bar.ax.set_yticklabels(["1e-16", "1e-12", "1e-8", "1e-4", "1"])
    bar.ax.minorticks_off()
    return figure


def _ends(folder: RunFolder) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    steps = folder.checkpoint_steps()
    return folder.load_checkpoint(steps[0])["weights"], folder.load_checkpoint(steps[-1])["weights"]


def _folded(bins: np.ndarray, N: int) -> np.ndarray:
    """Map frequencies in bins to [0, N]: cos(w n) is the same for w and 2 pi - w."""
    rest = np.mod(bins, 2 * N)
    return np.minimum(rest, 2 * N - rest)
