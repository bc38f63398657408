"""Where do optimisers take the weights of an exact algorithm? Expected: plain descent hardly anywhere; Adam, whose steps
have one size in all directions, mostly where the function does not see it; label noise and weight decay further still.

    python experiments/spectral_optimisers.py [--full]
"""

import numpy as np
from matplotlib.figure import Figure

from wavebase import figures, study
from wavebase.constructions import symmetry
from wavebase.constructions.spectral import spectral_construction
from wavebase.probes.position import subspaces

SETTINGS = {  # label: the words that make it
    "SGD": "optim=sgd",
    "SGD, momentum 0.9": "optim=momentum",
    "SGD, label noise 0.1": "optim=sgd task.label_noise=0.1",
    "SGD, decay 0.01": "optim=sgd optim.weight_decay=0.01",
    "Adam, eps 1e-8": "optim=adam",
    "Adam, eps 1e-2": "optim=adam optim.eps=0.01",
    "Adam, label noise 0.1": "optim=adam task.label_noise=0.1",
    "AdamW, decay 0.1": "optim=adamw optim.weight_decay=0.1",
}
PARTS = {"visible": figures.COLOURS[1], "null": figures.COLOURS[0], "gauge": figures.COLOURS[2], "frozen": figures.GREY}


def measure(size: study.Size) -> study.Finding:
    T = size.pick(tiny=3, fast=4, full=8)
    seeds = size.pick(tiny=1, fast=5, full=20)
    steps = size.pick(tiny=2, fast=400, full=4000)
    settings = dict(list(SETTINGS.items())[:: size.pick(tiny=4, fast=1, full=1)])
    shared = (
        "model=spectral",
        "model.preset=trainable",
        f"T={T}",
        f"seed=range(0,{seeds})",
        f"train.steps={steps}",
        f"train.checkpoint_every={max(steps // 10, 1)}",
        "probe.curvature_batch=64",
    )
    start = spectral_construction(T, preset="trainable", scale=1 / T)  # what every run starts with
    parts = subspaces(start)
    origin = symmetry.flatten(start.weights)
    rows = []
    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = figure.subplots(2, -(-len(settings) // 2), sharex=True, sharey=True, squeeze=False)
    shares: dict[str, dict[str, float]] = {}
    for ax, (label, words) in zip(axes.flat, settings.items(), strict=False):
        runs = size.sweep(*shared, *words.split())
        at = [step for step in runs[0].folder.checkpoint_steps() if step]
        size_of = {part: np.zeros((len(runs), len(at))) for part in PARTS}
        for row, run in enumerate(runs):
            for column, step in enumerate(at):
                weights = run.folder.load_checkpoint(step)["weights"]
                drift = symmetry.flatten({name: weights[name] for name in start.weights}) - origin
                for part, vector in parts.split(drift).items():
                    size_of[part][row, column] = vector.norm().item()
        for part, colour in PARTS.items():
            ax.plot(at, np.median(size_of[part], 0), color=colour, label=part)
            ax.fill_between(at, size_of[part].min(0), size_of[part].max(0), color=colour, alpha=0.2, linewidth=0)
        ax.set(yscale="log", ylim=(1e-7, 3e2))
        ax.set_title(label, fontsize=10)
        ax.grid(alpha=0.25)
        last = {part: float(np.median(values[:, -1])) for part, values in size_of.items()}
        whole = sum(value**2 for value in last.values())
        shares[label] = {part: value**2 / whole if whole else np.nan for part, value in last.items()}
        verdicts = [run.verdict for run in runs]
        rows.append(
            {
                "optimiser": label,
                "drift": whole**0.5,
                **{part: f"{100 * share:.0f} %" for part, share in shares[label].items()},
                "error": float(np.median(study.final_errors(runs))),
                "verdict": study.counted(verdicts),
            }
        )
    for ax in axes[-1]:
        ax.set_xlabel("step")
    for ax in axes[:, 0]:
        ax.set_ylabel("norm of the drift's part")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    sgd, adam = rows[0], next(row for row in rows if row["optimiser"].startswith("Adam"))
    says = f"""Of {len(origin)} weights {int(parts.live.sum())} have a gradient at the start, and the function sees {len(parts.visible)} directions of
    them, {100 * len(parts.visible) / len(origin):.0f} % of the space; {len(parts.gauge)} more are symmetries. The table holds the norm of the
    drift after {steps} steps and the parts' shares of its square. {sgd["optimiser"]} has drifted by {sgd["drift"]:.2g}, {sgd["visible"]} of it visible
    and {sgd["gauge"]} along symmetries; {adam["optimiser"]} by {adam["drift"]:.2g}, {adam["drift"] / sgd["drift"]:.0f} times as far, {adam["visible"]} visible and
    {adam["null"]} null: less of it is hidden than equal steps in all directions would hide. Weight decay moves what has no
    gradient, the saturated biases first, and with them most of the distance."""
    silent = """The parts are those of the first order about the start: a long way along a null direction may become visible.
    Rates are one each (half the boundary for SGD, 1e-3 for Adam), so the sizes of drifts compare settings, not methods."""
    return study.Finding("Where optimisers drift", rows, says, silent, figure)


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
