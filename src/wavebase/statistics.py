"""Normalised squared errors with their intervals, and whether one is smaller than another beyond chance."""

from __future__ import annotations

from typing import NamedTuple

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
