"""Can the verdict tell an algorithm that was kept from one that was not? Expected: at least 97 % of nets whose truth is known
are read right, and no net within 1e-3 of the algorithm and with an intact mechanism is called drifted or broken.

Weights made by hand are judged as they are, trained nets against the exact construction. Seeds from 100 on make the table,
seeds below 100 were used to choose the thresholds. `experiments/verdict_pairs.py` asks whether gains and dtype matter.

    python experiments/confusion_matrix.py [--full]
"""

import re
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

import wavebase
from wavebase import statistics, study
from wavebase.constructions import controls, symmetry
from wavebase.constructions.alignment import distance
from wavebase.constructions.construction import STATE_NAMES, WEIGHT_NAMES, Construction, pad
from wavebase.constructions.perturbation import Perturbation, perturb
from wavebase.figures import style
from wavebase.models.spectral import SpectralLSTM
from wavebase.probes import position
from wavebase.probes.verdict import Condition, Thresholds
from wavebase.signals.generators import WhiteNoise

VERDICTS = ("preserved", "deformed", "drifted", "broken", "diverged", "unmoved", "no algorithm")
KEPT, LOST = {"preserved", "deformed"}, {"drifted", "broken"}
FIRST = 100  # seeds below are for calibration
GAINS = (None, 2.0**-20, 2.0**-12)  # eps of the exact start
Weights = dict[str, Tensor]


class Made(NamedTuple):
    """Weights, the algorithm that they are judged against, and the bin that was changed, if it was one."""

    weights: Weights
    against: Construction
    bin: int | None = None


class Judged(NamedTuple):
    """A verdict, its conditions by name, its reasons, and the bin that was changed, if it was one."""

    name: str
    conditions: dict[str, Condition]
    reasons: list[str]
    bin: int | None = None


