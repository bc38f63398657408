"""Addition modulo an odd p in one hidden layer of squares, by Fourier features.

For every frequency k = 1..(p-1)/2 and every pair of phases a, b out of 0, 2 pi/3, 4 pi/3 there is one unit:

    hidden     (cos(2 pi k n/p + a) + cos(2 pi k m/p + b))^2          n, m one-hot
    output q   1/p + 4/(9p) sum over units of cos(2 pi k q/p + a + b) * hidden

Of the square only the product 2 cos cos survives the sum over three equidistant phases a and b, as
(9/2) cos(2 pi k (n + m - q)/p); the sum over k makes that a delta: output q is 1 if q = n + m mod p, else 0. Two phases
leave three more terms, cos(2 pi k (+-n +-m +-q)/p) with the other signs, and fail. 9 (p-1)/2 units.

Source of the features: Gromov, "Grokking modular arithmetic" (2023, arXiv 2301.02679), whose phases are random, so that his
weights are exact only for infinitely many units. The three phases make them exact for finitely many.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavebase.constructions.algorithm import Weights
from wavebase.constructions.handwritten import Handwritten, power_of_two


def modular_addition_construction(
    p: int, dtype: torch.dtype = torch.float64, phases: int = 3, offsets: tuple[float, float] = (0.0, 0.0)
) -> Handwritten:
    """Return exact weights for addition modulo p.

    Args:
        p: An odd number, at least 3.
        phases: Equidistant phases of each summand; 3 is the least that is exact.
        offsets: Angles added to all a and all b; the function does not depend on them.

    Returns:
        weight_first, weight_second [H, p], weight_out [p, H], bias_out [p], H = phases^2 (p-1)/2; blocks k1, k2, ... by
        frequency. Every output is within `error_bound` of 0 or 1.

    Raises:
        ValueError: If p is even or less than 3, or phases is less than 1.
    """
    if p < 3 or p % 2 == 0:
        raise ValueError(f"task.p must be odd and at least 3, got {p}; use 5")
    if phases < 1:
        raise ValueError(f"model.phases must be at least 1, got {phases}; use 3")
    count, frequencies = phases**2, (p - 1) // 2
    phase = 2 * math.pi / phases * torch.arange(phases, dtype=torch.float64)
    a, b = (phase[:, None] + offsets[0]).expand(phases, phases).flatten(), (phase + offsets[1]).repeat(phases)
    k = torch.arange(1, frequencies + 1).repeat_interleave(count)
    a, b = a.repeat(frequencies), b.repeat(frequencies)
    # k n is reduced modulo p in whole numbers, so that no error of a large angle enters
    turn = 2 * math.pi / p * torch.outer(k, torch.arange(p)).remainder(p).double()
    weights = {
        "weight_first": (turn + a[:, None]).cos(),
        "weight_second": (turn + b[:, None]).cos(),
        "weight_out": 4 / (count * p) * (turn + (a + b)[:, None]).cos().mT,
        "bias_out": torch.full((p,), 1 / p, dtype=torch.float64),
    }
    # H terms of at most 4 * 4/(9p), less than 8 in all; at most 8 roundings of each term and H of the sum
    bound = 8 * (len(k) + 8) * torch.finfo(dtype).eps / 2
    return Handwritten(
        weights={name: weight.to(dtype) for name, weight in weights.items()},
        unit_scale=_units(weights),
        blocks={f"k{n + 1}": slice(n * count, (n + 1) * count) for n in range(frequencies)},
        error_bound=bound if phases >= 3 else math.inf,
        tolerance=2 * p * bound if phases >= 3 else None,
        questions={"one_frequency": one_frequency, "all_frequencies": all_frequencies},
        generators={"scale": _scale},
        reflections={"sign": _sign, "exchange": _exchange},
    )


def one_frequency(weights: Weights) -> float:
    """Return the share of the hidden units' power that lies at one frequency, the same for both summands and the sum.

    Units count by the size of what they add to the output. The share of random units is about 1/4 at p = 11.
    """
    share, effect = _frequencies(weights)
    return float((share.amax(-1) * effect).sum() / effect.sum()) if effect.any() else 0.0


def all_frequencies(weights: Weights) -> float:
    """Return 1 if each of the (p-1)/2 frequencies has at least half of its share in the output, less if one has less, 0 if one is missing."""
    share, effect = _frequencies(weights)
    strength = (share * effect[:, None]).sum(0)[1:]
    return min(1.0, 2 * float(strength.min() / strength.mean())) if strength.any() else 0.0


def _frequencies(weights: Weights) -> tuple[Tensor, Tensor]:
    """Return each unit's share of power at each frequency, the geometric mean over its three rows, [H, 1 + (p-1)/2], the mean first;
    and the size of what it adds to the output, [H]."""
    parts = (weights["weight_first"], weights["weight_second"], weights["weight_out"].mT)
    power = torch.stack([torch.fft.rfft(part.double()).abs().square() for part in parts])
    power[..., 1:] *= 2  # p is odd: each frequency but zero stands for two
    size = power.sum(-1)
    share = (power / size.clamp_min(torch.finfo(power.dtype).tiny)[..., None]).prod(0).pow(1 / 3)
    size = size.sqrt()
    return share, (size[0] + size[1]).square() * size[2]


def _units(weights: Weights) -> dict[str, Tensor]:
    """Drive over level: two of the one-hot inputs are on, and a square of two cosines is at most 4."""
    drive = weights["weight_first"].abs().amax(1) + weights["weight_second"].abs().amax(1)
    row = weights["weight_out"].abs().sum(1) * 4 + weights["bias_out"]
    hidden = power_of_two(drive)[:, None]
    return {
        "weight_first": hidden,
        "weight_second": hidden,
        "weight_out": power_of_two(row / 4)[:, None],
        "bias_out": power_of_two(row),
    }


def _scale(weights: Weights, t: float) -> dict[str, Tensor]:
    """Every unit's input e^t times, its output e^-2t times as large: squares are homogeneous of degree two."""
    powers = {"weight_first": t, "weight_second": t, "weight_out": -2 * t, "bias_out": 0.0}
    return {name: weight * math.exp(powers[name]) for name, weight in weights.items()}


def _sign(weights: Weights) -> dict[str, Tensor]:
    """The other sign inside of every square."""
    return {name: weight if name.endswith("out") else -weight for name, weight in weights.items()}


def _exchange(weights: Weights) -> dict[str, Tensor]:
    """The hidden units in the opposite order; any permutation would do."""
    hidden_axis = {"weight_first": [0], "weight_second": [0], "weight_out": [1], "bias_out": []}
    return {name: weight.flip(hidden_axis[name]) for name, weight in weights.items()}
