"""What does a random start reach? Expected: tied, an error of at most 1/sqrt(e) = 0.61, for of N bins the share 1/e
gets none of N random frequencies; untied, hardly better than zero, for pairs lie far over the 1.43 bins of attraction.

    python experiments/cosine_random.py             a few minutes; writes outputs/studies/cosine_random/
"""

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from wavebase import study
from wavebase.figures import style
from wavebase.records.atomic import atomic_write

SIZES, SEEDS = (8, 16, 32, 64), range(6)
OVERRIDES = (
    "experiment=cosine_reconstruction",
    "model.start=random",
    "model.tied=false,true",
    f"T={','.join(map(str, SIZES))}",
    f"seed={','.join(map(str, SEEDS))}",
    "train.steps=4000",
    "train.batch=32",
    *study.FAST_OVERRIDES,
)


def product(run: study.Run) -> float:
    """a2 a4 at the start."""
    weights = run.folder.load_checkpoint(0)["weights"]
    return (weights["amplitude_analysis"] * weights["amplitude_synthesis"])[1].item()


def main() -> None:
    runs = study.sweep("cosine_random", *OVERRIDES)
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for tied, mark, label in ((False, "x", "untied"), (True, "o", "tied")):
        groups = study.grouped([r for r in runs if r.config["model.tied"] is tied], "T")
        for (N,), colour in zip(groups, style.COLOURS, strict=False):
            ends, at_start = study.final_errors(groups[N,]), [product(run) for run in groups[N,]]
            left.plot([N] * len(ends), ends, mark, color=colour, fillstyle="none")
            if tied:
                right.plot(at_start, ends, mark, color=colour, fillstyle="none", label=f"tied, N = {N}")
            print(f"{label:<7} N={N:<3}: {np.median(ends):.3f} ({ends.min():.2g} to {ends.max():.3f})")
        left.plot(
            [n for (n,) in groups], [np.median(study.final_errors(g)) for g in groups.values()], "-_", color="0.6"
        )
    tied = [run for run in runs if run.config["model.tied"]]
    rank = spearmanr([abs(product(run)) for run in tied], study.final_errors(tied))
    print(
        f"tied: rank correlation of |a2 a4| at the start and the final error {rank.statistic:.2f} (p = {rank.pvalue:.1e})"
    )
    for ax in (left, right):
        ax.axhline(1, color=style.GREY, linestyle=":", label="predicting zero")
        ax.axhline(np.exp(-0.5), color=style.GREY, linestyle="--", label="a share 1/e of the bins empty")
        ax.grid(alpha=0.25)
    left.set(xscale="log", xlabel="N = M", ylabel="relative error after 4000 steps", ylim=(-0.03, 1.1))
    left.set_xticks(SIZES, map(str, SIZES))
    left.set_xticks([], minor=True)
    left.set_title("x untied, o tied; a point is a seed, the line the median", fontsize=11)
    right.set(xlabel="a2 a4 at the start (exact: 2)")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    atomic_write(study.FOLDER / "cosine_random" / "random.png", lambda file: file.write(style.png(figure)))


if __name__ == "__main__":
    main()
