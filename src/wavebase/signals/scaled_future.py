"""Future samples of a signal that was divided by its largest |x|: none exceeds 1, and where the past does not, one is 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavebase.signals.harmonics import Drawn
from wavebase.signals.subspace import future_given_periods

FULL = 1 - 1e-6  # a past with such an |x| holds the sample that set the scale
TINY = 1e-30
LEAST = 1e-4  # deviation of a noise
DRAWS = 16


def expected(drawn: Drawn, lookback: int) -> Tensor:
    """Return the mean of the samples after the lookback, given it and the signal without noise, [B, H].

    Its expectation given the lookback alone is that of the signal itself, so a net that is trained towards it learns the
    same forecast, from less noise.
    """
    full = drawn.signal[:, :lookback].abs().amax(1) >= FULL
    return ScaledFuture(drawn.clean[:, lookback:], drawn.noise[:, None].clamp_min(LEAST)).mean(full)


def scaled_oracle(drawn: Drawn, lookback: int, periods: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return the forecast of an oracle that knows the periods and that the largest |x| is 1, [B, H].

    Draws of the future, given the periods alone, are weighted with the chance that the largest |x| lies where it does. A
    net that is trained towards this forecast learns nearly the same as from `expected`, from a third of the variance.

    Args:
        generator: Of the draws.
    """
    mean, covariance = (part.float() for part in future_given_periods(drawn, lookback, periods))
    B, H = mean.shape
    eye = torch.eye(H, dtype=mean.dtype, device=mean.device)
    power = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    factor = torch.linalg.cholesky_ex(covariance + (1e-4 * power + LEAST**2) * eye)[0]
    draw = torch.randn(B, DRAWS // 2, H, generator=generator, dtype=mean.dtype, device=mean.device)
    clean = mean[:, None] + torch.cat([draw, -draw], 1) @ factor.mT
    full = (drawn.signal[:, :lookback].abs().amax(1) >= FULL).repeat_interleave(DRAWS)
    deviation = drawn.noise.to(mean).clamp_min(LEAST).repeat_interleave(DRAWS)[:, None]
    future = ScaledFuture(clean.flatten(0, 1), deviation)
    weight = future.log_chance(full).unflatten(0, (B, DRAWS)).softmax(1)
    return (weight[..., None] * future.mean(full).unflatten(0, (B, DRAWS))).sum(1).to(drawn.signal)


class ScaledFuture:
    """Samples x_h = c_h + noise of which it is known whether all are below 1 in modulus, or the largest is 1.

    Args:
        centre: c_h, [R, H].
        deviation: Standard deviation of the noise, [R, 1].
    """

    def __init__(self, centre: Tensor, deviation: Tensor):
        self.centre, self.deviation = centre, deviation
        wide = deviation * math.sqrt(2)
        inside = 0.5 * (torch.erf((1 - centre) / wide) + torch.erf((1 + centre) / wide))
        self.log_inside = inside.clamp_min(TINY).log()  # log P(|x_h| < 1)
        size, variance = centre.abs(), deviation.square()
        at_edge = -(1 - size).square() / (2 * variance) - (deviation * math.sqrt(math.tau)).log()
        at_edge = at_edge + (-2 * size / variance).exp().log1p()  # log density of |x_h| at 1
        self.odds = at_edge - self.log_inside

    def log_chance(self, all_below: Tensor) -> Tensor:
        """Return the logarithm of the probability that all |x_h| < 1 where `all_below`, else of the density of the largest
        at 1, [R]."""
        return self.log_inside.sum(1) + torch.where(all_below, 0.0, torch.logsumexp(self.odds, 1))

    def mean(self, all_below: Tensor) -> Tensor:
        """Return E[x_h] given what is known, [R, H]."""
        c, s = self.centre, self.deviation
        bell = [(-((end - c) / s).square() / 2).exp() / math.sqrt(math.tau) for end in (-1, 1)]
        below = (c + s * (bell[0] - bell[1]) / self.log_inside.exp()).clamp(-1, 1)
        weight = torch.where(all_below[:, None], 0.0, self.odds.softmax(1))
        return weight * (c / s.square()).tanh() + (1 - weight) * below

    def draw(self, all_below: Tensor, generator: torch.Generator) -> Tensor:
        """Draw x_h given what is known, [R, H]."""
        c, s = self.centre, self.deviation
        low, high = (torch.special.ndtr(((end - c) / s).double()) for end in (-1, 1))
        uniform = torch.rand(c.shape, generator=generator, dtype=torch.float64)
        below = c + s * torch.special.ndtri(low + (high - low) * uniform).clamp(-9, 9).to(c.dtype)
        at = torch.multinomial(self.odds.softmax(1), 1, generator=generator)
        edge = torch.where(uniform < (2 * c / s.square()).sigmoid(), 1.0, -1.0).to(c.dtype)
        largest = (torch.arange(c.shape[1], device=at.device) == at) & ~all_below[:, None]
        return torch.where(largest, edge, below.clamp(-1, 1))
