"""From how far does gradient descent bring wrong frequencies back? Expected: from 0.7 bins, whatever N, so 2.2/N rad.

A coefficient's two frequencies attract each other while sinc of their distance falls, up to its first minimum at 1.43
bins; with errors within +-s they are at most 2s apart, so s = 0.715 bins should return for certain. A bin is pi/N.

    python experiments/cosine_basin.py              about ten minutes; writes outputs/studies/cosine_basin/
"""

import numpy as np
from matplotlib.figure import Figure

from wavebase import study
from wavebase.figures import style
from wavebase.records.atomic import atomic_write

SCALES = (0.5, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5)  # bins
SIZES, SEEDS = (16, 64, 256), range(6)
RETURNED = 0.01  # relative error at the end
PREDICTED = 1.4303 / 2  # bins
OVERRIDES = (
    "experiment=cosine_reconstruction",
    "model.start=perturbed",
    f"T={','.join(map(str, SIZES))}",
    f"model.frequency_scale={','.join(map(str, SCALES))}",
    f"seed={','.join(map(str, SEEDS))}",
    "train.steps=400",
    "train.batch=32",
    *study.FAST_OVERRIDES,
)


def main() -> None:
    runs = study.sweep("cosine_basin", *OVERRIDES)
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for N, colour in zip(SIZES, style.COLOURS, strict=False):
        groups = study.grouped([r for r in runs if r.config["T"] == N], "model.frequency_scale", "seed")
        errors = np.array([[study.final_errors(groups[s, seed])[0] for seed in SEEDS] for s in SCALES])
        left.plot(SCALES, np.median(errors, 1), "o-", color=colour, label=f"N = {N}")
        left.fill_between(SCALES, errors.min(1), errors.max(1), color=colour, alpha=0.2, linewidth=0)
        # a seed's edge: the last scale before the first that does not return
        ends = (errors > RETURNED).argmax(0)
        ends[(errors <= RETURNED).all(0)] = len(SCALES)
        edges = np.array([SCALES[end - 1] if end else 0.0 for end in ends])
        shares = ", ".join(f"{share:.2f}" for share in np.mean(errors <= RETURNED, 1))
        print(f"N={N}: of the seeds return {shares} at {SCALES} bins; edges {np.sort(edges).tolist()} bins")
        middle = np.median(edges) * np.pi / N
        reach = np.abs(np.array([[edges.min()], [edges.max()]]) * np.pi / N - middle)
        right.errorbar(N, middle, reach, fmt="o", color=colour, capsize=4)
    left.axhline(RETURNED, color=style.GREY, linewidth=0.8)
    left.axhline(1, color=style.GREY, linestyle=":", label="predicting zero")
    left.axvline(PREDICTED, color=style.GREY, linestyle="--", label="predicted, 0.715 bins")
    left.set(yscale="log", xlabel="largest frequency error at the start, bins", ylabel="relative error at the end")
    left.set_title(f"Median and range over {len(SEEDS)} seeds", fontsize=11)
    N = np.array(SIZES)
    right.plot(N, PREDICTED * np.pi / N, "--", color=style.GREY, label="predicted, 0.715 pi/N")
    right.set(xscale="log", yscale="log", xlabel="N", ylabel="edge of the basin, radians per sample")
    right.set_xticks(N, map(str, N))
    right.set_xticks([], minor=True)
    right.set_title("Edge: median and range over seeds", fontsize=11)
    for ax in (left, right):
        ax.grid(alpha=0.25)
        ax.legend(fontsize=9)
    atomic_write(study.FOLDER / "cosine_basin" / "basin.png", lambda file: file.write(style.png(figure)))


if __name__ == "__main__":
    main()
