"""What does a random start reach? Expected: tied, an error of at most 1/sqrt(e) = 0.61, for of N bins the share 1/e
gets none of N random frequencies; untied, hardly better than zero, for pairs lie far over the 1.43 bins of attraction.

    python experiments/cosine_random.py             a few minutes; writes outputs/studies/cosine_random/
"""

import numpy as np
from matplotlib.figure import Figure

from wavebase import figures, records, study

SIZES, SEEDS = (8, 16, 32, 64), range(6)
OVERRIDES = (
    "experiment=cosine_reconstruction",
    "model.start=random",
    "model.tied=false,true",
    f"T={','.join(map(str, SIZES))}",
    f"seed={','.join(map(str, SEEDS))}",
    "train.steps=4000",
    "train.batch=32",
    *study.BRIEF,
)


def main() -> None:
    runs = study.sweep("cosine_random", *OVERRIDES)
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    ax = figure.subplots()
    for tied, colour, label in ((False, figures.COLOURS[0], "untied"), (True, figures.COLOURS[1], "tied")):
        groups = study.grouped([r for r in runs if r.config["model.tied"] is tied], "T")
        ends = np.array([study.final_errors(groups[N,]) for N in SIZES])
        ax.plot(SIZES, np.median(ends, 1), "o-", color=colour, label=f"{label}, after 4000 steps")
        ax.fill_between(SIZES, ends.min(1), ends.max(1), color=colour, alpha=0.2, linewidth=0)
        for N, end in zip(SIZES, ends, strict=True):
            print(f"{label:<7} N={N:<3}: {np.median(end):.3f} ({end.min():.3f} to {end.max():.3f})")
    ax.axhline(1, color=figures.GREY, linestyle=":", label="predicting zero")
    ax.axhline(np.exp(-0.5), color=figures.GREY, linestyle="--", label="a share 1/e of the bins empty")
    ax.set(xscale="log", xlabel="N = M", ylabel="relative error", ylim=(0, 1.3))
    ax.set_xticks(SIZES, map(str, SIZES))
    ax.set_xticks([], minor=True)
    ax.set_title(f"Random starts: median and range over {len(SEEDS)} seeds", fontsize=11)
    ax.grid(alpha=0.25)
    ax.legend(fontsize=9)
    records.write_whole(study.FOLDER / "cosine_random" / "random.png", lambda file: file.write(figures.png(figure)))


if __name__ == "__main__":
    main()
