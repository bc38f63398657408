"""The forecast with the least expected squared error: the mean of the signals' own posterior, by Markov chains."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wavebase.models.harmonic_posterior import HarmonicPosterior
from wavebase.models.harmonics import HarmonicForecaster, check_above, check_periods
from wavebase.registry import registered
from wavebase.signals.subspace import subspace
from wavebase.statistics import split_rhat

WRONG = (
    1.7  # factor by which a noise is taken for another one; among the generator's signals the estimate varies by 1.4
)
LEAST_FREE = 10  # dimensions without sinusoids that an estimate needs


class Posterior(NamedTuple):
    """Futures of signals given their past, float64.

    Attributes:
        mean: [signals, H].
        draws: [signals, draws, H].
        error: Variance of `mean` about the exact posterior mean, from the differences between halves of chains, [signals, H].
        rhat: Split R-hat of each signal's forecast over its chains, the largest over the horizon, [signals].
        accepted: Proportion of accepted proposals, [signals].
    """

    mean: Tensor
    draws: Tensor
    error: Tensor
    rhat: Tensor
    accepted: Tensor


def sample_posterior(
    past: Tensor,
    horizon: int,
    periods: tuple[int, int],
    components: tuple[int, int],
    noise: float | Tensor,
    generator: torch.Generator,
    *,
    chains: int = 4,
    updates: int = 800,
    scaled: bool = True,
    uniform: bool = False,
) -> Posterior:
    """Sample the futures of signals, [signals, N].

    Args:
        updates: Of every chain, ten components each. The first quarter is discarded; half of it follows the Gaussian
            model, which chains need to leave a bad start.

    Other arguments: `HarmonicPosterior`.
    """
    sampler = HarmonicPosterior(past, horizon, periods, components, noise, chains, generator, scaled, uniform)
    means, draws, accepted = [], [], torch.zeros(len(past) * chains, dtype=torch.float64)
    for n in range(updates):
        moved = sampler.update(10, 0.5, scale=n % 6 == 5, gaussian=n < updates // 8)
        if n >= updates // 4:
            accepted += moved
            if n % 2:
                means.append(sampler.forecast())
            if n % 4 == 3:
                draws.append(sampler.draw())
    series = torch.stack(means).double().unflatten(1, (-1, chains))  # [draws, signals, chains, H]
    halves = torch.cat([half.mean(0) for half in series.tensor_split(2)], 1)  # [signals, 2 chains, H]
    return Posterior(
        series.mean((0, 2)),
        torch.stack(draws).double().unflatten(1, (-1, chains)).permute(1, 0, 2, 3).flatten(1, 2),
        halves.var(1) / (2 * chains),
        split_rhat(series.transpose(1, 2)).amax(-1),
        accepted.unflatten(0, (-1, chains)).mean(1) / (updates - updates // 4),
    )


def plausible_noise(past: Tensor, periods: tuple[int, int], assumed: float) -> Tensor:
    """Return the noise of each signal: the assumed one, or where that is wrong by more than `WRONG`, an estimate, [B].

    The estimate is what the sinusoids of all periods leave of the past, relative to the largest |x| of the rest.
    """
    space = subspace(periods, past.shape[1], 0)
    x = space.coordinates(past)
    free = past.shape[1] - 2 * x.shape[-1]
    if free < LEAST_FREE:
        return torch.full_like(past[:, 0], assumed)
    deviation = ((past.square().sum(1) - x.square().sum((0, 2))).clamp_min(0) / free).sqrt()
    largest = torch.einsum("ibn,int->bt", x, space.basis).abs().amax(1)
    found = (deviation / largest.clamp_min(1e-30)).clamp_min(assumed / 100)
    wrong = (found > WRONG * assumed) | (found < assumed / WRONG)
    return torch.where(wrong, found, assumed)


class Bayes(HarmonicForecaster):
    """Posterior mean under the prior of `signals.harmonics.Harmonics`. Its gradient is zero: there is nothing to train.

    Args:
        periods, components: Least and greatest of the prior.
        noise: Standard deviation of the noise before the signal is scaled. A robust forecaster replaces it for signals
            that contradict it (`plausible_noise`).
        chains, updates, scaled: See `sample_posterior`.

    Other arguments: `HarmonicForecaster`.
    """

    probabilistic = True
    unstackable_reason = "its Markov chains accept or reject by comparison"
    AT_ONCE = 100  # signals, so that a step's arrays stay in the processor's cache

    def __init__(
        self,
        lookback: int,
        horizon: int,
        dtype: torch.dtype,
        periods: tuple[int, int],
        components: tuple[int, int],
        noise: float,
        chains: int,
        updates: int,
        scaled: bool,
        robust: bool,
    ):
        super().__init__(lookback, horizon, dtype, noise**2, robust)
        self.periods, self.components, self.noise = periods, components, noise
        self.chains, self.updates, self.scaled = chains, updates, scaled

    def posterior(self, past: Tensor) -> Posterior:
        """Sample the futures of signals [B, N]; the same numbers for the same signals."""
        found = [
            sample_posterior(
                part, self.horizon, self.periods, self.components,
                plausible_noise(part, self.periods, self.noise) if self.robust else self.noise,
                torch.Generator().manual_seed(0), chains=self.chains, updates=self.updates, scaled=self.scaled,
            )
            for part in past.detach().double().cpu().split(self.AT_ONCE)
        ]  # fmt: skip
        return Posterior(*map(torch.cat, zip(*found, strict=True)))

    def forecast(self, past: Tensor) -> Tensor:
        """Return the forecast [B, H] of a past [B, N]."""
        return self.posterior(past).mean.to(past) + 0 * self.logarithm

    def fit_spread(self, past: Tensor, future: Tensor) -> None:
        """Do nothing: the draws are as uncertain as the posterior is."""

    def distribution(self, past: Tensor, levels: Tensor) -> Tensor:
        """Return quantiles of the draws."""
        return self.posterior(past).draws.quantile(levels.double().cpu(), 1).to(past)


@registered
def build(
    lookback: int,
    horizon: int,
    dtype: torch.dtype,
    *,
    periods: tuple[int, int] = (10, 99),
    components: tuple[int, int] = (3, 44),
    noise: float = 0.1,
    chains: int = 2,
    updates: int = 200,
    scaled: bool = True,
    robust: bool = False,
) -> Bayes:
    """Build the forecaster of a run.

    Args:
        periods, components: Least and greatest of the prior.
        noise: Standard deviation of the noise before the signal is scaled, positive.
        chains: Markov chains of each signal.
        updates: Of each chain, at least 16. 200 with two chains take about 0.05 s a signal.
        scaled: Whether the largest |x| of lookback and horizon together is 1, as in the generator's signals.
        robust: See `HarmonicForecaster`.
    """
    check_periods(periods)
    check_above("noise", noise, 0)
    check_above("updates", updates, 15)
    check_above("chains", chains, 0)
    if len(components) != 2 or not 1 <= components[0] <= components[1]:
        raise ValueError(
            f"model.components must be two whole numbers, 1 <= fewest <= most, got {list(components)}; use [3, 44]"
        )
    return Bayes(lookback, horizon, dtype, periods, components, noise, chains, updates, scaled, robust)
