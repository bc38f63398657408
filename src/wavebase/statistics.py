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
    """Divide the sum of squared errors by that of squared targets; the interval is the delta method's for such a ratio.

    Args:
        errors, sizes: Squared errors and squared targets of independent signals, [signals] or [signals, steps].

    Returns:
        The ratio: 1 is what predicting zero gives. nan where all targets are zero.
    """
    errors, sizes = _by_signal(errors, sizes)
    value = (errors.sum() / sizes.sum()).item()
    reach = 1.96 * ((errors - value * sizes).norm() / sizes.sum()).item()
    return Interval(value, value - reach, value + reach)


def paired_difference(
    errors: Tensor, others: Tensor, sizes: Tensor, generator: torch.Generator, draws: int = 4000
) -> Interval:
    """Subtract the `nmse` of two forecasts of the same signals; the interval is the bootstrap's over signals.

    Args:
        errors, others: Squared errors of the two forecasts, shaped as in `nmse`.
        sizes: Squared targets.
        generator: Draws the resamples.
        draws: Number of resamples.

    Returns:
        nmse(errors) - nmse(others), negative where the first is better.
    """
    errors, others, sizes = _by_signal(errors, others, sizes)
    return _bootstrap(errors - others, sizes, generator, draws)


def paired_ratio(errors: Tensor, others: Tensor, generator: torch.Generator, draws: int = 4000) -> Interval:
    """Divide the mean squared errors of two forecasts of the same signals; arguments as in `paired_difference`."""
    errors, others = _by_signal(errors, others)
    return _bootstrap(errors, others, generator, draws)


def _bootstrap(above: Tensor, below: Tensor, generator: torch.Generator, draws: int) -> Interval:
    """Divide two sums over signals, [signals] each; 95 % by resampling the signals."""
    import torch

    resamples = (torch.randint(len(below), (len(below),), generator=generator) for _ in range(draws))
    found = torch.stack([above[drawn].sum() / below[drawn].sum() for drawn in resamples])
    low, high = found.quantile(torch.tensor([0.025, 0.975], dtype=found.dtype)).tolist()
    return Interval((above.sum() / below.sum()).item(), low, high)


def _by_signal(*squares: Tensor) -> list[Tensor]:
    """Return the sums over steps, [signals] in float64, all over the largest of the last: its squares may underflow."""
    sums = [one.double().flatten(1).sum(1) if one.ndim > 1 else one.double() for one in squares]
    largest = sums[-1].max()
    return [one / largest for one in sums] if largest > 0 else sums


def split_rhat(series: Tensor) -> Tensor:
    """Compare the variance between Markov chains with that within them: 1 where the chains agree.

    Args:
        series: [draws, chains, ...].

    Returns:
        R-hat of the chains' halves, [...] (Gelman et al., Bayesian Data Analysis, 2013).
    """
    import torch

    half = len(series) // 2
    parts = torch.cat([series[:half], series[half : 2 * half]], 1)
    within, between = parts.var(0).mean(0), parts.mean(0).var(0)
    return ((within * (half - 1) / half + between) / within.clamp_min(1e-30)).sqrt()


def median(values: Sequence[float]) -> Interval:
    """Find the median of independent values; the interval follows from their order and assumes no distribution.

    Args:
        values: At least one number. Infinite ones have their place in the order; with a nan all three results are nan.

    Returns:
        The median, and the narrowest pair of values, equally far from either end, that holds the true median with 95 %
        confidence: the number of values below it is binomial with p = 1/2. Fewer than six values cannot reach 95 %;
        the interval is then their range, with a confidence of 1 - 2^(1 - n).
    """
    ordered, n = sorted(float(value) for value in values), len(values)
    if any(map(math.isnan, ordered)):
        return Interval(math.nan, math.nan, math.nan)
    drop, tail = 0, 1  # values dropped at each end; 2^n P(at most `drop` of n below the median)
    while 2 * (drop + 1) < n and 1 - 2 * (tail + math.comb(n, drop + 1)) / 2**n >= 0.95:
        drop += 1
        tail += math.comb(n, drop)
    return Interval(middle(ordered), ordered[drop], ordered[n - 1 - drop])


def proportion(successes: int, count: int) -> Interval:
    """Divide successes by their count; the interval is Wilson's (1927)."""
    from scipy import stats

    low, high = stats.binomtest(successes, count).proportion_ci(method="wilson")
    return Interval(successes / count, low, high)


def power_law(x: Sequence[float], y: Sequence[float]) -> Interval:
    """Fit the exponent p of y ~ x^p on logarithms; the interval is Student's.

    Args:
        x, y: Positive, at least two of each. Two leave no interval: its ends are nan.
    """
    import numpy as np
    from scipy import stats

    fit = stats.linregress(np.log(x), np.log(y))
    reach = stats.t.ppf(0.975, len(x) - 2) * fit.stderr
    return Interval(fit.slope, fit.slope - reach, fit.slope + reach)
