"""Orthogonal matching pursuit: a signal's periods are found one after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from wavebase.models.base import build_within_memory
from wavebase.models.harmonics import (
    HarmonicForecaster,
    check_periods,
    choose_ridge,
    product_rounding,
    ridge_fit,
)
from wavebase.registry import registered
from wavebase.signals.harmonics import sinusoids


class OrthogonalMatchingPursuit(HarmonicForecaster):
    """Group orthogonal matching pursuit on the sinusoids of all whole periods.

    Each round adds the period whose cosine and sine together remove most energy from the residual, then fits all
    chosen periods again by ridge regression.

    Args:
        periods: Shortest and longest of the dictionary, samples.
        atoms: Most periods of a signal.
        ridge: At the start; it is trainable.
        tolerance: Root mean square of the residual at which a signal is done.

    Other arguments: `HarmonicForecaster`.
    """

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
        robust: bool = False,
    ):
        super().__init__(lookback, horizon, dtype, ridge, robust)
        self.atoms, self.tolerance = atoms, tolerance
        pairs = sinusoids(periods, lookback + horizon).permute(1, 2, 0).to(dtype)  # [P, N + H, 2]
        self.register_buffer("pairs", pairs)
        self.register_buffer("orthonormal", torch.linalg.qr(pairs[:, :lookback])[0])

    def forecast(self, past: Tensor) -> Tensor:
        """Return the forecast [B, H] of a past [B, N]."""
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
            fitted = (design @ ridge_fit(design[:, :N], past, self.logarithm.exp()))[..., 0]
        return fitted[:, N:]


@registered
def build(
    lookback: int,
    horizon: int,
    dtype: torch.dtype,
    *,
    periods: tuple[int, int] = (2, 99),
    noise: float = 0.0,
    atoms: int | None = None,
    ridge: float | None = None,
    robust: bool = False,
) -> OrthogonalMatchingPursuit:
    """Build the forecaster of a run.

    Args:
        periods: Shortest and longest of the dictionary, samples.
        noise: Standard deviation of the signal's noise. A signal is done when its residual's root mean square is below
            0.9 noise, or 1e-7, 1.2e-5 in float32.
        atoms: Most periods of a signal; None for half the lookback.
        ridge: None for 300 noise^2. At least 1e-12, 5.4e-4 in float32.
        robust: See `HarmonicForecaster`. Configurations of version 0.1 lack it.
    """
    check_periods(periods)
    most = max(lookback // 2, 1) if atoms is None else atoms
    if not 1 <= most <= lookback // 2:
        raise ValueError(f"model.atoms must lie in 1..{lookback // 2}, half the lookback, got {most}; use fewer")
    chosen = choose_ridge(ridge, 300 * noise**2, 1e-12, dtype)
    tolerance = max(0.9 * noise, 1e-7, product_rounding(dtype))
    return build_within_memory(
        lambda: OrthogonalMatchingPursuit(lookback, horizon, dtype, periods, most, chosen, tolerance, robust),
        "use a smaller T or fewer model.periods",
    )