def start(seed: int) -> tuple[Construction, torch.Generator]:
    """An exact construction for a seed: every window and eps in turn."""
    T, eps = (3, 4, 5, 8)[seed % 4], GAINS[seed // 4 % 3]
    return wavebase.spectral_construction(T, eps=eps), torch.Generator().manual_seed(seed)


def pick(choices: Iterable[int], g: torch.Generator) -> int:
    """One of them at random."""
    choices = list(choices)
    return choices[int(torch.randint(len(choices), (), generator=g))]


# ---- nets made by hand: (construction, generator) to weights and the algorithm to compare with ----


def shuffled(made: Weights, net: Construction, g: torch.Generator) -> Made:
    """The same net in other coordinates of the discrete group."""
    return Made(symmetry.act(symmetry.random_element(net.hidden_size, g), made), net)


def moved(net: Construction, g: torch.Generator, shuffle: bool = False) -> Made:
    """A random continuous move that is more than a split of biases."""
    kinds = [kind for kind in symmetry.linear_kinds(net.blocks) if kind != "bias"]
    weights = dict(symmetry.linear_move(net, kinds[pick(range(len(kinds)), g)], 0.3, g).weights)
    return shuffled(weights, net, g) if shuffle else Made(weights, net)


def as_far_as_a_symmetry(net: Construction, g: torch.Generator) -> Made:
    """As far from the start, weight by weight, as the discrete group's nets are, in a random direction."""
    far, changed = shuffled(dict(net.weights), net, g)[0], {}
    for name, weight in net.weights.items():
        noise = torch.randn(weight.shape, generator=g, dtype=torch.float64)
        changed[name] = weight + noise * ((far[name] - weight).norm() / noise.norm())
    return Made(changed, net)


def displaced(net: Construction, g: torch.Generator, scale: float, weights: tuple[str, ...] | None = None) -> Made:
    """Every entry moved by this share of its natural unit (`Perturbation`)."""
    return Made(dict(perturb(net, Perturbation("unit", scale, weights), g).weights), net)


def one_kind(net: Construction, g: torch.Generator) -> Made:
    """A thousandth of the unit in one kind of weight alone."""
    names = (*WEIGHT_NAMES, "readout.weight", "readout.bias")
    return displaced(net, g, 1e-3, (names[pick(range(len(names)), g)],))


@cache
def directions(T: int) -> dict[str, Tensor]:
    """Rows of directions in natural units: `visible` span what outputs see at first order, the sharpest first; `gauge` the
    continuous moves."""
    net = wavebase.spectral_construction(T, eps=2.0**-12)
    unit = symmetry.flatten(net.unit_scale)
    trained = torch.cat([torch.full((w.numel(),), name not in STATE_NAMES) for name, w in net.weights.items()])
    _, sizes, rows = torch.linalg.svd(position.output_jacobian(net, 32) * unit * trained, full_matrices=False)
    gauge = torch.cat(list(symmetry.tangent(net.weights, net.blocks).values())) / unit * trained
    size = gauge.norm(dim=1, keepdim=True)
    return {"visible": rows[sizes > 1e-10 * sizes[0]], "gauge": (gauge / size)[size[:, 0] > 0]}


def along(net: Construction, g: torch.Generator, which: str, size: float) -> Made:
    """A step of this distance along a random combination of directions, or along one of the T sharpest."""
    net = wavebase.spectral_construction(min(net.T, 5), eps=net.gains["a"])
    rows = directions(net.T)["gauge" if which == "gauge" else "visible"]
    mix = torch.randn(len(rows[: net.T] if which == "sharpest" else rows), generator=g, dtype=torch.float64)
    step = rows[: len(mix)].mT @ mix
    unit, origin = symmetry.flatten(net.unit_scale), symmetry.flatten(net.weights)

    def at(reach: float) -> Weights:
        parts = (origin + reach * step * unit).split([w.numel() for w in net.weights.values()])
        return {name: part.view_as(w) for (name, w), part in zip(net.weights.items(), parts, strict=True)}

    return Made(at(size * 1e-3 / distance(at(1e-3), net)), net)


def rival(net: Construction, g: torch.Generator, algorithm: controls.Rival) -> Made:
    """The same function by another algorithm, in coordinates of its own."""
    other = controls.RIVALS[algorithm](net.T, eps=net.gains["a"])
    return shuffled(dict(pad(other, net.hidden_size).weights), net, g)


def one_bin_by_rival(net: Construction, g: torch.Generator, algorithm: controls.Rival) -> Made:
    against, other = controls.replace_bin(net, pick(net.bins, g), algorithm)
    return shuffled(dict(other.weights), against, g)


def pruned(net: Construction, g: torch.Generator) -> Made:
    """Every entry under 2 % of its unit cut, after each was moved by 0.1 % of it."""
    noisy = perturb(net, Perturbation("unit", 1e-3), g)
    return Made(dict(controls.prune(noisy, 0.02).weights), net)


def relearned(net: Construction, g: torch.Generator, steps: int) -> Made:
    """Half of the bins from random rows, trained by Adam with all others, or (every other seed) with all others frozen."""
    half = torch.randperm(net.T, generator=g)[: (net.T + 1) // 2].tolist()
    begun, drawn = controls.randomise_bins(net, [net.bins[n] for n in half], g)
    model, signal, frozen = SpectralLSTM(net, begun.weights, unit_scaled=True), WhiteNoise(), pick((0, 1), g)
    trained = {n: p for n, p in model.named_parameters() if n not in STATE_NAMES and (not frozen or n in drawn)}
    optimizer = torch.optim.Adam(trained.values(), 0.01)
    for _ in range(steps):
        x = signal.sample(32, net.T, g)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x) / net.T**2, wavebase.power_spectrum(x, net.T) / net.T**2).backward()
        for name, parameter in trained.items():
            if frozen and parameter.grad is not None:
                parameter.grad.mul_(drawn[name])
        optimizer.step()
    return Made(model.named_weights(), net)


def of_one_bin(change: Callable[[Construction, int], Construction]) -> Callable[[Construction, torch.Generator], Made]:
    """A change of one random bin."""

    def made(net: Construction, g: torch.Generator) -> Made:
        k = pick(net.bins, g)
        return Made(dict(change(net, k).weights), net, k)

    return made


def other_frequency(net: Construction, k: int) -> Construction:
    """Bin k gets the frequency of the next bin, which is never that of bin T - k in a window of 3 samples or more."""
    folded = {b: min(b, net.T - b) for b in net.bins}
    return controls.replace_frequency(net, k, next(b for b in net.bins if folded[b] != folded[k]))


By = Callable[[Construction, torch.Generator], Made]
BY_HAND: dict[str, tuple[set[str], By]] = {
    "discrete symmetry": ({"preserved"}, lambda net, g: shuffled(dict(net.weights), net, g)),
    "moved by 1e-5": ({"preserved"}, partial(displaced, scale=1e-5)),
    "moved by 1e-4": ({"preserved"}, partial(displaced, scale=1e-4)),
    "moved by 1e-3": ({"preserved"}, partial(displaced, scale=1e-3)),
    "one kind of weight by 1e-3": ({"preserved"}, one_kind),
    "sharpest directions, 1e-3": ({"preserved"}, partial(along, which="sharpest", size=0.99e-3)),
    "visible direction, 1e-3": ({"preserved"}, partial(along, which="visible", size=0.99e-3)),
    "gauge direction, 1e-3": ({"preserved"}, partial(along, which="gauge", size=0.99e-3)),
    "small entries pruned": ({"preserved"}, pruned),
    "gauge direction, 0.02": ({"deformed"}, partial(along, which="gauge", size=0.02)),
    "continuous symmetry": ({"deformed"}, moved),
    "both symmetries": ({"deformed"}, partial(moved, shuffle=True)),
    "saturated gates by 0.02": ({"deformed"}, partial(displaced, scale=0.02, weights=("*_output", "*_forget"))),
    "one bin's output times 0.9": ({"deformed"}, of_one_bin(partial(controls.scale_output, factor=0.9))),
    "one oscillator retuned": (LOST, of_one_bin(partial(controls.retune, angle=0.1))),
    "one bin's frequency replaced": (LOST, of_one_bin(other_frequency)),
    "one bin by a resonator": ({"drifted"}, partial(one_bin_by_rival, algorithm="resonator")),
    "one bin by a delay line": ({"drifted"}, partial(one_bin_by_rival, algorithm="delay_line")),
    "rival: resonator": ({"drifted"}, partial(rival, algorithm="resonator")),
    "rival: delay line": ({"drifted"}, partial(rival, algorithm="delay_line")),
    "visible direction, 0.1": (LOST, partial(along, which="visible", size=0.1)),
    "moved by 0.1": (LOST, partial(displaced, scale=0.1)),
    "moved by 0.3": (LOST, partial(displaced, scale=0.3)),
    "moved as far as a symmetry": (LOST, as_far_as_a_symmetry),
    "half of the weights pruned": ({"broken"}, lambda net, g: Made(dict(controls.prune_half(net, g).weights), net)),
}
NAMES_ITS_BIN = ("one oscillator retuned", "one bin's frequency replaced")
CURVE: dict[str, By] = {
    f"moved by {scale:g}": partial(displaced, scale=scale) for scale in (2e-3, 5e-3, 0.01, 0.02, 0.05)
}
EXACT, RANDOM = "model=spectral T=3,4,5,8", "model=random_scaled T=3,4"
TRAINED: dict[str, tuple[set[str], str]] = {
    "nothing to learn": ({"unmoved"}, f"{EXACT} train.steps={{brief}}"),
    "label noise": (KEPT, f"{EXACT} task.label_noise=0.1 train.steps={{brief}}"),
    "label noise, Adam": (KEPT, f"{EXACT} task.label_noise=0.1 optim=adam optim.lr=3e-5 train.steps={{brief}}"),
    "label noise, weight decay": (KEPT, f"{EXACT} task.label_noise=0.1 optim.weight_decay=0.003 train.steps={{brief}}"),
    "another signal, label noise": (KEPT, f"{EXACT} signal=sinusoids task.label_noise=0.1 train.steps={{few}}"),
    "strong weight decay": (LOST, f"{EXACT} optim=adamw optim.lr=0.01 optim.weight_decay=5 train.steps={{brief}}"),
    "shuffled targets": ({"broken"}, f"{EXACT} task.shuffle_targets=true optim=adam optim.lr=0.01 train.steps={{brief}}"),
    "rate over boundary": ({"broken", "diverged"}, f"{EXACT} optim.lr_over_boundary=4 train.steps={{brief}}"),
    "random start, trained": (LOST, f"{RANDOM} optim=adam optim.lr=0.01 optim.schedule=cosine train.steps={{long}}"),
}  # fmt: skip
RELEARNED = "half of the bins relearned"


