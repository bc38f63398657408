"""Estimates with 95 % intervals: medians, proportions, power laws, and normalised squared errors of forecasts.

Light at import: torch and scipy are loaded by the functions that need them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median as middle
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Interval(NamedTuple):
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def nmse(errors: Tensor, sizes: Tensor) -> Interval:
    """sum of errors / sum of sizes, a ratio of sums over independent signals, with its interval by the delta method.

    errors: squared errors, sizes: squared targets, both [signals] or [signals, steps]. 1 is what predicting zero gives.
    """
    errors, sizes = (
        values.double().flatten(1).sum(1) if values.ndim > 1 else values.double() for values in (errors, sizes)
    )
    value = (errors.sum() / sizes.sum()).item()
    reach = 1.96 * ((errors - value * sizes).norm() / sizes.sum()).item()
    return Interval(value, value - reach, value + reach)


def paired_difference(
    errors: Tensor, others: Tensor, sizes: Tensor, generator: torch.Generator, draws: int = 4000
) -> Interval:
    """nmse(errors) - nmse(others) on the same signals, with its 95 % interval by the bootstrap over signals: negative where
    the first is better. Shapes as in `nmse`."""
    import torch

    difference, sizes = ((values.double().flatten(1).sum(1)) for values in (errors - others, sizes))
    count = len(sizes)
    found = torch.stack(
        [
            difference[chosen].sum() / sizes[chosen].sum()
            for chosen in (torch.randint(count, (count,), generator=generator) for _ in range(draws))
        ]
    )
    low, high = found.quantile(torch.tensor([0.025, 0.975], dtype=found.dtype)).tolist()
    return Interval((difference.sum() / sizes.sum()).item(), low, high)


def median(values: Sequence[float]) -> Interval:
    """The median of values drawn independently, and its interval from their order: no distribution is assumed.

    Infinite values have their place in the order. The interval is the narrowest pair of values, equally far from either
    end, that holds the true median with 95 % confidence: the number of values below it is binomial with p = 1/2. Fewer
    than six values cannot reach 95 %; the interval is then their range, with a confidence of 1 - 2^(1 - n).

    Args:
        values: At least one number.
    """
    ordered, n = sorted(float(value) for value in values), len(values)
    drop, tail = 0, 1  # values dropped at each end; 2^n P(at most `drop` of n below the median)
    while 2 * (drop + 1) < n and 1 - 2 * (tail + math.comb(n, drop + 1)) / 2**n >= 0.95:
        drop += 1
        tail += math.comb(n, drop)
    return Interval(middle(ordered), ordered[drop], ordered[n - 1 - drop])


def proportion(successes: int, count: int) -> Interval:
    """A proportion and its interval (Wilson, 1927)."""
    from scipy import stats

    low, high = stats.binomtest(successes, count).proportion_ci(method="wilson")
    return Interval(successes / count, low, high)


def power_law(x: Sequence[float], y: Sequence[float]) -> Interval:
    """The exponent p of y ~ x^p, fitted on logarithms, and its interval (Student's t)."""
    import numpy as np
    from scipy import stats

    fit = stats.linregress(np.log(x), np.log(y))
    reach = stats.t.ppf(0.975, len(x) - 2) * fit.stderr
    return Interval(fit.slope, fit.slope - reach, fit.slope + reach)
