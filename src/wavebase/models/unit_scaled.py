"""Weights in their natural units: W = unit * theta, where theta, of order one, is what an optimiser trains.

Curvature depends on the coordinates. The gains of an exact net span ten orders of magnitude, so lambda_max in W follows
the gains (3e18 at an exact start, 3e3 at gains near 1) and no learning rate moves all weights. In theta it is the same
for every choice of gains. Derivation and numbers: docs/unit_scaled.md.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Parametrization = Literal["auto", "unit_scaled", "raw"]


def is_unit_scaled(parametrization: Parametrization, start: str) -> bool:
    """Return whether a net trains theta.

    Args:
        parametrization: auto stands for unit_scaled, and for raw at a random start, which has no natural units.
        start: exact, perturbed or random.

    Raises:
        ValueError: For another parametrization.
    """
    if parametrization not in ("auto", "unit_scaled", "raw"):
        raise ValueError(f"model.parametrization must be auto, unit_scaled or raw, got {parametrization!r}; use auto")
    return parametrization == "unit_scaled" or (parametrization == "auto" and start != "random")


def random_theta(weight: Tensor, unit: Tensor, generator: torch.Generator) -> Tensor:
    """Draw random weights of the same size in the same coordinates: each row of theta keeps its length only.

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
    """A module with parameters that are thetas, and their units in buffers that no checkpoint holds."""

    def in_units(self, name: str, weight: Tensor, unit: Tensor | None) -> Tensor:
        """Return the theta of a weight and keep its unit; without a unit, return the weight itself."""
        if unit is None:
            return weight
        self.register_buffer(unit_key(name), unit.clone(), persistent=False)
        return weight / unit

    def in_weights(self, name: str, theta: Tensor) -> Tensor:
        """Return the weight of a theta, differentiable."""
        unit = self._buffers.get(unit_key(name))
        return theta if unit is None else theta * unit


def unit_key(name: str) -> str:
    """Return the name of the buffer that holds a weight's unit."""
    return f"unit_{name}".replace(".", "_")
