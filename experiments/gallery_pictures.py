"""The gallery's pictures of several runs, or of a net beside its nulls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from wavebase.figures import style
from wavebase.report.runs import Run

SHOWN = ("spectral_radius", "complex_share", "henrici", "best_pair_error", "best_dominant_share", "svd_dominant_share", "growth", "damping", "clipped_share", "survival_vs_omega", "product_rank")  # fmt: skip


def forecasts(runs: Mapping[str, Run]) -> Figure:
    """One held-out signal with every forecast, and all errors with their 95 % intervals.

    Args:
        runs: By the forecast's label.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    for place, (words, found) in enumerate(runs.items()):
        examples, metrics, colour = found.folder.examples(), found.summary["metrics"], style.COLOURS[place]
        past, future = examples["signal"][0], examples["target"][0]
        after = np.arange(len(future)) + 1
        if not place:
            shown = past[-3 * len(future) :]
            left.plot(np.arange(len(shown)) - len(shown) + 1, shown, color=style.GREY, linewidth=2)
            left.plot(after, future, color=style.GREY, linewidth=4, alpha=0.5, label="what followed")
        left.plot(after, examples["after"][0], ".-", color=colour, label=words)
        right.barh(place, metrics["nmse"], color=colour)
        reach = [[metrics["nmse"] - metrics["nmse_low"]], [metrics["nmse_high"] - metrics["nmse"]]]
        right.errorbar(metrics["nmse"], place, xerr=reach, color="black", capsize=3)
    left.axvline(0.5, color=style.GREY, linewidth=0.8, linestyle=":")
    left.set(xlabel="samples after the last one heard", ylabel="signal", title="One held-out signal")
    right.axvline(1, color=style.GREY, linewidth=0.8, linestyle=":")
    right.set(xlabel="squared error / power of the signal, 95 %", yticks=range(len(runs)), title="All held-out signals")
    right.set_yticklabels(runs.keys())
    right.invert_yaxis()
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def nulls(layer: Mapping[str, Any]) -> Figure:
    """Eigenvalues in the plane with the radii of random nets, and some quantities against random nets' 5 to 95 %."""
    read = layer["quantities"]
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    turn = np.exp(1j * np.linspace(0, 2 * np.pi, 400))
    null = read["spectral_radius"]["nulls"][0]
    left.plot(turn.real, turn.imag, color=style.GREY, linewidth=0.8, label="unit circle")
    for n, radius in enumerate((null["low"], null["high"])):
        left.plot(radius * turn.real, radius * turn.imag, ":", color=style.GREY, label=None if n else "radius of random nets, 5 and 95 %")  # fmt: skip
    modes = np.array([mode["eigenvalue"] for gate in layer["gates"].values() for mode in gate["modes"]])
    left.plot(*modes.T, "o", color=style.COLOURS[0], label="this net")
    left.set(aspect="equal", xlabel="real part", ylabel="imaginary part", title="Eigenvalues")
    right.axvspan(0, 1, color="#E5E5E5", label="random nets, 5 to 95 %")
    for place, name in enumerate(SHOWN):
        null = read[name]["nulls"][0]
        colour = style.COLOURS[1 if name in layer["flagged"] else 0]
        right.plot((read[name]["value"] - null["low"]) / (null["high"] - null["low"]), place, "o", color=colour)
    right.plot([], [], "o", color=style.COLOURS[1], label="this net, p <= 0.05")
    right.set_yticks(range(len(SHOWN)), [f"{name.replace('_', ' ')} {read[name]['value']:.2g}" for name in SHOWN])
    right.set(
        xlabel="place between random nets' 5 % (0) and 95 % (1)", ylim=(len(SHOWN) - 0.5, -0.5), title="Quantities"
    )
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure
