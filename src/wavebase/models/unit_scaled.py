"""Weights in their natural units: W = unit * theta, where theta, of order one, is what an optimiser trains.

Curvature belongs to coordinates. The gains of an exact net span ten orders of magnitude, so in W lambda_max follows the gains
(3e18 at an exact start, 3e3 at gains near 1), and no rate moves all weights; in theta it is the same for every choice of
gains. Derivation and numbers: docs/unit_scaled.md.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Parametrization = Literal["auto", "unit_scaled", "raw"]


def is_unit_scaled(parametrization: Parametrization, start: str) -> bool:
    """Whether a net trains theta. auto: where it starts at, or near, an algorithm; a random start has no natural units.

    Raises ValueError for another word.
    """
    if parametrization not in ("auto", "unit_scaled", "raw"):
        raise ValueError(f"model.parametrization must be auto, unit_scaled or raw, got {parametrization!r}; use auto")
    return parametrization == "unit_scaled" or (parametrization == "auto" and start != "random")


def random_theta(weight: Tensor, unit: Tensor, generator: torch.Generator) -> Tensor:
    """Random weights of the same size in the same coordinates: each row of theta in a random direction, as long as it was.

    Args:
        weight: Exact weights [rows, columns], or [rows].
        unit: Their natural units, of the same shape and dtype.
        generator: Of the directions; drawn in float64.

    Returns:
        unit * theta, in the dtype of `weight`.
    """
    size = (weight.double() / unit.double()).reshape(len(weight), -1).norm(dim=1)
    draw = torch.randn(weight.shape, generator=generator, dtype=torch.float64).reshape(len(weight), -1)
    theta = draw * (size / draw.norm(dim=1))[:, None]
    return (theta.reshape(weight.shape) * unit).to(weight.dtype)


class UnitScaled(nn.Module):
    """A module some of whose parameters are thetas; their units are buffers that no checkpoint holds."""

    def in_units(self, name: str, weight: Tensor, unit: Tensor | None) -> Tensor:
        """The theta of a weight, whose unit is kept under its name; without a unit the weight itself."""
        if unit is None:
            return weight
        self.register_buffer(unit_key(name), unit.clone(), persistent=False)
        return weight / unit

    def in_weights(self, name: str, theta: Tensor) -> Tensor:
        """The weight of a theta, differentiable."""
        unit = self._buffers.get(unit_key(name))
        return theta if unit is None else theta * unit


def unit_key(name: str) -> str:
    """The name of the buffer that holds a weight's unit."""
    return f"unit_{name}".replace(".", "_")
