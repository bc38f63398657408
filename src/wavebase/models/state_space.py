"""A diagonal complex state space whose states are squared at the end of each window."""

from __future__ import annotations

import torch
from torch import Tensor

from wavebase.constructions.algorithm import Weights
from wavebase.constructions.handwritten import Handwritten
from wavebase.constructions.state_space import (
    Eigenvalue,
    eigenvalues,
    random_eigenvalues,
    state_space_construction,
)
from wavebase.models.handwritten import HandwrittenModel, Start, start_weights
from wavebase.models.unit_scaled import Parametrization
from wavebase.registry import registered


class StateSpace(HandwrittenModel):
    """scale |h|^2 after the last sample of each window, from h = 0 at its first.

    Maps [batch, samples] to [batch, windows, F], windows of T samples. The arguments are those of `HandwrittenModel`, and T and
    scale.
    """

    def __init__(
        self,
        algorithm: Handwritten,
        T: int,
        scale: float = 1.0,
        weights: Weights | None = None,
        unit_scaled: bool = False,
    ):
        super().__init__(algorithm, weights, unit_scaled)
        self.T, self.scale = T, scale

    def forward(self, signal: Tensor) -> Tensor:
        """Power spectra: [batch, samples] to [batch, windows, F]."""
        samples = in_windows(signal, self.T).to(self.dtype).unsqueeze(-1).unbind(-2)  # T of [batch, windows, 1]
        weights = {name: self.weight(name) for name in self.exact.weights}
        real, imag = eigenvalues(weights)
        in_real, in_imag = weights["input_real"], weights["input_imag"]
        h_real, h_imag = samples[0] * in_real, samples[0] * in_imag
        for x in samples[1:]:
            h_real, h_imag = (
                real * h_real - imag * h_imag + in_real * x,
                imag * h_real + real * h_imag + in_imag * x,
            )
        return self.scale * (h_real.square() + h_imag.square())


def in_windows(signal: Tensor, T: int) -> Tensor:
    """Return a signal [batch, samples] as windows [batch, windows, T].

    Raises:
        ValueError: If samples is no multiple of T.
    """
    if signal.ndim != 2 or signal.shape[1] < T or signal.shape[1] % T:
        raise ValueError(
            f"signal must be [batch, samples] with samples a multiple of T={T}, got {list(signal.shape)}; "
            "cut or pad it to whole windows"
        )
    return signal.unflatten(1, (-1, T))


@registered
def build(
    T: int,
    scale: float,
    dtype: torch.dtype,
    init: torch.Generator,
    perturbation_generator: torch.Generator,
    *,
    bins: str | list[int] = "full",
    eigenvalue: Eigenvalue = "complex",
    log_decay: float | None = None,
    start: Start = "exact",
    perturbation_scale: float = 0.01,
    parametrization: Parametrization = "auto",
) -> StateSpace:
    """The net of a run. log_decay: nu of eigenvalue=lru, see the construction. start=random: LRU's ring, whatever the
    parametrization (see `models.unit_scaled`), whose units here are about 1."""
    algorithm = state_space_construction(T, bins, eigenvalue, log_decay, dtype)
    weights, unit_scaled = start_weights(
        algorithm, start, parametrization, init, perturbation_generator, perturbation_scale
    )
    if start == "random":
        weights = random_eigenvalues(algorithm, init)
    return StateSpace(algorithm, T, scale, weights, unit_scaled)
