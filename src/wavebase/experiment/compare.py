"""Two nets of one architecture side by side: distance modulo symmetry, the paths between them, exchanged blocks, modes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavebase.constructions import alignment
from wavebase.constructions.algorithm import ExactAlgorithm
from wavebase.constructions.construction import STATE_NAMES, Construction
from wavebase.constructions.files import load_construction
from wavebase.experiment.build import load_run
from wavebase.formatting import number
from wavebase.probes.mechanism import outputs
from wavebase.records.atomic import RecordsError
from wavebase.records.folder import RunFolder
from wavebase.signals.generators import WhiteNoise
from wavebase.spectrum import power_spectrum

Weights = dict[str, Tensor]
POINTS = 21  # of a path at which its error is measured


@dataclass(frozen=True)
class Net:
    """Weights with what is needed to run them.

    Attributes:
        weights: By canonical name.
        about: The exact algorithm that the net is held against, which knows blocks, natural units and symmetries.
        signal, target: A batch that errors are measured on.
    """

    weights: Weights
    about: Construction | ExactAlgorithm
    signal: Any
    target: Tensor

    def output(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the output of other weights in this net."""
        if isinstance(self.about, Construction):
            return outputs(self.about.replace_weights(weights), self.signal)
        assert self.about.forward is not None
        return self.about.forward(weights, self.signal)

    def error(self, weights: Mapping[str, Tensor]) -> float:
        """Return ||output - target|| / ||target||; infinite where it is not finite."""
        with torch.no_grad():
            apart = ((self.output(weights) - self.target).double().norm() / self.target.double().norm()).item()
        return apart if math.isfinite(apart) else math.inf


@dataclass(frozen=True)
class Comparison:
    """What two nets have in common.

    Attributes:
        errors: Relative error of each, and of zero and mean output, which are what no algorithm gets.
        distance: Relative, in natural units, after the symmetry that brings the second nearest to the first; as_they_are:
            without it.
        straight, curved: Errors at POINTS equidistant points of the straight line and of a quadratic Bezier curve whose
            middle was trained to keep the error low (Garipov et al. 2018, arXiv 1802.10026).
        exchanged: Error of the first net with one block of the second in it, by block.
        modes: Largest differences of matched eigenvalues of the recurrent matrix of the oscillators: phase (radians a step)
            and modulus; empty where there are none.
    """

    errors: dict[str, float]
    distance: float
    as_they_are: float
    straight: list[float]
    curved: list[float]
    exchanged: dict[str, float]
    modes: dict[str, float]

    def table(self) -> str:
        """Return about twenty lines of at most 80 columns."""
        worst_end = max(self.errors["first"], self.errors["second"])
        lines = [
            f"relative error       first {number(self.errors['first'])}, second {number(self.errors['second'])} (zero output 1, mean {number(self.errors['mean'])})",
            f"distance             {number(self.distance)} modulo symmetry, {number(self.as_they_are)} as they are",
            f"straight path        highest error {number(max(self.straight))} (ends {number(worst_end)})",
            f"curved path          highest error {number(max(self.curved))}",
        ]
        for name, error in self.exchanged.items():
            lines.append(f"{'block of the second' if not lines[-1].startswith(('block', ' ')) else '':<20} {name}: error {number(error)}")  # fmt: skip
        if self.modes:
            lines.append(f"shared modes         phases within {number(self.modes['phase'])}, moduli within {number(self.modes['modulus'])} a step")  # fmt: skip
        return "\n".join(lines)


