"""Fourier and cosine bases, power spectra and their normalisations, planar rotations: the answers known without learning.

Everything here is formed in float64. Frequencies are bins k of a window of T samples: k/T cycles per sample; those of
the cosine transform are in radians per sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

NORMALISATIONS = ("power", "power_per_sample", "amplitude_squared")


def resolve_bins(T: int, bins: str | Iterable[int] = "full") -> tuple[int, ...]:
    """The bin numbers that `bins` asks for, in order.

    "full" is 0..T-1; "half" is 0..T//2, all that a real signal needs; a list is taken as it stands.
    Raises ValueError for T < 2, an unknown word, or bins that are empty, repeated, no whole numbers or outside 0..T-1.
    """
    if not hasattr(T, "__index__") or T < 2:
        raise ValueError(f"T must be a window of at least 2 samples, got {T!r}; use a whole number, T=2 or more")
    if isinstance(bins, str):
        if bins not in ("full", "half"):
            raise ValueError(f"bins must be 'full', 'half' or a list of bin numbers, got {bins!r}; use bins=half")
        return tuple(range(T if bins == "full" else T // 2 + 1))
    listed = list(bins)
    whole = {int(k) for k in listed if hasattr(k, "__index__")}
    if not listed or len(whole) < len(listed) or not whole <= {*range(T)}:
        raise ValueError(
            f"bins must be distinct numbers in 0..{T - 1} for T={T}, got {listed}; use bins=full or a shorter list"
        )
    return tuple(int(k) for k in listed)


def normalisation_factor(T: int, normalisation: str = "power") -> float:
    """The number by which |X|^2 is multiplied.

    power: 1 (a cosine of amplitude A on a bin gives A^2 T^2 / 4);  power_per_sample: 1/T (white noise of variance v
    gives v in every bin);  amplitude_squared: 4/T^2 (a cosine of amplitude A on a bin, neither DC nor Nyquist, gives A^2).
    """
    factors = {"power": 1.0, "power_per_sample": 1.0 / T, "amplitude_squared": 4.0 / T**2}
    if normalisation not in factors:
        raise ValueError(f"normalisation must be one of {', '.join(NORMALISATIONS)}, got {normalisation!r}; use power")
    return factors[normalisation]


def power_spectrum(x: Tensor, T: int, bins: str | Iterable[int] = "full", normalisation: str = "power") -> Tensor:
    """Power spectrum of consecutive windows of T samples, the oracle of every spectral model.

        P_j[k] = factor * | sum_t x[jT + t] exp(-2 pi i k t / T) |^2

    x: [..., samples] real; samples past the last whole window are ignored. Returns float64 [..., windows, bins],
    whatever the dtype of x. Raises ValueError if not one window fits, or x is no real tensor.

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
    windows = x.shape[-1] // T
    if windows < 1:
        raise ValueError(f"x must hold at least one window of T={T} samples, got {x.shape[-1]}; use a smaller T")
    framed = x[..., : windows * T].to(torch.float64).unflatten(-1, (windows, T))
    power = torch.fft.fft(framed).abs().square()[..., list(chosen)]
    return power * normalisation_factor(T, normalisation)


def root_of_unity(k: int, T: int) -> tuple[float, float]:
    """(cos, sin) of 2 pi k / T, exact at quarter turns, and exactly conjugate for k and T - k.

    The angle is reduced in integers to the first octant before it is rounded, so that no error of a large angle
    enters: a rotation built from it has modulus 1 to half a unit in the last place.
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
    """Block-diagonal matrix [2n, 2n] of planar rotations ((cos, sin), (-sin, cos)) from n pairs (cos, sin).

    Acting on the column (cos p, -sin p) it gives (cos(p + theta), -sin(p + theta)): one sample's turn of exp(-i p).
    """
    return torch.block_diag(*(torch.tensor([[c, s], [-s, c]], dtype=torch.float64) for c, s in roots))


def dct_frequencies(M: int) -> Tensor:
    """w0[m] = (2m + 1) pi / (2M), m = 0..M-1, in radians per sample: those of DCT-II and DCT-III. float64 [M]."""
    return (2 * torch.arange(M, dtype=torch.float64) + 1) * (math.pi / (2 * M))


def cosine_basis(offset: Tensor, N: int) -> Tensor:
    """cos((w0[m] + offset[m]) n) for n = 0..N-1, with w0 the DCT's frequencies: [M] radians per sample to [M, N].

    Exact in the dtype of `offset`, at any N: w0[m] n is a whole number of steps of pi/(2M), reduced modulo a turn in
    whole numbers before it is rounded, and angles are float64 until their cosine is taken. (One float32 number for
    w0 + offset is off by up to 1.2e-7, and so are angles by up to 6e-5 at n = 511, however they are multiplied.)

    Only 2 M (R + N/R) cosines and sines are taken, R about sqrt(N): with n = R q + r,
    cos(w n) = cos(w R q) cos(w r) - sin(w R q) sin(w r). Its gradient needs no others, because autograd keeps only the
    factors. Differentiable to any order; vmap may batch `offset`.
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
    """(first, other, other, ...) / sqrt(N) from the pair (first, other): what the N samples are weighted with. [N]."""
    return torch.cat([amplitude[:1], amplitude[1:].expand(N - 1)]) * N**-0.5
