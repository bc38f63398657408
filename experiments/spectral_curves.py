"""Is the exact net's loss flat at zero while others start high and fall? Expected: yes under plain descent within its
boundary, where a perturbed one is repaired and random and stock nets learn little more than the mean; Adam, whose steps
do not shrink with the gradient, takes the exact net away from zero.

    python experiments/spectral_curves.py [--full]
"""

import numpy as np
from matplotlib.figure import Figure

from wavebase import figures, study

MODELS = {  # label: the words that make it
    "exact": "model=spectral",
    "trainable gains": "model=spectral model.preset=trainable",
    "perturbed 1 %": "model=perturbed",
    "random": "model=random",
    "stock LSTM": "model=lstm",
}
OPTIMISERS = {"SGD at half the boundary": "optim=sgd", "Adam, 1e-3": "optim=adam optim.lr=0.001"}
TOP = 1e6  # a loss over it, in that of the mean predictor, is drawn here


def curves(runs: list[study.Run]) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and each run's training loss over the mean predictor's [runs, steps]; TOP from where it diverged."""
    metrics = [run.folder.metrics()["loss/train"] for run in runs]
    steps = max((steps for steps, _ in metrics), key=len)
    table = np.full((len(runs), len(steps)), TOP)
    for row, run, (_, losses) in zip(table, runs, metrics, strict=True):
        row[: len(losses)] = np.nan_to_num(losses / run.value("baseline", "mean"), nan=TOP).clip(max=TOP)
    return steps, table


def measure(size: study.Size) -> study.Finding:
    T = size.pick(tiny=4, fast=4, full=8)
    seeds = size.pick(tiny=2, fast=20, full=50)
    shared = (
        f"T={T}",
        f"seed=range(0,{seeds})",
        f"train.steps={size.pick(tiny=2, fast=500, full=3000)}",
        f"train.log_every={size.pick(tiny=1, fast=10, full=10)}",
        "probe.curvature=false",
        "probe.curvature_batch=64",
        "probe.measure=[function.held_out_error]",
    )
    rows, zero = [], 0.0
    figure = Figure(figsize=(10.5, 5.4), layout="constrained")
    axes = figure.subplots(1, len(OPTIMISERS), sharey=True)
    for ax, (optimiser, optim_words) in zip(axes, OPTIMISERS.items(), strict=True):
        for (label, words), colour in zip(MODELS.items(), figures.COLOURS, strict=False):
            runs = size.sweep(*words.split(), *optim_words.split(), *shared)
            zero = runs[0].value("baseline", "zero") / runs[0].value("baseline", "mean")
            steps, table = curves(runs)
            ax.plot(steps, np.median(table, 0), color=colour, label=label)
            ax.fill_between(steps, *np.quantile(table, (0.05, 0.95), axis=0), color=colour, alpha=0.2, linewidth=0)
            ends = [value if (value := run.value("relative_loss", "final")) is not None else np.inf for run in runs]
            middle, low, high = study.median(ends)
            start = float(np.median([run.value("relative_loss", "initial") for run in runs]))
            rows.append(
                {
                    "optimiser": optimiser,
                    "net": label,
                    "at the start": start,
                    "at the end": middle,
                    "from": low,
                    "to": high,
                }
            )
        ax.axhline(1, color=figures.GREY, linestyle="--", linewidth=1, label="predicting the mean")
        ax.axhline(zero, color=figures.GREY, linestyle=":", linewidth=1, label="predicting zero")
        ax.set(yscale="log", xlabel="step", ylim=(1e-34, TOP * 3), title=optimiser)
        ax.grid(alpha=0.25)
    axes[0].set_ylabel("training loss / mean predictor's")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return study.Finding("Learning curves", rows, "", "", figure)


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
