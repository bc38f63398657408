"""Of three exact algorithms for one function, which survives training, what lies between them, and does training lead from one to
another? Expected: in their own units all survive label noise under SGD as the law predicts, high barriers lie between them,
and none becomes another.

    python experiments/spectral_rivals.py [--full]
"""

from itertools import combinations

import numpy as np
import torch
from matplotlib.figure import Figure

import wavebase
from wavebase import statistics, study
from wavebase.constructions.alignment import align
from wavebase.constructions.construction import Construction, pad
from wavebase.figures import style
from wavebase.models.spectral import RIVALS, SpectralLSTM

ALGORITHMS = {"spectral": wavebase.spectral_construction, **RIVALS}
SETTINGS = {
    "SGD": "optim=sgd task.label_noise=0.1",
    "Adam": "optim=adam task.label_noise=0.1",
}


def error_between(one: Construction, other: dict[str, torch.Tensor], signal: torch.Tensor, points: int) -> np.ndarray:
    """Relative errors of the nets on the straight line from one's weights to the other's."""
    target = wavebase.power_spectrum(signal, one.T) * one.scale
    found = []
    for t in np.linspace(0, 1, points):
        weights = {name: torch.lerp(weight, other[name], float(t)) for name, weight in one.weights.items()}
        with torch.no_grad():
            output = SpectralLSTM(one.replace_weights(weights))(signal)
        found.append(((output - target).norm() / target.norm()).item())
    return np.array(found)


def function_holds(run: study.Run) -> bool:
    """Whether every error is within the verdict's bound, on the training signal and off it: asked alike of all three."""
    kinds = ("function", "off_support")
    return all(c["holds"] for c in run.summary["conditions"].values() if c["kind"] in kinds)


def measure(size: study.Size) -> study.Finding:
    T = size.pick(tiny=3, fast=4, full=8)
    seeds = size.pick(tiny=1, fast=5, full=50)
    points = size.pick(tiny=3, fast=41, full=81)
    settings = dict(list(SETTINGS.items())[: size.pick(tiny=1, fast=2, full=2)])
    nets = {name: build(T, scale=1 / T) for name, build in ALGORITHMS.items()}
    units = max(net.hidden_size for net in nets.values())
    nets = {name: pad(net, units) for name, net in nets.items()}
    signal = torch.rand(256, T, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1

    barriers = {}
    for one, other in combinations(nets, 2):
        nearest = align(nets[other].weights, nets[one], signal[:4]).weights
        barriers[one, other] = {
            "aligned": error_between(nets[one], nearest, signal, points),
            "as written": error_between(nets[one], dict(nets[other].weights), signal, points),
        }

    shared = (f"model.hidden_size={units}", f"T={T}", f"seed=range(0,{seeds})")
    steps = size.pick(tiny=2, fast=300, full=3000)
    rows, survival, named = [], {}, {}
    moved = 0
    for label, words in settings.items():
        runs = size.sweep(
            f"model={','.join(nets)}", *words.split(), *shared, f"train.steps={steps}", "probe.curvature_batch=64"
        )
        for name in nets:
            chosen = [run for run in runs if run.choices["model"] == name]
            apart: dict[str, list[float]] = {other: [] for other in nets}
            for run in chosen:
                last = run.folder.load_checkpoint(run.folder.checkpoint_steps()[-1])["weights"]
                if all(weight.isfinite().all() for weight in last.values()):
                    for other, there in nets.items():
                        apart[other].append(align(last, there, signal[:4]).distance)
            own = np.array(apart[name])
            rival = np.array([apart[other] for other in nets if other != name]).min(0)
            moved += int((rival < own).sum())
            held = sum(function_holds(run) for run in chosen)
            named[label, name] = study.counted([run.verdict for run in chosen])
            survival[label, name] = statistics.proportion(held, len(chosen))
            rows.append(
                {
                    "with": label,
                    "net": name,
                    "lambda": round(chosen[0].value("optim", "lambda_max") / chosen[0].value("baseline", "mean")),
                    "law": chosen[0].value("label_noise", "expected_error"),
                    "error": float(np.median(study.final_errors(chosen))),
                    "survive": "{:.2f} ({:.2f}-{:.2f})".format(*survival[label, name]),
                    "own": float(np.median(own)) if len(own) else None,
                    "rival": float(np.median(rival)) if len(rival) else None,
                }
            )
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    line = np.linspace(0, 1, points)
    for (pair, curves), colour in zip(barriers.items(), style.COLOURS, strict=False):
        left.plot(line, curves["aligned"], color=colour, label=" to ".join(pair))
        left.plot(line, curves["as written"], ":", color=colour, linewidth=1)
    left.axhline(1, color=style.GREY, linestyle="--", linewidth=1, label="predicting zero")
    left.set(yscale="log", xlabel="place on the straight line", ylabel="relative error, white noise")
    left.set_title("between the exact nets (dotted: before alignment)", fontsize=11)
    left.legend(fontsize=9)
    for n, (name, colour) in enumerate(zip(nets, style.COLOURS, strict=False)):
        middle, low, high = np.array([survival[label, name] for label in settings]).T
        x = np.arange(len(settings)) + 0.15 * (n - 1)
        right.errorbar(x, middle, (middle - low, high - middle), fmt="o", color=colour, capsize=3, label=name)
    right.set_xticks(range(len(settings)), list(settings))
    right.set(ylim=(-0.04, 1.04), ylabel=f"share whose errors all hold, {steps} steps")
    right.set_title("survival", fontsize=11)
    right.legend(fontsize=9)
    for ax in (left, right):
        ax.grid(alpha=0.25)
    walls = "; ".join(
        f"{one} to {other} {curves['aligned'].max():.2g} ({curves['as written'].max():.2g} before alignment)"
        for (one, other), curves in barriers.items()
    )
    verdicts = "; ".join(f"{name} with {label} {counts}" for (label, name), counts in named.items())
    conclusion = f"""Largest error on the straight line between two exact nets of {units} units (predicting zero: 1): {walls}. An algorithm
    survives if every error (white noise, impulses, tones, other amplitudes, two windows in a row) stays within the verdict's
    bounds for {steps} steps; the table gives proportions of {seeds} seeds. Of {len(settings) * len(nets) * seeds} trained nets {moved} ended nearer
    to a rival than to their start. Verdicts: {verdicts}."""
    limitations = """A straight line is not the easiest path, so a barrier on it does not exclude a flat path. SGD has half the boundary of
    each algorithm, Adam 1e-3 for all, both label noise of 0.1. Own and rival are relative distances to the start and to the nearer
    rival, each in that algorithm's units. Oscillators are read in the first algorithm only."""
    return study.Finding("Three algorithms for one function", rows, conclusion, limitations, figure)


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
