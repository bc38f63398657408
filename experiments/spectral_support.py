"""Do gate saturation, dtype and training data matter? Expected: a low margin frees more weights and costs exactness; float32 is
enough; what training does not show is not maintained: trained on two sinusoids under noise, the error there stays small
while that on white noise rises.

    python experiments/spectral_support.py [--full]
"""

from collections import Counter

import numpy as np
from matplotlib import cbook
from matplotlib.figure import Figure

from wavebase import study
from wavebase.figures import style
from wavebase.records.atomic import atomic_write

CENTRE = {"model.margin": "40", "dtype": "float64", "T": "4", "signal": "white_noise"}
OPTIMISERS = {"sgd": "SGD, half the boundary", "adam": "Adam, 1e-3"}


def recording(size: study.Size) -> str:
    """A file with four channels of an electroencephalogram of 800 samples, which matplotlib brings along."""
    with cbook.get_sample_data("eeg.dat") as file:
        table = np.fromfile(file, dtype=float).reshape(800, 4)
    path = size.folder / "electroencephalogram.npy"
    atomic_write(path, lambda out: np.save(out, table - table.mean(0)))
    return str(path)


def settings(size: study.Size) -> dict[str, dict[str, str]]:
    """By label, what differs from CENTRE: one thing at a time."""
    margins = size.pick(tiny=(), fast=(4, 8), full=(2, 4, 6, 8, 12, 16, 24))
    lengths = size.pick(tiny=(), fast=(), full=(3, 5, 8, 16))
    signals = {
        "two sinusoids": "sinusoids signal.amplitude=0.5 signal.components=2",
        "impulses": "impulse",
        "recording": f"file signal.remove_mean=false signal.path={recording(size)}",
    }
    return {
        "the centre": {},
        **{f"margin {margin}": {"model.margin": str(margin)} for margin in margins},
        "float32": {"dtype": "float32"},
        **{f"T = {T}": {"T": str(T)} for T in lengths},
        **{label: {"signal": words} for label, words in list(signals.items())[: size.pick(tiny=1, fast=3, full=3)]},
    }


def measure(size: study.Size) -> study.Finding:
    seeds = size.pick(tiny=1, fast=3, full=20)
    shared = (
        "model=spectral",
        "task.label_noise=0.1",
        f"optim={','.join(OPTIMISERS)}",
        f"seed=range(0,{seeds})",
        f"train.steps={size.pick(tiny=2, fast=300, full=3000)}",
        "probe.curvature_batch=64",
    )
    rows = []
    for label, change in settings(size).items():
        words = " ".join(f"{key}={value}" for key, value in {**CENTRE, **change}.items())
        runs = size.sweep(*shared, *words.split())
        for optimiser, title in OPTIMISERS.items():
            chosen = [run for run in runs if run.choices["optim"] == optimiser]

            def middle(*path: str, chosen: list[study.Run] = chosen) -> float:
                values = [run.value(*path) for run in chosen]
                return float(np.median([np.inf if value is None else value for value in values]))

            rows.append(
                {
                    "setting": label,
                    "with": title.split(",")[0],
                    "live": middle("probes", "initial", "gradient/live_fraction"),
                    "start": middle("probes", "initial", "error/training"),
                    "trained": middle("probes", "final", "error/training"),
                    "noise": middle("probes", "initial", "error/white_noise"),
                    "noise after": middle("probes", "final", "error/white_noise"),
                    "verdict": Counter(run.verdict for run in chosen).most_common(1)[0][0],
                }
            )
    figure = Figure(figsize=(11, 0.42 * len(rows) / 2 + 2.4), layout="constrained")
    axes = figure.subplots(1, len(OPTIMISERS), sharex=True, sharey=True)
    for ax, title in zip(axes, OPTIMISERS.values(), strict=True):
        chosen = [row for row in rows if row["with"] == title.split(",")[0]]
        for shift, (before, after, name, colour) in zip(
            (0.15, -0.15),
            (
                ("start", "trained", "training signal", style.COLOURS[0]),
                ("noise", "noise after", "white noise", style.COLOURS[1]),
            ),
            strict=True,
        ):
            y = np.arange(len(chosen))[::-1] + shift
            begin, end = (np.array([row[key] for row in chosen]).clip(1e-17, 1e3) for key in (before, after))
            ax.hlines(y, begin, end, color=colour, linewidth=1.5)
            ax.plot(begin, y, "|", color=colour, markersize=8)
            ax.plot(end, y, "o", color=colour, markersize=5, label=f"{name}: | at the start, o after training")
        for place, row in zip(np.arange(len(chosen))[::-1], chosen, strict=True):
            ax.text(1.01, place, row["verdict"], transform=ax.get_yaxis_transform(), fontsize=8, va="center")
        ax.axvline(1, color=style.GREY, linestyle=":", linewidth=1, label="predicting zero")
        ax.set(xscale="log", xlabel="relative error", title=title)
        ax.set_yticks(np.arange(len(chosen))[::-1], [row["setting"] for row in chosen])
        ax.grid(alpha=0.25)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    found = {(row["setting"], row["with"]): row for row in rows}

    labels = list(dict.fromkeys(row["setting"] for row in rows))
    signals = labels[-size.pick(tiny=1, fast=3, full=3) :]
    dtypes = max(abs(found["float32", o]["trained"] / found["the centre", o]["trained"] - 1) for o in ("SGD", "Adam"))

    def after(optimiser: str) -> str:
        return ", ".join(f"{label} {found[label, optimiser]['noise after']:.2g}" for label in signals)

    conclusion = f"""From the exact start under label noise 0.1; one change at a time from white noise at T = 4, margin 40, float64; medians of
    {seeds} seeds. Start and trained are errors on the training signal, noise and noise after those on white noise; live is the
    proportion of the cell's weights with a live gate. float32 changes the error after training by {100 * dtypes:.2g} % at most.
    Error on white noise after training on another signal, Adam: {after("Adam")}; SGD: {after("SGD")}."""
    limitations = """One rate for each optimiser: half the boundary, measured on the training signal, and 1e-3. Label noise is a tenth of
    the targets' size, so it differs from signal to signal."""
    return study.Finding("Margin, dtype, window and data", rows, conclusion, limitations, figure)


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
