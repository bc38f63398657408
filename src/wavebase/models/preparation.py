"""Make a signal from practice fit for a forecaster of sinusoids: no gaps, no offset, no trend, a usual size.

The offset and the slope are fitted by generalised least squares, where the signal itself is the noise: a process whose
power is spread evenly over the periods 2..N-1. They are removed only where they are large and an F test says that such a
process is unlikely to have them: a window holds no whole number of most periods, so every signal has a mean and a slope of
its own. Of 4000 signals without a line fewer than 0.1 % lose one (tasks A and B with noise), 3 to 5 % without noise, which
costs linear prediction nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from wavebase.models.base import NamedModel
from wavebase.signals.harmonics import sinusoids

STANDS_OUT = 40.0  # F statistic; less removes lines from signals with little noise, more leaves trends
SIZE = 0.35  # root mean square of a line that is removed, relative to what it leaves
NOISE = 0.05  # of the process, relative to its power
SMALLEST = 0.3  # largest |x| of a signal that keeps its scale; the greatest is 1


class Prepared(NamedTuple):
    """A past made fit, and how to undo that.

    Attributes:
        past: [..., N].
        line: Offset and slope of the signal, [..., 2], zero where nothing was removed.
        scale: Factor from `past` to the signal, [..., 1].
    """

    past: Tensor
    line: Tensor
    scale: Tensor

    def restore(self, forecast: Tensor) -> Tensor:
        """Return the signal's forecast [..., H] from that of the prepared past."""
        N, H = self.past.shape[-1], forecast.shape[-1]
        line = _fits(N, forecast.dtype, forecast.device).line if H <= N else _line(N, H).to(forecast)
        return torch.addcmul(self.line @ line[:, N : N + H], forecast, self.scale)


class RobustForecaster(NamedModel):
    """A forecaster that prepares its past, if it is built to, and undoes that in the forecast.

    Args:
        robust: Whether to.

    Attributes:
        probabilistic: Whether it has a distribution of the future, so that `quantiles` works.
        spread: Factor on the standard deviations of a Gaussian distribution, for all steps or for each, [H]. See
            `fit_spread`.
    """

    probabilistic = False

    def __init__(self, robust: bool):
        super().__init__()
        self.robust = robust
        self.spread: float | Tensor = 1.0

    def forward(self, past: Tensor) -> Tensor:
        """Return the forecast [B, H] of a past [B, N]."""
        past = past.to(next(self.parameters()).dtype)
        if not self.robust:
            return self.forecast(past)
        prepared = prepare(past)
        return prepared.restore(self.forecast(prepared.past))

    def forecast(self, past: Tensor) -> Tensor:
        """Return the forecast [B, H] of a prepared past [B, N] in the net's dtype."""
        raise NotImplementedError

    def quantiles(self, past: Tensor, levels: Sequence[float]) -> Tensor:
        """Return quantiles of the future samples, noise included, [levels, B, H], without a gradient.

        Raises:
            NotImplementedError: For a forecaster without a distribution.
        """
        with torch.no_grad():
            past = past.to(next(self.parameters()).dtype)
            asked = torch.tensor(levels, dtype=past.dtype, device=past.device)
            if not self.robust:
                return self.distribution(past, asked)
            prepared = prepare(past)
            return prepared.restore(self.distribution(prepared.past, asked))

    def fit_spread(self, past: Tensor, future: Tensor) -> None:
        """Set `spread` so that at each step the central 80 % interval holds 80 % of these samples.

        A forecaster that takes for certain what it has estimated has intervals that are too narrow. The signals must be
        others than those that the intervals are judged on.

        Args:
            past, future: Signals, [B, N] and [B, H].
        """
        self.spread = 1.0
        low, middle, high = self.quantiles(past, (0.1, 0.5, 0.9))
        self.spread = ((future.to(middle) - middle).abs() / ((high - low) / 2)).quantile(0.8, 0)

    def distribution(self, past: Tensor, levels: Tensor) -> Tensor:
        """Return quantiles [levels, B, H] of the future of a prepared past [B, N]."""
        raise NotImplementedError(
            f"{type(self).__name__} has no distribution; use sparse_bayes, learned_prior or bayes"
        )


def gaussian_quantiles(mean: Tensor, variance: Tensor, levels: Tensor, spread: float | Tensor) -> Tensor:
    """Return quantiles [levels, B, H] of Gaussians [B, H] whose standard deviations are multiplied by `spread`."""
    return mean + spread * variance.clamp_min(0).sqrt() * torch.special.ndtri(levels)[:, None, None]