def by_hand(make: By, seed: int) -> Judged:
    net, g = start(seed)
    made = make(net, g)
    found = wavebase.verdict(made.weights, made.against)
    return Judged(found.name, {c.name: c for c in found.conditions}, found.reasons, made.bin)


def by_training(size: study.Size, overrides: str, seeds: range) -> list[Judged]:
    """The runs of one family; a random start, which has no algorithm of its own, is judged against the exact one."""
    steps = {
        "few": size.pick(tiny=2, fast=30, full=100),
        "brief": size.pick(tiny=2, fast=100, full=500),
        "long": size.pick(tiny=2, fast=1000, full=6000),
    }
    words = [word for word in overrides.format(**steps).split() if size.name != "tiny" or not word.startswith("T=")]
    few = ["T=3"] if size.name == "tiny" else []
    runs = size.sweep(*words, *few, f"seed=range({seeds.start},{seeds.stop})")
    judged = []
    for run in runs:
        if run.choices["model"] == "random_scaled":
            last = run.folder.load_checkpoint(run.folder.checkpoint_steps()[-1])["weights"]
            T = run.config["T"]
            found = wavebase.verdict(last, wavebase.spectral_construction(T, scale=1 / T))
            judged.append(Judged(found.name, {c.name: c for c in found.conditions}, found.reasons))
        else:
            every = {
                name: Condition(
                    c["kind"], name, np.nan if c["value"] is None else c["value"], c["bound"], "interchange" in name
                )
                for name, c in run.summary["conditions"].items()
            }
            judged.append(Judged(run.verdict, every, run.summary["reasons"]))
    return judged


# what each threshold must tell apart: families that must stay within it, those that must not, and the conditions it bounds
CALIBRATED: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "lost": (("moved by 1e-3", "one bin's output times 0.9"), ("half of the weights pruned",), "centred/loss"),
    "off_support": (("moved by 1e-3", "one bin's output times 0.9"), ("moved by 0.3",), "centred/white_noise"),
    "forms": (("moved by 1e-3", "one bin's output times 0.9"), ("one bin's frequency replaced",), "function/quadratic"),
    "mode": (("moved by 1e-3", "continuous symmetry"), ("one oscillator retuned",), "mechanism/mode_phase"),
    "masked": (("moved by 1e-3", "continuous symmetry"), ("one bin by a resonator",), "mechanism/masked"),
    "interchange": (("moved by 1e-3", "continuous symmetry"), ("rival: delay line",), "mechanism/interchange_sum"),
    "distance": (("moved by 1e-3", "one kind of weight by 1e-3"), ("continuous symmetry", "one bin's output times 0.9"), "position/"),
}  # fmt: skip


def calibration(size: study.Size) -> str:
    """Each threshold beside the largest value of nets that must stay within it and the least of those that must not, on
    seeds below `FIRST`; for interchange, a lower bound, the least and the largest."""
    seeds = range(size.pick(tiny=1, fast=8, full=40))
    nets: dict[str, list[Judged]] = {}
    words = []
    for threshold in [*CALIBRATED][:: size.pick(tiny=3, fast=1, full=1)]:
        within, beyond, name = CALIBRATED[threshold]
        found: list[list[float]] = []
        for families in (within, beyond):
            for family in families:
                if family not in nets:
                    nets[family] = [by_hand(BY_HAND[family][1], seed) for seed in seeds]
            each = [
                c.value for f in families for net in nets[f] for n, c in net.conditions.items() if n.startswith(name)
            ]
            found.append([value for value in each if np.isfinite(value)] or [np.inf])
        bound = getattr(Thresholds(), threshold)
        kept, gone = (min(found[0]), max(found[1])) if threshold == "interchange" else (max(found[0]), min(found[1]))
        words.append(f"{threshold} {bound:g} (kept {kept:.2g}, changed {gone:.2g})")
    return f"Thresholds, and what kept and changed nets reach on {len(seeds)} seeds below {FIRST}: {', '.join(words)}."


def picture(wanted: dict[str, set[str]], found: dict[str, list[str]]) -> Figure:
    """Verdicts by family, the right ones framed; to be read at a width of 8 cm."""
    names = [name for name in VERDICTS if any(name in verdicts for verdicts in found.values())]
    counts = np.array([[verdicts.count(name) for name in names] for verdicts in found.values()], dtype=float)
    figure = Figure(figsize=(3.6, 0.9 + 0.165 * len(found)), layout="constrained")
    ax = figure.subplots()
    ax.imshow(counts / counts.sum(1, keepdims=True), cmap="Blues", vmin=0, vmax=1.5, aspect="auto")
    for y, label in enumerate(found):
        for x, name in enumerate(names):
            if name in wanted.get(label, ()):
                frame = Rectangle(
                    (x - 0.45, y - 0.43), 0.9, 0.86, fill=False, edgecolor=style.COLOURS[1], linewidth=1.2
                )
                ax.add_patch(frame)
            if counts[y, x]:
                ax.text(x, y, f"{counts[y, x]:.0f}", ha="center", va="center", fontsize=7)
    ax.set_xticks(range(len(names)), names, rotation=40, ha="left", fontsize=7.5)
    ax.set_yticks(range(len(found)), list(found), fontsize=7)
    ax.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    ax.set_title("Framed: right. No frame: no right answer", fontsize=7.5)
    return figure


def measure(size: study.Size) -> study.Finding:
    seeds = range(FIRST, FIRST + size.pick(tiny=1, fast=20, full=100))
    few = range(FIRST, FIRST + size.pick(tiny=1, fast=3, full=15))  # of four windows each; random starts of two
    relearn = partial(relearned, steps=size.pick(tiny=2, fast=200, full=1000))
    made = {**BY_HAND, RELEARNED: (LOST, relearn)}
    judged = {label: [by_hand(make, seed) for seed in seeds] for label, (_, make) in made.items()}
    for label in [*TRAINED][:: size.pick(tiny=4, fast=1, full=1)]:
        overrides = TRAINED[label][1]
        twice = range(few.start, few.start + 2 * len(few)) if RANDOM in overrides else few
        judged[label] = by_training(size, overrides, twice)
    wanted = {label: names for label, (names, _) in [*made.items(), *TRAINED.items()]}
    right = {label: [net.name in wanted[label] for net in nets] for label, nets in judged.items()}
    answers = [answer for each in right.values() for answer in each]
    accuracy = statistics.proportion(sum(answers), len(answers))
    curve = [*CURVE][:: size.pick(tiny=4, fast=1, full=1)]
    judged |= {label: [by_hand(CURVE[label], seed) for seed in seeds] for label in curve}
    every = [net for nets in judged.values() for net in nets]
    near = [
        net
        for net in every
        if "position/distance" in net.conditions and net.conditions["position/distance"].value < 1e-3
    ]
    intact = [net for net in near if all(c.holds for c in net.conditions.values() if c.kind == "mechanism")]
    named = [net.bin in bins_named(net) for label in NAMES_ITS_BIN for net in judged[label]]
    found = {label: [net.name for net in nets] for label, nets in judged.items()}
    rows = [
        {
            "control": label,
            "verdicts": study.counted(names),
            "right": f"{sum(right[label])}/{len(names)}" if label in right else "-",
        }
        for label, names in found.items()
    ]
    unmoved = sum(label != "nothing to learn" and name == "unmoved" for label, names in found.items() for name in names)
    conclusion = f"""{accuracy[0]:.3f} of {len(answers)} nets are read right (95 % interval {accuracy[1]:.3f} to {accuracy[2]:.3f}). Of
        {len(intact)} nets within 1e-3 of the algorithm and with an intact mechanism,
        {sum(net.name in LOST for net in intact)} are called drifted or broken; {unmoved} are falsely called unmoved. Of {len(named)}
        verdicts on nets with one changed oscillator, {sum(named)} name its bin. {calibration(size)}"""
    limitations = """Controls are clear cases. Between them (rows without a right answer: every weight displaced by a few thousandths to
        a few hundredths of its unit) no truth is known, and the thresholds decide."""
    return study.Finding("How far the verdict can be trusted", rows, conclusion, limitations, picture(wanted, found))


def bins_named(net: Judged) -> set[int]:
    """The bins that a verdict's reasons name."""
    return {int(k) for reason in net.reasons for k in re.findall(r"\(bin (\d+)\)", reason)}


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