def load_net(path: Path, seed: int = 0, count: int = 64) -> Net:
    """Read a net to compare: a run's folder (its last checkpoint), a checkpoint in one, or a construction (.safetensors).

    Raises:
        ValueError: For a file that is neither, or a net without a known algorithm.
    """
    if path.suffix == ".safetensors":
        made = load_construction(path)
        if len(made.weights["readout.bias"]) != len(made.bins):
            raise ValueError(
                f"the net must have an output a bin, got the construction of a lock-in in {path}; compare spectral nets"
            )
        signal = (
            WhiteNoise(made.amplitude).sample(count, 4 * made.T, torch.Generator().manual_seed(seed)).to(made.dtype)
        )
        target = made.scale * power_spectrum(signal, made.T, list(made.bins))
        return Net(dict(made.weights), made, signal, target)
    root, at = path, -1
    if path.is_file():
        root = path.parent.parent
        steps = RunFolder(root).checkpoint_steps()
        names = [f"step_{step:08d}.pt" for step in steps]
        if path.name not in names:
            raise ValueError(f"the file must be a run's checkpoint or a .safetensors construction, got {path}; give the run's folder")  # fmt: skip
        at = names.index(path.name)
    elif not path.is_dir():
        raise RecordsError(f"the net must be a run's folder, a checkpoint or a .safetensors file, got {str(path)!r}; check the path")  # fmt: skip
    _, components = load_run(RunFolder(root), at)
    net, (signal, target) = components.net, components.task.held_out["training"]
    about = getattr(net, "algorithm", None) or net.construction
    if about is None or (isinstance(about, ExactAlgorithm) and about.forward is None):
        raise ValueError(
            f"the net must be held against an exact algorithm with a forward, got {type(net).__name__} without one in {root}; compare runs of model=spectral, perturbed or random"
        )
    return Net(net.named_weights(), about, signal, target)


def compare(first: Net, second: Net, steps: int = 300, seed: int = 0) -> Comparison:
    """Compare two nets on the first one's data.

    Args:
        steps: Of training the curve's middle (Adam in natural units).
        seed: Of the points on the curve at which it is trained.

    Raises:
        ValueError: For nets of other names or shapes of weights.
    """
    for name in {**first.weights, **second.weights}:
        shapes = [list(net.weights[name].shape) if name in net.weights else "nothing" for net in (first, second)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"both nets must have weights of one shape, got {shapes[0]} and {shapes[1]} for {name}; compare nets of one architecture")  # fmt: skip
    dtype = next(iter(first.weights.values())).dtype
    theirs = {name: weight.to(dtype) for name, weight in second.weights.items()}
    aligned, distance, as_they_are = _aligned(first, theirs)
    units = _units(first)
    places = torch.linspace(0, 1, POINTS, dtype=torch.float64).tolist()
    straight = [first.error(_between(first.weights, aligned, t)) for t in places]
    middle = _trained_middle(first, aligned, units, steps, seed)
    curved = [first.error(_bezier(first.weights, middle, aligned, t)) for t in places]
    mean = first.target.double().mean(0).expand_as(first.target)
    errors = {
        "first": first.error(first.weights),
        "second": first.error(aligned),
        "mean": ((mean - first.target).norm() / first.target.double().norm()).item(),
    }
    exchanged = {name: first.error(part(first.weights, aligned)) for name, part in _parts(first.about).items()}
    return Comparison(
        errors, distance, as_they_are, straight, curved, exchanged, _modes(first.about, first.weights, aligned)
    )


def _aligned(first: Net, theirs: Weights) -> tuple[Weights, float, float]:
    """Return the second net's weights nearest to the first's, and the distances after and before."""
    if isinstance(first.about, Construction):
        origin = first.about.replace_weights(first.weights)
        apart = alignment.distance(theirs, origin)
        signal = WhiteNoise(origin.amplitude).sample(4, 2 * origin.T, torch.Generator().manual_seed(0))
        found = alignment.align(theirs, origin, signal)
        return (found.weights, found.distance, apart) if found.distance < apart else (theirs, apart, apart)
    units = {name: first.about.unit(name) for name in first.about.weights}
    exact = replace(first.about, weights=first.weights, unit_scale=units, blocks={}, questions={})
    weights, apart = exact.aligned(theirs)
    return weights, apart, exact.distance(theirs)


def _units(net: Net) -> Weights:
    if isinstance(net.about, Construction):
        return {name: net.about.unit_scale[name].double() for name in net.weights}
    return {name: net.about.unit(name) for name in net.weights}


