"""Forecasts that are one fixed matrix: zero, the last value, the DFT's continuation, ridge on a dictionary of sinusoids."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from wavebase.models.base import NamedModel
from wavebase.registry import registered
from wavebase.signals.harmonics import sinusoids


class LinearForecaster(NamedModel):
    """y = W x: [batch, lookback] to [batch, horizon]. W, `weight`, [horizon, lookback], starts at a known forecaster and
    may be trained away from it."""

    def __init__(self, weight: Tensor, dtype: torch.dtype = torch.float64):
        super().__init__()
        self.weight = nn.Parameter(weight.to(dtype).clone(memory_format=torch.contiguous_format))

    def forward(self, past: Tensor) -> Tensor:
        """[batch, lookback] to [batch, horizon]."""
        return past.to(self.weight.dtype) @ self.weight.mT


@registered
def zero(lookback: int, horizon: int, dtype: torch.dtype) -> LinearForecaster:
    """The forecast 0."""
    return LinearForecaster(torch.zeros(horizon, lookback), dtype)


@registered
def last(lookback: int, horizon: int, dtype: torch.dtype) -> LinearForecaster:
    """The last value, for ever."""
    return LinearForecaster((torch.arange(lookback) == lookback - 1).double().expand(horizon, -1), dtype)


@registered
def dft(
    lookback: int, horizon: int, dtype: torch.dtype, *, window: Literal["none", "hamming"] = "none"
) -> LinearForecaster:
    """Every bin's sinusoid continued past the lookback; see `dft_components`."""
    amplitude, frequency = dft_components(torch.eye(lookback, dtype=torch.float64), window)
    angle = 2 * torch.pi * torch.outer(torch.arange(lookback, lookback + horizon, dtype=torch.float64), frequency)
    return LinearForecaster((torch.polar(torch.ones_like(angle), angle) @ amplitude.mT).real, dtype)


def dft_components(signal: Tensor, window: Literal["none", "hamming"] = "none") -> tuple[Tensor, Tensor]:
    """Complex amplitudes [..., N//2 + 1] and frequencies in cycles per sample [N//2 + 1] of x(t) = Re sum_k c_k exp(2 pi i k t / N).

    signal: [..., N], N odd or even. c_k = X_k / N, doubled except at DC and, for even N, at Nyquist, which have no
    conjugate partner. With the (periodic) Hamming window the signal is weighted first, and amplitudes are divided by the
    window's mean, so that a sinusoid on a bin keeps its amplitude.
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
) -> LinearForecaster:
    """The cosines and sines of all whole periods, fitted to the lookback by ridge regression and continued.

    W = D_future D_past^T (D_past D_past^T + ridge I)^-1, with D of columns cos and sin. It is the posterior mean for independent
    Gaussian amplitudes of variance v and noise of variance ridge * v. ridge null: noise^2 / v, where v gives a signal
    of variance 0.2, and at least 1e-11.
    """
    check_periods(periods)
    atoms = sinusoids(periods, lookback + horizon).flatten(0, 1)
    past, future = atoms[:, :lookback], atoms[:, lookback:]
    if ridge is None:
        ridge = max(noise**2 * (len(atoms) / 2) / 0.2, 1e-11)
    if not ridge > 0:
        raise ValueError(f"model.ridge must be positive, got {ridge}; use null")
    gram = past.mT @ past + ridge * torch.eye(lookback, dtype=torch.float64)
    return LinearForecaster(torch.linalg.solve(gram, past.mT @ future).mT, dtype)


def check_periods(periods: tuple[int, int]) -> None:
    """Raises ValueError unless they are the shortest and the longest of a range of whole periods."""
    if len(periods) != 2 or not 2 <= periods[0] <= periods[1]:
        raise ValueError(
            f"model.periods must be two whole numbers, 2 samples <= shortest <= longest, got {list(periods)}; use [2, 99]"
        )
