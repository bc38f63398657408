"""Does descent push a net away from a perfect start, as Abudy et al. (2025, arXiv 2505.13398) report under L1, L2 and no
regulariser? Expected: in raw weights at once, since no ordinary rate is stable there; in unit-scaled ones only with a
regulariser, and then as far as the regulariser's own minimum.

Their protocol: Adam at 1e-4, 1000 epochs of one full batch.

    python experiments/perfect_starts.py [--full]
"""

import numpy as np
from matplotlib.figure import Figure

from wavebase import statistics, study
from wavebase.figures import style

STARTS = {  # label: the words that make it
    "exact, units": "model=spectral",
    "exact, raw": "model=spectral model.parametrization=raw",
    "loose, raw": "model=spectral model.preset=trainable model.parametrization=raw",
    "random, raw": "model=random",
}
REGULARISERS = {
    "none": "optim=adam optim.lr=1e-4",
    "L2 0.1": "optim=adam optim.lr=1e-4 optim.weight_decay=0.1",
    "L1 0.1": "optim=adam_l1 optim.lr=1e-4 optim.l1=0.1",
}
STILL = {"SGD, none": "optim=sgd"}  # a control: plain descent, which a perfect start gives no gradient


def measure(size: study.Size) -> study.Finding:
    T = size.pick(tiny=3, fast=3, full=8)
    seeds = size.pick(tiny=1, fast=10, full=30)
    steps = size.pick(tiny=2, fast=1000, full=1000)
    shared = (
        f"T={T}",
        f"seeds.probe=range(0,{seeds})",  # of the training set, too
        "seed=${seeds.probe}",
        f"train.steps={steps}",
        "task.training_count=64",
        "train.batch=64",
        f"probe.every={max(steps // 10, 1)}",
        "probe.curvature=false",
        "probe.curvature_batch=64",
    )
    starts = dict(list(STARTS.items())[:: size.pick(tiny=3, fast=1, full=1)])
    rows, found, curves = [], {}, {}
    for start, words in starts.items():
        settings = {**REGULARISERS, **STILL} if start == "exact, units" else REGULARISERS
        settings = dict(list(settings.items())[:: size.pick(tiny=3, fast=1, full=1)])
        if start == "random, raw":
            settings = {"none": REGULARISERS["none"]}
        for label, optimiser in settings.items():
            runs = size.sweep(*words.split(), *optimiser.split(), *shared)
            ends = statistics.median(study.final_errors(runs))
            begin = float(np.median([run.value("relative_error", "initial") for run in runs]))
            far = [run.value("probes", "final", "position/distance") for run in runs]
            apart = statistics.median([np.inf if value is None else value for value in far])[0]
            found[start, label] = apart, study.counted([run.verdict for run in runs])
            table = [run.folder.metrics()["error/training"] for run in runs]
            at = max((steps for steps, _ in table), key=len)
            curves[start, label] = (
                at,
                np.median(
                    [
                        np.pad(np.nan_to_num(v, nan=np.inf), (0, len(at) - len(v)), constant_values=np.inf)
                        for _, v in table
                    ],
                    0,
                ),
            )
            rows.append(
                {
                    "start": start,
                    "with": label,
                    "error": begin,
                    "after": ends[0],
                    "from": ends[1],
                    "to": ends[2],
                    "verdict": max({r.verdict for r in runs}, key=[r.verdict for r in runs].count),
                }
            )
    figure = Figure(figsize=(7.5, 5.6), layout="constrained")
    ax = figure.subplots()
    styles = dict(zip([*REGULARISERS, *STILL], ("-", "--", ":", "-."), strict=True))
    colours = dict(zip(STARTS, style.COLOURS, strict=False))
    for (start, label), (at, values) in curves.items():
        ax.plot(
            at, values.clip(1e-17, 1e3), styles[label], color=colours[start], linewidth=1.8, label=f"{start}: {label}"
        )
    ax.axhline(1, color=style.GREY, linewidth=1, label="predicting zero")
    ax.set_xscale("symlog", linthresh=max(steps // 10, 1))
    ax.set(yscale="log", xlabel="epoch", ylabel="relative error, held out")
    ax.grid(alpha=0.25)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    told = "; ".join(
        f"{start}, {label}: {apart:.2g}, {verdicts}" for (start, label), (apart, verdicts) in found.items()
    )
    conclusion = f"""The same protocol keeps or loses the same algorithm, depending on coordinates and regulariser. {steps} epochs of one batch of 64 windows, Adam at 1e-4, {seeds} seeds, T = {T}. The table gives the median held-out error
    at the end (after) with its 95 % interval (predicting zero: 1). Distances in units, and verdicts: {told}."""
    limitations = """Their nets read formal languages, ours a spectrum: the protocol is theirs, the task is not. Seeds differ in the
    training set and, for random starts, in the weights. One strength of each regulariser, one rate."""
    return study.Finding("Perfect starts under a published protocol", rows, conclusion, limitations, figure)


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
