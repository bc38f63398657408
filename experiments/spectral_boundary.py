"""Does an optimiser leave the exact algorithm at its own boundary? Expected: SGD, also with momentum or Nesterov's, stays below
0.9 of it and leaves above 1.1; adaptive methods do the same while v is held; with v free there is no cliff.

    python experiments/spectral_boundary.py [--full]
"""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import optim

from wavebase import statistics, study
from wavebase.constructions.perturbation import Perturbation, perturb
from wavebase.constructions.spectral import spectral_construction
from wavebase.figures import style
from wavebase.models.spectral import SpectralLSTM
from wavebase.signals.generators import WhiteNoise
from wavebase.tasks.power_spectrum import PowerSpectrum
from wavebase.theory import boundaries

BATCH = 64
# of every entry's unit: more than rounding, but so little that gradients of second order are nothing even where v is 0, and
# what leaves has far to go
MOVED = 1e-9
FURTHER = 1e-6
GONE = 1e12  # a loss over so many times its first has left, and is followed no further unless v is free
NOISE = 0.1  # of the labels, where v is measured, and where noise is asked for
DECAY = 1e-7  # of AdamW: more would move the net by itself
HELD = 1 - 1e-12  # a memory so long that v stays as it is
OPTIMISERS: dict[str, Callable[..., optim.Optimizer]] = {
    "SGD": lambda p: optim.SGD(p, 1.0),
    "momentum 0.9": lambda p: optim.SGD(p, 1.0, momentum=0.9),
    "Nesterov 0.9": lambda p: optim.SGD(p, 1.0, momentum=0.9, nesterov=True),
    "Adam": lambda p, beta=0.999: optim.Adam(p, betas=(0.9, beta)),
    "AdamW": lambda p, beta=0.999: optim.AdamW(p, betas=(0.9, beta), weight_decay=DECAY),
    "RMSprop": lambda p, beta=0.99: optim.RMSprop(p, alpha=beta),
}
ADAPTIVE = ("Adam", "AdamW", "RMSprop")
NEAR = (0.9, 1.1)


@cache
def task(T: int, seed: int, noise: float, fixed: bool) -> PowerSpectrum:
    """White noise; one fixed batch, or fresh ones."""
    return PowerSpectrum(
        WhiteNoise(1.0), T, torch.float64, torch.device("cpu"), torch.Generator().manual_seed(seed),
        training_count=BATCH if fixed else None, label_noise=noise,
    )  # fmt: skip


class Start:
    """A net at an exact start, moved by so much of each unit unless `noise` moves it, its optimiser, and that one's boundary there."""

    def __init__(self, T: int, seed: int, name: str, held: bool, noise: float, moved: float = MOVED):
        exact = spectral_construction(T, scale=1 / T)
        weights = perturb(exact, Perturbation("unit", moved), torch.Generator().manual_seed(seed)).weights
        self.net = SpectralLSTM(exact, exact.weights if noise else weights, unit_scaled=True)
        trained = [p for p_name, p in self.net.named_parameters() if not p_name.endswith("_0")]
        self.generator = torch.Generator().manual_seed(seed)
        self.task, self.noisy = task(T, seed, noise, fixed=not noise), bool(noise)
        self.linear = not noise and (held or name not in ADAPTIVE)
        self.new = lambda: OPTIMISERS[name](trained, *((HELD,) if held else ()))
        rule = boundaries.rule_of(OPTIMISERS[name](trained))
        quiet, noisy = task(T, seed, 0.0, fixed=True), task(T, seed, NOISE, fixed=False)
        # v is that of label noise where it is held or will meet noise, else that of the first, only batch
        draws = torch.Generator().manual_seed(seed)
        source = noisy if held or noise else quiet
        losses = [lambda: self._loss(source, draws)] * (boundaries.BATCHES if source is noisy else 1)
        self.moments: torch.Tensor | None = None
        if held:
            squares = [self._gradient(source, trained, draws).square() for _ in range(boundaries.BATCHES)]
            self.moments = torch.stack(squares).mean(0)
            draws.manual_seed(seed)
        found = boundaries.measure(rule, lambda: self._loss(quiet, draws), trained, losses)
        self.boundary = boundaries.Boundary(rule, found)
        self.trained = trained

    def _loss(self, of: PowerSpectrum, draws: torch.Generator) -> torch.Tensor:
        signal, target = of.sample_batch(BATCH, draws)
        return of.loss(self.net(signal), target)

    def _gradient(self, of: PowerSpectrum, trained: list, draws: torch.Generator) -> torch.Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(self._loss(of, draws), trained)])

    def losses(self, rate: float, steps: int) -> Iterator[float]:
        """Training losses of a descent at this rate, from the start again."""
        begin = [p.detach().clone() for p in self.trained]
        optimizer = self.new()
        optimizer.param_groups[0]["lr"] = rate
        if self.moments is not None:
            self._hold(optimizer)
        limit = np.inf
        for _ in range(steps):
            optimizer.zero_grad()
            loss = self._loss(self.task, self.generator)
            loss.backward()
            yield loss.item()
            if self.linear and not np.isfinite(limit):
                limit = GONE * loss.item()
            if not loss.isfinite() or loss > limit:
                break
            optimizer.step()
        self.error = self._error() if self.noisy else np.nan
        with torch.no_grad():
            for p, value in zip(self.trained, begin, strict=True):
                p.copy_(value)

    def _hold(self, optimizer: optim.Optimizer) -> None:
        """Give the optimiser its settled v, and a step so late that nothing is corrected."""
        parts = self.moments.split([p.numel() for p in self.trained])
        for p, part in zip(self.trained, parts, strict=True):
            square = part.view_as(p).clone()
            state = {"step": torch.tensor(1e14)}
            if isinstance(optimizer, optim.RMSprop):
                state["square_avg"] = square
            else:
                state |= {"exp_avg": torch.zeros_like(p), "exp_avg_sq": square}
            optimizer.state[p] = state

    def _error(self) -> float:
        signal, target = self.task.held_out["training"]
        with torch.no_grad():
            error = self.task.metrics(self.net(signal), target)["relative_error"]
        return error if np.isfinite(error) else np.inf


