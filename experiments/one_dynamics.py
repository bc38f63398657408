"""Do gains, exactness and dtype change how an exact net trains? Expected: not in unit-scaled coordinates. While every tanh is
linear, starts from eps 2^-27 to 2^-12, in float64 and float32, share one training dynamics.

    python experiments/one_dynamics.py [--full]
"""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure

from wavebase import study
from wavebase.constructions.construction import Construction
from wavebase.constructions.spectral import preset_gains, spectral_construction
from wavebase.figures import style

NOISE = 0.1  # of the labels: without it an exact start has no gradient
SAME, NEAR = 1e-3, 0.02  # relative differences: of one dynamics, and of what eps 2^-5 may add
LOOSE = "eps 2^-5"
WATCHED = "weight_hh_cell"


def drawn_gains(T: int, count: int) -> dict[str, dict[str, float]]:
    """Gains of eps 2^-12 over random numbers up to 64: the first half powers of two, which round nothing, the others any."""
    draw, middle = np.random.default_rng(T), preset_gains(T, "exact", 1.0, torch.float64, 2.0**-12)
    made = {}
    for n in range(count):
        powers = -draw.uniform(0, 6, len(middle))
        of_two = n < (count + 1) // 2
        powers = np.round(powers) if of_two else powers
        gains = {name: float(gain * 2.0**power) for (name, gain), power in zip(middle.items(), powers, strict=True)}
        made[f"{'powers of 2' if of_two else 'any gains'}, {n + 1}"] = gains
    return made


def drift(run: study.Run, units: Mapping[str, torch.Tensor]) -> float:
    """||change of weight_hh_cell|| / ||weight_hh_cell||, every entry in its natural unit."""
    at = [run.folder.load_checkpoint(step)["weights"][WATCHED].double() for step in (0, run.config["train.steps"])]
    begin, end = (weight / units[WATCHED] for weight in at)
    return ((end - begin).norm() / begin.norm()).item()


def units(run: study.Run, T: int) -> Mapping[str, torch.Tensor]:
    """The natural units of a run's start."""
    config = run.config
    given = {key.removeprefix("model.gains."): g for key, g in config.items() if key.startswith("model.gains.")}
    gains = {name: g for name, g in given.items() if g is not None}
    dtype = getattr(torch, config["dtype"])
    made: Construction = spectral_construction(T, dtype=dtype, eps=config["model.eps"], gains=gains, scale=1 / T)
    return {name: unit.double() for name, unit in made.unit_scale.items()}


def by_start(
    size: study.Size, lengths: tuple[int, ...], last: int, count: int
) -> dict[tuple[int, str], list[study.Run]]:
    """The runs of each T and start, one step and `last` steps long; of each T the first is the one others are compared with."""
    shared = (
        f"T={','.join(map(str, lengths))}",
        f"task.label_noise={NOISE}",
        "probe.measure=[function.held_out_error]",
        f"probe.every={min(10, last)}",
        "probe.curvature_batch=64",
        "optim.lr_over_boundary=0.5",
        f"train.steps=1,{last}",
    )
    drawn = drawn_gains(max(lengths), count)
    words = ",".join("{" + ",".join(f"{k}:{v!r}" for k, v in gains.items()) + "}" for gains in drawn.values())
    kinds: dict[float | None, str] = {None: "exact", 2.0**-12: "eps 2^-12", 2.0**-5: LOOSE}
    kinds = size.pick(tiny={None: "exact", 2.0**-5: LOOSE}, fast=kinds, full=kinds)
    words_of = ",".join("null" if eps is None else repr(eps) for eps in kinds)
    by_dtype = size.sweep(*shared, "dtype=float64,float32", f"model.eps={words_of}")
    by_gains = size.sweep(*shared, f"model.gains={words}")
    made: dict[tuple[int, str], list[study.Run]] = {}
    for T in lengths:
        for dtype in ("float64", "float32"):
            for eps, label in kinds.items():
                asked = {"T": T, "dtype": dtype, "model.eps": eps}
                made[T, f"{label}, {dtype}"] = [r for r in by_dtype if all(r.config[k] == v for k, v in asked.items())]
        for label, gains in drawn.items():
            made[T, label] = [r for r in by_gains if r.config["T"] == T and r.config["model.gains.a"] == gains["a"]]
    return made


