"""Does an algorithm come back after training off its task? Expected: for a while, because the output's scale is lost first and
the structure is still there; a net that started at random, in whatever coordinates, takes far longer.

Off the task means shuffled targets: nothing can be learnt but the mean.

    python experiments/spectral_revival.py [--full]
"""

from collections import Counter

import numpy as np
from matplotlib.figure import Figure

from wavebase import statistics, study
from wavebase.figures import style

RECOVERED = 0.01  # training loss over the mean predictor's
UNDER = {"SGD": "optim=sgd", "Adam": "optim=adam optim.lr=0.003"}
RANDOM = {"random": "model=random", "random_scaled": "model=random_scaled"}


def losses(run: study.Run) -> tuple[np.ndarray, np.ndarray]:
    """Steps after the return to the task, and the training loss over the mean predictor's, averaged over 5 records."""
    steps, values = run.folder.metrics()["loss/train"]
    off = run.config["task.off_task_steps"] or 0
    mean = np.convolve(np.pad(values, (2, 2), mode="edge"), np.ones(5) / 5, "valid")
    return steps - off, np.nan_to_num(mean / run.value("baseline", "mean"), nan=1e6)


def recovery(run: study.Run) -> float:
    """Steps on the task until the loss is under RECOVERED; infinite if never."""
    steps, relative = losses(run)
    there = (steps >= 0) & (relative < RECOVERED)
    return float(steps[there.argmax()]) if there.any() else np.inf


def measure(size: study.Size) -> study.Finding:
    T = size.pick(tiny=3, fast=4, full=8)
    seeds = size.pick(tiny=1, fast=8, full=50)
    back = size.pick(tiny=2, fast=300, full=6000)
    durations = size.pick(tiny=(1,), fast=(10, 100), full=(10, 30, 100, 300, 1000, 3000))
    shared = (
        f"T={T}",
        f"seed=range(0,{seeds})",
        "train.log_every=5",
        "probe.curvature=false",
        "probe.curvature_batch=64",
    )
    groups = {
        f"{under}, off for {off}": size.sweep(
            *shared, *words.split(), "task.shuffle_targets=true", f"task.off_task_steps={off}",
            f"train.steps={off + back}",
        )
        for under, words in list(UNDER.items())[: size.pick(tiny=1, fast=2, full=2)]
        for off in durations
    }  # fmt: skip
    for label, words in list(RANDOM.items())[: size.pick(tiny=1, fast=2, full=2)]:
        groups[f"{label}, Adam"] = size.sweep(words, "optim=adam", "optim.lr=0.01", *shared, f"train.steps={back}")

    figure = Figure(figsize=(8, 5), layout="constrained")
    ax = figure.subplots()
    rows = []
    for (label, runs), colour in zip(groups.items(), style.COLOURS, strict=False):
        curves = [losses(run) for run in runs]
        steps = curves[0][0]
        table = np.array([relative for _, relative in curves])
        line = "--" if label.startswith("random") else "-"
        ax.plot(steps, np.median(table, 0), line, color=colour, label=label)
        ax.fill_between(steps, *np.quantile(table, (0.05, 0.95), axis=0), color=colour, alpha=0.15, linewidth=0)
        times = np.array([recovery(run) for run in runs])
        part, low, high = statistics.proportion(int(np.isfinite(times).sum()), len(times))
        middle, first, last = statistics.median(times)
        rows.append(
            {
                "start": label,
                "return": float(np.median(table[:, np.argmax(steps >= 0)])),
                "recover": f"{part:.2f} ({low:.2f}-{high:.2f})",
                "steps": f"{middle:.0f} ({first:.0f}-{last:.0f})",
                "stream": float(np.median([run.value("probes", "final", "error/stream") or np.inf for run in runs])),
                "mostly": Counter(run.verdict for run in runs).most_common(1)[0][0],
            }
        )
    ax.axvline(0, color=style.GREY, linewidth=0.8)
    ax.axhline(1, color=style.GREY, linestyle="--", linewidth=1, label="predicting the mean")
    ax.axhline(RECOVERED, color=style.GREY, linestyle=":", linewidth=1, label="recovered")
    ax.set(yscale="log", ylim=(1e-4, 30), xlabel="steps after the return to the task")
    ax.set_ylabel("training loss / mean predictor's")
    ax.grid(alpha=0.25)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    told = "; ".join(f"{row['start']}: {row['steps']}" for row in rows)
    conclusion = f"""From the exact start, SGD at half the boundary or Adam at 0.003, {seeds} seeds, {back} steps on the task after those off it; random
    nets have Adam at 0.01. Recovered means a training loss under {RECOVERED:g} of the mean predictor's. The table gives that loss at
    the return, the proportion of runs that recover, the median steps to it, and the error on a stream at the end (predicting zero: 1).
    Steps to recovery: {told}."""
    limitations = """Rates are not tuned. The verdict compares the last net with the exact start: drifted and recovered together mean that the
    function came back on the training signal, and the old way to compute it, or the other signals, did not."""
    return study.Finding("Revival", rows, conclusion, limitations, figure)


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
