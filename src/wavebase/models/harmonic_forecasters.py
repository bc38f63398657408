"""Forecasts by estimating what a signal is made of: linear prediction, matching pursuit, sparse Bayes, ESPRIT.

All work on a batch at once, in the dtype they are built with; float64 is what their errors are quoted in. Each has one
parameter that gradient descent may move, the logarithm of its ridge or of its noise. Letters: B signals, N lookback,
H horizon, P periods of the dictionary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wavebase.models import toeplitz
from wavebase.models.base import NamedModel
from wavebase.models.linear_forecasters import check_periods
from wavebase.registry import registered
from wavebase.signals.harmonics import sinusoids


class _Forecaster(NamedModel):
    """What they share: sizes, one parameter, names."""

    def __init__(self, lookback: int, horizon: int, dtype: torch.dtype, logarithm: float):
        super().__init__()
        self.lookback, self.horizon = lookback, horizon
        self.logarithm = nn.Parameter(torch.tensor(logarithm, dtype=dtype))


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
        ridge = self.logarithm.exp() * scale + torch.finfo(past.dtype).tiny  # of silence: its coefficients are 0
        gram = known.mT @ known + ridge[..., None, None] * identity
        coefficients = torch.linalg.solve(gram, known.mT @ wanted)
        recent, forecast = past[..., -self.order :], []
        for _ in range(self.horizon):
            forecast.append((recent[..., None, :] @ coefficients)[..., 0])
            recent = torch.cat([recent[..., 1:], forecast[-1]], -1)
        return torch.cat(forecast, -1)


class OrthogonalMatchingPursuit(_Forecaster):
    """Group orthogonal matching pursuit: period after period, the one whose cosine and sine together take most from the
    residual, each time refitted by ridge regression; it ends for a signal whose residual is within the noise."""

    unstackable_reason = "each signal chooses its own periods by index"
    pairs: Tensor
    orthonormal: Tensor

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

    With equal variances of cosine and sine the covariance of the lookback is that of a stationary process. `steps` times,
    gamma_p is multiplied by sqrt(q_p / s_p), with q_p = |D_p^T C^-1 x|^2 and s_p = tr D_p^T C^-1 D_p
    (majorisation-minimisation: the likelihood never falls), and the noise likewise, but never below its floor, nor below
    the share of all gamma that the dtype can factorise (`stationary.least_noise`). Few steps are better than many where
    there is noise: the most likely gamma is sparser than the signals are.
    """

    atoms: Tensor

    def __init__(
        self, lookback: int, horizon: int, dtype: torch.dtype, periods: tuple[int, int], noise: float, steps: int
    ):
        super().__init__(lookback, horizon, dtype, math.log(noise**2))
        self.steps = steps
        self.register_buffer("atoms", sinusoids(periods, lookback + horizon).to(dtype))  # [2, P, N + H]

    def forward(self, past: Tensor) -> Tensor:
        """[B, N] to [B, H]."""
        past = past.to(self.logarithm.dtype)
        N, (_, P, _) = self.lookback, self.atoms.shape
        gamma = past.square().mean(-1, keepdim=True).expand(*past.shape[:-1], P) / P
        noise = floor = self.logarithm.exp().expand_as(gamma[..., :1])
        with torch.no_grad():
            for _ in range(self.steps):
                column = self._with_noise(gamma @ self.atoms[0], noise)
                inverse = torch.cholesky_inverse(torch.linalg.cholesky(toeplitz.covariance(column)))
                solved = (inverse @ past[..., None])[..., 0]
                q = (solved @ self.atoms[..., :N].flatten(0, 1).mT).unflatten(-1, (2, P)).square().sum(-2)
                sums = _diagonal_sums(inverse)
                gamma = gamma * (q / (sums @ self.atoms[0, :, :N].mT)).sqrt()
                noise = torch.maximum(noise * (solved.square().sum(-1, keepdim=True) / sums[..., :1]).sqrt(), floor)
        correlation = gamma @ self.atoms[0]
        solved = toeplitz.solve(self._with_noise(correlation, torch.maximum(noise, floor)), past)
        return toeplitz.forecast(correlation, solved)

    def _with_noise(self, correlation: Tensor, noise: Tensor) -> Tensor:
        """The correlation [..., N] of signal and white noise: that of the signal at lags 0..N-1, and at lag 0 the noise."""
        power, least = correlation[..., :1], toeplitz.least_noise(self.lookback, correlation.dtype)
        return torch.cat([power + torch.maximum(noise, least * power), correlation[..., 1 : self.lookback]], -1)


