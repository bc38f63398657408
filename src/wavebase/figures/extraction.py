"""Figures of a run that extracts tones from a mix: outputs, errors and spectra on the test data, in time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wavebase.figures.style import COLOURS, FONT, GREY, PALE, WIDTH, after, log_axis, styled
from wavebase.formatting import number
from wavebase.records.folder import RunFolder
from wavebase.registry import registered

SETS = {"seen": "training data", "training": "test data", "shifted": "shifted", "random_phases": "random phases", "stream": "sample by sample"}  # fmt: skip
TARGET, NET, LEAST_SQUARES = ("#BBBBBB", COLOURS[1], COLOURS[0])


@registered
@styled
def one_second(folder: RunFolder, summary: Mapping[str, Any]) -> Figure | None:
    """Draw one tone over one second of the test data: mix, target and output."""
    run = _examples(folder)
    if run is None:
        return None
    n = min(1, len(run["hertz"]) - 1)
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    ax = figure.subplots()
    shown = (run["seconds"] >= 4) & (run["seconds"] <= 5)
    t = run["seconds"][shown]
    ax.plot(t, run["signal"][shown], ".", markersize=2, color=COLOURS[5], label="mix (the net's only input)")
    _tone(ax, run, n, shown, linewidth=1.6)
    ax.set(xlabel="seconds", ylabel="value", title=f"The tone of {run['hertz'][n]:g} Hz out of the mix, test data")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, markerscale=3)
    return figure


@registered
@styled
def tones(folder: RunFolder, summary: Mapping[str, Any]) -> Figure | None:
    """Draw every tone over the first two seconds of the test data: target, output, and least squares."""
    run = _examples(folder)
    if run is None:
        return None
    figure = Figure(figsize=(WIDTH, 1.25 * len(run["hertz"]) + 1.2), layout="constrained")
    axes = figure.subplots(len(run["hertz"]), 1, sharex=True, squeeze=False)[:, 0]
    shown = run["seconds"] <= 2
    for n, ax in enumerate(axes):
        estimate = run["least_squares"][n][shown]
        ax.plot(run["seconds"][shown], estimate, ":", color=LEAST_SQUARES, label="least squares, trailing window")
        _tone(ax, run, n, shown, linewidth=1.2)
        ax.set(ylabel=f"{run['hertz'][n]:g} Hz", ylim=(-1.6, 1.6))
    axes[0].set_title("The first two seconds of the test data")
    axes[-1].set_xlabel("seconds")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@registered
@styled
def per_frequency(folder: RunFolder, summary: Mapping[str, Any]) -> Figure | None:
    """Draw the mean squared error of each tone on the test data: net before and after training, least squares, zero."""
    run = _examples(folder)
    if run is None:
        return None
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    ax = figure.subplots()
    places = np.arange(len(run["hertz"]))
    bars = {
        "net at the start": ("before", PALE),
        after(summary): ("after", NET),
        "least squares, trailing window": ("least_squares", LEAST_SQUARES),
    }
    for at, (label, (name, colour)) in enumerate(bars.items()):
        error = np.square(run[name] - run["target"]).mean(-1)
        drawn = ax.bar(places + 0.27 * (at - 1), error, 0.25, color=colour, label=label)
        ax.bar_label(drawn, [number(value) for value in error], fontsize=FONT, padding=2, rotation=90)
    ax.axhline(summary["baseline"]["zero"], color=GREY, linestyle=":", label="predicting zero")
    ax.set_xticks(places, [f"{hertz:g} Hz" for hertz in run["hertz"]])
    log_axis(ax)
    ax.set(ylabel="mean squared error", title="Error of each tone, test data")
    ax.margins(y=0.3)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@registered
@styled
def error_over_time(folder: RunFolder, summary: Mapping[str, Any]) -> Figure | None:
    """Draw the squared error over the test data, mean over the tones and a tenth of a second."""
    run = _examples(folder)
    if run is None:
        return None
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    ax = figure.subplots()
    seconds = run["seconds"]
    width = max(1, round(0.1 / (seconds[1] - seconds[0])))
    for name, label, colour in (
        ("after", after(summary), NET),
        ("least_squares", "least squares, trailing window", LEAST_SQUARES),
    ):
        square = np.square(run[name] - run["target"]).mean(0)
        mean = square[: len(square) // width * width].reshape(-1, width).mean(-1)
        ax.plot(seconds[: len(mean) * width : width] + 0.05, np.maximum(mean, 1e-12), color=colour, label=label)
    ax.axhline(summary["baseline"]["zero"], color=GREY, linestyle=":", label="predicting zero")
    log_axis(ax)
    ax.set(xlabel="seconds", ylabel="mean squared error", title="Error over time, test data")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@registered
@styled
def output_spectra(folder: RunFolder, summary: Mapping[str, Any]) -> Figure | None:
    """Draw the amplitude spectra of target and output of every tone, over the test data after its first second."""
    run = _examples(folder)
    if run is None:
        return None
    seconds = run["seconds"]
    late = seconds >= 1
    window = np.hanning(late.sum())
    hertz = np.fft.rfftfreq(late.sum(), seconds[1] - seconds[0])
    shown = hertz <= 2 * run["hertz"].max()
    figure = Figure(figsize=(WIDTH, 1.25 * len(run["hertz"]) + 1.2), layout="constrained")
    axes = figure.subplots(len(run["hertz"]), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for n, ax in enumerate(axes):
        series = (("mix", run["signal"], COLOURS[5], 0.8), ("target", run["target"][n], TARGET, 4), ("net", run["after"][n], NET, 1.2))  # fmt: skip
        for label, values, colour, width in series:
            amplitude = 2 * np.abs(np.fft.rfft(values[late] * window)) / window.sum()
            ax.plot(hertz[shown], np.maximum(amplitude[shown], 1e-7), color=colour, linewidth=width, label=label)
        log_axis(ax, ticks=4)
        ax.set(ylim=(1e-5, 3), ylabel=f"{run['hertz'][n]:g} Hz")
    axes[0].set_title("Amplitudes of the outputs, test data\nafter one second (predicting zero: nothing)")
    axes[-1].set_xlabel("hertz")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@registered
@styled
def seen_and_unseen(folder: RunFolder, summary: Mapping[str, Any]) -> Figure | None:
    """Draw mean squared errors with frozen weights: training data, test data, and sets that a mere clock fails on."""
    final = summary["probes"]["final"]
    sets = {name: label for name, label in SETS.items() if f"mean_squared_error/{name}" in final}
    if not sets:
        return None
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    ax = figure.subplots()
    places = np.arange(len(sets))
    for at, (suffix, label, colour) in enumerate((("", "whole", "#F0B98D"), ("_after", "after one window", NET))):
        errors = [final[f"mean_squared_error{suffix}/{name}"] for name in sets]
        drawn = ax.bar(places + 0.4 * (at - 0.5), errors, 0.38, color=colour, label=label)
        ax.bar_label(drawn, [number(value) for value in errors], fontsize=FONT, padding=2, rotation=90)
    ax.axhline(summary["baseline"]["zero"], color=GREY, linestyle=":", label="predicting zero")
    if "least_squares" in summary["baseline"]:
        ax.axhline(summary["baseline"]["least_squares"], color=LEAST_SQUARES, linestyle="--", label="least squares, test data, whole")  # fmt: skip
    ax.set_xticks(places, [label.replace(" ", "\n", 1) for label in sets.values()])
    log_axis(ax)
    ax.set(ylabel="mean squared error", title="Seen and unseen data, frozen weights")
    ax.margins(y=0.3)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _tone(ax: Axes, run: Mapping[str, np.ndarray], n: int, shown: np.ndarray, linewidth: float) -> None:
    t = run["seconds"][shown]
    ax.axhline(0, color=GREY, linestyle=":", linewidth=0.8, label="predicting zero")
    ax.plot(t, run["target"][n][shown], color=TARGET, linewidth=4, label="target")
    ax.plot(t, run["after"][n][shown], color=NET, linewidth=linewidth, label="net")


def _examples(folder: RunFolder) -> dict[str, np.ndarray] | None:
    """Return the run's examples if they are tones in time and finite."""
    found = folder.examples()
    return found if "hertz" in found and np.isfinite(found["after"]).all() else None
