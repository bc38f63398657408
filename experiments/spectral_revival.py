"""Does an algorithm come back after training off its task? Expected: for a while, because what is lost first is the output's
scale and the structure is still there; a net that started at random takes far longer, or never arrives.

Off the task means shuffled targets: nothing can be learnt but the mean.

    python experiments/spectral_revival.py [--full]
"""

from collections import Counter

import numpy as np
from matplotlib.figure import Figure

from wavebase import figures, study

RECOVERED = 0.01  # training loss over the mean predictor's; a spectral net starts at about 0.002


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
    seeds = size.pick(tiny=1, fast=20, full=50)
    back = size.pick(tiny=2, fast=400, full=6000)
    durations = size.pick(tiny=(1,), fast=(10, 30, 100, 300), full=(10, 30, 100, 300, 1000, 3000))
    rate = size.pick(tiny="0.003", fast="0.003", full="0.001")
    shared = (f"T={T}", f"seed=range(0,{seeds})", "optim=adam", "train.log_every=5", "probe.curvature=false")
    groups = {
        f"off for {off}": size.sweep(
            "model=spectral", "model.preset=trainable", *shared, f"optim.lr={rate}",
            "task.shuffle_targets=true", f"task.off_task_steps={off}", f"train.steps={off + back}",
        )
        for off in durations
    }  # fmt: skip
    for lr in size.pick(tiny=("0.01",), fast=("0.003", "0.01"), full=("0.001", "0.003", "0.01")):
        groups[f"random, {lr}"] = size.sweep("model=random", *shared, f"optim.lr={lr}", f"train.steps={back}")

    figure = Figure(figsize=(8, 5), layout="constrained")
    ax = figure.subplots()
    rows = []
    for (label, runs), colour in zip(groups.items(), figures.COLOURS, strict=False):
        curves = [losses(run) for run in runs]
        steps = curves[0][0]
        table = np.array([relative for _, relative in curves])
        line = "--" if label.startswith("random") else "-"
        ax.plot(steps, np.median(table, 0), line, color=colour, label=label)
        ax.fill_between(steps, *np.quantile(table, (0.05, 0.95), axis=0), color=colour, alpha=0.15, linewidth=0)
        times = np.array([recovery(run) for run in runs])
        part, low, high = study.share(int(np.isfinite(times).sum()), len(times))
        middle, first, last = study.median(times)
        rows.append(
            {
                "start": label,
                "return": float(np.median(table[:, np.argmax(steps >= 0)])),
                "recover": f"{part:.2f} ({low:.2f}-{high:.2f})",
                "steps": f"{middle:.0f} ({first:.0f}-{last:.0f})",
                "end": float(np.median(table[:, -1])),
                "mostly": None
                if label.startswith("random")
                else Counter(run.verdict for run in runs).most_common(1)[0][0],
            }
        )
    ax.axvline(0, color=figures.GREY, linewidth=0.8)
    ax.axhline(1, color=figures.GREY, linestyle="--", linewidth=1, label="predicting the mean")
    ax.axhline(RECOVERED, color=figures.GREY, linestyle=":", linewidth=1, label="recovered")
    ax.set(yscale="log", ylim=(1e-4, 30), xlabel="steps after the return to the task")
    ax.set_ylabel("training loss / mean predictor's")
    ax.grid(alpha=0.25)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    first, last = rows[0], rows[len(durations) - 1]
    random = "; ".join(f"of {row['start']}, {row['recover']} after {row['steps']}" for row in rows[len(durations) :])
    says = f"""Adam at {rate}, {seeds} seeds, {back} steps on the task; recovered means a training loss under {RECOVERED:g} of the mean
    predictor's; shares and median steps with their intervals. Off the task the exact net forgets within {durations[0]} steps: at the
    return its loss is {first["return"]:.2g}, that of the mean. After {durations[0]} such steps {first["recover"]} recover, after
    {first["steps"]}; after {durations[-1]}, {last["recover"]}, after {last["steps"]}. Random nets: {random} steps. Soon, then, what is
    left of an algorithm is a better start than a random one at the same rate only."""
    silent = """The verdict is on the last net against the exact start: drifted and recovered together mean that the function came
    back on the training signal, and the old way to compute it, or the other signals, did not. Random nets start with no
    algorithm to keep."""
    return study.Finding("Revival", rows, says, silent, figure)


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
