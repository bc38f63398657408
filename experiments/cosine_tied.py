"""Does one frequency vector for both transforms return from further than two? Expected: yes. Two must find each other
within 1.43 bins, which errors up to 0.715 bins guarantee; one is always where its other is, and only neighbours hinder it.

    python experiments/cosine_tied.py               a few minutes; writes outputs/studies/cosine_tied/
"""

import numpy as np
from matplotlib.figure import Figure

from wavebase import study
from wavebase.figures import style
from wavebase.records.atomic import atomic_write

N, SEEDS = 64, range(4)
SCALES = (0.3, 0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0)  # bins
OVERRIDES = (
    "experiment=cosine_reconstruction",
    f"T={N}",
    "model.start=perturbed",
    "model.tied=false,true",
    f"model.frequency_scale={','.join(map(str, SCALES))}",
    f"seed={','.join(map(str, SEEDS))}",
    "train.steps=400",
    "train.batch=32",
    *study.FAST_OVERRIDES,
)


def main() -> None:
    runs = study.sweep("cosine_tied", *OVERRIDES)
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    ax = figure.subplots()
    for tied, colour, label in ((False, style.COLOURS[0], "untied"), (True, style.COLOURS[1], "tied")):
        groups = study.grouped([r for r in runs if r.config["model.tied"] is tied], "model.frequency_scale")
        ends = np.array([study.final_errors(groups[scale,]) for scale in SCALES])
        starts = [np.median([run.value("relative_error", "initial") for run in groups[scale,]]) for scale in SCALES]
        ax.plot(SCALES, starts, ":", color=colour, label=f"{label}, at the start")
        ax.plot(SCALES, np.median(ends, 1), "o-", color=colour, label=f"{label}, after 400 steps")
        ax.fill_between(SCALES, ends.min(1), ends.max(1), color=colour, alpha=0.2, linewidth=0)
        for scale, start, end in zip(SCALES, starts, ends, strict=True):
            print(
                f"{label:<7} {scale:>5} bins: {start:.2g} -> {np.median(end):.1e} ({end.min():.1e} to {end.max():.1e})"
            )
    ax.axhline(1, color=style.GREY, linestyle="--", linewidth=1, label="predicting zero")
    ax.set(yscale="log", xlabel="largest frequency error at the start, bins", ylabel="relative error")
    ax.set_title(f"Tied against untied, N = {N}: median and range over {len(SEEDS)} seeds", fontsize=11)
    ax.grid(alpha=0.25)
    ax.legend(fontsize=9)
    atomic_write(study.FOLDER / "cosine_tied" / "tied.png", lambda file: file.write(style.png(figure)))


if __name__ == "__main__":
    main()
