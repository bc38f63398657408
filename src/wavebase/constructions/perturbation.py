"""Measured departures from a construction: noise, wrong angles, wrong moduli, leakage outside the algorithm's mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wavebase.constructions.construction import Construction

Kind = Literal["gaussian", "rotation", "modulus", "leakage"]


@dataclass(frozen=True)
class Perturbation:
    """How far, in which direction, and which weights.

    kind       what changes                                                  unit of `scale`
    gaussian   every entry that is not zero, times 1 + normal                standard deviation, relative
    leakage    recurrent entries outside the mask, plus normal               share of the row's own drive (below)
    rotation   each oscillator's angle, normal                               standard deviation, radians per sample
    modulus    each oscillator's eigenvalue modulus, times 1 + normal        standard deviation, relative

    A construction's weights differ by many orders from block to block, so noise of one size everywhere would only hit
    the most sensitive rows. Leakage is therefore measured where it acts: entry (i, j) has standard deviation
    scale * drive_i / (level_j sqrt(H)), with level_j the largest |h_j| and drive_i the largest argument that row i has
    by intention, so that a row's stray input is about `scale` of its own.
    weights: names, for gaussian and leakage (default weight_hh_cell); rotation and modulus act on the oscillators in
    weight_hh_cell: the block gen, or resonator.
    """

    kind: Kind = "gaussian"
    scale: float = 0.01
    weights: Sequence[str] = ("weight_hh_cell",)

    def __post_init__(self) -> None:
        if self.kind not in ("gaussian", "rotation", "modulus", "leakage"):
            raise ValueError(
                f"perturbation.kind must be gaussian, rotation, modulus or leakage, got {self.kind!r}; use gaussian"
            )
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"perturbation.scale must be finite and not negative, got {self.scale}; use 0.01")


def perturb(construction: Construction, perturbation: Perturbation, generator: torch.Generator) -> Construction:
    """A copy of the construction with perturbed weights; draws only from `generator`, in float64.

    Raises ValueError for a name that is no weight, or a weight that cannot be perturbed in the way asked.

    >>> import torch, wavebase
    >>> start = wavebase.spectral_construction(8)
    >>> noisy = wavebase.perturb(start, wavebase.Perturbation("rotation", 0.01), torch.Generator().manual_seed(0))
    >>> [name for name, weight in noisy.weights.items() if not torch.equal(weight, start.weights[name])]
    ['weight_hh_cell']
    >>> noisy.error_bound  # nothing is promised of it
    inf
    """
    if not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator must be a torch.Generator, got {generator!r}; use torch.Generator().manual_seed(0)"
        )
    weights = dict(construction.weights)
    if perturbation.kind in ("rotation", "modulus"):
        name = "weight_hh_cell"
        weights[name] = _turn(construction, perturbation, generator)
    else:
        for name in perturbation.weights:
            weights[name] = _add_noise(construction, name, perturbation, generator)
    return construction.replace_weights(weights)


def _add_noise(construction: Construction, name: str, perturbation: Perturbation, generator: torch.Generator) -> Tensor:
    if name not in construction.weights:
        raise ValueError(
            f"perturbation.weights must name weights, got {name!r}; use one of {', '.join(construction.weights)}"
        )
    weight = construction.weights[name].to(torch.float64)
    noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    if perturbation.kind == "leakage":
        if name not in construction.mask:
            raise ValueError(
                f"perturbation.weights must be recurrent for kind=leakage, got {name!r}; use weight_hh_cell"
            )
        gate = name.removeprefix("weight_hh_")
        others = (construction.weights[f"{kind}_{gate}"].double() for kind in ("weight_ih", "bias_ih", "bias_hh"))
        from_input, *biases = (other.abs() for other in others)
        drive = weight.abs() @ construction.level + from_input.sum(1) * construction.amplitude + sum(biases)
        size = perturbation.scale * drive[:, None] / (construction.level * len(drive) ** 0.5)
        return (weight + (noise * size).masked_fill(construction.mask[name], 0)).to(construction.dtype)
    if not weight.any():
        raise ValueError(f"perturbation.weights: {name} is zero, so noise relative to it has no size; leave it out")
    return (weight * (1 + perturbation.scale * noise)).to(construction.dtype)


def _turn(construction: Construction, perturbation: Perturbation, generator: torch.Generator) -> Tensor:
    """Each oscillator's block R becomes R times a rotation, or R times a number."""
    weight = construction.weights["weight_hh_cell"].clone()
    gen = construction.blocks.get("gen") or construction.blocks.get("resonator")
    if gen is None:
        raise ValueError(
            f"perturbation.kind must be gaussian or leakage where nothing oscillates, got {perturbation.kind}; use gaussian"
        )
    draws = perturbation.scale * torch.randn((gen.stop - gen.start) // 2, generator=generator, dtype=torch.float64)
    for n, draw in enumerate(draws.tolist()):
        pair = slice(gen.start + 2 * n, gen.start + 2 * n + 2)
        cos, sin = (math.cos(draw), math.sin(draw)) if perturbation.kind == "rotation" else (1 + draw, 0.0)
        move = torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)
        weight[pair, pair] = (move @ weight[pair, pair].to(torch.float64)).to(weight.dtype)
    return weight
