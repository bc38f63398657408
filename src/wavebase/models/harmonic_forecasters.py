"""Forecasts by estimating what a signal is made of: linear prediction, matching pursuit, sparse Bayes, ESPRIT.

All work on a batch at once, in the dtype they are built with; float64 is what their errors are quoted in. Each has one
parameter that gradient descent may move, the logarithm of its ridge or of its noise. Letters: B signals, N lookback,
H horizon, P periods of the dictionary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wavebase.models.linear_forecasters import check_periods
from wavebase.signals.harmonics import sinusoids


class _Forecaster(nn.Module):
    """What they share: sizes, one parameter, names."""

    construction = None

    def __init__(self, lookback: int, horizon: int, dtype: torch.dtype, logarithm: float):
        super().__init__()
        self.lookback, self.horizon = lookback, horizon
        self.logarithm = nn.Parameter(torch.tensor(logarithm, dtype=dtype))

    def named_weights(self) -> dict[str, Tensor]:
        """Its one parameter, detached."""
        return {"logarithm": self.logarithm.detach()}


class LinearPrediction(_Forecaster):
    """x(t) = sum_k a_k x(t - k), fitted to the lookback forwards and backwards at once, then run on freely.

    The forward-backward (modified covariance) method: rows of both directions, ridge regression with
    ridge * mean(x^2) * rows. A sum of K sinusoids without noise obeys an order of 2K exactly.
    """

    def __init__(self, lookback: int, horizon: int, dtype: torch.dtype, order: int, ridge: float):
        super().__init__(lookback, horizon, dtype, math.log(ridge))
        self.order = order

    def forward(self, past: Tensor) -> Tensor:
        """[B, N] to [B, H]."""
        past = past.to(self.logarithm.dtype)
        rows = past.unfold(-1, self.order + 1, 1)
        rows = torch.cat([rows, rows.flip(-1)], -2)  # each: order values, then the one to predict
        known, wanted = rows[..., :-1], rows[..., -1:]
        scale = known.square().sum((-1, -2)) / self.order
        identity = torch.eye(self.order, dtype=past.dtype, device=past.device)
        gram = known.mT @ known + (self.logarithm.exp() * scale)[..., None, None] * identity
        coefficients = torch.linalg.solve(gram, known.mT @ wanted)
        recent, forecast = past[..., -self.order :], []
        for _ in range(self.horizon):
            forecast.append((recent[..., None, :] @ coefficients)[..., 0])
            recent = torch.cat([recent[..., 1:], forecast[-1]], -1)
        return torch.cat(forecast, -1)


class Pursuit(_Forecaster):
    """Group orthogonal matching pursuit: period after period, the one whose cosine and sine together take most from the
    residual, each time refitted by ridge regression; it ends for a signal whose residual is within the noise."""

    stacks_not_because = "each signal chooses its own periods by index"

    def __init__(
        self,
        lookback: int,
        horizon: int,
        dtype: torch.dtype,
        periods: tuple[int, int],
        atoms: int,
        ridge: float,
        tolerance: float,
    ):
        super().__init__(lookback, horizon, dtype, math.log(ridge))
        self.atoms, self.tolerance = atoms, tolerance
        pairs = sinusoids(periods, lookback + horizon).permute(1, 2, 0).to(dtype)  # [P, N + H, 2]
        self.register_buffer("pairs", pairs)
        self.register_buffer("orthonormal", torch.linalg.qr(pairs[:, :lookback])[0])

    def forward(self, past: Tensor) -> Tensor:
        """[B, N] to [B, H]."""
        past = past.to(self.logarithm.dtype)
        B, N = past.shape
        chosen = past.new_zeros(B, 0, dtype=torch.long)
        running = torch.ones(B, dtype=torch.bool, device=past.device)
        used = past.new_zeros(B, 0)
        fitted = past.new_zeros(B, N + self.horizon)
        for _ in range(min(self.atoms, len(self.pairs))):
            residual = (past - fitted[:, :N]).detach()
            running = running & (residual.square().mean(1) > self.tolerance**2)
            if not running.any():
                break
            energy = torch.einsum("bn,pnc->bpc", residual, self.orthonormal).square().sum(-1)
            energy = energy.scatter(1, chosen, -1.0)
            chosen = torch.cat([chosen, energy.argmax(1, keepdim=True)], 1)
            used = torch.cat([used, running[:, None].to(past.dtype)], 1)
            atoms = self.pairs[chosen] * used[..., None, None]  # [B, k, N + H, 2]
            design = atoms.permute(0, 2, 1, 3).flatten(2)
            fitted = (design @ _ridge_fit(design[:, :N], past, self.logarithm.exp()))[..., 0]
        return fitted[:, N:]


class SparseBayes(_Forecaster):
    """Sparse Bayesian learning on the dictionary: each period's cosine and sine have Gaussian amplitudes of variance
    gamma_p, which maximise the likelihood of the lookback; the forecast is the posterior mean.

    With equal variances of cosine and sine the covariance of the lookback, C = noise I + sum_p gamma_p cos(2 pi (t - s) / p),
    is that of a stationary process. `steps` times, gamma_p is multiplied by sqrt(q_p / s_p), with q_p = |D_p^T C^-1 x|^2 and
    s_p = tr D_p^T C^-1 D_p (majorisation-minimisation, the likelihood never falls), and the noise likewise, but never
    below its floor.
    """

    def __init__(
        self, lookback: int, horizon: int, dtype: torch.dtype, periods: tuple[int, int], noise: float, steps: int
    ):
        super().__init__(lookback, horizon, dtype, math.log(noise**2))
        self.steps = steps
        self.register_buffer("atoms", sinusoids(periods, lookback + horizon).to(dtype))  # [2, P, N + H]

    def forward(self, past: Tensor) -> Tensor:
        """[B, N] to [B, H]."""
        past = past.to(self.logarithm.dtype)
        N, H = self.lookback, self.horizon
        P = self.atoms.shape[1]
        gamma = past.square().mean(-1, keepdim=True).expand(*past.shape[:-1], P) / P
        floor = self.logarithm.exp().expand_as(gamma[..., :1])
        noise = floor
        with torch.no_grad():
            for _ in range(self.steps):
                factor = torch.linalg.cholesky(self._covariance(gamma, noise)[..., :N, :])
                inverse = torch.cholesky_inverse(factor)
                solved = (inverse @ past[..., None])[..., 0]
                q = (solved @ self.atoms[..., :N].flatten(0, 1).mT).unflatten(-1, (2, P)).square().sum(-2)
                s = _diagonal_sums(inverse) @ self.atoms[0, :, :N].mT
                gamma = gamma * (q / s).sqrt()
                trace = inverse.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
                noise = torch.maximum(noise * (solved.square().sum(-1, keepdim=True) / trace).sqrt(), floor)
        covariance = self._covariance(gamma, torch.maximum(noise, floor))
        factor = torch.linalg.cholesky(covariance[..., :N, :])
        return (covariance[..., N:, :] @ torch.cholesky_solve(past[..., None], factor))[..., 0]

    def _covariance(self, gamma: Tensor, noise: Tensor) -> Tensor:
        """Of lookback and horizon with the lookback: [B, N + H, N]."""
        correlation = gamma @ self.atoms[0]
        distance = torch.arange(self.lookback + self.horizon)[:, None] - torch.arange(self.lookback)
        return correlation[..., distance.abs()] + noise[..., None] * (distance == 0)


def _diagonal_sums(matrix: Tensor) -> Tensor:
    """c_k with sum_{ts} M_ts cos(w (t - s)) = sum_k c_k cos(w k), for symmetric M: [..., N, N] to [..., N]."""
    N = matrix.shape[-1]
    rows = nn.functional.pad(matrix, (0, N - 1)).flatten(-2)
    shifted = nn.functional.pad(rows, (0, N)).unflatten(-1, (N, 2 * N))  # row t is moved t places to the left
    sums = shifted.sum(-2)[..., :N]  # of the main diagonal and those above
    return torch.cat([sums[..., :1], 2 * sums[..., 1:]], -1)


def _ridge_fit(design: Tensor, target: Tensor, ridge: Tensor) -> Tensor:
    """Amplitudes [B, c, 1] of the columns of design [B, N, c] that fit target [B, N]; unused columns are zero and get 0."""
    gram = design.mT @ design
    return torch.linalg.solve(gram + ridge * torch.eye(gram.shape[-1], dtype=gram.dtype), design.mT @ target[..., None])


def linear_prediction(
    lookback: int, horizon: int, dtype: torch.dtype, *, order: int | None = None, ridge: float | None = None, noise: float = 0.0
) -> LinearPrediction:
    order = 3 * lookback // 5 if order is None else order
    return LinearPrediction(lookback, horizon, dtype, order, 1e-14 if ridge is None else ridge)
