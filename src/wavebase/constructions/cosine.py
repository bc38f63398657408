"""The cosine transform and its inverse as weights: exact, with wrong frequencies, or random.

Letters: N samples, M frequencies, M <= N. Analysis and synthesis are

    X[m] = (1/sqrt N) sum_n A1[n] cos(w1[m] n) x[n],   A1 = (a1, a2, a2, ...)
    y[n] = (1/sqrt N) A2[n] sum_m cos(w2[m] n) X[m],   A2 = (a3, a4, a4, ...)

With w1 = w2 = w0, w0[m] = (2m + 1) pi / (2M), a1 = a3 = 1, a2 = a4 = sqrt 2 and M = N they are the orthonormal DCT-III
and DCT-II (Ahmed, Natarajan and Rao 1974; Makhoul 1980), inverse to each other, so y = x. For M < N the same grid folds
sample 2M - n onto n with opposite sign: an orthogonal projection where M divides N, so that white noise loses the share
(N - M)/N, the least that rank M allows.

Weights are named
    offset_analysis [M], offset_synthesis [M]       w - w0, radians per sample; tied nets have the first only
    amplitude_analysis [2], amplitude_synthesis [2]     (a1, a2), (a3, a4)
A frequency is kept as its distance from the exact one: gradient descent takes the same path in either, and a number
near zero has the digits that one near pi has not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from wavebase.spectrum import dct_frequencies

OFFSETS = ("offset_analysis", "offset_synthesis")
AMPLITUDES = ("amplitude_analysis", "amplitude_synthesis")


def exact_cosine_weights(
    N: int, M: int | None = None, tied: bool = False, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """The orthonormal transforms. M None: N. tied: one frequency vector for both. Raises ValueError unless 1 <= M <= N, N >= 2."""
    if N < 2:
        raise ValueError(f"N must be a window of at least 2 samples, got {N}; use T=512")
    M = N if M is None else M
    if not 1 <= M <= N:
        raise ValueError(f"model.M must lie in 1..N={N}, got {M}; use null for N")
    weights = {name: torch.zeros(M, dtype=dtype) for name in OFFSETS[: 1 if tied else 2]}
    return weights | {name: torch.tensor([1.0, math.sqrt(2)], dtype=dtype) for name in AMPLITUDES}


def perturb_frequencies(
    weights: Mapping[str, Tensor], N: int, scale: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """A copy whose frequencies are each off by U(-scale, scale) bins more, a bin being pi/N radians per sample.

    A bound, and not a normal, so that the worst of many frequencies is no further off than that of few. Draws in
    float64. Raises ValueError for a scale that is negative or not finite.
    """
    if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(f"model.frequency_scale must be finite and not negative, got {scale}; use 0.1")
    moved = dict(weights)
    for name in OFFSETS:
        if name in weights:
            error = 2 * torch.rand(weights[name].shape, generator=generator, dtype=torch.float64) - 1
            moved[name] = (weights[name] + error * (scale * math.pi / N)).to(weights[name].dtype)
    return moved


def random_cosine_weights(weights: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Random weights of the same shapes: frequencies uniform over (0, pi), amplitudes normal. Draws in float64."""
    drawn = {}
    for name, weight in weights.items():
        if name in OFFSETS:
            frequency = math.pi * torch.rand(weight.shape, generator=generator, dtype=torch.float64)
            drawn[name] = frequency - dct_frequencies(len(weight))
        else:
            drawn[name] = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return {name: draw.to(weights[name].dtype) for name, draw in drawn.items()}
