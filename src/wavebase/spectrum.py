"""Answers that are known without learning: Fourier and cosine bases, power spectra, planar rotations.

Everything is computed in float64. A frequency is a bin k of a window of T samples, k/T cycles per sample; those of the
cosine transform are in radians per sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

NORMALISATIONS = ("power", "power_per_sample", "amplitude_squared")


def resolve_bins(T: int, bins: str | Iterable[int] = "full") -> tuple[int, ...]:
    """Return the numbers of the chosen bins.

    Args:
        T: Window, samples.
        bins: "full" (0..T-1), "half" (0..T//2, all that a real signal needs) or a list, whose order is kept.

    Raises:
        ValueError: For T < 2, an unknown word, or bins that are empty, repeated, not whole numbers or outside 0..T-1.
    """
    if not hasattr(T, "__index__") or T < 2:
        raise ValueError(f"T must be a window of at least 2 samples, got {T!r}; use a whole number, T=2 or more")
    if isinstance(bins, str):
        if bins not in ("full", "half"):
            raise ValueError(f"bins must be 'full', 'half' or a list of bin numbers, got {bins!r}; use bins=half")
        return tuple(range(T if bins == "full" else T // 2 + 1))
    if not isinstance(bins, Iterable):
        raise ValueError(f"bins must be 'full', 'half' or a list of bin numbers, got {bins!r}; use bins=[{bins}]")
    listed = list(bins)
    whole = {int(k) for k in listed if hasattr(k, "__index__")}
    if not listed or len(whole) < len(listed) or not whole <= {*range(T)}:
        raise ValueError(
            f"bins must be distinct numbers in 0..{T - 1} for T={T}, got {listed}; use bins=full or a shorter list"
        )
    return tuple(int(k) for k in listed)


def normalisation_factor(T: int, normalisation: str = "power") -> float:
    """Return the factor of |X|^2 under a normalisation.

    Args:
        T: Window, samples.
        normalisation: power: 1, so that a cosine of amplitude A on a bin gives A^2 T^2 / 4. power_per_sample: 1/T, so
            that white noise of variance v gives v in every bin. amplitude_squared: 4/T^2, so that a cosine of amplitude
            A on a bin, neither DC nor Nyquist, gives A^2.

    Raises:
        ValueError: For another normalisation.
    """
    factors = {"power": 1.0, "power_per_sample": 1.0 / T, "amplitude_squared": 4.0 / T**2}
    if normalisation not in factors:
        raise ValueError(f"normalisation must be one of {', '.join(NORMALISATIONS)}, got {normalisation!r}; use power")
    return factors[normalisation]


def power_spectrum(x: Tensor, T: int, bins: str | Iterable[int] = "full", normalisation: str = "power") -> Tensor:
    """Compute the power spectrum of consecutive windows of T samples, the reference of every spectral model.

        P_j[k] = factor * | sum_t x[jT + t] exp(-2 pi i k t / T) |^2

    Args:
        x: Real signals [..., samples] of whole windows, as the nets take them.
        T: Window, samples.
        bins: See `resolve_bins`.
        normalisation: Sets `factor`, see `normalisation_factor`.

    Returns:
        float64 [..., windows, bins], whatever the dtype of x.

    Raises:
        ValueError: If x is not a real tensor, or its length is not a positive multiple of T.

    >>> import torch, wavebase
    >>> t = torch.arange(16, dtype=torch.float64)
    >>> tone = 3 * torch.cos(2 * torch.pi * 2 * t / 8)  # amplitude 3 on bin 2, two windows of 8
    >>> wavebase.power_spectrum(tone, 8, bins="half").round().tolist()
    [[0.0, 0.0, 144.0, 0.0, 0.0], [0.0, 0.0, 144.0, 0.0, 0.0]]
    >>> wavebase.power_spectrum(tone, 8, bins=[2], normalisation="amplitude_squared").round(decimals=6).tolist()
    [[9.0], [9.0]]
    """
    chosen = resolve_bins(T, bins)
    if not isinstance(x, Tensor) or x.is_complex() or not x.ndim:
        got = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must be a real tensor [..., samples], got {got}; use torch.as_tensor")
    windows, rest = divmod(x.shape[-1], T)
    if rest or windows < 1:
        raise ValueError(
            f"x must hold whole windows of T={T} samples, got {x.shape[-1]} samples; cut it, x[..., : {windows * T}]"
            if windows
            else f"x must hold at least one window of T={T} samples, got {x.shape[-1]}; use a smaller T"
        )
    framed = x.to(torch.float64).unflatten(-1, (windows, T))
    power = torch.fft.fft(framed).abs().square()
    if chosen != tuple(range(T)):  # choosing all costs half as much as the transform
        power = power[..., list(chosen)]
    return power * normalisation_factor(T, normalisation)


def root_of_unity(k: int, T: int) -> tuple[float, float]:
    """Return (cos, sin) of 2 pi k / T, exact at quarter turns, and exactly conjugate for k and T - k.

    The angle is reduced to the first octant in integers before it is rounded, so a large angle adds no error: a rotation
    built from it has modulus 1 to half a unit in the last place.
    """
    quarter, rest = divmod(4 * (k % T), T)  # angle = quarter * pi/2 + (pi/2) * rest / T
    if 2 * rest == T:  # math.cos and math.sin of pi/4 differ in the last place
        cos = sin = math.sqrt(0.5)
    elif 2 * rest < T:
        angle = math.pi / 2 * (rest / T)
        cos, sin = math.cos(angle), math.sin(angle)
    else:
        angle = math.pi / 2 * ((T - rest) / T)
        cos, sin = math.sin(angle), math.cos(angle)
    for _ in range(quarter):
        cos, sin = -sin, cos
    return cos, sin


def rotation_blocks(roots: Iterable[tuple[float, float]]) -> Tensor:
    """Return the block-diagonal matrix [2n, 2n] of rotations ((cos, sin), (-sin, cos)) from n pairs (cos, sin).

    A rotation takes the column (cos p, -sin p) to (cos(p + theta), -sin(p + theta)): exp(-i p) turned by one sample.
    """
    return torch.block_diag(*(torch.tensor([[c, s], [-s, c]], dtype=torch.float64) for c, s in roots))


def dct_frequencies(M: int) -> Tensor:
    """Return the frequencies of DCT-II and DCT-III, (2m + 1) pi / (2M) radians per sample: float64 [M]."""
    return (2 * torch.arange(M, dtype=torch.float64) + 1) * (math.pi / (2 * M))


def cosine_basis(offset: Tensor, N: int) -> Tensor:
    """Return cos((w0[m] + offset[m]) n) for n = 0..N-1, [M, N], with w0 the DCT's frequencies.

    The result is exact in the dtype of `offset` at any N: w0[m] n is a whole number of steps of pi/(2M), reduced modulo
    a turn in integers, and angles stay in float64 until their cosine is taken. (A float32 sum w0 + offset is off by up
    to 1.2e-7, and angles by up to 6e-5 at n = 511.)

    It costs 2 M (R + N/R) cosines and sines, R about sqrt(N), by cos(w n) = cos(w R q) cos(w r) - sin(w R q) sin(w r)
    with n = R q + r. The gradient needs no others, because autograd keeps the factors only. It is differentiable to any
    order, and vmap may batch `offset`.

    Args:
        offset: Distances from w0, radians per sample, [M].
        N: Samples.
    """
    M = offset.shape[-1]
    R = 2 ** math.ceil(math.log2(N) / 2)
    place = torch.cat([torch.arange(R), R * torch.arange(-(-N // R))]).to(offset.device)
    steps = torch.outer(2 * torch.arange(M, device=offset.device) + 1, place)
    steps = (steps + 2 * M).remainder(4 * M) - 2 * M  # within half a turn
    angle = steps.to(torch.float64) * (math.pi / (2 * M)) + offset.to(torch.float64)[:, None] * place
    cos, sin = angle.cos().to(offset.dtype), angle.sin().to(offset.dtype)
    whole = cos[:, R:, None] * cos[:, None, :R] - sin[:, R:, None] * sin[:, None, :R]
    return whole.flatten(1)[:, :N]


def sample_amplitudes(amplitude: Tensor, N: int) -> Tensor:
    """Return the weights (first, other, other, ...) / sqrt(N) of N samples from the pair (first, other)."""
    return torch.cat([amplitude[:1], amplitude[1:].expand(N - 1)]) * N**-0.5
