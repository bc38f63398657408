"""Is the exact net's loss flat at zero while others start high and fall? Expected: yes under plain descent within its
boundary, where a perturbed one is repaired and random and stock nets learn little more than the mean; Adam, whose steps
do not shrink with the gradient, takes the exact net away from zero.

    python experiments/spectral_curves.py [--full]
"""

import numpy as np
from matplotlib.figure import Figure

from wavebase import figures, study

NETS = {  # label: the words that make it
    "exact": "model=spectral",
    "trainable gains": "model=spectral model.preset=trainable",
    "perturbed by 1 %": "model=perturbed",
    "random": "model=random",
    "stock LSTM": "model=lstm",
}
OPTIMISERS = {"sgd": "SGD at half the boundary", "adam": "Adam, 1e-3"}
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
    runs = {label: size.sweep(*words.split(), "optim=sgd,adam", *shared) for label, words in NETS.items()}
    baseline = runs["exact"][0].summary["baseline"]
    rows, ends = [], {}
    figure = Figure(figsize=(10.5, 7), layout="constrained")
    axes = figure.subplots(2, len(OPTIMISERS), sharex=True, sharey="row", height_ratios=(3, 2))
    for (near, whole), (optimiser, title) in zip(axes.T, OPTIMISERS.items(), strict=True):
        for label, colour in zip(NETS, figures.COLOURS, strict=False):
            chosen = [run for run in runs[label] if run.choices["optim"] == optimiser]
            steps, table = curves(chosen)
            for ax in (near, whole):
                ax.plot(steps, np.median(table, 0), color=colour, label=label)
                ax.fill_between(steps, *np.quantile(table, (0.05, 0.95), axis=0), color=colour, alpha=0.2, linewidth=0)
            start, end = (
                study.median([np.inf if (v := run.value("relative_loss", when)) is None else v for run in chosen])
                for when in ("initial", "final")
            )
            ends[label, optimiser] = end
            rows.append(
                {"optimiser": optimiser, "net": label, "start": start[0], "end": end[0], "from": end[1], "to": end[2]}
            )
        for ax in (near, whole):
            ax.axhline(1, color=figures.GREY, linestyle="--", linewidth=1, label="predicting the mean")
            zero = baseline["zero"] / baseline["mean"]
            ax.axhline(zero, color=figures.GREY, linestyle=":", linewidth=1, label="predicting zero")
            ax.set(yscale="log")
            ax.grid(alpha=0.25)
        near.set(ylim=(2e-5, 20), title=f"{title}: near the baselines")
        whole.set(ylim=(1e-34, TOP * 3), title="all", xlabel="step")
    for ax in axes[:, 0]:
        ax.set_ylabel("training loss / mean predictor's")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9, frameon=False
    )
    says = f"""Loss over the mean predictor's, medians of {seeds} seeds with 95 % intervals. Under SGD the exact net ends at
    {ends["exact", "sgd"][0]:.1e}, the one with trainable gains at {ends["trainable gains", "sgd"][0]:.1e}, the one perturbed by 1 % at
    {ends["perturbed by 1 %", "sgd"][0]:.1e}; the random net reaches {ends["random", "sgd"][0]:.2f}, the stock LSTM
    {ends["stock LSTM", "sgd"][0]:.2f} (predicting the mean: 1, zero: {baseline["zero"] / baseline["mean"]:.2f}). Under Adam at 1e-3 the
    exact net ends at {ends["exact", "adam"][0]:.1e}, the one with trainable gains at {ends["trainable gains", "adam"][0]:.1e}, the random
    net at {ends["random", "adam"][0]:.2f}, the stock LSTM at {ends["stock LSTM", "adam"][0]:.2f}. So flat at zero is a fact about the
    start and the optimiser together."""
    silent = f"""Rates are not tuned: a random net at T = {T} may come further with others and with more steps. Bands hold the
    middle 90 % of seeds. At zero loss the gradient is zero, so the flat line says nothing of what noise would do."""
    return study.Finding("Learning curves", rows, says, silent, figure)


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
