"""What does exactness cost in curvature? Expected: the error falls as eps^2 and lambda_max rises as eps^-2, so that their
product stays; gains that leave the linear function alone move it, but none give both a small error and a low curvature.

    python experiments/spectral_frontier.py [--full]
"""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure

from wavebase import figures, study
from wavebase.constructions.spectral import preset_gains

# one-parameter groups of gains under which P_hat stays as long as every tanh is linear: exponents of c
MOVES = {
    "gen and sum": {"a": 1, "s1": -1},
    "sum and prod": {"s2": 1, "s3": -1, "s4": -1},
    "two gates of prod": {"s3": 1, "s4": -1},
    "prod and spec": {"s3": 1, "s4": 1, "s5": -2},
    "spec and readout": {"s5": 1},
}

# random gains: the trainable preset's times powers of two from these ranges, wide where its search had not been
SPREAD = {"a": (-2, 2), "s1": (-1, 1), "s2": (-3, 3), "s3": (-2, 1), "s4": (-2, 1), "s5": (-3, 2)}

USEFUL = 0.1  # largest error of gains that count when the least product is asked for


def moved(gains: Mapping[str, float], exponents: Mapping[str, float], c: float) -> dict[str, float]:
    """The gains times powers of c."""
    return {name: gain * c ** exponents.get(name, 0) for name, gain in gains.items()}


def override(many: list[dict[str, float]]) -> str:
    """Gains as one sweep of the command line."""
    return "model.gains=" + ",".join("{" + ",".join(f"{k}:{v!r}" for k, v in gains.items()) + "}" for gains in many)


def costs(runs: list[study.Run]) -> tuple[np.ndarray, np.ndarray]:
    """Relative error and lambda_max at the start of each run."""
    pairs = [(run.value("relative_error", "initial"), run.value("optim", "lambda_max")) for run in runs]
    return tuple(np.array(pairs, dtype=float).T)


def frontier(errors: np.ndarray, curvatures: np.ndarray) -> np.ndarray:
    """Places of the points that no other undercuts in both, in the order of their errors."""
    order = np.argsort(errors)
    return order[curvatures[order] <= np.minimum.accumulate(curvatures[order])]


def measure(size: study.Size) -> study.Finding:
    lengths = size.pick(tiny=(4,), fast=(4, 8), full=(4, 8, 16, 32))
    powers = size.pick(tiny=(3, 5, 8), fast=(3, 4, 5, 6, 8, 10, 12), full=range(3, 17))
    c = (2.0 ** np.linspace(-3, 3, size.pick(tiny=2, fast=7, full=13))).tolist()
    count = size.pick(tiny=3, fast=80, full=500)
    shared = ("train.steps=0", "probe.curvature_batch=64", "probe.measure=[function.held_out_error]")
    rows, products = [], {}
    figure = Figure(figsize=(5.2 * len(lengths) + 1, 5.4), layout="constrained")
    axes = figure.subplots(1, len(lengths), sharey=True, squeeze=False)[0]
    for T, ax in zip(lengths, axes, strict=True):
        line = size.sweep(f"T={T}", f"model.eps={','.join(repr(2.0**-p) for p in powers)}", *shared)
        line.sort(key=lambda run: run.config["model.eps"])
        eps = [run.config["model.eps"] for run in line]
        error, curvature = costs(line)
        for name, values, expected in (("error", error, 2), ("lambda_max", curvature, -2)):
            slope, low, high = study.exponent(eps, values)
            rows.append(
                {"T": T, "along": "eps", "of": name, "exponent": slope, "from": low, "to": high, "expected": expected}
            )
        products[T, "eps"] = error * curvature
        ax.plot(error, curvature, "ks-", markersize=5, linewidth=1, label="exact preset, along eps")

        middle = preset_gains(T, "trainable", 1.0, torch.float64)
        lines = {label: [moved(middle, exponents, x) for x in c] for label, exponents in MOVES.items()}
        draw = np.random.default_rng(T)
        cloud = [{n: float(g * 2.0 ** draw.uniform(*SPREAD[n])) for n, g in middle.items()} for _ in range(count)]
        every = [gains for line in (*lines.values(), cloud) for gains in line]
        wanted = list({tuple(gains.values()): gains for gains in every}.values())  # the lines share their middle
        swept = size.sweep(f"T={T}", "model.preset=trainable", override(wanted), *shared)
        found = {tuple(run.config[f"model.gains.{name}"] for name in middle): run for run in swept}
        for (label, line), colour in zip(lines.items(), figures.COLOURS, strict=False):
            error, curvature = costs([found[tuple(gains.values())] for gains in line])
            products[T, label] = error * curvature
            ax.plot(error, curvature, "-", color=colour, linewidth=1.5, label=f"trainable, scaled: {label}")
        error, curvature = costs([found[tuple(gains.values())] for gains in cloud])
        best = frontier(error, curvature)
        ax.plot(error, curvature, ".", color="#AAAAAA", label="random gains")
        ax.plot(
            error[best],
            curvature[best],
            "o-",
            color=figures.GREY,
            fillstyle="none",
            linewidth=1,
            label="their frontier",
        )
        slope, low, high = study.exponent(error[best], curvature[best]) if len(best) > 2 else (np.nan,) * 3
        rows.append(
            {
                "T": T,
                "along": "frontier",
                "of": "lambda_max(error)",
                "exponent": slope,
                "from": low,
                "to": high,
                "expected": -1,
            }
        )
        products[T, "random"] = (error * curvature)[error < USEFUL]
        ax.axvline(1, color=figures.GREY, linestyle=":", linewidth=1, label="predicting zero")
        ax.set(xscale="log", yscale="log", xlabel="relative error at the start", title=f"T = {T}")
        ax.grid(alpha=0.25)
    axes[0].set_ylabel("lambda_max of the loss at the start")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    fits = {(row["T"], row["of"]): row for row in rows}
    said = "; ".join(
        f"""at T = {T} the error goes as eps to the power {fits[T, "error"]["exponent"]:.3f} ({fits[T, "error"]["from"]:.3f} to
        {fits[T, "error"]["to"]:.3f}), lambda_max as {fits[T, "lambda_max"]["exponent"]:.3f} ({fits[T, "lambda_max"]["from"]:.3f} to
        {fits[T, "lambda_max"]["to"]:.3f}), and their product lies within {products[T, "eps"].min():.3g} and {products[T, "eps"].max():.3g}"""
        for T in lengths
    )
    least = "; ".join(
        f"""at T = {T} it goes from {min(v.min() for v in orbit):.3g} to {max(v.max() for v in orbit):.3g} when the trainable preset's gains are
        scaled by up to {c[-1]:g}, and is at least {products[T, "random"].min(initial=np.inf):.3g} among those of {count} random gains with an
        error under {USEFUL:g}"""
        for T in lengths
        for orbit in [[products[T, label] for label in MOVES]]
    )
    says = f"Along eps, {said}. Away from it the product of error and curvature changes: {least}."
    silent = """The frontier is that of random gains, so better ones may exist; its exponent is steeper than -1: random gains
    rarely are small together, which is what small eps is. Curvature is that of the loss at the start, on 64 windows of white
    noise; the error is that of 64 others."""
    told = [{**row, **{key: f"{row[key]:.3f}" for key in ("exponent", "from", "to")}} for row in rows]
    return study.Finding("Exact against trainable", told, says, silent, figure)


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
