"""What do M < N frequencies keep? Expected: no more than rank M allows, a relative error of sqrt(1 - M/N) on white
noise. The grid reaches that where M divides N; elsewhere it folds samples onto each other unevenly, and descent helps.

    python experiments/cosine_fewer.py              a few minutes; writes outputs/studies/cosine_fewer/
"""

import numpy as np
from matplotlib.figure import Figure

from wavebase import study
from wavebase.figures import style
from wavebase.records.atomic import atomic_write

N, SEEDS = 64, range(3)
FEWER = (8, 16, 32, 48, 64)
OVERRIDES = (
    "experiment=cosine_reconstruction",
    f"T={N}",
    f"model.M={','.join(map(str, FEWER))}",
    "model.tied=false,true",
    f"seed={','.join(map(str, SEEDS))}",
    "train.steps=2000",
    "train.batch=32",
    *study.FAST_OVERRIDES,
)


def main() -> None:
    runs = study.sweep("cosine_fewer", *OVERRIDES)
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    ax = figure.subplots()
    share = np.array(FEWER) / N
    floor = np.sqrt(1 - share)
    ax.plot(share, floor, "--", color=style.GREY, label="best of rank M, sqrt(1 - M/N)")
    for tied, colour, label in ((False, style.COLOURS[0], "untied"), (True, style.COLOURS[1], "tied")):
        groups = study.grouped([r for r in runs if r.config["model.tied"] is tied], "model.M")
        starts = np.array([[run.value("relative_error", "initial") for run in groups[M,]] for M in FEWER])
        ends = np.array([study.final_errors(groups[M,]) for M in FEWER])
        if tied:  # at the start both are the same net
            ax.plot(share, starts.mean(1), "x:", color=style.COLOURS[2], label="the grid of M, at the start")
        ax.plot(share, np.median(ends, 1), "o-", color=colour, fillstyle="none", label=f"{label}, after 2000 steps")
        ax.fill_between(share, ends.min(1), ends.max(1), color=colour, alpha=0.2, linewidth=0)
        for M, best, start, end in zip(FEWER, floor, starts.mean(1), ends, strict=True):
            print(
                f"{label:<7} M={M:<3} floor {best:.3f}: {start:.3f} -> {np.median(end):.3f} ({end.min():.3f} to {end.max():.3f})"
            )
    ax.axhline(1, color=style.GREY, linestyle=":", linewidth=1, label="predicting zero")
    ax.set(xlabel="M / N", ylabel="relative error", ylim=(-0.02, 1.25))
    ax.set_title(f"Fewer frequencies than samples, N = {N}: median and range over {len(SEEDS)} seeds", fontsize=11)
    ax.grid(alpha=0.25)
    ax.legend(fontsize=9)
    atomic_write(study.FOLDER / "cosine_fewer" / "fewer.png", lambda file: file.write(style.png(figure)))


if __name__ == "__main__":
    main()
