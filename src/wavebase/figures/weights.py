"""Recurrent weights as images, how they changed, and the eigenvalues of the oscillators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment

from wavebase.constructions.construction import unit_scales
from wavebase.figures.style import COLOURS, GREY, UNMOVED, WIDTH, after, decade, png, styled, titled
from wavebase.formatting import number
from wavebase.probes import dynamics
from wavebase.records.folder import RunFolder
from wavebase.recurrence.cells import GATES, lstm_trace
from wavebase.registry import registered

Checkpoint = Mapping[str, Any]
NAMES = [f"weight_hh_{gate}" for gate in GATES]
NOT_FINITE = "#39FF14"  # a colour that the scale of weights, red to blue, does not have


@registered
@styled
def weight_hh_init(folder: RunFolder, summary: Mapping[str, Any]) -> Figure | None:
    """Draw the four recurrent matrices [H, H] at the start, each on its own logarithmic scale, with its block lines.

    Returns:
        None for a net without a recurrent matrix of each gate.
    """
    start = folder.load_checkpoint(folder.checkpoint_steps()[0])
    if not all(name in start["weights"] for name in NAMES):
        return None
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    figure.suptitle("Recurrent weights at the start, by gate\n(row: to, column: from; each on a scale of its own)")
    for ax, name in zip(figure.subplots(2, 2).flat, NAMES, strict=True):
        _matrix(ax, start["weights"][name].numpy(), _blocks(start), name.removeprefix("weight_hh_"))
    return figure


@registered
@styled
def weight_hh_change(folder: RunFolder, summary: Mapping[str, Any]) -> Figure | None:
    """Draw end minus start of the four recurrent matrices on one symmetric logarithmic scale, entries that are not finite marked.

    An entry of a constructed net counts in its natural unit (`unit_scales` at the start, whose largest states are measured
    on the run's stored signals), because gains differ by many orders of magnitude. Other nets are drawn in plain numbers.

    Returns:
        None for a net without a recurrent matrix of each gate.
    """
    start, end = _ends(folder)
    if not all(name in start["weights"] for name in NAMES):
        return None
    units = _natural_units(start, folder)
    changes = {
        name: ((end["weights"][name].double() - start["weights"][name].double()) / units.get(name, 1.0)).numpy()
        for name in NAMES
    }
    sizes = np.abs(np.concatenate([change[np.isfinite(change)] for change in changes.values()]))
    top = sizes.max(initial=0.0)
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    unit = "natural units" if units else "plain numbers"
    moved = top and summary["verdict"] != "unmoved"
    size = f"white: 0, full colour: {number(top)}" if moved else UNMOVED
    figure.suptitle(f"Change of the recurrent weights, {unit}\n({size})")
    norm = SymLogNorm(linthresh=top * 1e-4, vmin=-top, vmax=top) if moved else Normalize(-1, 1)
    for ax, (name, change) in zip(figure.subplots(2, 2).flat, changes.items(), strict=True):
        picture = _image(ax, change, norm, _blocks(start), name.removeprefix("weight_hh_") + ("" if change.any() else "\n(no change)"))  # fmt: skip
    if moved:
        ticks = [-top, -top / 100, 0, top / 100, top]
        bar = figure.colorbar(picture, ax=figure.axes, shrink=0.75, ticks=ticks)
        bar.ax.set_yticklabels([number(tick) for tick in ticks])
        bar.ax.minorticks_off()
    return figure


@styled
def weight_image(weight: np.ndarray, blocks: Mapping[str, slice], title: str) -> bytes:
    """Draw one recurrent matrix with its block lines, as PNG for the dashboard."""
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    _matrix(figure.subplots(), weight, blocks, title)
    return png(figure)


@registered
@styled
def gen_eigenvalues(folder: RunFolder, summary: Mapping[str, Any]) -> Figure | None:
    """Draw how far the eigenvalues of the gen block are from those of exact oscillators, exp(2 pi i k / T), by bin k.

    Above: how much the modulus differs from 1, in percent. Below: how much the angle differs, in bins. Both scales are
    linear within 0.01 and logarithmic beyond, so that a shift of 1 % shows and one of a whole bin fits. Each conjugate pair
    is drawn once.

    Returns:
        None without a finite gen block.
    """
    start, end = _ends(folder)
    blocks = _blocks(start)
    weights = [state["weights"].get("weight_hh_cell") for state in (start, end)]
    if "gen" not in blocks or any(weight is None or not weight.isfinite().all() for weight in weights):
        return None
    T = int(folder.config()["T"])
    figure = Figure(figsize=(WIDTH, 4.8), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    names = ("net at the start", after(summary))
    for weight, mark, colour, label in zip(weights, "ox", COLOURS, names, strict=False):
        bins, modulus, angle = oscillator_errors(dynamics.gen_eigenvalues(weight, blocks["gen"]), T)
        for ax, error in zip(axes, (100 * modulus, angle), strict=True):
            ax.plot(bins, error, mark, markersize=8, fillstyle="none", color=colour, label=label)
    axes[0].set(ylabel="modulus - 1, percent", title=titled("Oscillators (gen block) against exact ones", summary))
    axes[1].set(ylabel="angle error, bins", xlabel="bin k")
    axes[1].xaxis.get_major_locator().set_params(integer=True)
    for ax, linear in zip(axes, (1.0, 0.01), strict=True):
        reach = max(3 * linear, 1.5 * max(np.abs(line.get_ydata()).max(initial=0) for line in ax.lines))
        ax.set_yscale("symlog", linthresh=linear)
        ticks = [size for size in linear * 10.0 ** np.arange(0, 12) if size < reach]
        step = -(-len(ticks) // 3)
        ticks = ticks[::step]
        ax.set_yticks([*(-size for size in reversed(ticks)), 0, *ticks])
        ax.yaxis.set_major_formatter(lambda value, _: decade(value))
        ax.set_ylim(-reach, reach)
        ax.axhline(0, color=GREY, linewidth=0.8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center")
    return figure


def oscillator_errors(eigenvalues: np.ndarray, T: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare eigenvalues with those of exact oscillators, exp(2 pi i k / T), matched one to one at the least distance.

    Args:
        eigenvalues: Complex, [n]; those with a negative imaginary part are left out.
        T: Samples of a window.

    Returns:
        Three arrays by rising bin: k in 0..T//2; modulus - 1; and the angle's error in bins of 2 pi / T radians.
    """
    upper = eigenvalues[eigenvalues.imag >= -1e-12]
    copies = -(-len(upper) // (T // 2 + 1))  # an eigenvalue of bin 0 or T/2 may be double
    k = np.repeat(np.arange(T // 2 + 1), max(copies, 2))
    exact = np.exp(2j * np.pi * k / T)
    rows, columns = linear_sum_assignment(np.abs(upper[:, None] - exact))
    order = np.argsort(k[columns], kind="stable")
    found, exact, k = upper[rows][order], exact[columns][order], k[columns][order]
    return k, np.abs(found) - 1, np.angle(found / exact) * T / (2 * np.pi)


def _matrix(ax: Axes, weight: np.ndarray, blocks: Mapping[str, slice], title: str) -> None:
    weight = weight.astype(np.float64)  # the bounds below are outside float32's range
    size = np.abs(weight[np.isfinite(weight) & (weight != 0)])
    top = size.max(initial=1e-300)
    norm = SymLogNorm(linthresh=max(np.min(size, initial=top), top * 1e-12) / 2, vmin=-top, vmax=top)
    picture = _image(ax, weight, norm, blocks, title + ("" if weight.any() else " (all zero)"))
    ticks = [-top, 0, top] if size.size else [0]
    bar = ax.figure.colorbar(picture, ax=ax, shrink=0.75, ticks=ticks)
    bar.ax.set_yticklabels([number(tick) for tick in ticks])
    bar.ax.minorticks_off()


def _image(ax: Axes, matrix: np.ndarray, norm: Normalize, blocks: Mapping[str, slice], title: str) -> Any:
    """Draw a matrix with its block lines. Entries that are not finite have a colour of their own and are counted."""
    picture = ax.imshow(matrix, norm=norm, cmap=colormaps["RdBu_r"].with_extremes(bad=NOT_FINITE), interpolation="nearest")  # fmt: skip
    picture.set_data(np.ma.masked_invalid(matrix))
    ax.grid(False)
    ax.spines[:].set_visible(True)
    lost = int((~np.isfinite(matrix)).sum())
    ax.set_title(title + (f"\n({lost} of {matrix.size} not finite: green)" if lost else ""))
    for units in blocks.values():
        if units.start:
            ax.axhline(units.start - 0.5, color=GREY, linewidth=0.7)
            ax.axvline(units.start - 0.5, color=GREY, linewidth=0.7)
    if blocks:
        centres = [(units.start + units.stop - 1) / 2 for units in blocks.values()]
        ax.set_xticks(centres, list(blocks), rotation=45, ha="right", rotation_mode="anchor")
        ax.set_yticks(centres, list(blocks))
        ax.tick_params(length=0)
    return picture


def _natural_units(start: Checkpoint, folder: RunFolder) -> dict[str, torch.Tensor]:
    """Units by weight; empty for a net without blocks or whose stored signals are not [sequence, sample]."""
    weights, blocks = start["weights"], _blocks(start)
    signal = torch.from_numpy(folder.examples()["signal"])
    gates = [[f"{part}_{gate}" for gate in GATES] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    names = [name for part in gates for name in part] + ["readout.weight", "readout.bias", "hidden_0", "cell_0"]
    if not blocks or signal.ndim != 2 or any(name not in weights or not weights[name].isfinite().all() for name in names):  # fmt: skip
        return {}
    double = {name: weight.double() for name, weight in weights.items()}
    w_ih, w_hh, b_ih, b_hh = (torch.cat([double[name] for name in part]) for part in gates)
    if w_ih.shape[1] != 1:
        return {}
    hidden, cell = (double[name].expand(len(signal), -1) for name in ("hidden_0", "cell_0"))
    input_gate = folder.config().get("model", {}).get("input_gate", "tanh")
    trace = lstm_trace(signal.double()[..., None], hidden, cell, w_ih, w_hh, b_ih + b_hh, input_gate)
    level = trace.hidden.abs().amax((0, 1))
    level = level.clamp_min(level.max() * 1e-300 + 1e-300)
    return unit_scales({name: double[name] for name in names}, level, signal.abs().max().item(), blocks)


def _blocks(checkpoint: Checkpoint) -> dict[str, slice]:
    return {name: slice(*units) for name, units in checkpoint["blocks"].items()}


def _ends(folder: RunFolder) -> tuple[Checkpoint, Checkpoint]:
    steps = folder.checkpoint_steps()
    return folder.load_checkpoint(steps[0]), folder.load_checkpoint(steps[-1])
