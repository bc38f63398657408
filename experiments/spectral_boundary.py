"""Where does gradient descent leave the exact algorithm? Expected: where theory says, at a learning rate of 2/lambda_max,
within 10 % at every T and gains, because a fixed training set makes the loss one function with one largest curvature.

    python experiments/spectral_boundary.py [--full]
"""

import numpy as np
from matplotlib.figure import Figure

from wavebase import figures, study

LEFT = 10.0  # a run has left when its training loss ever exceeds so many times its start's
FLAT = "gains 1/8, 1, 1, 4, 4, 1"  # so far from exact that the start is no minimum
STARTS = {  # label: what makes it
    "eps 2^-12": "model.eps=0.000244140625",
    "eps 2^-5": "model.eps=0.03125",
    "trainable": "model.preset=trainable",
    "trainable, a/4, s2/4": "model.preset=trainable model.gains={a:0.03125,s2:0.03125}",
    FLAT: "model.gains={a:0.125,s1:1,s2:1,s3:4,s4:4,s5:1}",
}


def largest_rise(run: study.Run) -> float:
    """The largest training loss over the first one; infinite where the run diverged."""
    losses = run.folder.metrics()["loss/train"][1]
    return float(np.max(np.where(np.isfinite(losses), losses, np.inf)) / losses[0])


def boundary(fractions: np.ndarray, left: np.ndarray) -> float:
    """The geometric mean of the largest fraction below which none has left and the next: nan if all or none have."""
    if left.all() or not left.any():
        return float("nan")
    first = int(left.argmax())
    return float(np.sqrt(fractions[first - 1] * fractions[first])) if first else float("nan")


def measure(size: study.Size) -> study.Finding:
    lengths = size.pick(tiny=(4,), fast=(4, 8), full=(4, 5, 8, 16))
    sets = size.pick(tiny=1, fast=2, full=20)
    steps = size.pick(tiny=2, fast=300, full=1000)
    fractions = size.pick(
        tiny=(0.5, 8.0),
        fast=(0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2),
        full=tuple(np.round(np.arange(0.7, 1.41, 0.02), 2).tolist()),
    )
    starts = dict(list(STARTS.items())[:: size.pick(tiny=4, fast=1, full=1)])
    shared = (
        f"T={','.join(map(str, lengths))}",
        f"seeds.probe=range(0,{sets})",
        f"optim.lr_over_boundary={','.join(map(str, fractions))}",
        "task.training_count=64",
        "probe.curvature_batch=64",
        "probe.measure=[function.held_out_error]",
        "train.log_every=1",
        f"train.steps={steps}",
    )
    rows, every = [], []
    figure = Figure(figsize=(4.6 * len(lengths) + 1, 4.6), layout="constrained")
    axes = dict(zip(lengths, figure.subplots(1, len(lengths), sharey=True, squeeze=False)[0], strict=True))
    for (label, words), colour, mark in zip(
        starts.items(), figures.COLOURS, ("o-", "s--", "^-", "D:", "v-"), strict=False
    ):
        runs = study.grouped(size.sweep(*words.split(), *shared), "T", "seeds.probe", "optim.lr_over_boundary")
        for T in lengths:
            rises = np.array([[largest_rise(runs[T, s, f][0]) for f in fractions] for s in range(sets)])
            found = [boundary(np.array(fractions), row > LEFT) for row in rises]
            lambdas = [runs[T, s, fractions[0]][0].value("optim", "lambda_max") for s in range(sets)]
            every += [] if label == FLAT else found
            error = runs[T, 0, fractions[0]][0].value("relative_error", "initial")
            rows.append(
                {
                    "T": T,
                    "start": label,
                    "error": error,
                    "lambda_max": float(np.median(lambdas)),
                    "boundary": float(np.median(found)),
                    "from": float(np.min(found)),
                    "to": float(np.max(found)),
                }
            )
            shown = np.clip(rises, 1, 1e8)
            axes[T].plot(fractions, np.median(shown, 0), mark, markersize=5, color=colour, label=label)
            axes[T].fill_between(fractions, shown.min(0), shown.max(0), color=colour, alpha=0.2, linewidth=0)
    for T, ax in axes.items():
        ax.axvline(1, color=figures.GREY, linestyle="--", linewidth=1, label="predicted, 2/lambda_max")
        ax.axvspan(0.9, 1.1, color=figures.GREY, alpha=0.1, linewidth=0, label="within 10 %")
        ax.axhline(LEFT, color=figures.GREY, linestyle=":", linewidth=1, label="has left")
        ax.set(yscale="log", ylim=(0.7, 2e8), xlabel="learning rate / (2/lambda_max)", title=f"T = {T}")
        ax.grid(alpha=0.25)
    next(iter(axes.values())).set_ylabel(f"largest loss in {steps} steps / first")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    near = sum(abs(value - 1) <= 0.1 for value in every)
    curvatures = [row["lambda_max"] for row in rows if row["start"] != FLAT]
    flat = [row for row in rows if row["start"] == FLAT]
    says = f"""A run has left if its loss ever exceeds {LEFT:g} times its start's within {steps} steps; the boundary is the geometric mean
    of the rates of the grid between which that begins, in units of 2/lambda_max. Over {len(lengths)} windows, {len(starts) - 1} choices of
    gains, {np.log10(max(curvatures) / min(curvatures)):.1f} decades of lambda_max and {sets} training sets each it is {np.nanmin(every):.3f} to
    {np.nanmax(every):.3f}, within 10 % of the prediction in {near} of {len(every)} cases. At the gains of the last rows, whose
    start has an error of {flat[0]["error"]:.2g}, there is no such boundary up to {fractions[-1]:g}: that start is no minimum, its loss falls at
    once, and the curvature with it."""
    silent = f"""Training sets are fixed, 64 sequences, all of them in every step: with fresh batches the loss changes from step to
    step. The grid is {np.diff(fractions).min():.2g} wide at its narrowest, so a smaller difference is not resolved. A net that leaves is
    not always lost: with trainable gains its loss rises and may settle where the curvature is lower."""
    return study.Finding("The stability boundary", rows, says, silent, figure)


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
