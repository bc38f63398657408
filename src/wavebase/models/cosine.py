"""The trainable cosine transform: analysis and resynthesis of a window, one class whose start is exact, perturbed or random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from wavebase.constructions.cosine import (
    AMPLITUDES,
    OFFSETS,
    exact_cosine_weights,
    perturb_frequencies,
    random_cosine_weights,
)
from wavebase.models.base import NamedModel
from wavebase.registry import registered
from wavebase.spectrum import cosine_basis, sample_amplitudes


class CosineTransform(NamedModel):
    """y = synthesise(analyse(x)) with trainable frequencies and four trainable amplitudes, for windows of N samples.

    Maps [batch, N] to [batch, N]. weights: by name, see `constructions.cosine`; they become its parameters. Inputs are
    cast to its dtype. The product of the two transforms is never formed: it would cost M N^2 instead of 2 batch M N.
    Raises ValueError for inputs of another shape.
    """

    offset_analysis: nn.Parameter
    offset_synthesis: nn.Parameter  # untied nets only
    amplitude_analysis: nn.Parameter
    amplitude_synthesis: nn.Parameter

    def __init__(self, weights: Mapping[str, Tensor], N: int):
        super().__init__()
        self.N, self.tied = N, OFFSETS[1] not in weights
        for name in (*OFFSETS[: 1 if self.tied else 2], *AMPLITUDES):
            self.register_parameter(name, nn.Parameter(weights[name].clone()))

    def forward(self, signal: Tensor) -> Tensor:
        """The reconstruction: [batch, N] to [batch, N]."""
        basis = cosine_basis(self.offset_analysis, self.N)
        return self._synthesise(self._analyse(signal, basis), basis if self.tied else self._synthesis_basis())

    def analyse(self, signal: Tensor) -> Tensor:
        """Coefficients X: [batch, N] to [batch, M]. At the exact start the orthonormal DCT-III."""
        return self._analyse(signal, cosine_basis(self.offset_analysis, self.N))

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """Signal y: [batch, M] to [batch, N]. At the exact start the orthonormal DCT-II."""
        return self._synthesise(coefficients.to(self.offset_analysis.dtype), self._synthesis_basis())

    def _analyse(self, signal: Tensor, basis: Tensor) -> Tensor:
        if signal.ndim != 2 or signal.shape[1] != self.N:
            raise ValueError(
                f"signal must be [batch, N] with N={self.N}, got {list(signal.shape)}; cut it into windows of N samples"
            )
        return (signal.to(basis.dtype) * sample_amplitudes(self.amplitude_analysis, self.N)) @ basis.mT

    def _synthesise(self, coefficients: Tensor, basis: Tensor) -> Tensor:
        return (coefficients @ basis) * sample_amplitudes(self.amplitude_synthesis, self.N)

    def _synthesis_basis(self) -> Tensor:
        return cosine_basis(self.offset_analysis if self.tied else self.offset_synthesis, self.N)


def cosine_transform(
    N: int, M: int | None = None, *, tied: bool = False, dtype: torch.dtype = torch.float32
) -> CosineTransform:
    """A trainable cosine transform and its inverse at their exact start: the identity on windows of N samples, to rounding.

    Maps [batch, N] to [batch, N]; `analyse` is the orthonormal DCT-III, `synthesise` the DCT-II (for M = N). M: number
    of frequencies, None for N. tied: one frequency vector for both. Raises ValueError unless N >= 2 and 1 <= M <= N.
    """
    return CosineTransform(exact_cosine_weights(N, M, tied, dtype), N)


@registered
def build(
    N: int,
    dtype: torch.dtype,
    init: torch.Generator,
    perturbation_generator: torch.Generator,
    *,
    M: int | None = None,
    tied: bool = False,
    start: Literal["exact", "perturbed", "random"] = "exact",
    frequency_scale: float = 0.1,
) -> CosineTransform:
    """The net of a run. frequency_scale: of start=perturbed, the largest error of a frequency, in bins (pi/N)."""
    if start not in ("exact", "perturbed", "random"):
        raise ValueError(f"model.start must be exact, perturbed or random, got {start!r}; use exact")
    weights = exact_cosine_weights(N, M, tied, dtype)
    moved = perturb_frequencies(
        weights, N, frequency_scale, perturbation_generator
    )  # its checks hold whatever the start
    if start == "perturbed":
        weights = moved
    elif start == "random":
        weights = random_cosine_weights(weights, init)
    return CosineTransform(weights, N)
