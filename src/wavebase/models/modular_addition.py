"""One hidden layer of squares that adds two one-hot numbers modulo p."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavebase.constructions.modular_addition import modular_addition_construction
from wavebase.models.handwritten import HandwrittenModel, Start, start_weights
from wavebase.models.unit_scaled import Parametrization
from wavebase.registry import registered


class ModularAddition(HandwrittenModel):
    """V (A x + B y)^2 + c of two one-hot numbers. Maps [batch, 2, p] to [batch, p]."""

    def forward(self, pairs: Tensor) -> Tensor:
        """The scores of every sum: [batch, 2, p] to [batch, p]."""
        first, second = pairs.to(self.dtype).unbind(-2)
        hidden = first @ self.weight("weight_first").mT + second @ self.weight("weight_second").mT
        return nn.functional.linear(hidden.square(), self.weight("weight_out"), self.weight("bias_out"))


@registered
def build(
    p: int,
    dtype: torch.dtype,
    init: torch.Generator,
    perturbation_generator: torch.Generator,
    *,
    start: Start = "exact",
    phases: int = 3,
    perturbation_scale: float = 0.01,
    parametrization: Parametrization = "auto",
) -> ModularAddition:
    """The net of a run. phases: of each summand, 3 for the exact algorithm. parametrization: see `models.unit_scaled`."""
    algorithm = modular_addition_construction(p, dtype, phases)
    return ModularAddition(
        algorithm, *start_weights(algorithm, start, parametrization, init, perturbation_generator, perturbation_scale)
    )
