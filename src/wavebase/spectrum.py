"""Fourier bases, power spectra and their normalisations, planar rotations: the answers known without learning.

Everything here is formed in float64. Frequencies are bins k of a window of T samples: k/T cycles per sample.
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
    Raises ValueError for T < 2, an unknown word, or bins that are empty, repeated or outside 0..T-1.
    """
    if T < 2:
        raise ValueError(f"T must be a window of at least 2 samples, got {T}; use T=2 or more")
    if isinstance(bins, str):
        if bins not in ("full", "half"):
            raise ValueError(f"bins must be 'full', 'half' or a list of bin numbers, got {bins!r}; use bins=half")
        return tuple(range(T if bins == "full" else T // 2 + 1))
    chosen = tuple(int(k) for k in bins)
    if not chosen or len(set(chosen)) != len(chosen) or min(chosen) < 0 or max(chosen) >= T:
        raise ValueError(
            f"bins must be distinct numbers in 0..{T - 1} for T={T}, got {list(chosen)}; use bins=full or a shorter list"
        )
    return chosen


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
    whatever the dtype of x. Raises ValueError if not one window fits.
    """
    chosen = resolve_bins(T, bins)
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