def measure(size: study.Size) -> study.Finding:
    lengths = size.pick(tiny=(3,), fast=(4, 8), full=(4, 8, 16))
    last = size.pick(tiny=2, fast=300, full=1000)
    shown = [step for step in (1, 2, 10, 30, 100, 300, 1000) if step <= last and (step != 2 or last == 2)]
    rows, apart, rates = [], {}, {}
    reference: dict[int, tuple[dict[int, float], float]] = {}
    figure = Figure(figsize=(7.5, 5.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for (T, label), runs in by_start(size, lengths, last, size.pick(tiny=1, fast=4, full=10)).items():
        errors: dict[int, float] = {}
        for run in runs:
            steps, values = run.folder.metrics()["error/training"]
            errors |= dict(zip(steps.tolist(), values.tolist(), strict=True))
        long = max(runs, key=lambda run: run.config["train.steps"])
        moved = drift(long, units(long, T))
        rates.setdefault(T, []).append(long.value("optim", "lr"))
        compared = reference.setdefault(T, (errors, moved))
        trained = sorted(step for step in errors if step)
        away = np.array([abs(errors[step] / compared[0][step] - 1) for step in trained])
        apart[T, label] = max(away), abs(moved / compared[1] - 1)
        row = {"T": T, "start": label} | {f"at {step}": f"{errors[step]:.6f}" for step in shown}
        rows.append({**row, "drift": f"{moved:.6f}", "apart": float(max(apart[T, label]))})
        dashes, colour = "--" if label.startswith(LOOSE) else "-", style.COLOURS[lengths.index(T)]
        above.plot(trained, [errors[step] for step in trained], dashes, color=colour, linewidth=1.5)
        below.plot(trained, away.clip(1e-16), dashes, color=colour, linewidth=1.5)
    for T, colour in zip(lengths, style.COLOURS, strict=False):
        above.plot([], [], color=colour, label=f"T = {T}: exact starts")
        above.plot([], [], "--", color=colour, label=f"T = {T}: eps 2^-5")
    above.axhline(1, color=style.GREY, linestyle=":", linewidth=1, label="predicting zero")
    above.set(xscale="log", yscale="log", ylabel="relative error, held out")
    above.legend(fontsize=9, ncols=2)
    below.axhline(SAME, color=style.GREY, linestyle=":", linewidth=1)
    below.set(yscale="log", xlabel="step", ylabel="apart from exact float64", ylim=(1e-15, 1))
    for ax in (above, below):
        ax.grid(alpha=0.25)
    exact = {key: max(pair) for key, pair in apart.items() if not key[1].startswith(LOOSE)}
    loose = {
        T: np.max([pair for key, pair in apart.items() if key[0] == T and key[1].startswith(LOOSE)], 0) for T in lengths
    }
    wide = max(exact, key=lambda key: exact[key])
    double = max(value for key, value in exact.items() if not key[1].endswith("float32"))
    met = sum(value <= SAME for value in exact.values())
    spread = max(max(values) / min(values) - 1 for values in rates.values())
    conclusion = f"""Gains, exactness and dtype drop out of the dynamics. SGD at half the boundary of each start, one seed, label noise {NOISE}. The rates differ by {spread:.1g} among the starts
    of a T. Of {len(exact)} runs whose tanh are linear, {met} stay within {SAME:g} of the exact float64 run, in the error at all
    recorded steps up to {last} and in the drift of {WATCHED} in its units. The largest difference is {double:.1g} in float64 and
    {exact[wide]:.1g} over all ({wide[1]}, T = {wide[0]}). From {LOOSE} (a start with an error of 1e-3)
    {"; ".join(f"at T = {T} the error differs by at most {e:.1%}, the drift by {d:.1%}" for T, (e, d) in loose.items())}
    ({"within" if max(max(p) for p in loose.values()) <= NEAR else "beyond"} the expected {NEAR:.0%})."""
    limitations = """One seed for each T: other seeds have other noise, and the same agreement would follow. Drift is that of one matrix. Much
    later, when the weights have moved far, tanh need not stay linear."""
    return study.Finding("One dynamics", rows, conclusion, limitations, figure)


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
