"""Worst-case errors of the constructions for a power spectrum."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from wavebase.spectrum import root_of_unity


def tanh_error(argument: float, u: float) -> float:
    """Return the largest relative error of taking tanh for the identity, with 4 roundings u."""
    return min(abs(argument), math.sqrt(3)) ** 2 / 3 + 4 * u


def clock_error(T: int, a: float, margin: float, dtype: torch.dtype, windows: int) -> float:
    """Return the largest relative error of an oscillator over a stream of windows; infinite if the clock may miss a start.

    A rotation has 5 roundings and two tanh. The stabiliser removes the mean of their shrinkage, not its ripple within an
    orbit.
    """
    u, leak, steps = torch.finfo(dtype).eps / 2, math.exp(-margin), T * windows + 2
    radius = steps * (5 * u + 8 * u + a**4) + T * 2 / 3 * a**2 + steps * 2 * leak
    return radius if radius < (1 - root_of_unity(1, T)[0]) / 4 else math.inf


def power_error(
    eta: float, k: Mapping[str, float], peak: float, margin: float, dtype: torch.dtype, pairs: int = 1
) -> float:
    """Return the worst case of |P_hat - P| / (T sum x^2) from coefficients with an error of eta * sum|x|.

    sum|x| <= sqrt(T sum x^2), so a square is off by (2 eta + eta^2) T sum x^2; the tanh of prod and spec add theirs.

    Args:
        eta: Relative error of a coefficient.
        k: Gains.
        peak: Largest coefficient.
        margin: Argument of the saturated gates.
        dtype: Of all arithmetic.
        pairs: 2 in the stock cell, else 1.
    """
    if not math.isfinite(eta):
        return math.inf
    u = torch.finfo(dtype).eps / 2
    arguments = abs(k["s3"]) * peak, abs(k["s4"]) * peak
    square = min(arguments[0], 1) / pairs * min(arguments[1], 1)
    power = sum(tanh_error(argument, u) for argument in (*arguments, square))
    power += 4 * 9 * u / arguments[0] if pairs == 2 else 0.0
    power += 2 * tanh_error(2 * abs(k["s5"]) * square, u) + 8 * u + 2 * math.exp(-margin)
    total = 2 * eta + eta**2
    return total + power * (1 + total)
