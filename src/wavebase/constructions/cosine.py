"""The cosine transform and its inverse as weights: exact, with wrong frequencies, or random.

Letters: N samples, M frequencies, M <= N. Analysis and synthesis are

    X[m] = (1/sqrt N) sum_n A1[n] cos(w1[m] n) x[n],   A1 = (a1, a2, a2, ...)
    y[n] = (1/sqrt N) A2[n] sum_m cos(w2[m] n) X[m],   A2 = (a3, a4, a4, ...)

With w1 = w2 = w0, w0[m] = (2m + 1) pi / (2M), a1 = a3 = 1, a2 = a4 = sqrt 2 and M = N they are the orthonormal DCT-III
and DCT-II (Ahmed, Natarajan and Rao 1974; Makhoul 1980), inverse to each other, so y = x. For M < N the same grid folds
sample 2M - n onto n with opposite sign. Where M divides N this is an orthogonal projection, and white noise loses the
fraction (N - M)/N of its energy, the least that rank M allows.

Weights are named
    offset_analysis [M], offset_synthesis [M]       w - w0, radians per sample; tied nets have the first only
    amplitude_analysis [2], amplitude_synthesis [2]     (a1, a2), (a3, a4)
A frequency is stored as its distance from the exact one. Gradient descent takes the same path either way, and numbers
near zero keep digits that numbers near pi lose.
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
    """Return the weights of the orthonormal transforms.

    Args:
        N: Window, samples, at least 2.
        M: Number of frequencies, 1..N; None for N.
        tied: One frequency vector for both transforms.
        dtype: Of the weights.

    Raises:
        ValueError: For an N or M outside its range.
    """
    if not hasattr(N, "__index__") or N < 2:
        raise ValueError(f"N must be a window of at least 2 samples, got {N!r}; use a whole number, T=512")
    M = N if M is None else M
    if not hasattr(M, "__index__") or not 1 <= M <= N:
        raise ValueError(f"model.M must lie in 1..N={N}, got {M!r}; use null for N")
    weights = {name: torch.zeros(M, dtype=dtype) for name in OFFSETS[: 1 if tied else 2]}
    return weights | {name: torch.tensor([1.0, math.sqrt(2)], dtype=dtype) for name in AMPLITUDES}


def check_frequency_scale(scale: float) -> None:
    """Raise ValueError for a scale that is negative or not finite."""
    if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(f"model.frequency_scale must be finite and not negative, got {scale}; use 0.1")


def perturb_frequencies(
    weights: Mapping[str, Tensor], N: int, scale: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return a copy whose frequencies are each off by U(-scale, scale) bins; a bin is pi/N radians per sample.

    The errors are bounded, not normal, so that the worst of many frequencies is no further off than the worst of few.
    They are drawn in float64.

    Raises:
        ValueError: For a scale that is negative or not finite.
    """
    check_frequency_scale(scale)
    moved = dict(weights)
    for name in OFFSETS:
        if name in weights:
            error = 2 * torch.rand(weights[name].shape, generator=generator, dtype=torch.float64) - 1
            moved[name] = (weights[name] + error * (scale * math.pi / N)).to(weights[name].dtype)
    return moved


def random_cosine_weights(weights: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Draw weights of the same shapes in float64: frequencies uniform over (0, pi), amplitudes normal."""
    drawn = {}
    for name, weight in weights.items():
        if name in OFFSETS:
            frequency = math.pi * torch.rand(weight.shape, generator=generator, dtype=torch.float64)
            drawn[name] = frequency - dct_frequencies(len(weight))
        else:
            drawn[name] = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return {name: draw.to(weights[name].dtype) for name, draw in drawn.items()}