def _between(one: Mapping[str, Tensor], other: Mapping[str, Tensor], t: float) -> Weights:
    return {name: (1 - t) * weight + t * other[name] for name, weight in one.items()}


def _bezier(one: Mapping[str, Tensor], middle: Mapping[str, Tensor], other: Mapping[str, Tensor], t: float) -> Weights:
    return {
        name: (1 - t) ** 2 * weight + 2 * t * (1 - t) * middle[name] + t**2 * other[name]
        for name, weight in one.items()
    }


def _trained_middle(net: Net, other: Weights, units: Weights, steps: int, seed: int) -> Weights:
    """Train the middle of a Bezier curve so that random points of it have a low error, and keep the best middle seen."""
    start = _between(net.weights, other, 0.5)
    shift = {name: torch.zeros_like(weight, requires_grad=True) for name, weight in start.items()}
    scale = {name: units[name].to(weight) for name, weight in start.items()}
    reach = max(1e-6, max(((net.weights[n] - other[n]) / scale[n]).abs().max().item() for n in start))
    optimizer = torch.optim.Adam(list(shift.values()), lr=min(1e-2, reach / 10))
    generator, size = torch.Generator().manual_seed(seed), net.target.square().mean()
    best, lowest = start, max(net.error(_bezier(net.weights, start, other, t)) for t in (0.25, 0.5, 0.75))
    for step in range(steps):
        middle = {name: start[name] + scale[name] * shift[name] for name in start}
        t = torch.rand((), generator=generator).item()
        loss = (net.output(_bezier(net.weights, middle, other, t)) - net.target).square().mean() / size
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 25 == 24:
            now = {name: (start[name] + scale[name] * shift[name]).detach() for name in start}
            worst = max(net.error(_bezier(net.weights, now, other, t)) for t in (0.25, 0.5, 0.75))
            if worst < lowest:
                best, lowest = now, worst
    return best


def _parts(about: Construction | ExactAlgorithm) -> dict[str, Callable[[Weights, Weights], Weights]]:
    """Return for each block what puts the second net's part into the first: the weights into the block's units."""

    def rows(units: slice) -> Callable[[Weights, Weights], Weights]:
        def exchanged(one: Weights, other: Weights) -> Weights:
            taken = {name: weight.clone() for name, weight in one.items()}
            for name in taken:
                if name.startswith(("weight_", "bias_")) or name in STATE_NAMES:
                    taken[name][units] = other[name][units]
            return taken

        return exchanged

    def entries(block: Mapping[str, Tensor]) -> Callable[[Weights, Weights], Weights]:
        def exchanged(one: Weights, other: Weights) -> Weights:
            return {n: torch.where(block[n].to(w.device), other[n], w) if n in block else w for n, w in one.items()}

        return exchanged

    if isinstance(about, Construction):
        return {name: rows(units) for name, units in about.blocks.items()}
    return {name: entries(block) for name, block in about.blocks.items()}


def _modes(about: Construction | ExactAlgorithm, one: Weights, other: Weights) -> dict[str, float]:
    """Return how far the matched eigenvalues of the oscillators are apart."""
    if not isinstance(about, Construction) or "gen" not in about.blocks:
        return {}
    from scipy.optimize import linear_sum_assignment

    units = about.blocks["gen"]
    values = [
        np.linalg.eigvals(weights["weight_hh_cell"][units, units].detach().cpu().double().numpy())
        for weights in (one, other)
    ]
    if not all(np.isfinite(found).all() for found in values):
        return {}
    rows, columns = linear_sum_assignment(np.abs(values[0][:, None] - values[1]))
    ours, others = values[0][rows], values[1][columns]
    turn = np.angle(ours * others.conj())
    turn = turn[(np.abs(ours) > 1e-9) & (np.abs(others) > 1e-9)]
    return {
        "phase": float(np.abs(turn).max(initial=0.0)),
        "modulus": float(np.abs(np.abs(ours) - np.abs(others)).max(initial=0.0)),
    }
