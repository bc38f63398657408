"""The contract of an exact algorithm: what anyone's hand-written weights need, so that a run and a verdict can be held against them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
Symmetry = Callable[[Weights], Weights]
Question = Callable[[Weights], float]
MOST_ELEMENTS = 256  # of a symmetry group that is searched whole


@dataclass(frozen=True)
class ExactAlgorithm:
    """Weights that compute something exactly, and what their author knows about them.

    A model offers it as its attribute `algorithm`. Only `weights` are needed. What the author leaves out is
    not guessed: without `questions` and `mask` a verdict says whether the function is kept and how far the weights moved, and
    nothing about how the function is computed.

    Attributes:
        weights: Exact weights, by the names and shapes of the model's `named_weights()`.
        tolerance: Largest relative error of these weights on the held-out training set; checked when a run is built. None
            where the task's labels are not what the algorithm computes.
        unit_scale: Natural size of every entry, by name (`models.unit_scaled`). A weight that it leaves out is measured by
            the root mean square of its entries that are not zero.
        blocks: Named parts: block, then weight, to a boolean tensor of its entries.
        mask: Entries that the algorithm uses, by weight; all others are zero by intention.
        symmetries: Generators of the finite group of changes that no output sees, each from weights to weights. The inverse
            of each must be reachable from them.
        questions: How the function is computed: each maps weights, on the CPU, to a score, 1 for the algorithm and 0 for a
            net that does it otherwise, such as the share of its effect that exchanging a block's state has.
        forward: The function itself, from weights and input to output; needed for `mask`.

    Raises:
        ValueError: For parts that do not fit the weights.
    """

    weights: Weights
    tolerance: float | None = None
    unit_scale: Weights = field(default_factory=dict)
    blocks: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    mask: Weights = field(default_factory=dict)
    symmetries: tuple[Symmetry, ...] = ()
    questions: Mapping[str, Question] = field(default_factory=dict)
    forward: Callable[[Weights, Any], Tensor] | None = None

    def __post_init__(self) -> None:
        if not self.weights or not all(weight.isfinite().all() for weight in self.weights.values()):
            raise ValueError("weights must hold finite tensors by name, got none or others; give the exact weights")
        if self.tolerance is not None and not (math.isfinite(self.tolerance) and self.tolerance > 0):
            raise ValueError(f"tolerance must be positive and finite, got {self.tolerance}; give a relative error")
        parts = {"unit_scale": self.unit_scale, "mask": self.mask}
        parts |= {f"blocks[{name!r}]": block for name, block in self.blocks.items()}
        for label, part in parts.items():
            self._check(label, part)
        if self.mask and self.forward is None:
            raise ValueError("mask needs forward, got none; give the function of weights and input")
        for n, symmetry in enumerate(self.symmetries):
            self._check(f"symmetries[{n}](weights)", symmetry(self.weights), whole=True)

    def _check(self, label: str, part: Weights, whole: bool = False) -> None:
        for name in self.weights if whole else part:
            wanted = self.weights.get(name)
            got = part.get(name)
            if wanted is None or got is None or got.shape != wanted.shape:
                shapes = ["nothing" if one is None else list(one.shape) for one in (wanted, got)]
                raise ValueError(
                    f"{label} must fit weights, whose {name} is {shapes[0]}, got {shapes[1]}; use its names and shapes"
                )

    def unit(self, name: str) -> Tensor:
        """Return the natural size of every entry of a weight, float64, of its shape."""
        if name in self.unit_scale:
            return self.unit_scale[name].detach().cpu().double()
        exact = self.weights[name].detach().cpu().double()
        used = exact[exact != 0]
        return torch.full_like(exact, used.square().mean().sqrt().item() if used.numel() else 1.0)

    def output(self, weights: Weights, inputs: Any) -> Tensor:
        """Return `forward` of weights and inputs, with the weights moved to the inputs' device."""
        assert self.forward is not None
        first = inputs
        while not isinstance(first, Tensor):
            first = first[0]
        return self.forward({name: weight.to(first.device) for name, weight in weights.items()}, inputs)

    def distance(self, weights: Weights) -> float:
        """Return ||(W - exact) / unit|| / ||exact / unit|| over all weights: 0 is exact, 1 is zero weights."""
        apart, (exact, size) = 0.0, self._measure
        for name, (weight, unit) in exact.items():
            apart += ((weights[name].detach().cpu().double() - weight) / unit).square().sum().item()
        return math.sqrt(apart / size) if math.isfinite(apart) else math.inf

    @cached_property  # a search over symmetries asks for thousands of distances
    def _measure(self) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
        """The exact weights and their units in float64 on the CPU, and the square of their size."""
        exact = {name: (weight.detach().cpu().double(), self.unit(name)) for name, weight in self.weights.items()}
        size = 0.0
        for weight, unit in exact.values():
            size += (weight / unit).square().sum().item()
        return exact, size

    def aligned(self, weights: Weights) -> tuple[dict[str, Tensor], float]:
        """Return the weights, on the CPU, moved by the symmetries as near to the exact ones as they come, and that distance.

        A group of up to MOST_ELEMENTS elements is searched whole; of a larger one the search stops where no generator
        brings the weights nearer, which may be a local minimum.
        """
        here = {name: weight.cpu() for name, weight in weights.items()}
        best, nearest = here, self.distance(here)
        seen, frontier = {_fingerprint(here)}, [here]
        while frontier and len(seen) <= MOST_ELEMENTS:
            moved = [dict(symmetry(one)) for one in frontier for symmetry in self.symmetries]
            frontier = []
            for one in moved:
                if (mark := _fingerprint(one)) not in seen:
                    seen.add(mark)
                    frontier.append(one)
                    if (apart := self.distance(one)) < nearest:
                        best, nearest = one, apart
        while len(seen) > MOST_ELEMENTS:
            nearer = min((dict(symmetry(best)) for symmetry in self.symmetries), key=self.distance)
            if not self.distance(nearer) < nearest:
                break
            best, nearest = nearer, self.distance(nearer)
        return best, nearest


