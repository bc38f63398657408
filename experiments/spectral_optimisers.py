"""In which directions do optimisers move the weights of an exact algorithm under label noise? Expected: plain descent only in those
that the function sees; Adam, whose steps have one size in all directions, mostly in the others; decay where no gradient holds
the weights.

    python experiments/spectral_optimisers.py [--full]
"""

import numpy as np
from matplotlib.figure import Figure

from wavebase import study
from wavebase.constructions import symmetry
from wavebase.constructions.spectral import spectral_construction
from wavebase.figures import style
from wavebase.probes.position import subspaces

SETTINGS = {  # label: the words that make it
    "SGD": "optim=sgd",
    "momentum 0.9": "optim=momentum",
    "SGD, decay 1e-2": "optim=sgd optim.weight_decay=0.01",
    "Adam, 1e-3": "optim=adam",
    "Adam, 1e-4": "optim=adam optim.lr=1e-4",
    "AdamW, decay 0.1": "optim=adamw optim.weight_decay=0.1",
    "RMSprop, 1e-3": "optim=rmsprop",
    "SGD, raw weights": "optim=sgd model.parametrization=raw",
}
PARTS = {"visible": style.COLOURS[1], "null": style.COLOURS[0], "gauge": style.COLOURS[2], "frozen": style.GREY}


def measure(size: study.Size) -> study.Finding:
    T = size.pick(tiny=3, fast=4, full=8)
    seeds = size.pick(tiny=1, fast=6, full=20)
    steps = size.pick(tiny=2, fast=300, full=4000)
    settings = dict(list(SETTINGS.items())[:: size.pick(tiny=5, fast=1, full=1)])
    shared = (
        "model=spectral",
        "task.label_noise=0.1",
        f"T={T}",
        f"seed=range(0,{seeds})",
        f"train.steps={steps}",
        f"train.checkpoint_every={max(steps // 10, 1)}",
        "probe.curvature_batch=64",
    )
    start = spectral_construction(T, scale=1 / T)  # what every run starts with
    parts = subspaces(start, unit_scaled=True)
    units, origin = (symmetry.flatten({n: of[n] for n in start.weights}) for of in (start.unit_scale, start.weights))
    size_at_start = (origin / units).norm().item()
    rows = []
    figure = Figure(figsize=(10.5, 5.2), layout="constrained")
    far, split = figure.subplots(1, 2)
    shares: dict[str, dict[str, float]] = {}
    expected = []
    for (label, words), line in zip(settings.items(), style.COLOURS, strict=False):
        runs = size.sweep(*shared, *words.split())
        at = [step for step in runs[0].folder.checkpoint_steps() if step]
        size_of = {part: np.zeros((len(runs), len(at))) for part in PARTS}
        for row, run in enumerate(runs):
            for column, step in enumerate(at):
                weights = run.folder.load_checkpoint(step)["weights"]
                drift = (symmetry.flatten({name: weights[name] for name in start.weights}) - origin) / units
                for part, vector in parts.split(drift).items():
                    size_of[part][row, column] = vector.norm().item() / size_at_start
        total = np.sqrt(sum(values**2 for values in size_of.values()))
        if total.any():
            far.plot(at, np.median(total, 0), color=line, label=label)
            far.fill_between(at, total.min(0), total.max(0), color=line, alpha=0.2, linewidth=0)
        last = {part: float(np.median(values[:, -1])) for part, values in size_of.items()}
        whole = sum(value**2 for value in last.values())
        shares[label] = {part: value**2 / whole if whole else np.nan for part, value in last.items()}
        verdicts = [run.verdict for run in runs]
        error = float(np.median(study.final_errors(runs)))
        law = runs[0].value("label_noise", "expected_error")
        if law is not None:
            expected.append(f"{label}: {law:.2g}")
        rows.append(
            {
                "optimiser": label,
                "drift": float(np.median(total[:, -1])),
                **{part: f"{100 * share:.0f} %" if whole else "-" for part, share in shares[label].items()},
                "error": error,
                "verdict": study.counted(verdicts),
            }
        )
    moved = {label: share for label, share in shares.items() if np.isfinite(share["visible"])}
    bottom = np.zeros(len(moved))
    for part, colour in PARTS.items():
        width = np.array([share[part] for share in moved.values()])
        split.barh(list(moved), width, left=bottom, color=colour, label=part)
        bottom += width
    split.invert_yaxis()
    split.set(xlabel="share of the squared drift at the end", xlim=(0, 1))
    split.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, fontsize=9, frameon=False)
    far.set(yscale="log", xlabel="step", ylabel="drift in units, relative")
    far.legend(loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=8, ncols=3, frameon=False)
    far.grid(alpha=0.25)
    conclusion = f"""Of {len(origin)} weights {int(parts.live.sum())} have a gradient at the start. The function sees {len(parts.visible)} directions,
    {100 * len(parts.visible) / len(origin):.0f} % of the space; {len(parts.gauge)} more are symmetries. The table gives the drift after {steps} steps under
    label noise 0.1, over the norm of all weights, both in units, and the parts of its square. The law of label noise predicts errors of
    {"; ".join(expected) or "none"}."""
    limitations = f"""Parts are those of first order about the start: a long way along a null direction may become visible. Each setting has one
    rate (half the boundary for SGD and momentum), so drifts compare settings, not methods. Medians of {seeds} seeds; a band
    holds all of them."""
    return study.Finding("Where optimisers drift", rows, conclusion, limitations, figure)


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
