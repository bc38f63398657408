"""From how far does gradient descent come back, and does the direction matter? Expected: yes. What the function sees is
repaired while it is small; along null and gauge directions the function hardly notices, so that nothing calls them back.

    python experiments/spectral_basin.py [--full]
"""

from collections import Counter

import numpy as np
import torch
from matplotlib.figure import Figure

import wavebase
from wavebase import figures, records, study
from wavebase.constructions import symmetry
from wavebase.constructions.construction import Construction
from wavebase.probes.position import Subspaces, subspaces

KEPT, FUNCTION = {"preserved", "deformed"}, {"preserved", "deformed", "drifted"}
DIRECTIONS = ("visible", "null", "gauge")


def direction(kind: str, parts: Subspaces, generator: torch.Generator) -> torch.Tensor:
    """A random unit vector of weight space, uniform within one of the parts."""
    noise = torch.zeros(len(parts.live), dtype=torch.float64)
    noise[parts.live] = torch.randn(int(parts.live.sum()), generator=generator, dtype=torch.float64)
    vector = torch.zeros_like(noise)
    vector[parts.live] = parts.split(noise)[kind]
    return vector / vector.norm()


def displaced(start: Construction, vector: torch.Tensor) -> dict[str, torch.Tensor]:
    """The weights of the start plus a vector."""
    pieces = vector.split([weight.numel() for weight in start.weights.values()])
    return {name: w + piece.view_as(w) for (name, w), piece in zip(start.weights.items(), pieces, strict=True)}


def measure(size: study.Size) -> study.Finding:
    T = size.pick(tiny=3, fast=4, full=8)
    seeds = size.pick(tiny=1, fast=20, full=50)
    distances = size.pick(tiny=(0.1,), fast=(0.03, 0.1, 0.3, 1.0), full=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0))
    start = wavebase.spectral_construction(T, preset="trainable", scale=1 / T)
    parts = subspaces(start)
    files = {}
    for kind in DIRECTIONS:
        for seed in range(seeds):
            vector = direction(kind, parts, torch.Generator().manual_seed(seed))
            for distance in distances:
                path = size.folder / "starts" / f"{kind}_{distance}_{seed}.pt"
                weights = displaced(start, distance * vector)
                records.write_whole(path, lambda file, weights=weights: torch.save(weights, file))
                files[str(path)] = kind, distance
    runs = size.sweep(
        "model=spectral",
        "model.preset=trainable",
        f"T={T}",
        f"model.start_from={','.join(files)}",
        "optim.lr=0.0025",  # half the boundary of the exact start at T = 4
        "probe.curvature=false",
        "probe.measure=[function.held_out_error]",
        f"train.steps={size.pick(tiny=2, fast=300, full=3000)}",
    )
    groups: dict[tuple[str, float], list[study.Run]] = {}
    for run in runs:
        groups.setdefault(files[run.config["model.start_from"]], []).append(run)

    rows, shares, errors = [], {}, {}
    failures: dict[str, Counter] = {}
    for kind in DIRECTIONS:
        for distance in distances:
            members = groups[kind, distance]
            names = []
            for_what = failures.setdefault(kind, Counter())
            for run in members:
                last = run.folder.load_checkpoint(run.folder.checkpoint_steps()[-1])["weights"]
                verdict = wavebase.verdict(last, start)
                names.append(verdict.name)
                for_what.update(c.name for c in verdict.conditions if not c.holds and c.kind != "position")
            before = float(np.median([run.value("relative_error", "initial") for run in members]))
            after = float(np.median(study.final_errors(members)))
            shares[kind, distance] = study.share(sum(name in KEPT for name in names), len(names))
            function = study.share(sum(name in FUNCTION for name in names), len(names))
            errors[kind, distance] = before, after
            rows.append(
                {
                    "along": kind,
                    "far": distance,
                    "error": before,
                    "after": after,
                    "kept": "{:.2f} ({:.2f}-{:.2f})".format(*shares[kind, distance]),
                    "function": "{:.2f} ({:.2f}-{:.2f})".format(*function),
                    "mostly": Counter(names).most_common(1)[0][0],
                }
            )
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    x = np.array(distances)
    for n, (kind, colour) in enumerate(zip(DIRECTIONS, figures.COLOURS, strict=False)):
        middle, low, high = np.array([shares[kind, distance] for distance in distances]).T
        left.errorbar(
            x * 1.05 ** (n - 1), middle, (middle - low, high - middle), fmt="o-", color=colour, capsize=3, label=kind
        )
        before, after = np.array([errors[kind, distance] for distance in distances]).T
        right.plot(x, np.minimum(before, 1e3), "x:", color=colour, label=f"{kind}, displaced")
        right.plot(x, np.minimum(after, 1e3), "o-", color=colour, label=f"{kind}, trained")
    left.set(xscale="log", ylim=(-0.04, 1.04), xlabel="distance from the exact net (Euclidean, all weights)")
    left.set_ylabel("share preserved or deformed after training")
    left.legend(fontsize=9)
    right.axhline(1, color=figures.GREY, linestyle=":", linewidth=1, label="predicting zero")
    right.set(xscale="log", yscale="log", xlabel="distance from the exact net", ylabel="relative error, median")
    right.legend(fontsize=8, ncols=2)
    for ax in (left, right):
        ax.grid(alpha=0.25)
    reasons = "; ".join(
        f"{kind} {', '.join(f'{name} {count}' for name, count in failures[kind].most_common(3))}" for kind in DIRECTIONS
    )
    near, far = distances[0], distances[-1]
    told = "; ".join(
        f"{kind} {errors[kind, near][0]:.2g} to {errors[kind, near][1]:.2g} at {near:g} and {errors[kind, far][0]:.2g} to {errors[kind, far][1]:.2g} at {far:g}"
        for kind in DIRECTIONS
    )
    kept = "; ".join(
        f"{kind} {', '.join(f'{shares[kind, distance][0]:.2f} at {distance:g}' for distance in distances[:2])}"
        for kind in DIRECTIONS
    )
    says = f"""{seeds} random directions within each part of weight space ({len(parts.visible)} visible, {len(parts.gauge)} gauge dimensions of
    {int(parts.live.sum())} with a gradient), then SGD at half the exact start's boundary. The function is repaired in every part: error
    {told}. The algorithm is kept (preserved or deformed, against the exact net) much less far: {kept}. Conditions that failed most often, over all distances: {reasons}."""
    silent = f"""Parts are those of the first order: a null or gauge direction is seen by the function at second order, the more
    the further one goes. Distances are Euclidean over all weights (an exact net has norm {float(symmetry.flatten(start.weights).norm()):.0f}, nearly
    all of it in the clock's and the saturated biases), so they compare directions, not nets."""
    return study.Finding("The basin, by direction", rows, says, silent, figure)


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
