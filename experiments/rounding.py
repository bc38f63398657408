"""How many digits does an exact algorithm need, and does training restore them? Expected: float32 costs 1e-7, bfloat16 a percent;
8 bits per weight are enough in unit-scaled coordinates but not in raw ones; descent repairs the function of what is left.

    python experiments/rounding.py [--full]
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import wavebase
from wavebase import formatting, statistics, study
from wavebase.figures import style
from wavebase.records.atomic import atomic_write


def quantised(values: Tensor, bits: int) -> Tensor:
    """The values on a symmetric grid of 2^bits - 1 points whose end is the largest of them."""
    step = values.abs().max() / (2 ** (bits - 1) - 1)
    return (values / step).round() * step if step > 0 else values


def by_unit(bits: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Quantises a tensor of weights over their natural units."""
    return lambda weight, unit: quantised(weight / unit, bits) * unit


ROUNDINGS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "float64": lambda weight, unit: weight,
    "float32": lambda weight, unit: weight.float().double(),
    "bfloat16": lambda weight, unit: weight.bfloat16().double(),
    "8 bits, units": by_unit(8),
    "6 bits, units": by_unit(6),
    "4 bits, units": by_unit(4),
    "8 bits, raw": lambda weight, unit: quantised(weight, 8),
}


def errors(runs: list[study.Run], when: str, tag: str) -> tuple[float, float, float]:
    """Median and interval of an error over seeds; infinite where there is none."""
    values = [run.value("probes", when, tag) for run in runs]
    return statistics.median([np.inf if value is None else value for value in values])


def measure(size: study.Size) -> study.Finding:
    lengths = size.pick(tiny=(3,), fast=(4, 8), full=(4, 8, 16))
    seeds = size.pick(tiny=1, fast=3, full=10)
    steps = size.pick(tiny=2, fast=300, full=5000)
    chosen = dict(list(ROUNDINGS.items())[:: size.pick(tiny=3, fast=1, full=1)])
    rows, found = [], {}
    for T in lengths:
        exact = wavebase.spectral_construction(T, scale=1 / T)
        files, verdicts = {}, {}
        for label, rounded in chosen.items():
            weights = {name: rounded(weight, exact.unit_scale[name]) for name, weight in exact.weights.items()}
            path = size.folder / "starts" / f"{label.replace(', ', '_').replace(' ', '_')}_{T}.pt"
            atomic_write(path, lambda file, weights=weights: torch.save(weights, file))
            files[str(path)], verdicts[label] = label, wavebase.verdict(weights, exact).name
        runs = size.sweep(
            f"T={T}", f"model.start_from={','.join(files)}", f"seed=range(0,{seeds})", f"train.steps={steps}",
            "probe.curvature_batch=64",
        )  # fmt: skip
        for label in chosen:
            members = [run for run in runs if files[run.config["model.start_from"]] == label]
            before, after, stream = (
                errors(members, when, tag)
                for when, tag in (("initial", "error/training"), ("final", "error/training"), ("final", "error/stream"))
            )
            streaming = errors(members, "initial", "error/stream")[0]
            found[T, label] = before[0], after[0], stream[0]
            rows.append(
                {
                    "T": T,
                    "weights in": label,
                    "error": formatting.brief(before[0]),
                    "stream": formatting.brief(streaming),
                    "verdict": verdicts[label],
                    "trained": "{} ({}-{})".format(*map(formatting.brief, after)),
                    "then": max({r.verdict for r in members}, key=[r.verdict for r in members].count),
                }
            )
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    ax = figure.subplots()
    place = np.arange(len(chosen))
    for n, (T, colour) in enumerate(zip(lengths, style.COLOURS, strict=False)):
        x = place + 0.2 * (n - (len(lengths) - 1) / 2)
        begin, end = (np.array([f(*found[T, label]) for label in chosen]).clip(1e-17, 1e2) for f in
                      (lambda before, *_: before, lambda _, after, *rest: after))  # fmt: skip
        ax.vlines(x, begin, end, color=colour, linewidth=1)
        ax.plot(x, begin, "x", color=colour, label=f"T = {T}, rounded")
        ax.plot(x, end, "o", color=colour, label=f"T = {T}, trained")
    ax.axhline(1, color=style.GREY, linestyle=":", label="predicting zero")
    ax.set_xticks(place, list(chosen), rotation=20)
    ax.set(yscale="log", ylabel="relative error, one window")
    ax.grid(alpha=0.25)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    streams = "; ".join(f"{label} {', '.join(f'{found[T, label][2]:.1g}' for T in lengths)}" for label in chosen)
    conclusion = f"""Exact float64 weights are rounded, then trained for {steps} steps of SGD at half the boundary there, on fresh data
    without noise. The table gives errors (medians of {seeds} seeds, predicting zero: 1) and verdicts of the rounded net and after training. Errors
    on a stream of windows after training, at T = {", ".join(map(str, lengths))}: {streams}."""
    limitations = """Only the stored weights are rounded; the arithmetic stays in float64. At T = 4 all weights but those of saturated gates are
    powers of two, so float32 and bfloat16 change nothing there. Each tensor has one grid that ends at its largest weight; finer
    ones exist. Seeds are of the training data; rounding has none."""
    return study.Finding("Rounded weights", rows, conclusion, limitations, figure)


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