def left(losses: list[float], steps: int) -> bool:
    """Whether a descent ends above its start: any of its last third, or what ended it early."""
    tail = losses[-max(steps // 3, 1) :]
    return len(losses) < steps or not np.isfinite(tail).all() or max(tail) > losses[0]


def told(cases: list[bool]) -> str:
    """A share with its interval and number."""
    return "{:.2f} ({:.2f}-{:.2f})".format(*statistics.proportion(sum(cases), len(cases)))


def measure(size: study.Size) -> study.Finding:
    lengths = size.pick(tiny=(3,), fast=(3, 4), full=(4, 8, 16))
    seeds = size.pick(tiny=1, fast=7, full=20)
    steps = size.pick(tiny=2, fast=100, full=300)
    fractions = size.pick(
        tiny=(0.5, 2.0), fast=(0.6, 0.75, 0.88, 1.12, 1.3, 1.6), full=(0.6, 0.75, 0.88, 1.12, 1.3, 1.6)
    )
    names = list(OPTIMISERS)[:: size.pick(tiny=4, fast=1, full=1)]
    rows, found = [], {}
    for name in names:
        for held in (True, False) if name in ADAPTIVE else (False,):
            by_fraction: dict[float, list[bool]] = {f: [] for f in fractions}
            raised: dict[float, list[bool]] = {f: [] for f in fractions}
            rates = []
            for T in lengths:
                for seed in range(seeds if held or name not in ADAPTIVE else min(seeds, 2)):
                    start = Start(T, seed, name, held, 0.0)
                    rates.append(start.boundary.learning_rate)
                    for fraction in fractions:
                        losses = list(start.losses(fraction * start.boundary.learning_rate, steps))
                        by_fraction[fraction].append(left(losses, steps))
                        if name in ADAPTIVE and not held:
                            first = list(start.losses(fraction * start.boundary.first_step, 2))
                            raised[fraction].append(not first[-1] <= first[0])
            label = f"{name}{', v held' if held else ', v free' if name in ADAPTIVE else ''}"
            stay = [not gone for f in fractions if f < NEAR[0] for gone in by_fraction[f]]
            leave = [gone for f in fractions if f > NEAR[1] for gone in by_fraction[f]]
            first = [[r for f in fractions if (f < 1) == below for r in raised[f]] for below in (True, False)]
            found[label] = by_fraction, stay, leave, first
            rows.append(
                {
                    "optimiser": label,
                    "boundary": float(np.median(rates)),
                    "cases": f"{len(stay)} + {len(leave)}",
                    "stay below 0.9": told(stay),
                    "leave above 1.1": told(leave),
                }
            )
    further = []  # where second order is no longer nothing
    for seed in range(min(seeds, 4)):
        start = Start(lengths[-1], seed, "Adam", True, 0.0, moved=FURTHER)
        below = [start.boundary.learning_rate * f for f in fractions if f < NEAR[0]]
        further += [not left(list(start.losses(rate, steps)), steps) for rate in below]
    noisy = {}
    wide = size.pick(
        tiny=(0.5,), fast=(0.1, 0.3, 0.6, 0.88, 1.12, 1.6), full=(0.03, 0.1, 0.3, 0.6, 0.88, 1.12, 1.6, 3.0)
    )
    for name in ("SGD", "Adam"):
        errors = []
        for seed in range(min(seeds, 3)):
            start = Start(lengths[0], seed, name, False, NOISE)
            errors.append([])
            for fraction in wide:
                for _ in start.losses(fraction * start.boundary.learning_rate, 3 * steps):
                    pass
                errors[-1].append(start.error)
        noisy[name] = np.median(errors, 0)

    figure = Figure(figsize=(10.5, 4.8), layout="constrained")
    one, two = figure.subplots(1, 2)
    for (label, (by_fraction, *_)), colour in zip(found.items(), (*style.COLOURS, style.GREY), strict=False):
        shares = [np.mean(by_fraction[f]) for f in fractions]
        one.plot(fractions, shares, "o--" if "free" in label else "o-", color=colour, markersize=5, label=label)
    one.axvspan(*NEAR, color=style.GREY, alpha=0.2, linewidth=0)
    one.set(xlabel="rate / the optimiser's boundary", ylabel="share that left", title="no noise, fixed set")
    one.legend(fontsize=8)
    for (name, errors), colour in zip(noisy.items(), style.COLOURS, strict=False):
        two.plot(wide, errors.clip(max=1e3), "o-", color=colour, label=f"{name}, v free" if name != "SGD" else name)
    two.axvline(1, color=style.GREY, linewidth=1)
    two.axhline(1, color=style.GREY, linestyle=":", label="predicting zero")
    two.set(xscale="log", yscale="log", xlabel="rate / the optimiser's boundary", ylabel="relative error at the end")
    two.set_title(f"label noise {NOISE}")
    two.legend(fontsize=9)
    for ax in (one, two):
        ax.grid(alpha=0.25)
    good = [label for label, (_, stay, leave, _) in found.items() if min(np.mean(stay), np.mean(leave)) >= 0.95]
    bad = [label for label in found if label not in good]
    steps_up = "; ".join(
        f"{label.split(',')[0]} {told(first[0])} and {told(first[1])}"
        for label, (*_, first) in found.items()
        if first[0]
    )
    conclusion = f"""The boundary of an adaptive method is that of its linear map with v as it is. If v is free, leaving enlarges v and so the
    boundary: there is no cliff. Boundaries are measured at each start. At least 95 % of runs stay below 0.9 of the boundary, and at least
    95 % leave above 1.1, with {"; ".join(good) or "none"}; not with {"; ".join(bad) or "none"}. This boundary is that of a linear map: displaced by {FURTHER:g} of
    each unit instead (T = {lengths[-1]}), Adam with v held stays below 0.9 in {told(further)} of cases, because where v is 0 a
    second-order gradient is divided by eps alone. Proportion of first steps that raise the loss, at rates below and above the
    first-step boundary: {steps_up}. Median error after {3 * steps} steps from the exact start under label noise {NOISE}, at
    {", ".join(f"{f:g}" for f in wide)} of the boundary: {"; ".join(f"{name} {', '.join(f'{e:.2g}' for e in errors)}" for name, errors in noisy.items())}."""
    limitations = f"""A run has left if a loss in the last third of {steps} steps exceeds the first loss, or any exceeds {GONE:g} times it. Starts
    are moved by {MOVED:g} of each unit so that there is a loss to grow; training sets are fixed, T = {", ".join(map(str, lengths))}. AdamW's decay
    is {DECAY:g}; a much larger one would move the net by itself. Held v is that of label noise at the start."""
    return study.Finding("The boundary belongs to the optimiser", rows, conclusion, limitations, figure)


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