def prepare(past: Tensor) -> Prepared:
    """Fill gaps (nan), remove a line that stands out, and divide by the largest |x| where one was or it is beyond 0.3..1.

    Args:
        past: [..., N]. A gap between two samples is filled with a straight line, one at an end with the nearest sample.
    """
    filled = past if _is_whole(past) else fill(past)
    N = past.shape[-1]
    fits = _fits(N, filled.dtype, filled.device)
    fitted = filled @ fits.fit
    rests, found = fitted[..., :-2].unflatten(-1, (3, N)).square().sum(-1), fitted[..., -2:]
    passed = (torch.cat([rests, found.square()], -1) @ fits.conditions > 0).unflatten(-1, (2, 2)).all(-2)
    stands_out = passed.any(-1, keepdim=True)
    line = torch.where(torch.cat([stands_out, passed[..., 1:]], -1), found, 0)  # a slope never without an offset
    straight = filled - line @ fits.line[:, :N]
    largest = straight.abs().amax(-1, keepdim=True)
    usual = (largest == largest.clamp(SMALLEST, 1 + 1e-6)) & ~stands_out | (largest == 0)
    scale = torch.where(usual, 1.0, largest)
    return Prepared(straight / scale, line, scale)


def _is_whole(past: Tensor) -> bool:
    """Return whether no sample is nan, or False where looking costs more than filling or is impossible."""
    if past.is_cuda:
        return False
    try:
        return not past.isnan().any()
    except RuntimeError:  # torch.func.vmap allows no branches
        return False


def fill(past: Tensor) -> Tensor:
    """Replace samples that are nan by straight lines between their neighbours, along the last axis; all nan gives 0."""
    missing = past.isnan()
    N, t = past.shape[-1], torch.arange(past.shape[-1], device=past.device).expand(past.shape)
    before = torch.where(missing, -1, t).cummax(-1).values
    after = torch.where(missing, N, t).flip(-1).cummin(-1).values.flip(-1)
    left, right = (
        torch.where(before < 0, after, before).clamp_max(N - 1),
        torch.where(after >= N, before, after).clamp_min(0),
    )
    known = past.nan_to_num()
    start, end = known.gather(-1, left), known.gather(-1, right)
    return torch.where(missing, start + (end - start) * (t - left) / (right - left).clamp_min(1), past)


class _Fits(NamedTuple):
    """What `prepare` computes from a lookback of N samples by products.

    An offset is even about the middle of the lookback and a slope is odd, so neither changes the other's fit.

    Attributes:
        fit: [N, 3 N + 2]. Times a signal: what an offset and a slope leave of it, whitened; what an offset leaves; what both
            leave; and both.
        conditions: [5, 4]. Times the squares of these (of the first three their sums): four numbers, positive if the F test
            finds an offset, and a slope beside it; if the offset is large, and if both are.
        line: 1 and time in units of the lookback about its middle, [2, 2 N].
    """

    fit: Tensor
    conditions: Tensor
    line: Tensor


@lru_cache(maxsize=8)
def _fits(N: int, dtype: torch.dtype, device: torch.device) -> _Fits:
    with torch.inference_mode(False):  # else training could not use what a forecast has computed
        atoms, eye = sinusoids((2, max(N - 1, 2)), N).flatten(0, 1), torch.eye(N, dtype=torch.float64)
        inverse = torch.linalg.inv(atoms.mT @ atoms / (len(atoms) / 2) + NOISE * eye)
        line = _line(N, N)
        shape = line[:, :N].mT  # [N, 2]
        white, weight = inverse @ shape, (shape * (inverse @ shape)).sum(0)
        found = white / weight  # [N, 2]
        offset, both = eye - found[:, :1] @ shape[:, :1].mT, eye - found @ shape.mT
        fit = torch.cat([both @ torch.linalg.cholesky(inverse), offset, both, found], 1)
        power, small = shape.square().mean(0), SIZE**2 / N
        conditions = torch.tensor(
            [
                [-STANDS_OUT, -STANDS_OUT, 0, 0],
                [0, 0, -small, 0],
                [0, 0, 0, -small],
                [weight[0] * (N - 1), 0, power[0], power[0]],
                [-STANDS_OUT * weight[1], weight[1] * (N - 2), 0, power[1]],
            ],
            dtype=torch.float64,
        )
        return _Fits(*(part.to(device, dtype) for part in (fit, conditions, line)))


def _line(N: int, H: int) -> Tensor:
    """Return 1 and time in units of the lookback about its middle, float64 [2, N + H]."""
    t = (torch.arange(N + H, dtype=torch.float64) - (N - 1) / 2) / N
    return torch.stack([torch.ones_like(t), t])
