"""What does an optimiser repair of a displaced algorithm: the function, or the structure too? Expected: the function, from as far
as 0.1 and to as many digits as the optimiser's order allows; not the stream, leakage between blocks and the place in weight
space, which one window of training does not show.

    python experiments/repair.py [--full]
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure

import wavebase
from wavebase import formatting, statistics, study
from wavebase.constructions.construction import STATE_NAMES, Construction
from wavebase.figures import style
from wavebase.probes.position import Subspaces, subspaces
from wavebase.records.atomic import atomic_write

EVERYWHERE = "all"  # directions of every trained weight; the others lie in parts of weight space
PARTS = ("visible", "gauge", "null")
OPTIMISERS = {  # label: the words that make it
    "SGD": "optim=sgd",
    "momentum": "optim=momentum",
    "Adam": "optim=adam",
    "L-BFGS": "optim=lbfgs",
    "Gauss-Newton": "optim=gauss_newton",
}
WHOLE = ("L-BFGS", "Gauss-Newton")  # they take a fixed training set as one batch
MEASURED = {  # what is shown of a net, by its tag
    "error": "error/training",
    "stream": "error/stream",
    "masked": "mechanism/masked_error",
    "distance": "position/distance",
}


def direction(kind: str, parts: Subspaces, start: Construction, generator: torch.Generator) -> torch.Tensor:
    """A random unit vector in unit-scaled coordinates, within one of the parts, or of all weights but the initial state."""
    noise = torch.randn(len(parts.live), generator=generator, dtype=torch.float64)
    if kind == EVERYWHERE:
        sizes = [(name, weight.numel()) for name, weight in start.weights.items()]
        vector = noise * torch.cat([torch.full((n,), float(name not in STATE_NAMES)) for name, n in sizes])
    else:
        vector = torch.zeros_like(noise)
        vector[parts.live] = parts.split(noise)[kind]
    return vector / vector.norm()


def displaced(start: Construction, vector: torch.Tensor, distance: float) -> dict[str, torch.Tensor]:
    """The start's weights moved along a unit vector by so much of their own norm, both in units."""
    names = list(start.weights)
    theta = torch.cat([(start.weights[name] / start.unit_scale[name]).flatten() for name in names])
    components = (distance * theta.norm() * vector).split([start.weights[name].numel() for name in names])
    return {
        name: start.weights[name] + (piece.view_as(start.weights[name]) * start.unit_scale[name])
        for name, piece in zip(names, components, strict=True)
    }


def middle(runs: list[study.Run], when: str, tag: str) -> tuple[float, float, float]:
    """Median and interval of a probe's value; infinite where there is none."""
    values = [run.value("probes", when, tag) for run in runs]
    return statistics.median([np.inf if value is None else value for value in values])


def trained(
    size: study.Size, T: int, files: Mapping[str, tuple[str, float]], chosen: Mapping[str, str]
) -> dict[tuple[str, str, float], list[study.Run]]:
    """The runs from each file with each optimiser, by optimiser, direction and distance."""
    steps = size.pick(tiny=2, fast=300, full=5000)
    whole = size.pick(tiny=(2, 16), fast=(10, 64), full=(30, 160))
    found: dict[tuple[str, str, float], list[study.Run]] = {}
    for optimiser, words in chosen.items():
        few, count = whole if optimiser in WHOLE else (steps, None)
        more = (f"task.training_count={count}", f"train.batch={count}") if count else ()
        runs = size.sweep(
            f"T={T}", f"model.start_from={','.join(files)}", words, f"train.steps={few}", "probe.curvature_batch=64",
            "probe.curvature=false", *more,
        )  # fmt: skip
        for run in runs:
            found.setdefault((optimiser, *files[run.config["model.start_from"]]), []).append(run)
    return found


