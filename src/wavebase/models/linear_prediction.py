"""Linear prediction: each sample is a fixed combination of those before it."""

from __future__ import annotations

import torch
from torch import Tensor

from wavebase.models.harmonics import HarmonicForecaster, check_order, choose_ridge
from wavebase.registry import registered

HUGE = 1e12  # growth from which on a forecast is computed in a larger unit
LARGEST = 4.0  # largest sample of a forecast, in units of the past's largest


class LinearPrediction(HarmonicForecaster):
    """x(t) = sum_k a_k x(t - k), fitted to the past forwards and backwards at once, then run on its own output.

    This is the forward-backward (modified covariance) method, as ridge regression with ridge * mean(x^2) * rows. A sum
    of K sinusoids without noise obeys an order of 2K exactly. Its poles may lie outside the unit circle, as after a long
    silence: a forecast that would exceed `LARGEST` is damped as if all were moved towards 0 by one factor, the largest
    that suffices. Other arguments: `HarmonicForecaster`.
    """

    def __init__(self, lookback: int, horizon: int, dtype: torch.dtype, order: int, ridge: float, robust: bool = False):
        super().__init__(lookback, horizon, dtype, ridge, robust)
        self.order = order

    def forecast(self, past: Tensor) -> Tensor:
        """Return the forecast [B, H] of a past [B, N]."""
        rows = past.unfold(-1, self.order + 1, 1)
        rows = torch.cat([rows, rows.flip(-1)], -2)  # each: order values, then the one to predict
        known, wanted = rows[..., :-1], rows[..., -1:]
        scale = known.square().sum((-1, -2)) / self.order
        identity = torch.eye(self.order, dtype=past.dtype, device=past.device)
        ridge = self.logarithm.exp() * scale + torch.finfo(past.dtype).tiny  # silence must give coefficients 0
        gram = known.mT @ known + ridge[..., None, None] * identity
        coefficients = torch.linalg.solve(gram, known.mT @ wanted)
        peak = past.abs().amax(-1, keepdim=True).detach()
        recent, size = past[..., -self.order :], torch.zeros_like(peak)
        predicted, sizes = [], []
        for _ in range(self.horizon):
            predicted.append((recent[..., None, :] @ coefficients)[..., 0])
            sizes.append(size)
            recent = torch.cat([recent[..., 1:], predicted[-1]], -1)
            growth = (predicted[-1].detach().abs() / peak).nan_to_num(1)  # silence is 0/0
            factor = torch.where(growth > HUGE, growth, torch.ones_like(growth))
            recent, size = recent / factor, size + factor.log()
        return _damped(torch.cat(predicted, -1), torch.cat(sizes, -1), peak)


def _damped(forecast: Tensor, size: Tensor, peak: Tensor) -> Tensor:
    """Multiply sample t = 1, 2, ... of a forecast [B, H] by r^t, with the largest r <= 1 that keeps it in bounds.

    Args:
        forecast: In units of exp(size), [B, H], so that it does not overflow.
        peak: Largest samples of the pasts, [B, 1].
    """
    steps = torch.arange(1, forecast.shape[-1] + 1, dtype=forecast.dtype, device=forecast.device)
    excess = (forecast.detach().abs() / (LARGEST * peak)).nan_to_num(0).log() + size
    slowest = (excess / steps).amax(-1, keepdim=True).clamp(min=0)
    return forecast * torch.exp(size - slowest * steps)


@registered
def build(
    lookback: int,
    horizon: int,
    dtype: torch.dtype,
    *,
    order: int | None = None,
    noise: float = 0.0,
    ridge: float | None = None,
    robust: bool = False,
) -> LinearPrediction:
    """Build the forecaster of a run.

    Args:
        order: Samples that each prediction reads; None for 3/5 of the lookback, a third of it with noise.
        noise: Standard deviation of the signal's noise, which sets the defaults of `order` and `ridge`.
        ridge: Relative to the energy of a coefficient's samples; None for 3 noise^2. At least 1e-14, 5.4e-6 in float32.
        robust: See `HarmonicForecaster`. Configurations of version 0.1 lack it.
    """
    order = max(lookback // 3 if noise else 3 * lookback // 5, 1) if order is None else order
    ridge = choose_ridge(ridge, 3 * noise**2, 1e-14, dtype)
    return LinearPrediction(lookback, horizon, dtype, check_order(order, lookback), ridge, robust)
