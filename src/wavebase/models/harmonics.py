"""What the forecasters share that estimate a signal's sinusoids: the mean, one trainable parameter, ridge regression.

They work on a batch at once, in the dtype they are built with; float64 is what their errors are quoted in. Letters:
B signals, N lookback, H horizon, P periods of the dictionary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wavebase.models.preparation import RobustForecaster


class HarmonicForecaster(RobustForecaster):
    """A forecaster whose only parameter is the logarithm of its ridge or of its noise variance.

    Args:
        lookback: Samples that are known, N.
        horizon: Samples to predict, H.
        dtype: Of the parameter and of all arithmetic.
        regularisation: The ridge or the noise variance at the start, positive.
        robust: Fill gaps (nan), remove an offset and a trend that stand out, and scale a signal of an unusual size; undone
            in the forecast. See `models.preparation`.
    """

    def __init__(self, lookback: int, horizon: int, dtype: torch.dtype, regularisation: float, robust: bool):
        super().__init__(robust)
        self.lookback, self.horizon = lookback, horizon
        self.logarithm = nn.Parameter(torch.tensor(math.log(regularisation), dtype=dtype))


def ridge_fit(design: Tensor, target: Tensor, ridge: Tensor) -> Tensor:
    """Return the amplitudes [B, c, 1] of the columns of design [B, N, c] that fit target [B, N]; zero columns get 0."""
    gram = design.mT @ design
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram + ridge * identity, design.mT @ target[..., None])


def check_periods(periods: tuple[int, int]) -> None:
    """Raise ValueError unless these are the shortest and the longest of a range of whole periods, in samples."""
    if len(periods) != 2 or not 2 <= periods[0] <= periods[1]:
        raise ValueError(
            f"model.periods must be two whole numbers, 2 samples <= shortest <= longest, got {list(periods)}; use [2, 99]"
        )


def check_order(order: int, lookback: int) -> int:
    """Return the order. Raise ValueError unless it lies in 1..lookback - 1."""
    if not 1 <= order < lookback:
        raise ValueError(
            f"model.order must lie in 1..{lookback - 1} for a lookback of {lookback}, got {order}; use a smaller order or a longer lookback"
        )
    return order


def check_above(name: str, value: float, bound: float) -> None:
    """Raise ValueError unless the value of a key is over a bound."""
    if not value > bound:
        raise ValueError(f"model.{name} must be over {bound}, got {value}; see conf/model")


def choose_ridge(chosen: float | None, usual: float, least: float, dtype: torch.dtype) -> float:
    """Return the ridge to use.

    Args:
        chosen: The configured one, or None.
        usual: What None means.
        least: The smallest ridge that keeps a Gram matrix from being singular in float64. Other dtypes scale it with
            their rounding.

    Raises:
        ValueError: For a chosen ridge below that, which rounding would ignore.
    """
    least *= torch.finfo(dtype).eps / torch.finfo(torch.float64).eps
    if chosen is not None and not chosen >= least:
        raise ValueError(
            f"model.ridge must be at least {least:.2g} in {str(dtype).removeprefix('torch.')}, got {chosen}; use null"
            + ("" if dtype == torch.float64 else ", or dtype=float64")
        )
    return max(usual, least) if chosen is None else chosen


def product_rounding(dtype: torch.dtype) -> float:
    """Return the largest relative error of a lookback's sum of products: 100 eps."""
    return 100 * torch.finfo(dtype).eps
