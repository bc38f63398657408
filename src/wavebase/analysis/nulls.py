"""Nulls: what a system without structure shows. No quantity is reported without one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

Alternative = Literal["greater", "less", "two-sided"]
LEVEL = 0.05


@dataclass(frozen=True)
class Null:
    """A quantity's distribution under one null.

    Attributes:
        kind: random (Gaussian weights of equal norm) or shuffled (the same entries elsewhere).
        draws: Number of draws.
        median, low, high: Median, 5th and 95th percentile.
        p_value: Of the measured value; see `p_value`.
        least_p: Smallest p-value possible with so many draws.
    """

    kind: str
    draws: int
    median: float
    low: float
    high: float
    p_value: float
    least_p: float


@dataclass(frozen=True)
class Quantity:
    """One measured number.

    Attributes:
        name, value: The quantity.
        alternative: The direction that counts as structure.
        nulls: Its distributions, random first.
        gauge: Whether rescaling ReLU units, which leaves the function alone, would move it, so that it was measured after
            balancing.
        meaning: One phrase.
    """

    name: str
    value: float
    alternative: Alternative
    nulls: tuple[Null, ...]
    gauge: bool
    meaning: str

    @property
    def flagged(self) -> bool:
        """Whether the first null (random weights of equal norm) is rejected at the 5 % level."""
        return bool(self.nulls) and self.nulls[0].p_value <= LEVEL

    @property
    def undecidable(self) -> bool:
        """Whether the first null has too few draws for any value to be rejected at the 5 % level."""
        return bool(self.nulls) and self.nulls[0].least_p > LEVEL


def p_value(value: float, draws: np.ndarray, alternative: Alternative) -> float:
    """Return the Monte Carlo p-value (1 + draws at least as extreme) / (1 + draws); two-sided: twice the smaller side, at most 1.

    It is exact for every number of draws if value and draws are exchangeable (Davison and Hinkley, Bootstrap Methods, 1997,
    4.2), and nan if the value or a draw is nan.
    """
    if np.isnan(value) or np.isnan(draws).any():
        return float("nan")
    above = (1 + int((draws >= value).sum())) / (1 + len(draws))
    below = (1 + int((draws <= value).sum())) / (1 + len(draws))
    return {"greater": above, "less": below, "two-sided": min(2 * above, 2 * below, 1.0)}[alternative]


def compare(
    measured: Mapping[str, float],
    drawn: Mapping[str, Mapping[str, np.ndarray]],
    about: Mapping[str, tuple[Alternative, bool, str]],
    gauge: bool = True,
    prefix: str = "",
) -> tuple[Quantity, ...]:
    """Compare measured values with drawn ones.

    Args:
        measured: Name to value.
        drawn: Kind of null to name to drawn values, [draws].
        about: Name to (alternative, whether gauge-dependent, meaning).
        gauge: Whether the cell has such a gauge.
        prefix: Put before every name.
    """
    quantities = []
    for name, value in measured.items():
        alternative, moves, meaning = about[name]
        nulls = []
        for kind, values in drawn.items():
            draws = values[name]
            # draws without a value are left out if most have one; -inf is a value (a random net that dies out)
            known = draws[~np.isnan(draws)]
            usable = known if known.size > len(draws) / 2 else draws
            low, median, high = np.quantile(usable, (0.05, 0.5, 0.95), method="inverted_cdf")
            p = p_value(float(value), usable, alternative)
            least = (2 if alternative == "two-sided" else 1) / (1 + len(usable))
            nulls.append(Null(kind, len(draws), float(median), float(low), float(high), p, least))
        quantities.append(Quantity(prefix + name, float(value), alternative, tuple(nulls), moves and gauge, meaning))
    return tuple(quantities)


def random_like(weight: np.ndarray, draws: int, generator: torch.Generator) -> np.ndarray:
    """Draw Gaussian arrays [draws, ...] of the same shape and Frobenius norm."""
    drawn = torch.randn(draws, *weight.shape, generator=generator, dtype=torch.float64).numpy()
    return of_norm(drawn, float(np.linalg.norm(weight)))


def shuffled_like(weight: np.ndarray, draws: int, generator: torch.Generator) -> np.ndarray:
    """Draw arrays [draws, ...] with the same entries in random order."""
    order = torch.rand(draws, weight.size, generator=generator, dtype=torch.float64).argsort(-1).numpy()
    return weight.ravel()[order].reshape(draws, *weight.shape)


def of_norm(weights: np.ndarray, norm: float) -> np.ndarray:
    """Scale each of [draws, ...] to one Frobenius norm."""
    size = np.sqrt((weights**2).sum(tuple(range(1, weights.ndim)), keepdims=True))
    return weights * (norm / np.where(size > 0, size, 1.0))


NULLS = {"random": random_like, "shuffled": shuffled_like}


def draws_for(hidden_size: int, gates: int = 1) -> int:
    """Return the default number of draws: 199 up to 32 units, 159 up to 64, 49 up to 256, 9 up to 512, then 4 (3 for several gates).

    Trajectories get a quarter, of 159 the fewest that can reject at 5 % on two sides. Fewer than 19 cannot reject at all, but
    show where random systems lie: one eigenvalue problem of 1024 units takes a second.
    """
    large = 4 if gates == 1 else 3
    return next((draws for units, draws in ((32, 199), (64, 159), (256, 49), (512, 9)) if hidden_size <= units), large)
