"""A net whose parameters are the weights of a `Handwritten` algorithm, or thetas in their units."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from wavebase.constructions.algorithm import ExactAlgorithm, Weights
from wavebase.constructions.handwritten import Handwritten, perturbed_weights, random_weights
from wavebase.models.unit_scaled import Parametrization, UnitScaled, is_unit_scaled, unit_key

Start = Literal["exact", "perturbed", "random"]


class HandwrittenModel(UnitScaled):
    """Named weights in their own or in natural units. A subclass gives `forward`, in terms of `weight(name)`.

    Args:
        exact: The algorithm's weights; they give names, shapes, dtype and units.
        weights: Other weights in their place; None for the exact ones.
        unit_scaled: Whether the parameters are the weights over their units.
    """

    construction = None  # that contract is the spectral LSTM's

    def __init__(self, exact: Handwritten, weights: Mapping[str, Tensor] | None = None, unit_scaled: bool = False):
        super().__init__()
        self.exact = exact
        for name, weight in exact.weights.items():
            unit = exact.unit_scale[name].to(weight.dtype) if unit_scaled else None
            value = weight if weights is None else weights[name]
            self.register_parameter(name, nn.Parameter(self.in_units(name, value.clone(), unit)))

    @property
    def blocks(self) -> Mapping[str, slice]:
        """Hidden units by what they compute at the exact start."""
        return self.exact.blocks

    @cached_property
    def algorithm(self) -> ExactAlgorithm | None:
        """What a verdict holds this net against; None for weights that are not exact for any input (a negative control)."""
        return self.exact.contract(self.function)

    def function(self, weights: Weights, inputs: Any) -> Tensor:
        """Return the output that this net has with other weights, in their own units."""
        units = {name: self._buffers.get(unit_key(name)) for name in self.exact.weights}
        thetas = {name: weights[name] if unit is None else weights[name] / unit for name, unit in units.items()}
        return functional_call(self, thetas, (inputs,))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, to which inputs are cast."""
        return next(self.parameters()).dtype

    def weight(self, name: str) -> Tensor:
        """Return a weight as the algorithm means it, differentiable."""
        return self.in_weights(name, getattr(self, name))  # get_parameter refuses the tensors of a stack

    def named_weights(self) -> dict[str, Tensor]:
        """Return the weights by name, detached."""
        return {name: self.weight(name).detach() for name in self.exact.weights}


def start_weights(
    algorithm: Handwritten,
    start: str,
    parametrization: Parametrization,
    init: torch.Generator,
    perturbation_generator: torch.Generator,
    scale: float,
) -> tuple[Mapping[str, Tensor], bool]:
    """Return the weights that a run starts with, and whether it trains them in their natural units.

    Args:
        start: exact | perturbed | random.
        parametrization: See `models.unit_scaled`.
        scale: Of start=perturbed, see `constructions.handwritten.perturbed_weights`.

    Raises:
        ValueError: For another start, or a scale that is negative or not finite.
    """
    unit_scaled = is_unit_scaled(parametrization, start)
    perturbed = perturbed_weights(algorithm, scale, perturbation_generator)  # its checks hold whatever the start
    if start == "exact":
        return algorithm.weights, unit_scaled
    if start == "perturbed":
        return perturbed, unit_scaled
    if start == "random":
        return random_weights(algorithm, unit_scaled, init), unit_scaled
    raise ValueError(f"model.start must be exact, perturbed or random, got {start!r}; use exact")
