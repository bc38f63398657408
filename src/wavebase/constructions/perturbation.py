"""Measured departures from a construction: noise, wrong angles or moduli, leakage outside the algorithm's mask."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from wavebase.constructions.construction import STATE_NAMES, Construction
from wavebase.constructions.options import IgnoredOption

Kind = Literal["unit", "gaussian", "rotation", "modulus", "leakage"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Perturbation:
    """Size and kind of a perturbation, and the weights that it changes.

    kind       what changes                                                  unit of `scale`
    unit       every entry, plus normal                                      fraction of the row's drive (below)
    leakage    recurrent entries outside the mask, plus normal               the same
    gaussian   every entry that is not zero, times 1 + normal                standard deviation, relative
    rotation   each oscillator's angle, plus normal                          standard deviation, radians per sample
    modulus    each oscillator's eigenvalue modulus, times 1 + normal        standard deviation, relative

    The weights of a construction differ by many orders of magnitude from block to block, so noise of one size would only
    affect the most sensitive rows. unit and leakage are therefore relative: an entry of a row of n has standard
    deviation scale * unit / sqrt(n) (`Construction.unit_scale`), and a row's stray input is about `scale` of its drive.

    Attributes:
        kind: See the table.
        scale: See the table.
        weights: Names or patterns (*) for unit (None: all but the initial state), gaussian and leakage (None:
            weight_hh_cell). rotation and modulus act on the oscillators in weight_hh_cell, block gen or resonator.
    """

    kind: Kind = "gaussian"
    scale: float = 0.01
    weights: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"perturbation.kind must be one of {', '.join(KINDS)}, got {self.kind!r}; use unit")
        if not isinstance(self.scale, int | float) or not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"perturbation.scale must be finite and not negative, got {self.scale}; use 0.01")


def perturb(construction: Construction, perturbation: Perturbation, generator: torch.Generator) -> Construction:
    """Return the construction with perturbed weights and no error bound.

    Args:
        construction: Stays as it is.
        perturbation: What to change.
        generator: The only source of random numbers, drawn in float64.

    Raises:
        ValueError: For an unknown weight, or a weight that this kind of perturbation cannot change.

    >>> import torch, wavebase
    >>> start = wavebase.spectral_construction(8)
    >>> noisy = wavebase.perturb(start, wavebase.Perturbation("rotation", 0.01), torch.Generator().manual_seed(0))
    >>> [name for name, weight in noisy.weights.items() if not torch.equal(weight, start.weights[name])]
    ['weight_hh_cell']
    >>> noisy.error_bound
    inf
    """
    if not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator must be a torch.Generator, got {generator!r}; use torch.Generator().manual_seed(0)"
        )
    if not isinstance(perturbation, Perturbation):
        raise ValueError(f"perturbation must be a Perturbation, got {perturbation!r}; use wavebase.Perturbation()")
    weights = dict(construction.weights)
    if perturbation.kind in ("rotation", "modulus"):
        name = "weight_hh_cell"
        if perturbation.weights is not None and list(perturbation.weights) != [name]:
            raise IgnoredOption(
                "perturbation.weights",
                f"perturbation.weights must be null with kind={perturbation.kind}, which acts on {name}, got {list(perturbation.weights)}; use null",
            )
        weights[name] = _turn(construction, perturbation, generator)
    else:
        for name in _chosen(construction, perturbation):
            weights[name] = _add_noise(construction, name, perturbation, generator)
    return construction.replace_weights(weights)


def _chosen(construction: Construction, perturbation: Perturbation) -> list[str]:
    """Return the names of the weights to perturb, each once, in the order of the patterns."""
    patterns = perturbation.weights
    if patterns is None:
        if perturbation.kind == "unit":
            return [name for name in construction.weights if name not in STATE_NAMES]
        patterns = ("weight_hh_cell",)
    chosen: dict[str, None] = {}
    for pattern in patterns:
        names = fnmatch.filter(construction.weights, pattern)
        if not names:
            raise ValueError(
                f"perturbation.weights must name weights, got {pattern!r}; use one of {', '.join(construction.weights)}"
            )
        chosen |= dict.fromkeys(names)
    return list(chosen)


def _add_noise(construction: Construction, name: str, perturbation: Perturbation, generator: torch.Generator) -> Tensor:
    weight = construction.weights[name].to(torch.float64)
    noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    if perturbation.kind == "gaussian":
        if not weight.any():
            raise ValueError(f"perturbation.weights: {name} is zero, so noise relative to it has no size; leave it out")
        return (weight * (1 + perturbation.scale * noise)).to(construction.dtype)
    noise = noise * perturbation.scale * construction.unit_scale[name].double()
    if weight.ndim == 2:
        noise = noise / weight.shape[1] ** 0.5
    if perturbation.kind == "leakage":
        if name not in construction.mask:
            raise ValueError(
                f"perturbation.weights must be recurrent for kind=leakage, got {name!r}; use weight_hh_cell"
            )
        noise = noise.masked_fill(construction.mask[name], 0)
    return (weight + noise).to(construction.dtype)


def _turn(construction: Construction, perturbation: Perturbation, generator: torch.Generator) -> Tensor:
    """Return weight_hh_cell with each oscillator's block multiplied by a rotation, or by a number."""
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
