"""What does exactness cost in curvature? Expected: in raw weights lambda_max rises as the error falls; in unit-scaled coordinates
it depends on T alone, not on the gains or the error.

    python experiments/spectral_frontier.py [--full]
"""

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.figure import Figure

from wavebase import statistics, study
from wavebase.constructions.construction import Construction
from wavebase.constructions.spectral import preset_gains, spectral_construction
from wavebase.figures import style
from wavebase.models.spectral import SpectralLSTM
from wavebase.probes.curvature import Hessian
from wavebase.signals.generators import WhiteNoise
from wavebase.tasks.power_spectrum import PowerSpectrum

WINDOWS = 64  # of white noise, for curvature and for the error
# random gains: the preset's of eps 2^-12 times powers of two, so that every tanh stays linear
SPREAD = 6


def measured(construction: Construction) -> dict[str, float]:
    """Of an exact start: its relative error, and lambda_max of the loss over the mean predictor's, in raw weights, in
    unit-scaled coordinates, and in those with a full unit on each of a gate's two biases."""
    noise, generator = WhiteNoise(1.0), torch.Generator().manual_seed(0)
    task = PowerSpectrum(noise, construction.T, torch.float64, torch.device("cpu"), generator, held_out_count=WINDOWS)
    signal, target = task.sample_batch(WINDOWS, generator)

    def largest(net: SpectralLSTM, scale: Callable[[str], float] | None = None) -> float:
        trained = {name: p for name, p in net.named_parameters() if not name.endswith("_0")}
        hessian = Hessian(lambda: task.loss(net(signal), target), trained.values())
        factor = None
        if scale is not None:
            factor = np.concatenate([np.full(p.numel(), scale(name)) for name, p in trained.items()])
        return hessian.largest(factor, tolerance=1e-4) / task.baselines["mean"]

    for_error, wanted = task.held_out["white_noise"]
    raw, scaled = (SpectralLSTM(construction, unit_scaled=unit_scaled) for unit_scaled in (False, True))
    with torch.no_grad():
        error = task.metrics(scaled(for_error), wanted)["relative_error"]
    full_unit = largest(scaled, lambda name: 2**0.5 if name.startswith("bias_") else 1.0)
    return {"error": error, "raw": largest(raw), "unit-scaled": largest(scaled), "full unit": full_unit}


def random_gains(T: int, count: int) -> list[dict[str, float]]:
    """Gains of eps 2^-12, each divided by a random power of 2 up to 2^SPREAD: every argument of a tanh stays as small."""
    draw, middle = np.random.default_rng(T), preset_gains(T, "exact", 1.0, torch.float64, 2.0**-12)
    return [{name: float(g * 2.0 ** -draw.uniform(0, SPREAD)) for name, g in middle.items()} for _ in range(count)]


def measure(size: study.Size) -> study.Finding:
    lengths = size.pick(tiny=(4,), fast=(4, 8, 16), full=(4, 8, 16, 32))
    powers = size.pick(tiny=(5, 27), fast=(5, 8, 12, 20, 27), full=range(5, 28))
    count = size.pick(tiny=1, fast=4, full=40)
    rows, apart, found, slopes = [], {}, {}, {}
    raw: dict[str, list[float]] = {}
    figure = Figure(figsize=(7.5, 5.2), layout="constrained")
    ax = figure.subplots()
    for T, mark, colour in zip(lengths, ("o", "s", "^", "D"), style.COLOURS, strict=False):
        eps = np.array([2.0**-p for p in powers])
        along = [measured(spectral_construction(T, eps=e, scale=1 / T)) for e in eps]
        loose = measured(spectral_construction(T, preset="trainable", scale=1 / T))
        cloud = [measured(spectral_construction(T, gains=g, scale=1 / T)) for g in random_gains(T, count)]
        starts = {"eps to 2^-5": along, "random gains": cloud, "trainable": [loose]}
        middle = float(np.median([m["unit-scaled"] for m in along]))
        found[T] = middle, loose["unit-scaled"], float(np.median([m["full unit"] for m in along]))
        slopes[T] = statistics.power_law(eps, [m["raw"] for m in along]) if len(eps) > 2 else (np.nan,) * 3
        for label, points in starts.items():
            values = {name: np.array([m[name] for m in points]) for name in along[0]}
            raw.setdefault(label, []).extend(values["raw"])
            away = np.abs(values["unit-scaled"] / middle - 1).max()
            apart[T, label] = away
            row = {"T": T, "start": label, "n": len(points)}
            for name in ("error", "raw"):
                row[name] = " to ".join(dict.fromkeys(f"{v:.1e}" for v in (values[name].min(), values[name].max())))
            rows.append({**row, "unit-scaled": round(float(np.median(values["unit-scaled"]))), "apart": f"{away:.2%}"})
        points = [*along, *cloud, loose]
        errors = [max(m["error"], 1e-17) for m in points]
        ax.plot(errors, [m["raw"] for m in points], mark, color=colour, markersize=6, label=f"T = {T}, raw weights")
        ax.plot(
            errors, [m["unit-scaled"] for m in points], mark, color=colour, fillstyle="none", markersize=9,
            label=f"T = {T}, unit-scaled",
        )  # fmt: skip
    ax.axvline(1, color=style.GREY, linestyle=":", linewidth=1, label="predicting zero")
    ax.set(xscale="log", yscale="log", xlabel="relative error at the start")
    ax.set_ylabel("lambda_max of the loss / mean predictor's")
    ax.grid(alpha=0.25)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    whole = ", ".join(f"{full:.0f} at T = {T}" for T, (*_, full) in found.items())
    law = ", ".join(f"{s:.4f} ({low:.4f} to {high:.4f}) at T = {T}" for T, (s, low, high) in slopes.items())
    growth = ""
    if len(lengths) > 3:
        p, low, high = statistics.power_law(lengths, [middle for middle, *_ in found.values()])
        growth = f" It grows as T to the power {p:.2f} ({low:.2f} to {high:.2f})."
    named = [v for label, values in raw.items() if label != "random gains" for v in values]
    decades = [np.log10(max(v) / min(v)) for v in (named, [*named, *raw["random gains"]])]
    conclusion = f"""The curvature of an exact net is a property of raw weights, not of the algorithm. In raw weights lambda_max spans {decades[0]:.1f} decades from trainable gains to eps 2^-27, {decades[1]:.1f} with random gains,
    and goes as eps to the power {law}. In unit-scaled coordinates all starts of a T agree within {max(apart.values()):.2%}.{growth}
    With a whole unit for each of a gate's two biases, not 1/sqrt(2) of it, lambda_max would be {whole}."""
    limitations = f"""Curvature is that of the loss at the start, on {WINDOWS} windows of white noise; errors are on {WINDOWS} others. Gains
    far outside tanh's linear range make another net with another curvature. A small lambda_max does not mean that training finds
    the algorithm, only that the algorithm can stay at ordinary rates."""
    return study.Finding("Curvature is in the coordinates", rows, conclusion, limitations, figure)


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
