"""Forecasts that are one fixed matrix: zero, the last value, the DFT's continuation, ridge on a dictionary of sinusoids."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from wavebase.limits import check_memory
from wavebase.models.harmonics import check_periods
from wavebase.models.preparation import RobustForecaster
from wavebase.registry import registered
from wavebase.signals.harmonics import sinusoids


class LinearForecaster(RobustForecaster):
    """y = W x. W, the parameter `weight` [horizon, lookback], starts at a known forecaster and may be trained."""

    def __init__(self, weight: Tensor, dtype: torch.dtype = torch.float64, robust: bool = False):
        super().__init__(robust)
        self.weight = nn.Parameter(weight.to(dtype).clone(memory_format=torch.contiguous_format))

    def forecast(self, past: Tensor) -> Tensor:
        """Return the forecast [batch, horizon] of a past [batch, lookback]."""
        return past @ self.weight.mT


@registered
def zero(lookback: int, horizon: int, dtype: torch.dtype) -> LinearForecaster:
    """Build the forecast 0."""
    return LinearForecaster(torch.zeros(horizon, lookback), dtype)


@registered
def last(lookback: int, horizon: int, dtype: torch.dtype) -> LinearForecaster:
    """Build the forecast that repeats the last value."""
    return LinearForecaster((torch.arange(lookback) == lookback - 1).double().expand(horizon, -1), dtype)


@registered
def dft(
    lookback: int, horizon: int, dtype: torch.dtype, *, window: Literal["none", "hamming"] = "none"
) -> LinearForecaster:
    """Build the forecast that continues the sinusoid of every bin; window: see `dft_components`."""
    _check_size(lookback)
    amplitude, frequency = dft_components(torch.eye(lookback, dtype=torch.float64), window)
    angle = 2 * torch.pi * torch.outer(torch.arange(lookback, lookback + horizon, dtype=torch.float64), frequency)
    return LinearForecaster((torch.polar(torch.ones_like(angle), angle) @ amplitude.mT).real, dtype)


def dft_components(signal: Tensor, window: Literal["none", "hamming"] = "none") -> tuple[Tensor, Tensor]:
    """Return amplitudes c and frequencies of x(t) = Re sum_k c_k exp(2 pi i k t / N).

    Args:
        signal: [..., N], N odd or even.
        window: hamming weights the signal with the periodic Hamming window and divides amplitudes by the window's
            mean, so that a sinusoid on a bin keeps its amplitude.

    Returns:
        c_k = X_k / N, complex [..., N//2 + 1], doubled except at DC and, for even N, at Nyquist, which have no
        conjugate partner; and frequencies in cycles per sample, [N//2 + 1].
    """
    N = signal.shape[-1]
    if window == "hamming":
        weights = torch.hamming_window(N, dtype=signal.dtype)
        signal = signal * weights / weights.mean()
    amplitude = torch.fft.rfft(signal) / N
    partners = torch.full((N // 2 + 1,), 2.0, dtype=signal.dtype)
    partners[0] = 1
    if N % 2 == 0:
        partners[-1] = 1
    return amplitude * partners, torch.arange(N // 2 + 1, dtype=signal.dtype) / N


@registered
def dictionary_ridge(
    lookback: int,
    horizon: int,
    dtype: torch.dtype,
    *,
    periods: tuple[int, int] = (2, 99),
    noise: float = 0.0,
    ridge: float | None = None,
    robust: bool = False,
) -> LinearForecaster:
    """Build the fit of all whole periods' cosines and sines by ridge regression, continued.

    W = D_future D_past^T (D_past D_past^T + ridge I)^-1, with D of columns cos and sin. It is the posterior mean for
    independent Gaussian amplitudes of variance v and noise of variance ridge * v.

    Args:
        periods: Shortest and longest of the dictionary, samples.
        noise: Standard deviation of the signal's noise, which sets the default of `ridge`.
        ridge: None for noise^2 / v, where v gives a signal of variance 0.2, and at least 1e-11.
        robust: See `HarmonicForecaster`. Configurations of version 0.1 lack it.
    """
    check_periods(periods)
    _check_size(max(lookback, periods[1] - periods[0]))
    count = 2 * (periods[1] - periods[0] + 1)
    atoms = sinusoids(periods, lookback + horizon).flatten(0, 1)
    past, future = atoms[:, :lookback], atoms[:, lookback:]
    if ridge is None:
        ridge = max(noise**2 * (count / 2) / 0.2, 1e-11)
    if not ridge > 0:
        raise ValueError(f"model.ridge must be positive, got {ridge}; use null")
    gram = past.mT @ past + ridge * torch.eye(lookback, dtype=torch.float64)
    weight = torch.linalg.solve(gram, past.mT @ future).mT
    return LinearForecaster(weight, dtype, robust)


def _check_size(N: int) -> None:
    """Refuse matrices [N, N] that do not fit into memory: four in float64 are held at once."""
    check_memory(4 * 8 * N**2, f"a forecaster of {N} samples", "use a smaller T or fewer model.periods")