def _fingerprint(weights: Weights) -> bytes:
    # -0 becomes 0: a change of signs leaves a zero what it is
    every = torch.cat([weights[name].detach().cpu().flatten() for name in sorted(weights)])
    return (every + 0.0).numpy().tobytes()


def activation_units(net: torch.nn.Module, inputs: Any) -> dict[str, Tensor]:
    """Measure the natural size of the weights of every torch.nn.Linear in a net, from what flows through it.

    unit_ij = drive_i / level_j, with level_j the largest |input| of column j over the given inputs and drive_i the largest
    |output| of row i, so that a change of theta_ij by 1 % changes row i by at most 1 % of what it reaches.

    Args:
        net: Run once on `inputs`.
        inputs: What its forward takes; they should reach the sizes that training will.

    Returns:
        Units by parameter name, weight and bias. Rows and columns in which nothing flows have 1.
    """
    flows: dict[str, list[tuple[Tensor, Tensor]]] = {}
    hooks = [
        module.register_forward_hook(
            lambda module, given, out, name=name: flows.setdefault(name, []).append((given[0].detach(), out.detach()))
        )
        for name, module in net.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    try:
        with torch.no_grad():
            net(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    units = {}
    for name, passes in flows.items():
        level, drive = (
            torch.stack([one[side].abs().flatten(0, -2).amax(0) for one in passes]).amax(0) for side in (0, 1)
        )
        level, drive = (torch.where(size > 0, size, torch.ones_like(size)) for size in (level, drive))
        prefix = f"{name}." if name else ""
        units[f"{prefix}weight"] = drive[:, None] / level
        module = net.get_submodule(name)
        if module.bias is not None:
            units[f"{prefix}bias"] = drive
    return units
