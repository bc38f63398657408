"""How exact is the written spectrum? Expected: exact to rounding at any T while every tanh stays within the dtype's linearity
bound; above it an error that grows as eps^2 and stays below the theoretical bound; along a stream only rounding adds up.

    python experiments/spectral_exactness.py [--full]
"""

import numpy as np
import torch
from matplotlib.figure import Figure

import wavebase
from wavebase import statistics, study
from wavebase.constructions.spectral import linearity_bound, preset_gains, spectral_construction
from wavebase.figures import style
from wavebase.models.spectral import SpectralLSTM

WINDOWS = 8
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def measured(T: int, count: int, dtype: str, **options) -> dict[str, float]:
    """Of white noise, the worst of WINDOWS windows in a row: the relative error, and the largest error of a bin in the
    unit of theory's bound, T sum x^2."""
    construction = spectral_construction(T, bound_windows=WINDOWS, dtype=DTYPES[dtype], **options)
    noise = torch.rand(count, WINDOWS * T, generator=torch.Generator().manual_seed(T), dtype=torch.float64) * 2 - 1
    signal = noise.to(DTYPES[dtype])
    with torch.no_grad():
        off = SpectralLSTM(construction)(signal).double() - wavebase.power_spectrum(signal, T)
    relative = off.norm(dim=(0, 2)) / wavebase.power_spectrum(signal, T).norm(dim=(0, 2))
    energy = T * signal.double().unflatten(1, (WINDOWS, T)).square().sum(-1, keepdim=True)
    return {
        "error": relative.max().item(),
        "first window": relative[0].item(),
        "in its unit": (off.abs() / energy).max().item(),
        "bound": construction.error_bound,
    }


def measure(size: study.Size) -> study.Finding:
    count = size.pick(tiny=4, fast=64, full=256)
    lengths = size.pick(tiny=(4, 5), fast=(3, 4, 8, 16, 32, 64), full=(2, 3, 4, 5, 8, 16, 31, 32, 64, 100, 128))
    powers = size.pick(tiny=(3, 6, 9), fast=range(2, 31, 2), full=range(2, 33))
    eps = 2.0 ** -np.array(powers)
    rows = [{"dtype": d, "T": T, **measured(T, count, d)} for d in DTYPES for T in lengths]
    along = {d: [measured(8, count, d, eps=e) for e in eps] for d in DTYPES}

    draw, drawn = np.random.default_rng(0), []
    middle = preset_gains(8, "trainable", 1.0, torch.float64)
    for _ in range(size.pick(tiny=4, fast=60, full=400)):  # gains between the trainable and the exact preset's scale
        gains = {name: value * 2.0 ** draw.uniform(-4, 1) for name, value in middle.items()}
        drawn.append(measured(8, count, "float64", gains=gains))

    figure = Figure(figsize=(10, 4.8), layout="constrained")
    left, centre = figure.subplots(1, 2, sharey=True)
    for (dtype, results), colour in zip(along.items(), style.COLOURS, strict=False):
        left.plot(eps, [r["in its unit"] for r in results], "o", markersize=4, color=colour, label=f"{dtype}, measured")
        left.plot(eps, [r["bound"] for r in results], "-", color=colour, linewidth=1, label=f"{dtype}, bound")
        left.axvline(linearity_bound(DTYPES[dtype]), color=colour, linestyle=":", linewidth=1)
        chosen = [row for row in rows if row["dtype"] == dtype]
        centre.plot(lengths, [r["in its unit"] for r in chosen], "o", markersize=4, color=colour)
        centre.plot(lengths, [r["bound"] for r in chosen], "-", color=colour, linewidth=1)
    finite = [r for r in drawn if np.isfinite(r["bound"])]
    left.set(xlabel="eps, largest argument of a tanh", ylabel="largest error of a bin / energy of its window")
    left.set_title("T = 8 (dotted: tanh(u) rounds to u)", fontsize=11)
    centre.set(xlabel="T")
    centre.set_title("exact preset", fontsize=11)
    for ax in (left, centre):
        ax.set(xscale="log", yscale="log", ylim=(1e-17, 30))
        ax.axhline(1, color=style.GREY, linestyle=":", label="as large as the spectrum")
        ax.grid(alpha=0.25)
    centre.set_xticks(lengths, map(str, lengths))
    centre.set_xticks([], minor=True)
    left.legend(fontsize=8, loc="upper left")

    cubic = (eps >= 2.0**-16) & (eps <= 2.0**-3)
    slope = statistics.power_law(
        eps[cubic], [r["error"] for r, use in zip(along["float64"], cubic, strict=True) if use]
    )
    checked = [*rows, *finite, *(r for results in along.values() for r in results if np.isfinite(r["bound"]))]
    over = sum(r["in its unit"] > r["bound"] for r in checked)
    slack = np.median([r["bound"] / r["in its unit"] for r in checked])
    worst = {d: max(row["error"] for row in rows if row["dtype"] == d) for d in DTYPES}
    growth = max(row["error"] / max(row["first window"], np.finfo(row["dtype"]).eps) for row in rows)
    conclusion = f"""With the exact preset the largest relative error over T = {lengths[0]} to {lengths[-1]} is {worst["float64"]:.1e} in
    float64 and {worst["float32"]:.1e} in float32 (predicting zero: 1). Above the linearity bound the error grows as eps to
    the power {slope[0]:.3f} ({slope[1]:.3f} to {slope[2]:.3f}). Of {len(checked)} settings with a finite bound, {over} exceed
    it. The worst of {WINDOWS} windows in a row has at most {growth:.1f} times the error of the first (or the dtype's eps, if larger)."""
    limitations = f"""The bound is a worst case over inputs: white noise stays below it by a factor of {slack:.0f} (median), so it is
    safe, not sharp. Streams have {WINDOWS} windows; in longer ones the rounding of the rotations adds up."""
    return study.Finding("Exactness", rows, conclusion, limitations, figure)


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