def measure(size: study.Size) -> study.Finding:
    T = size.pick(tiny=3, fast=4, full=8)
    seeds = size.pick(tiny=1, fast=3, full=20)
    far = size.pick(tiny=(0.01,), fast=(1e-3, 1e-2, 0.1), full=(1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3))
    aside = size.pick(tiny=(0.01,), fast=(1e-2, 0.1), full=(1e-3, 1e-2, 0.1, 0.3))  # within the parts
    start = wavebase.spectral_construction(T, scale=1 / T)
    parts = subspaces(start, unit_scaled=True)
    everywhere: dict[str, tuple[str, float]] = {}
    within: dict[str, tuple[str, float]] = {}
    for kind in (EVERYWHERE, *PARTS[:: size.pick(tiny=3, fast=1, full=1)]):
        for seed in range(seeds):
            vector = direction(kind, parts, start, torch.Generator().manual_seed(seed))
            for distance in far if kind == EVERYWHERE else aside:
                path = size.folder / "starts" / f"{kind}_{distance}_{seed}.pt"
                weights = displaced(start, vector, distance)
                atomic_write(path, lambda file, weights=weights: torch.save(weights, file))
                (everywhere if kind == EVERYWHERE else within)[str(path)] = kind, distance
    names = list(OPTIMISERS)[:: size.pick(tiny=4, fast=1, full=1)]
    groups = trained(size, T, everywhere, {name: OPTIMISERS[name] for name in names})
    groups |= trained(size, T, within, {"SGD": OPTIMISERS["SGD"]})

    rows, found = [], {}
    order = sorted(groups, key=lambda key: (key[1] != EVERYWHERE, names.index(key[0]), key[1], key[2]))
    for optimiser, kind, distance in order:
        runs = groups[optimiser, kind, distance]
        now = {name: [middle(runs, when, tag) for when in ("initial", "final")] for name, tag in MEASURED.items()}
        found[optimiser, kind, distance] = now
        rows.append(
            {
                "with": optimiser if kind == EVERYWHERE else f"{optimiser}, {kind}",
                "far": distance,
                "was": formatting.brief(now["error"][0][0]),
                "error": "{} ({}-{})".format(*map(formatting.brief, now["error"][1])),
                **{name: formatting.brief(now[name][1][0]) for name in ("stream", "masked")},
                "apart": formatting.brief(now["distance"][1][0]),
                "mostly": Counter(run.verdict for run in runs).most_common(1)[0][0],
            }
        )
    figure = Figure(figsize=(10.5, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, colour in zip(names, style.COLOURS, strict=False):
        table = np.array([found[name, EVERYWHERE, distance]["error"] for distance in far]).clip(1e-17, 1e2)
        left.plot(far, table[:, 1, 0], "o-", color=colour, label=name)
        left.fill_between(far, table[:, 1, 1], table[:, 1, 2], color=colour, alpha=0.2, linewidth=0)
    left.plot(far, table[:, 0, 0], "kx:", label="before")
    left.axhline(1, color=style.GREY, linestyle=":", label="predicting zero")
    left.set(xscale="log", yscale="log", xlabel="distance in units, relative", ylabel="relative error, one window")
    left.legend(fontsize=9)
    shown = size.pick(tiny=0.01, fast=1e-2, full=1e-2)
    for place, name in enumerate(names):
        for shift, (what, colour) in zip(
            (-0.2, 0, 0.2), zip(list(MEASURED)[:3], style.COLOURS, strict=False), strict=True
        ):
            (before, *_), (after, *_) = found[name, EVERYWHERE, shown][what]
            label = {"error": "one window", "stream": "stream", "masked": "without leakage"}[what]
            right.plot([place + shift] * 2, [before, after], "-", color=colour, linewidth=1)
            right.plot(place + shift, before, "x", color=colour)
            right.plot(place + shift, after, "o", color=colour, label=label if not place else None)
    right.set_xticks(range(len(names)), names, rotation=20)
    right.set(yscale="log", ylabel="relative error: x before, o after", title=f"displaced by {shown:g}")
    right.legend(fontsize=9)
    for ax in (left, right):
        ax.grid(alpha=0.25)

    def change(name: str, what: str) -> str:
        (before, *_), (after, *_) = found[name, EVERYWHERE, shown][what]
        return f"{before:.1g} to {after:.1g}"

    structure = "; ".join(
        f"{name} stream {change(name, 'stream')}, without leakage {change(name, 'masked')}, distance {change(name, 'distance')}"
        for name in names
    )
    conclusion = f"""Descent repairs the function that it is shown, not the algorithm. Of {len(parts.live)} weights {int(parts.live.sum())} have a gradient; {len(parts.visible)} directions are visible, {len(parts.gauge)} more are
    symmetries. The table gives medians of {seeds} displacements: the error before (was) and after training (error), of all weights and, by SGD,
    within one part. Before and after, from {shown:g}, of what one window does not show: {structure}."""
    limitations = f"""Distances are relative, in unit-scaled coordinates, before the nearest symmetric copy is sought; parts are those of first
    order. SGD and momentum have half their boundary at the displaced start, Adam 1e-3. L-BFGS and Gauss-Newton take few,
    expensive steps on a fixed set, so steps do not compare. With {seeds} displacements an interval is their range."""
    return study.Finding("What is repaired", rows, conclusion, limitations, figure)


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
