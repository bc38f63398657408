"""The trainable cosine transform: analysis and resynthesis of a window; its start is exact, perturbed or random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from wavebase.constructions.cosine import (
    AMPLITUDES,
    OFFSETS,
    check_frequency_scale,
    exact_cosine_weights,
    perturb_frequencies,
    random_cosine_weights,
)
from wavebase.constructions.options import refuse_ignored
from wavebase.limits import check_memory
from wavebase.models.base import NamedModel
from wavebase.registry import registered
from wavebase.spectrum import cosine_basis, sample_amplitudes


class CosineTransform(NamedModel):
    """y = synthesise(analyse(x)) with trainable frequencies and four trainable amplitudes, for windows of N samples.

    Maps [batch, N] to [batch, N], cast to its dtype. The product of the two transforms is never formed: it would cost
    M N^2 instead of 2 batch M N.

    Args:
        weights: The parameters by name, see `constructions.cosine`.
        N: Window, samples.
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
        """Return the reconstruction: [batch, N] to [batch, N].

        Raises:
            ValueError: For inputs of another shape.
        """
        basis = cosine_basis(self.offset_analysis, self.N)
        return self._synthesise(self._analyse(signal, basis), basis if self.tied else self._synthesis_basis())

    def analyse(self, signal: Tensor) -> Tensor:
        """Return the coefficients X: [batch, N] to [batch, M]. At the exact start the orthonormal DCT-III."""
        return self._analyse(signal, cosine_basis(self.offset_analysis, self.N))

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """Return the signal y: [batch, M] to [batch, N]. At the exact start the orthonormal DCT-II."""
        return self._synthesise(coefficients.to(self.offset_analysis.dtype), self._synthesis_basis())

    def _analyse(self, signal: Tensor, basis: Tensor) -> Tensor:
        if not isinstance(signal, Tensor) or signal.is_complex():
            got = signal.dtype if isinstance(signal, Tensor) else type(signal).__name__
            raise ValueError(f"signal must be a real tensor [batch, N], got {got}; use torch.as_tensor")
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
    """Build a trainable cosine transform and its inverse, at the start the identity on windows of N samples.

    The net maps [batch, N] to [batch, N], exact to rounding. For M = N, `analyse` is the orthonormal DCT-III and
    `synthesise` the DCT-II.

    Args:
        N: Window, samples, at least 2.
        M: Number of frequencies, 1..N; None for N.
        tied: One frequency vector for both transforms.
        dtype: Of the parameters and of all arithmetic.

    Raises:
        ValueError: For an N or M outside its range, or a basis that does not fit into memory.
    """
    weights = exact_cosine_weights(N, M, tied, dtype)
    _check_size(weights, N)
    return CosineTransform(weights, N)


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
    """Build the net of a run.

    Args:
        M: Number of frequencies, 1..N; None for N.
        tied: One frequency vector for both transforms.
        start: What the weights are, see `constructions.cosine`.
        frequency_scale: With start=perturbed, the largest error of a frequency in bins (pi/N radians per sample).

    Raises:
        ValueError: For what cannot be built, and for options that would have no effect.
    """
    if start not in ("exact", "perturbed", "random"):
        raise ValueError(f"model.start must be exact, perturbed or random, got {start!r}; use exact")
    check_frequency_scale(frequency_scale)
    if start != "perturbed":
        refuse_ignored("unless model.start=perturbed", "leave it out", ("frequency_scale", frequency_scale, 0.1))
    weights = exact_cosine_weights(N, M, tied, dtype)
    _check_size(weights, N)
    if start == "perturbed":
        weights = perturb_frequencies(weights, N, frequency_scale, perturbation_generator)
    elif start == "random":
        weights = random_cosine_weights(weights, init)
    return CosineTransform(weights, N)


def _check_size(weights: Mapping[str, Tensor], N: int) -> None:
    """Refuse a basis [M, N] that does not fit into memory: each of two transforms holds three such matrices."""
    offset = weights[OFFSETS[0]]
    check_memory(6 * offset.element_size() * len(offset) * N, f"a basis of {len(offset)} x {N}", "use a smaller T or M")
