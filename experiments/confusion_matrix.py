"""Does the verdict know an algorithm that was kept from one that was not? Expected: of nets whose truth is known beforehand at
least 95 % are read right, no symmetry's net as drifted or broken, no rival or trained random net as preserved or deformed.

Weights made by hand (symmetries, displacements, rivals) are judged as they are; trained nets against the exact construction.

    python experiments/confusion_matrix.py [--full]
"""

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import wavebase
from wavebase import figures, study
from wavebase.constructions import symmetry
from wavebase.constructions.construction import Construction, pad
from wavebase.constructions.rivals import delay_line_construction, resonator_construction

VERDICTS = ("preserved", "deformed", "drifted", "broken", "diverged")
KEPT = {"preserved", "deformed"}
FIRST = 100  # seeds below were for calibration: of the bound on the distance, see `calibration`
Weights = dict[str, torch.Tensor]


def starts(seed: int) -> tuple[Construction, torch.Generator]:
    """A construction for a seed: every window and preset in turn."""
    T, preset = (3, 4, 5, 8)[seed % 4], ("exact", "trainable")[seed // 4 % 2]
    return wavebase.spectral_construction(T, preset=preset), torch.Generator().manual_seed(seed)


def shuffled(weights: Weights, generator: torch.Generator) -> Weights:
    """The same net in other coordinates of the discrete group."""
    return symmetry.act(symmetry.random_element(len(weights["hidden_0"]), generator), weights)


def moved(start: Construction, generator: torch.Generator) -> Weights:
    """A random continuous move that is more than a split of biases."""
    kinds = [kind for kind in symmetry.linear_kinds(start.blocks) if kind != "bias"]
    kind = kinds[int(torch.randint(len(kinds), (), generator=generator))]
    return dict(symmetry.linear_move(start, kind, 0.3, generator).weights)


def displaced(start: Construction, generator: torch.Generator) -> Weights:
    """As far from the start, weight by weight, as the discrete group's nets are, in a random direction."""
    far = shuffled(dict(start.weights), generator)
    changed = {}
    for name, weight in start.weights.items():
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        changed[name] = weight + noise * ((far[name] - weight).norm() / noise.norm())
    return changed


def rival(build: Callable[..., Construction]) -> Callable[[Construction, torch.Generator], Weights]:
    """The same function by another algorithm, in coordinates of its own."""

    def made(start: Construction, generator: torch.Generator) -> Weights:
        preset = "exact" if start.gains["a"] < 0.01 else "trainable"
        return shuffled(dict(pad(build(start.T, preset=preset), start.hidden_size).weights), generator)

    return made


BY_HAND: dict[str, tuple[set[str], Callable[[Construction, torch.Generator], Weights]]] = {
    "discrete symmetry": ({"preserved"}, lambda start, g: shuffled(dict(start.weights), g)),
    "continuous symmetry": ({"deformed"}, moved),
    "both": ({"deformed"}, lambda start, g: shuffled(moved(start, g), g)),
    "random displacement": ({"drifted", "broken"}, displaced),
    "rival: resonator": ({"drifted"}, rival(resonator_construction)),
    "rival: delay line": ({"drifted"}, rival(delay_line_construction)),
}
TRAINED: dict[str, tuple[set[str], str]] = {
    "rounding only": ({"preserved"}, "model=spectral T=4,8 train.steps={brief}"),
    "label noise": (KEPT, "model=spectral model.preset=trainable T=4,8 task.label_noise=0.1 optim.lr_over_boundary=0.1 train.steps={brief}"),
    "shuffled targets": ({"broken"}, "model=spectral model.preset=trainable T=4,8 task.shuffle_targets=true optim=adam optim.lr=0.01 train.steps={brief}"),
    "weight decay": ({"drifted", "broken"}, "model=spectral model.preset=trainable T=4,8 optim=adamw optim.lr=0.01 optim.weight_decay=5 train.steps={brief}"),
    "rate over boundary": ({"broken", "diverged"}, "model=spectral model.preset=trainable T=4,8 optim.lr_over_boundary=4 train.steps={brief}"),
    "random start, trained": ({"drifted", "broken"}, "model=random model.preset=trainable T=2,3 optim=adam optim.lr=0.01 optim.schedule=cosine train.steps={long}"),
}  # fmt: skip


def judged(run: study.Run) -> str:
    """The run's verdict; of a random start, which has no algorithm of its own, against the exact one of its shape."""
    if run.choices["model"] != "random":
        return run.verdict
    last = run.folder.load_checkpoint(run.folder.checkpoint_steps()[-1])["weights"]
    T = run.config["T"]
    return wavebase.verdict(last, wavebase.spectral_construction(T, preset="trainable", scale=1 / T)).name


def calibration(size: study.Size) -> tuple[float, float]:
    """The 95th percentile of what rounding alone moves weights by, and the least distance of a continuous move."""
    seeds = size.pick(tiny=1, fast=10, full=20)
    runs = size.sweep(
        "model=spectral", "T=4,8", f"seed=range(0,{seeds})", f"train.steps={size.pick(tiny=2, fast=500, full=500)}"
    )
    rounding = [run.value("probes", "final", "position/distance") for run in runs]
    apart = []
    for seed in range(seeds):
        start, generator = starts(seed)
        conditions = wavebase.verdict(moved(start, generator), start).conditions
        apart += [c.value for c in conditions if c.name == "position/distance"]
    return float(np.percentile(np.array(rounding, dtype=float), 95)), min(apart)


def measure(size: study.Size) -> study.Finding:
    count = size.pick(tiny=1, fast=20, full=100)
    words = {"brief": size.pick(tiny=2, fast=300, full=1000), "long": size.pick(tiny=2, fast=3000, full=6000)}
    verdicts: dict[str, list[str]] = {}
    for label, (_, make) in BY_HAND.items():
        for seed in range(FIRST, FIRST + count):
            start, generator = starts(seed)
            verdicts.setdefault(label, []).append(wavebase.verdict(make(start, generator), start).name)
    for label, (_, overrides) in TRAINED.items():
        seeds = f"seed=range({FIRST},{FIRST + max(count // 2, 1)})"  # of two windows each
        runs = size.sweep(*overrides.format(**words).split(), seeds)
        verdicts[label] = [judged(run) for run in runs]

    wanted = {label: names for label, (names, _) in [*BY_HAND.items(), *TRAINED.items()]}
    right = {label: sum(v in wanted[label] for v in found) for label, found in verdicts.items()}
    rows = [
        {"control": label, **{name: found.count(name) for name in VERDICTS}, "right": f"{right[label]}/{len(found)}"}
        for label, found in verdicts.items()
    ]
    total = sum(map(len, verdicts.values()))
    accuracy = study.share(sum(right.values()), total)
    rounding, nearest = calibration(size)
    figure = Figure(figsize=(8, 6), layout="constrained")
    ax = figure.subplots()
    table = np.array([[row[name] for name in VERDICTS] for row in rows], dtype=float)
    ax.imshow(table / table.sum(1, keepdims=True), cmap="Blues", vmin=0, vmax=1.4, aspect="auto")
    for y, (label, counts) in enumerate(zip(verdicts, table, strict=True)):
        for x, (name, n) in enumerate(zip(VERDICTS, counts, strict=True)):
            if name in wanted[label]:
                ax.add_patch(
                    Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=figures.COLOURS[1], linewidth=1.5)
                )
            if n:
                ax.text(x, y, f"{n:.0f}", ha="center", va="center")
    ax.set_xticks(range(len(VERDICTS)), VERDICTS)
    ax.set_yticks(range(len(rows)), list(verdicts))
    ax.tick_params(length=0)
    ax.set(title="Verdicts on nets whose truth is known (framed: right)", xlabel="verdict")
    false_alarms = sum(
        v not in KEPT for label in ("discrete symmetry", "continuous symmetry", "both") for v in verdicts[label]
    )
    misses = sum(
        v in KEPT
        for label in ("rival: resonator", "rival: delay line", "random start, trained")
        for v in verdicts[label]
    )
    return study.Finding(
        "How far the verdict can be trusted",
        rows,
        f"""Read right: {accuracy[0]:.3f} of {total} nets (95 % interval {accuracy[1]:.3f} to {accuracy[2]:.3f}). Of nets that are the start in
        other coordinates {false_alarms} were called drifted or broken, of rivals and trained random nets {misses} preserved or deformed.
        Rounding alone moves weights by {rounding:.1e} (95th percentile, on seeds not used in the table), the nearest continuous
        move by {nearest:.2g}; the bound between them is 1e-3.""",
        """Controls are cases that are clear beforehand. Between them (a net that is half another algorithm) there is no truth to
        compare with, and the thresholds decide.""",
        figure,
    )


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
