"""Sparse Bayesian learning on a dictionary of sinusoids."""

from __future__ import annotations

import torch
from torch import Tensor

from wavebase.models import toeplitz
from wavebase.models.base import build_within_memory
from wavebase.models.harmonics import HarmonicForecaster, check_above, check_periods
from wavebase.models.preparation import gaussian_quantiles
from wavebase.registry import registered
from wavebase.signals.harmonics import sinusoids


class SparseBayes(HarmonicForecaster):
    """Posterior mean under Gaussian amplitudes whose variances maximise the likelihood of the past.

    Cosine and sine of period p have the variance gamma_p, so the past is a stationary process and its covariance C a
    Toeplitz matrix. Each step multiplies gamma_p by sqrt(q_p / s_p), with q_p = |D_p^T C^-1 x|^2 and
    s_p = tr D_p^T C^-1 D_p (majorisation-minimisation: the likelihood never falls), and the noise likewise, but never
    below its floor, nor below the fraction of all gamma with which C can be factorised (`toeplitz.least_noise`). With
    noise, few steps are better than many: the most likely gamma is sparser than the signals are.

    Args:
        periods: Shortest and longest of the dictionary, samples.
        noise: Floor of the noise's standard deviation at the start; its variance is trainable.
        steps: Updates of gamma.

    Other arguments: `HarmonicForecaster`.
    """

    probabilistic = True
    atoms: Tensor

    def __init__(
        self,
        lookback: int,
        horizon: int,
        dtype: torch.dtype,
        periods: tuple[int, int],
        noise: float,
        steps: int,
        robust: bool = False,
    ):
        super().__init__(lookback, horizon, dtype, noise**2, robust)
        self.steps = steps
        self.register_buffer("atoms", sinusoids(periods, lookback + horizon).to(dtype))  # [2, P, N + H]

    def forecast(self, past: Tensor) -> Tensor:
        """Return the forecast [B, H] of a past [B, N]."""
        correlation, column = self._fit(past)
        return toeplitz.forecast(correlation, toeplitz.solve(column, past))

    def distribution(self, past: Tensor, levels: Tensor) -> Tensor:
        """Return quantiles of the Gaussian process with the variances found; `spread` stands for their own uncertainty."""
        correlation, column = self._fit(past)
        mean = toeplitz.forecast(correlation, toeplitz.solve(column, past))
        across = correlation.unfold(-1, self.lookback, 1)[..., 1:, :].flip(-1)  # of each future sample with the past
        solved = torch.linalg.solve(toeplitz.covariance(column), across.mT).mT
        return gaussian_quantiles(mean, column[..., :1] - (across * solved).sum(-1), levels, self.spread)

    def _fit(self, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return correlations without noise at lags 0..N+H-1, and with it at 0..N-1."""
        N, (_, P, _) = self.lookback, self.atoms.shape
        gamma = past.square().mean(-1, keepdim=True).expand(*past.shape[:-1], P) / P
        noise = floor = self.logarithm.exp().expand_as(gamma[..., :1])
        with torch.no_grad():
            for _ in range(self.steps):
                column = self._with_noise(gamma @ self.atoms[0], noise)
                inverse = torch.cholesky_inverse(torch.linalg.cholesky(toeplitz.covariance(column)))
                solved = (inverse @ past[..., None])[..., 0]
                q = (solved @ self.atoms[..., :N].flatten(0, 1).mT).unflatten(-1, (2, P)).square().sum(-2)
                # both traces are at least 1 / c_0, for no eigenvalue of C exceeds N c_0; rounding may make them negative
                sums, least = _diagonal_sums(inverse), 1 / column[..., :1]
                gamma = gamma * (q / torch.maximum(sums @ self.atoms[0, :, :N].mT, least)).sqrt()
                traces = torch.maximum(sums[..., :1], least)
                noise = torch.maximum(noise * (solved.square().sum(-1, keepdim=True) / traces).sqrt(), floor)
        correlation = gamma @ self.atoms[0]
        return correlation, self._with_noise(correlation, torch.maximum(noise, floor))

    def _with_noise(self, correlation: Tensor, noise: Tensor) -> Tensor:
        """Return correlations at lags 0..N-1 with the noise variance added at lag 0, where it is large enough."""
        power, least = correlation[..., :1], toeplitz.least_noise(self.lookback, correlation.dtype)
        return torch.cat([power + torch.maximum(noise, least * power), correlation[..., 1 : self.lookback]], -1)


def _diagonal_sums(matrix: Tensor) -> Tensor:
    """Return c_k with sum_{ts} M_ts cos(w (t - s)) = sum_k c_k cos(w k), for symmetric M: [..., N, N] to [..., N]."""
    N = matrix.shape[-1]
    room = matrix.new_zeros(*matrix.shape[:-2], 2 * N * N)
    room[..., :-N].unflatten(-1, (N, 2 * N - 1))[..., :N] = matrix
    shifted = room.unflatten(-1, (N, 2 * N))  # row t is moved t places to the left
    sums = shifted.sum(-2)[..., :N]  # the main diagonal and those above it
    return torch.cat([sums[..., :1], 2 * sums[..., 1:]], -1)


@registered
def build(
    lookback: int,
    horizon: int,
    dtype: torch.dtype,
    *,
    periods: tuple[int, int] = (2, 99),
    noise: float = 0.0,
    steps: int | None = None,
    robust: bool = False,
) -> SparseBayes:
    """Build the forecaster of a run.

    Args:
        periods: Shortest and longest of the dictionary, samples.
        noise: Standard deviation of the signal's noise before it is scaled: the floor of the noise that is found. At
            least 1e-6, or 1e-2 for a lookback of 100 in float32.
        steps: Updates of the variances; None for 6 with noise, 30 without.
        robust: See `HarmonicForecaster`. Configurations of version 0.1 lack it.
    """
    check_periods(periods)
    count = (6 if noise else 30) if steps is None else steps
    check_above("steps", count, -1)
    floor = max(noise, 1e-6, toeplitz.least_noise(lookback, dtype) ** 0.5)
    return build_within_memory(
        lambda: SparseBayes(lookback, horizon, dtype, periods, floor, count, robust),
        "use a smaller T or fewer model.periods",
    )
