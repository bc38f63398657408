"""Figures of forecasts: against the truth, the lookback's DFT and its leakage, and errors over horizon or components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wavebase.figures.style import COLOURS, GREY, STYLES, after
from wavebase.models.linear_forecasters import dft_components
from wavebase.records.folder import RunFolder
from wavebase.registry import registered
from wavebase.statistics import Interval


@registered
def forecasts(folder: RunFolder, summary: Mapping[str, Any]) -> Figure:
    """Draw four held-out signals: the lookback shaded, what followed it, and the forecasts before and after training.

    A probabilistic forecaster's 95 % intervals are drawn as a band.
    """
    examples = folder.examples()
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    for n, ax in enumerate(figure.subplots(2, 2, sharey=True).flat):
        past, truth = examples["signal"][n], examples["target"][n]
        N, H = len(past), len(truth)
        shown = min(N, 4 * H + 10)  # the whole lookback would leave the forecast no room
        ax.axvspan(N - shown, N - 0.5, color="#EEEEEE", label="lookback (its end)" if shown < N else "lookback")
        t = np.arange(N - shown, N + H)
        ax.plot(t, np.concatenate([past, truth])[N - shown :], color=GREY, linewidth=2, label="signal")
        for name, colour, mark in (("before", COLOURS[0], "o"), ("after", COLOURS[1], "x")):
            label = "forecast at the start" if name == "before" else after(summary).replace("net", "forecast", 1)
            ax.plot(np.arange(N, N + H), examples[name][n], mark, fillstyle="none", color=colour, label=label)
        if "interval" in examples:
            band(ax, np.arange(N, N + H), examples["interval"][n], COLOURS[1], "95 % interval")
        ax.axhline(0, color=GREY, linewidth=0.4)
        ax.set(xlim=(N - shown, N + H - 0.5), ylim=(-1.1, 1.1))
    for ax in figure.axes[2:]:
        ax.set_xlabel("sample")
    for ax in figure.axes[::2]:
        ax.set_ylabel("x")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def band(ax: Axes, t: np.ndarray, interval: np.ndarray, colour: str, label: str) -> None:
    """Shade the interval [2, H], its lower and upper ends, at the times t [H]."""
    ax.fill_between(t, *interval, color=colour, alpha=0.2, linewidth=0, label=label)


def intervals(past: np.ndarray, truth: np.ndarray, forecasts: Mapping[str, np.ndarray]) -> Figure:
    """Draw 95 % intervals of several forecasters beside the truth, a row for each signal.

    Args:
        past, truth: [signals, N] and [signals, H].
        forecasts: Lower end, median and upper end of each forecaster, [signals, 3, H].
    """
    N, H = past.shape[1], truth.shape[1]
    figure = Figure(figsize=(3.6 * len(forecasts), 2.1 * len(past)), layout="constrained")
    axes = figure.subplots(len(past), len(forecasts), sharex=True, sharey=True, squeeze=False)
    t, shown = np.arange(N, N + H), min(N, 3 * H)
    for row, signal, future in zip(range(len(past)), past, truth, strict=True):
        for ax, (name, found), colour in zip(axes[row], forecasts.items(), COLOURS, strict=False):
            ax.plot(np.arange(N - shown, N), signal[N - shown :], color=GREY, linewidth=1)
            ax.plot(t, future, "o", markersize=3, color=GREY, label="truth")
            ax.plot(t, found[row, 1], color=colour, label="median")
            band(ax, t, found[row, ::2], colour, "95 % interval")
            if row == 0:
                ax.set_title(name)
            ax.grid(alpha=0.25)
    for ax in axes[-1]:
        ax.set_xlabel("sample")
    for ax in axes[:, 0]:
        ax.set_ylabel("x")
    axes[0, 0].legend(fontsize=8)
    return figure


@registered
def lookback_spectrum(folder: RunFolder, summary: Mapping[str, Any]) -> Figure:
    """Draw the amplitudes of one lookback's DFT by frequency and by period, with and without a Hamming window."""
    past = torch.from_numpy(folder.examples()["signal"][0]).double()
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for window, colour, style in (("none", COLOURS[0], "o-"), ("hamming", COLOURS[1], "x--")):
        amplitude, frequency = dft_components(past, window)  # type: ignore[arg-type]
        size = amplitude.abs().clamp_min(1e-17)
        label = "no window" if window == "none" else "Hamming window"
        left.plot(frequency, size, style, fillstyle="none", markersize=4, linewidth=0.8, color=colour, label=label)
        right.plot(1 / frequency[1:], size[1:], style, fillstyle="none", markersize=4, linewidth=0.8, color=colour)
    left.set(yscale="log", xlabel="frequency, cycles per sample", ylabel="amplitude")
    right.set(xscale="log", xlabel="period, samples")
    for ax in (left, right):
        ax.grid(alpha=0.25)
    figure.suptitle(f"DFT of one lookback of {len(past)} samples")
    left.legend(fontsize=9)
    return figure


def leakage(N: int = 100, periods: Sequence[float] = (20.0, 19.0)) -> Figure:
    """Draw DFT amplitudes of single sinusoids of amplitude 1, on a bin of N samples and between bins, with both windows."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1, len(periods), sharey=True, squeeze=False)[0]
    for ax, period in zip(axes, periods, strict=True):
        x = torch.sin(2 * torch.pi * torch.arange(N, dtype=torch.float64) / period)
        for window, colour, mark in (("none", COLOURS[0], "o"), ("hamming", COLOURS[1], "x")):
            amplitude, frequency = dft_components(x, window)  # type: ignore[arg-type]
            label = "no window" if window == "none" else "Hamming window"
            ax.plot(frequency, amplitude.abs(), mark, fillstyle="none", markersize=4, color=colour, label=label)
        ax.axvline(1 / period, color=GREY, linewidth=0.8, linestyle=":", label="true frequency")
        ax.set(
            yscale="log",
            xlabel="frequency, cycles per sample",
            title=f"period {period:g}: {N / period:.3g} turns in {N}",
        )
        ax.set_ylim(5e-4, 2)
        ax.grid(alpha=0.25)
    axes[0].set_ylabel("amplitude (on a bin: all others below 1e-14)")
    axes[0].legend(fontsize=9)
    return figure


def error_curves(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[Interval]]]], ylabel: str = "NMSE"
) -> Figure:
    """Draw NMSE with 95 % bands, one panel for each variable: panels[xlabel][forecaster] = (places, intervals)."""
    figure = Figure(figsize=(5.4 * len(panels), 5), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (xlabel, curves) in zip(axes, panels.items(), strict=True):
        for n, (label, (places, intervals)) in enumerate(curves.items()):
            value, low, high = np.array(intervals).T
            colour, style = COLOURS[n % len(COLOURS)], STYLES[n // len(COLOURS) % len(STYLES)]
            ax.plot(places, value, style, marker=".", color=colour, label=label)
            ax.fill_between(places, np.maximum(low, value / 10), high, color=colour, alpha=0.15, linewidth=0)
        ax.axhline(1, color=GREY, linestyle=":", linewidth=1, label="predicting zero")
        ax.set(yscale="log", xlabel=xlabel)
        ax.grid(alpha=0.25, which="both")
    axes[0].set_ylabel(ylabel)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure
