"""Does the verdict depend on the gains or the dtype? Expected: one verdict for each pair of nets that compute one function with
other gains or in float32 and are displaced or trained alike.

Gains are random, whole powers of two or not, with every argument of a tanh between 2^-27 and 2^-12, where tanh is linear. Alike:
the same displacement in natural units, or the same training of them (data, seed, label noise).

    python experiments/verdict_pairs.py [--full]
"""

import math

import torch
from matplotlib.figure import Figure

import wavebase
from wavebase import study
from wavebase.constructions.construction import Construction
from wavebase.constructions.perturbation import Perturbation, perturb
from wavebase.figures import style
from wavebase.probes.verdict import Condition, Verdict
from wavebase.report.runs import Run

FIRST = 100
SHARED = "model=spectral T=3,4 task.label_noise=0.1 train.steps={steps} seed=range({first},{last})"
TRAINING = ("optim=sgd optim.lr_over_boundary=0.5", "optim=adam optim.lr=0.01")
VARIANTS = (  # beside exact float64 gains; 1e7 keeps every argument under the preset's
    f"model.eps={2.0**-20},{2.0**-12}",
    "model.gains.s3=1e7 model.gains.s5=1e7",
    "dtype=float32",
)
Values = dict[str, Condition]
Pair = tuple[str, Values, str, Values, bool]  # verdict and conditions of both; whether the second is in float32


def random_gains(T: int, whole: bool, generator: torch.Generator, least: float, most: float) -> dict[str, float]:
    """Gains whose arguments are 2^u with u in [least, most], whole or not."""
    u = least + (most - least) * torch.rand(6, generator=generator, dtype=torch.float64)
    a, first, second, third, fourth, fifth = (2.0 ** (u.round() if whole else u)).tolist()
    peak = first * second * T  # of a sum unit
    return {
        "a": a,
        "s1": first / a,
        "s2": second,
        "s3": third / peak,
        "s4": fourth / peak,
        "s5": fifth / (2 * third * fourth),
    }


def displaced_pair(seed: int) -> Pair:
    """An exact net and one with other gains, every other time in float32, both displaced by the same share of their units."""
    g = torch.Generator().manual_seed(seed)
    T, single = (3, 4, 5, 8)[seed % 4], seed // 4 % 2 == 1
    gains = random_gains(T, seed // 8 % 2 == 1, g, -18 if single else -27, -12)
    dtype = torch.float32 if single else torch.float64
    scale = 10 ** (-5 + 4.5 * torch.rand((), generator=g).item())
    nets = [wavebase.spectral_construction(T), wavebase.spectral_construction(T, gains=gains, dtype=dtype)]

    def judged(net: Construction) -> Verdict:
        moved = perturb(net, Perturbation("unit", scale), torch.Generator().manual_seed(seed))
        return wavebase.verdict(moved.weights, net)

    first, second = map(judged, nets)
    return first.name, _by_name(first.conditions), second.name, _by_name(second.conditions), single


def trained_pairs(size: study.Size) -> list[Pair]:
    """Runs with exact float64 gains beside runs with each variant, equal in all else."""
    last = FIRST + size.pick(tiny=1, fast=5, full=20)
    shared = SHARED.format(steps=size.pick(tiny=2, fast=100, full=500), first=FIRST, last=last).split()
    pairs = []
    few = size.name == "tiny"
    for optimiser in TRAINING[:1] if few else TRAINING:
        base = study.grouped(size.sweep(*shared, *optimiser.split()), "T", "seed")
        for variant in VARIANTS[-1:] if few else VARIANTS:
            for run in size.sweep(*shared, *optimiser.split(), *variant.split()):
                (first,) = base[run.config["T"], run.config["seed"]]
                single = run.config["dtype"] == "float32"
                pairs.append((first.verdict, _conditions(first), run.verdict, _conditions(run), single))
    return pairs


def _conditions(run: Run) -> Values:
    return {
        name: Condition(c["kind"], name, math.inf if c["value"] is None else c["value"], c["bound"])
        for name, c in run.summary["conditions"].items()
    }


def _by_name(conditions: list[Condition]) -> Values:
    return {c.name: c for c in conditions}


def difference(one: Condition, other: Condition) -> float:
    """|a - b| relative to the larger, or to a hundredth of the bound where that is more; 0 for equal infinities."""
    if one.value == other.value:
        return 0.0
    if not (math.isfinite(one.value) and math.isfinite(other.value)):
        return math.inf
    return abs(one.value - other.value) / max(abs(one.value), abs(other.value), one.bound / 100)


def measure(size: study.Size) -> study.Finding:
    count = size.pick(tiny=2, fast=200, full=800)
    by_hand = [displaced_pair(seed) for seed in range(FIRST, FIRST + count)]
    trained = trained_pairs(size)
    pairs = by_hand + trained
    # far beyond a bound numbers have no meaning: a net whose stream explodes, a mode that is gone
    near = [
        (name, one[name], other[name], single, verdict in ("preserved", "deformed"))
        for verdict, one, _, other, single in pairs
        for name in one
        if name in other and one[name].value < 10 * one[name].bound
    ]
    columns = {
        "gains": (False, True),
        "float32": (True, True),
        "rest: gains": (False, False),
        "rest: float32": (True, False),
    }
    rows = []
    for name in dict.fromkeys(name for name, *_ in near):
        row: dict[str, object] = {"measured": name}
        for label, group in columns.items():
            row[label] = max(
                (difference(a, b) for n, a, b, *of in near if n == name and tuple(of) == group), default=None
            )
        rows.append(row)
    same = [first == second for first, _, second, _, _ in pairs]
    figure = Figure(figsize=(4, 4), layout="constrained")
    ax = figure.subplots()
    for label, wanted, colour, marker in (("other gains", False, 0, "o"), ("float32", True, 1, "x")):
        points = [(a.use, b.use) for _, a, b, single, _ in near if single == wanted and a.use > 0 and b.use > 0]
        x, y = zip(*points, strict=True) if points else ((), ())
        ax.loglog(x, y, marker, color=style.COLOURS[colour], markersize=3, alpha=0.4, label=label)
    ax.axline((1, 1), (10, 10), color=style.GREY, linewidth=0.8)
    ax.set(xlabel="measured / bound, exact float64 gains", ylabel="measured / bound, the other net")
    ax.legend(fontsize=8, frameon=False)
    verdicts = study.counted([first for first, *_ in pairs])
    conclusion = f"""{sum(same)} of {len(pairs)} pairs have one verdict ({len(by_hand)} displaced by 1e-5 to 0.3 of every unit, {len(trained)}
        trained with label noise): {verdicts}. The table gives the largest relative difference of each measured value, for nets that
        were kept (preserved or deformed) and for the rest."""
    limitations = """Gains beyond the linear regime make another function and no pair. A net that is broken or has drifted far can leave that
        regime with one choice of gains and not with another, so its numbers differ. A value within rounding of its bound can fall
        on either side of it. The table omits numbers over ten times their bound."""
    return study.Finding("Gains and dtype do not enter the verdict", rows, conclusion, limitations, figure)


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