class Esprit(_Forecaster):
    """ESPRIT: the lookback's forward and backward windows span a space that a shift in time maps to itself; the
    eigenvalues of that map are exp(+-2 pi i f). Their angles are kept, amplitudes are fitted by ridge regression.

    The space is that of the singular vectors whose value is over `threshold` of the largest, `order` at most.
    """

    unstackable_reason = "eigenvalues of general matrices have no batching rule"

    def __init__(self, lookback: int, horizon: int, dtype: torch.dtype, order: int, threshold: float, ridge: float):
        super().__init__(lookback, horizon, dtype, math.log(ridge))
        self.order, self.threshold = order, threshold

    def forward(self, past: Tensor) -> Tensor:
        """[B, N] to [B, H]."""
        past = past.to(self.logarithm.dtype)
        with torch.no_grad():
            frequency, used = self._frequencies(past)
        t = torch.arange(self.lookback + self.horizon, dtype=past.dtype, device=past.device)
        angle = t[:, None] * frequency[:, None]
        design = torch.cat([angle.cos(), angle.sin()], -1) * used.repeat(1, 2)[:, None]
        amplitudes = _ridge_fit(design[:, : self.lookback], past, self.logarithm.exp())
        return (design[:, self.lookback :] @ amplitudes)[..., 0]

    def _frequencies(self, past: Tensor) -> tuple[Tensor, Tensor]:
        """In radians per sample, and 1 for each that counts, 0 for those that do not: both [B, order]."""
        windows = past.unfold(-1, max(self.order + 1, self.lookback // 2), 1)
        vectors, values, _ = torch.linalg.svd(torch.cat([windows, windows.flip(-1)], -2).mT, full_matrices=False)
        kept = (values[:, : self.order] > self.threshold * values[:, :1]).to(past.dtype)
        space = vectors[..., : self.order] * kept[:, None]
        before, after = space[:, :-1], space[:, 1:]
        # singular where the space holds a signal of its last sample alone, but for the eps
        gram = before.mT @ before + torch.diag_embed(1 - kept + torch.finfo(kept.dtype).eps)
        roots = torch.linalg.eigvals(torch.linalg.solve(gram, before.mT @ after))
        # of a pair of conjugates the upper one; what was not kept has the eigenvalue 0
        used = ((roots.abs() > 0.5) & (roots.imag >= 0)).to(past.dtype)
        return roots.angle(), used


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
    return torch.linalg.solve(
        gram + ridge * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device), design.mT @ target[..., None]
    )


@registered
def linear_prediction(
    lookback: int,
    horizon: int,
    dtype: torch.dtype,
    *,
    order: int | None = None,
    noise: float = 0.0,
    ridge: float | None = None,
) -> LinearPrediction:
    """order null: 3/5 of the lookback, with noise a third. ridge: relative to the energy of a coefficient's samples; null:
    3 noise^2. At least 1e-14, in float32 5.4e-6."""
    order = max(lookback // 3 if noise else 3 * lookback // 5, 1) if order is None else order
    ridge = _ridge(ridge, 3 * noise**2, 1e-14, dtype)
    return LinearPrediction(lookback, horizon, dtype, _order(order, lookback), ridge)


@registered
def omp(
    lookback: int,
    horizon: int,
    dtype: torch.dtype,
    *,
    periods: tuple[int, int] = (2, 99),
    noise: float = 0.0,
    atoms: int | None = None,
    ridge: float | None = None,
) -> OrthogonalMatchingPursuit:
    """atoms: greatest number of periods, null: half the lookback. ridge null: 300 noise^2; at least 1e-12, in float32 5.4e-4.
    A signal is done when its residual's root mean square is below 0.9 noise, or 1e-7, in float32 1.2e-5."""
    check_periods(periods)
    atoms = max(lookback // 2, 1) if atoms is None else atoms
    if not 1 <= atoms <= lookback // 2:
        raise ValueError(f"model.atoms must lie in 1..{lookback // 2}, half the lookback, got {atoms}; use fewer")
    ridge = _ridge(ridge, 300 * noise**2, 1e-12, dtype)
    return OrthogonalMatchingPursuit(
        lookback, horizon, dtype, periods, atoms, ridge, max(0.9 * noise, 1e-7, _rounding(dtype))
    )


@registered
def sparse_bayes(
    lookback: int,
    horizon: int,
    dtype: torch.dtype,
    *,
    periods: tuple[int, int] = (2, 99),
    noise: float = 0.0,
    steps: int | None = None,
) -> SparseBayes:
    """noise: of the signal before it is scaled: the floor of the noise found, with a least value of 1e-6, or, for a lookback
    of 100 in float32, 1e-2. steps null: 6 with noise, 30 without."""
    check_periods(periods)
    steps = (6 if noise else 30) if steps is None else steps
    _at_least("steps", steps, -1)
    return SparseBayes(
        lookback, horizon, dtype, periods, max(noise, 1e-6, toeplitz.least_noise(lookback, dtype) ** 0.5), steps
    )


@registered
def esprit(
    lookback: int,
    horizon: int,
    dtype: torch.dtype,
    *,
    order: int | None = None,
    noise: float = 0.0,
    threshold: float | None = None,
    ridge: float | None = None,
) -> Esprit:
    """order: two a sinusoid, null: half the lookback. threshold null: noise, at least 1e-10, in float32 1.2e-5. ridge null:
    300 noise^2; at least 1e-13, in float32 5.4e-5."""
    order = max(lookback // 2, 1) if order is None else order
    threshold = max(noise, 1e-10, _rounding(dtype)) if threshold is None else threshold
    _at_least("threshold", threshold, 0)
    ridge = _ridge(ridge, 300 * noise**2, 1e-13, dtype)
    return Esprit(lookback, horizon, dtype, _order(order, lookback), threshold, ridge)


def _order(order: int, lookback: int) -> int:
    if not 1 <= order < lookback:
        raise ValueError(
            f"model.order must lie in 1..{lookback - 1} for a lookback of {lookback}, got {order}; use a smaller order or a longer lookback"
        )
    return order


def _ridge(chosen: float | None, usual: float, least: float, dtype: torch.dtype) -> float:
    """The ridge chosen, or the usual one, raised to the least that keeps a Gram matrix from being singular.

    least: for float64; in another dtype it stands in the same proportion to rounding. Raises ValueError for a chosen one
    below it, which rounding would ignore.
    """
    least *= torch.finfo(dtype).eps / torch.finfo(torch.float64).eps
    if chosen is not None and not chosen >= least:
        raise ValueError(
            f"model.ridge must be at least {least:.2g} in {str(dtype).removeprefix('torch.')}, got {chosen}; use null"
            + ("" if dtype == torch.float64 else ", or dtype=float64")
        )
    return max(usual, least) if chosen is None else chosen


def _rounding(dtype: torch.dtype) -> float:
    """What the sum of a lookback's worth of products may be off by, relative."""
    return 100 * torch.finfo(dtype).eps


def _at_least(name: str, value: float, bound: float) -> None:
    if not value > bound:
        raise ValueError(f"model.{name} must be over {bound}, got {value}; see conf/model")
