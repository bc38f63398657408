"""Exact weights of any architecture as plain tensors, with their natural units, and starts near and far from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wavebase.constructions.algorithm import ExactAlgorithm, Question, Weights

OUTPUTS = ("readout_weight", "readout_bias", "weight_out", "bias_out")  # their rows are outputs, not hidden units


@dataclass(frozen=True)
class Handwritten:
    """An algorithm written into weights.

    Attributes:
        weights: Tensors by name.
        unit_scale: The natural size of every entry, by the names of `weights`, broadcastable to their shapes. Each is a
            power of two, so that unit * (W / unit) is W bit for bit.
        blocks: Hidden units by what they compute.
        error_bound: A bound on the output's error; the function that makes the construction says in which norm.
        generators: Continuous symmetries by name: (weights, t) to other weights of the same function; t = 0 changes nothing.
        reflections: Discrete symmetries by name: weights to other weights of the same function.
        tolerance: Largest relative error on the task's held-out training set; None where its labels are not what the
            algorithm computes.
        questions: Scores of how the function is computed, see `ExactAlgorithm`.
    """

    weights: Weights
    unit_scale: Weights
    blocks: Mapping[str, slice]
    error_bound: float
    generators: Mapping[str, Callable[[Weights, float], dict[str, Tensor]]] = field(default_factory=dict)
    reflections: Mapping[str, Callable[[Weights], dict[str, Tensor]]] = field(default_factory=dict)
    tolerance: float | None = None
    questions: Mapping[str, Question] = field(default_factory=dict)

    def contract(self, forward: Callable[[Weights, Any], Tensor]) -> ExactAlgorithm | None:
        """Return what runs and verdicts hold a net against; None where no error bound is known, as of a control that fails.

        Args:
            forward: The net's function, from weights and input.
        """
        if not math.isfinite(self.error_bound):
            return None
        return ExactAlgorithm(
            self.weights,
            self.tolerance,
            unit_scale={name: unit.expand_as(self.weights[name]) for name, unit in self.unit_scale.items()},
            blocks={name: self._entries(units) for name, units in self.blocks.items()},
            symmetries=tuple(self.reflections.values()),
            questions=self.questions,
            forward=forward,
        )

    def _entries(self, units: slice) -> dict[str, Tensor]:
        """Return a block's entries of each weight: the rows that its units compute with, the columns that read them."""
        size = max(block.stop for block in self.blocks.values())
        entries = {}
        for name, weight in self.weights.items():
            chosen = torch.zeros_like(weight, dtype=torch.bool)
            if name in OUTPUTS and weight.ndim > 1:
                chosen[:, units] = True
            elif name not in OUTPUTS and len(weight) == size:
                chosen[units] = True
            entries[name] = chosen
        return entries


def power_of_two(unit: Tensor) -> Tensor:
    """Return the nearest powers of two of positive numbers; 1 where there is none (zero)."""
    return torch.where(unit > 0, unit, 1.0).log2().round().exp2()


def row_units(drive: Tensor, level: Tensor | float) -> Tensor:
    """Return the unit of every entry of a matrix: the drive of its row over the level of its column.

    Args:
        drive: The largest argument that each row can reach, [rows]; a row without any has the unit 1 / level.
        level: The largest value of what each column reads, [columns] or one number.

    Returns:
        [rows, columns], or [rows, 1] for one level; powers of two.
    """
    level = torch.as_tensor(level, dtype=torch.float64)
    return power_of_two(torch.where(drive > 0, drive, 1.0).double()[:, None] / level)


def perturbed_weights(exact: Handwritten, scale: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Return weights that are off by `scale` of their units: a row of n entries by scale * unit / sqrt(n) each.

    Args:
        scale: Standard deviation of what is added to a row's argument, in units of its drive.
        generator: Draws in float64, so that float32 and float64 nets start alike.

    Raises:
        ValueError: If scale is negative or not finite.
    """
    if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(f"model.perturbation_scale must be finite and not negative, got {scale}; use 0.01")
    moved = {}
    for name, weight in exact.weights.items():
        columns = weight.shape[-1] if weight.ndim > 1 else 1
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64) * (scale / columns**0.5)
        moved[name] = (weight.double() + noise * exact.unit_scale[name].double()).to(weight.dtype)
    return moved


def random_weights(exact: Handwritten, unit_scaled: bool, generator: torch.Generator) -> dict[str, Tensor]:
    """Return random weights of the same shapes.

    Args:
        unit_scaled: True: normal numbers times the units, with the mean square that the exact W / unit has in that tensor
            (1 where it is zero, divided by the number of columns). False: uniform in +-1/sqrt(columns), as torch draws.
        generator: Draws in float64.
    """
    drawn = {}
    for name, weight in exact.weights.items():
        columns = weight.shape[-1]
        if unit_scaled:
            unit = exact.unit_scale[name].double()
            theta = weight.double() / unit
            size = theta.square().mean().sqrt() if theta.any() else columns**-0.5
            draw = size * unit * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        else:
            draw = (2 * torch.rand(weight.shape, generator=generator, dtype=torch.float64) - 1) * columns**-0.5
        drawn[name] = draw.to(weight.dtype)
    return drawn


def flip_signs(
    weights: Weights, rows: Mapping[str, int | slice], columns: Mapping[str, int | slice]
) -> dict[str, Tensor]:
    """Return a copy in which the named tensors have the signs of some rows, and then of some columns, changed."""
    flipped = {name: weight.clone() for name, weight in weights.items()}
    for name, index in rows.items():
        flipped[name][index] *= -1
    for name, index in columns.items():
        flipped[name][:, index] *= -1
    return flipped
