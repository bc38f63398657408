"""ESPRIT: frequencies from the shift invariance of a signal's windows."""

from __future__ import annotations

import torch
from torch import Tensor

from wavebase.models.harmonics import (
    HarmonicForecaster,
    check_above,
    check_order,
    choose_ridge,
    product_rounding,
    ridge_fit,
)
from wavebase.registry import registered


class Esprit(HarmonicForecaster):
    """Frequencies by ESPRIT, amplitudes by ridge regression.

    The past's forward and backward windows span a space that a shift in time maps to itself. The eigenvalues of that
    map are exp(+-2 pi i f); their angles are kept.

    Args:
        order: Most dimensions of the space, two per sinusoid.
        threshold: Smallest singular value that counts, relative to the largest.
        ridge: At the start; it is trainable.

    Other arguments: `HarmonicForecaster`.
    """

    unstackable_reason = "eigenvalues of general matrices have no batching rule"

    def __init__(
        self,
        lookback: int,
        horizon: int,
        dtype: torch.dtype,
        order: int,
        threshold: float,
        ridge: float,
        robust: bool = False,
    ):
        super().__init__(lookback, horizon, dtype, ridge, robust)
        self.order, self.threshold = order, threshold

    def forecast(self, past: Tensor) -> Tensor:
        """Return the forecast [B, H] of a past [B, N]."""
        with torch.no_grad():
            frequency, used = self._frequencies(past)
        t = torch.arange(self.lookback + self.horizon, dtype=past.dtype, device=past.device)
        angle = t[:, None] * frequency[:, None]
        design = torch.cat([angle.cos(), angle.sin()], -1) * used.repeat(1, 2)[:, None]
        amplitudes = ridge_fit(design[:, : self.lookback], past, self.logarithm.exp())
        return (design[:, self.lookback :] @ amplitudes)[..., 0]

    def _frequencies(self, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return frequencies in radians per sample, and 1 for each that counts, else 0: both [B, order]."""
        windows = past.unfold(-1, max(self.order + 1, self.lookback // 2), 1)
        vectors, values, _ = torch.linalg.svd(torch.cat([windows, windows.flip(-1)], -2).mT, full_matrices=False)
        kept = (values[:, : self.order] > self.threshold * values[:, :1]).to(past.dtype)
        space = vectors[..., : self.order] * kept[:, None]
        before, after = space[:, :-1], space[:, 1:]
        # without the eps the matrix is singular where the space holds a signal of its last sample alone
        gram = before.mT @ before + torch.diag_embed(1 - kept + torch.finfo(kept.dtype).eps)
        roots = torch.linalg.eigvals(torch.linalg.solve(gram, before.mT @ after))
        # the upper one of each conjugate pair counts; directions that were not kept have the eigenvalue 0
        used = ((roots.abs() > 0.5) & (roots.imag >= 0)).to(past.dtype)
        return roots.angle(), used


@registered
def build(
    lookback: int,
    horizon: int,
    dtype: torch.dtype,
    *,
    order: int | None = None,
    noise: float = 0.0,
    threshold: float | None = None,
    ridge: float | None = None,
    robust: bool = False,
) -> Esprit:
    """Build the forecaster of a run.

    Args:
        order: Two per sinusoid; None for half the lookback.
        noise: Standard deviation of the signal's noise, which sets the defaults of `threshold` and `ridge`.
        threshold: See `Esprit`; None for `noise`, at least 1e-10, 1.2e-5 in float32.
        ridge: None for 300 noise^2. At least 1e-13, 5.4e-5 in float32.
        robust: See `HarmonicForecaster`. Configurations of version 0.1 lack it.
    """
    order = max(lookback // 2, 1) if order is None else order
    threshold = max(noise, 1e-10, product_rounding(dtype)) if threshold is None else threshold
    check_above("threshold", threshold, 0)
    ridge = choose_ridge(ridge, 300 * noise**2, 1e-13, dtype)
    return Esprit(lookback, horizon, dtype, check_order(order, lookback), threshold, ridge, robust)
