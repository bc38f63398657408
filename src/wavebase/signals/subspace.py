"""Sinusoids of all whole periods over a lookback: the few dimensions that they span, and what is known given the periods.

With the middle of the lookback as the origin of time cosines are even and sines odd, so a covariance that weights both
of a period alike has two blocks. 100 samples of the periods 10..99 span 13 dimensions of each kind: the remaining 74 hold
noise alone. Letters: B signals, N lookback, H horizon, P periods, n dimensions of each kind.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from wavebase.limits import check_memory
from wavebase.signals.harmonics import Drawn

NEGLIGIBLE = 1e-6  # singular values below this proportion of the largest: their directions hold noise


class Subspace(NamedTuple):
    """The sinusoids of a range of periods, float64; the leading axis holds the even and the odd half.

    Attributes:
        atoms: Cosines and sines d_p at all times, [2, P, N + H].
        basis: Orthonormal rows that span them over the lookback, [2, n, N].
        reduced: d_p over the lookback in that basis, [2, P, n].
    """

    atoms: Tensor
    basis: Tensor
    reduced: Tensor

    @property
    def squares(self) -> Tensor:
        """d_p d_p^T, [2, P, n n]: powers [B, P] times this are covariances."""
        return torch.einsum("ipa,ipb->ipab", self.reduced, self.reduced).flatten(2)

    def coordinates(self, past: Tensor) -> Tensor:
        """Return signals [B, N] in the basis, [2, B, n]."""
        return torch.einsum("bt,int->ibn", past, self.basis.to(past.dtype))


@lru_cache(maxsize=4)
def subspace(periods: tuple[int, int], lookback: int, horizon: int) -> Subspace:
    """Compute the subspace of the whole periods of a range.

    Raises:
        ValueError: If it does not fit into memory.
    """
    P = periods[1] - periods[0] + 1
    check_memory(
        8 * (6 * P * (lookback + horizon) + 2 * lookback**2), f"{P} periods over {lookback} samples", "use fewer"
    )
    t = torch.arange(lookback + horizon, dtype=torch.float64) - (lookback - 1) / 2
    angle = math.tau * t / torch.arange(periods[0], periods[1] + 1, dtype=torch.float64)[:, None]
    atoms = torch.stack([angle.cos(), angle.sin()])
    factors = [torch.linalg.svd(half[:, :lookback], full_matrices=False)[1:] for half in atoms]
    n = max(int((size > NEGLIGIBLE * size[0]).sum()) for size, _ in factors)
    basis = torch.stack([rows[:n] for _, rows in factors])
    reduced = atoms[..., :lookback] @ basis.mT
    return Subspace(atoms, basis, reduced)


def oracle(drawn: Drawn, lookback: int, periods: tuple[int, int]) -> Tensor:
    """Forecast signals from their lookback and the knowledge of their periods, mean power and noise, [B, H].

    The posterior mean for Gaussian amplitudes. It does not use that the largest |x| is 1; `signals.scaled_future` does.
    """
    return future_given_periods(drawn, lookback, periods)[0]


def future_given_periods(drawn: Drawn, lookback: int, periods: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return mean [B, H] and covariance [B, H, H] of the future without noise, given the lookback and what the oracle knows.

    For Gaussian amplitudes, which are nearly those of the signals.
    """
    H = drawn.signal.shape[1] - lookback
    space = Subspace(*(part.to(drawn.signal) for part in subspace(periods, lookback, H)))
    B, (_, P, n), future = len(drawn.signal), space.reduced.shape, space.atoms[..., lookback:]
    index = (drawn.periods - periods[0] + 1).clamp_min(0)  # 0 collects what is not there
    ones = torch.ones_like(drawn.clean[:, :1]).expand(index.shape)
    count = drawn.clean.new_zeros(B, P + 1).scatter_add_(1, index, ones)
    power = drawn.clean[:, :lookback].square().mean(1, keepdim=True) / drawn.components[:, None] * count[:, 1:]
    C = (power @ space.squares).unflatten(-1, (n, n))
    C.diagonal(dim1=-2, dim2=-1).add_(drawn.noise.square().clamp_min(1e-12)[:, None])
    across = (power @ torch.einsum("iph,ipn->iphn", future, space.reduced).flatten(2)).unflatten(-1, (H, n))
    before = (power @ torch.einsum("iph,ipk->phk", future, future).flatten(1)).unflatten(-1, (H, H))
    solved = torch.linalg.solve(C, across.mT)  # [2, B, n, H]
    mean = torch.einsum("ibn,ibnh->bh", space.coordinates(drawn.signal[:, :lookback]), solved)
    return mean, before - (across @ solved).sum(0)
