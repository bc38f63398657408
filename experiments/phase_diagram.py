"""What becomes of an exact algorithm under label noise, a rate and weight decay? Expected: below the boundary the error follows
the law of label noise and the algorithm is kept; decay adds a bias that the law includes; above the boundary the algorithm breaks.

    python experiments/phase_diagram.py [--full]
"""

from collections import Counter
from itertools import product

import numpy as np
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from wavebase import statistics, study
from wavebase.constructions.construction import STATE_NAMES
from wavebase.constructions.spectral import spectral_construction
from wavebase.figures import style
from wavebase.models.spectral import SpectralLSTM
from wavebase.theory.gauss_newton import GaussNewton, enough, gauss_newton
from wavebase.theory.label_noise import UpdateRule, decay_bias, stationary_error

BATCH = 64


class Law:
    """The error that the law of label noise and decay predicts at the exact start, for white noise."""

    def __init__(self, T: int):
        exact = spectral_construction(T, scale=1 / T)
        net = SpectralLSTM(exact, unit_scaled=True)
        trained = {name: p for name, p in net.named_parameters() if name not in STATE_NAMES}
        draw = torch.Generator().manual_seed(0)
        signal = torch.rand(enough(T), T, generator=draw, dtype=torch.float64) * 2 - 1
        self.matrix: GaussNewton = gauss_newton(net, trained, signal)
        theta = torch.cat([p.detach().flatten() for p in trained.values()])
        self.fit = self.matrix.eigenvectors.mT @ theta
        with torch.no_grad():
            self.power = net(signal).square().mean().item()
        self.outputs = T

    def error(self, rate: float, noise: float, decay: float, steps: int) -> float:
        """Relative error after so many steps of SGD: noise and decay's bias in quadrature; infinite above the boundary."""
        rule, eigenvalues = UpdateRule(lr=rate, weight_decay=decay), self.matrix.eigenvalues
        wander = stationary_error(eigenvalues, rule, noise, BATCH * self.outputs, steps)
        if not np.isfinite(wander) or not decay:
            return wander
        bias = decay_bias(eigenvalues, self.fit, rule, steps)
        return float(np.hypot(wander, (eigenvalues * bias.square()).sum().div(2 * self.power).sqrt().item()))


def measured(run: study.Run) -> float:
    """The held-out error, an rms over the later half of the records; infinite where the run diverged."""
    steps, values = run.folder.metrics()["error/training"]
    later = values[steps > run.config["train.steps"] / 2]
    return float(np.sqrt(np.mean(later**2))) if run.status == "done" and np.isfinite(later).all() else np.inf


def measure(size: study.Size) -> study.Finding:
    T = size.pick(tiny=3, fast=4, full=8)
    seeds = size.pick(tiny=1, fast=2, full=10)
    steps = size.pick(tiny=2, fast=300, full=4000)
    noises = size.pick(tiny=(0.1,), fast=(0.03, 0.1, 0.3), full=(0.01, 0.03, 0.1, 0.3, 1.0))
    rates = size.pick(tiny=(0.5, 1.5), fast=(0.1, 0.5, 0.9, 1.2), full=(0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.5))
    decays = size.pick(tiny=(0.0,), fast=(0.0, 1e-3, 1e-1), full=(0.0, 1e-4, 1e-3, 1e-2, 1e-1))
    runs = size.sweep(
        f"T={T}",
        f"seed=range(0,{seeds})",
        f"task.label_noise={','.join(map(str, noises))}",
        f"optim.lr_over_boundary={','.join(map(str, rates))}",
        f"optim.weight_decay={','.join(map(str, decays))}",
        f"train.steps={steps}",
        f"train.batch={BATCH}",
        f"probe.every={max(steps // 10, 1)}",
    )
    cells = study.grouped(runs, "optim.weight_decay", "task.label_noise", "optim.lr_over_boundary")
    law = Law(T)
    rows, ratios, decayed, names = [], [], [], {}
    table = np.empty((len(decays) * len(noises), len(rates)))
    words: dict[tuple[int, int], str] = {}
    for (row, (decay, noise)), (column, rate) in product(enumerate(product(decays, noises)), enumerate(rates)):
        members = cells[decay, noise, rate]
        error, low, high = statistics.median([measured(run) for run in members])
        expected = law.error(members[0].value("optim", "lr"), noise, decay, 3 * steps // 4)
        name = Counter(run.verdict for run in members).most_common(1)[0][0]
        names[decay, noise, rate] = name
        if rate < 1:
            (decayed if decay else ratios).append(error / expected)
        table[row, column] = error
        words[row, column] = f"{name}\n{error:.2g}\n({expected:.2g})"
        rows.append(
            {"decay": decay, "noise": noise, "rate": rate, "error": error, "from": low, "to": high, "law": expected,
             "verdict": study.counted([run.verdict for run in members])}
        )  # fmt: skip
    figure = Figure(figsize=(7.5, 1.2 + 0.72 * len(table)), layout="constrained")
    ax = figure.subplots()
    picture = ax.imshow(table.clip(1e-4, 1e2), norm=LogNorm(1e-3, 1), cmap="viridis", aspect="auto")
    figure.colorbar(picture, ax=ax, label="relative error", extend="both")
    for (row, column), text in words.items():
        dark = table[row, column] < 0.06
        ax.text(column, row, text, ha="center", va="center", fontsize=11, color="white" if dark else "black")
    ax.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    ax.set_yticks(range(len(table)), [f"{noise:g}, {decay:g}" for decay, noise in product(decays, noises)])
    ax.set(xlabel="rate / boundary", ylabel="label noise, weight decay")
    ax.set_title("verdict, error (law)", fontsize=11)
    for line in range(1, len(decays)):
        ax.axhline(line * len(noises) - 0.5, color=style.GREY, linewidth=2)
    stable = Counter(name for (decay, _, rate), name in names.items() if rate < 1 and not decay)
    under = Counter(name for (decay, _, rate), name in names.items() if rate < 1 and decay == max(decays))
    beyond = Counter(name for (_, _, rate), name in names.items() if rate > 1)

    def told(counts: Counter) -> str:
        return ", ".join(f"{name} {count}" for name, count in counts.most_common())

    with_decay = f", {min(decayed):.2f} to {max(decayed):.2f} times with it" if decayed else ""
    conclusion = f"""{steps} steps of SGD from the exact start, T = {T}, {seeds} seeds in each cell. Below the boundary the measured error
    (rms over the second half) is {min(ratios):.2f} to {max(ratios):.2f} times the law's prediction without decay{with_decay}. Verdicts below the boundary:
    without decay {told(stable)}; at the largest decay, {max(decays):g}, {told(under)}. Above the boundary: {told(beyond)}."""
    limitations = f"""The law describes small steps about the exact net: it omits slow drift, and its boundary is that of the start. {steps} steps
    are too short for the later effects of a small decay and of slow drift. With {seeds} seeds an interval is their range."""
    return study.Finding("Noise, rate and decay", rows, conclusion, limitations, figure)


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
