"""The sampled posterior of sums of sinusoids, forecasts with intervals, and signals that are not as a forecaster expects."""

import math

import pytest
import torch

from wavebase.models import (
    bayes,
    learned_prior,
    linear_forecasters,
    linear_prediction,
    preparation,
    sparse_bayes,
    toeplitz,
)
from wavebase.models.harmonic_posterior import HarmonicPosterior
from wavebase.signals.harmonics import Harmonics, sinusoids
from wavebase.signals.scaled_future import ScaledFuture
from wavebase.signals.subspace import oracle, subspace
from wavebase.statistics import nmse, split_rhat
from wavebase.tasks.forecast import Forecast

F64 = torch.float64
SMALL = Harmonics((2, 4), (5, 14), 0.1)
B = Harmonics((3, 44), (10, 99), 0.1)


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def error(forecast, future):
    return nmse((forecast - future).square(), future.square()).value


# ---- the sinusoids' subspace ----


def test_the_subspace_holds_the_sinusoids_and_the_oracle_in_it_is_the_dense_one():
    space = subspace((10, 99), 100, 10)
    assert space.basis.shape[1] < 20
    rebuilt = space.reduced @ space.basis
    torch.testing.assert_close(rebuilt, space.atoms[..., :100], rtol=0, atol=1e-4)
    drawn = B.draw(50, 110, draws())
    count = torch.zeros(50, 100, dtype=F64).scatter_add_(1, drawn.periods, torch.ones_like(drawn.periods, dtype=F64))
    power = drawn.clean[:, :100].square().mean(1, keepdim=True) / drawn.components[:, None] * count[:, 10:]
    correlation = power @ sinusoids((10, 99), 110)[0]
    column = correlation[:, :100].clone()
    column[:, 0] += drawn.noise.square()
    dense = toeplitz.forecast(correlation, toeplitz.solve(column, drawn.signal[:, :100]))
    torch.testing.assert_close(oracle(drawn, 100, (10, 99)), dense, rtol=0, atol=1e-4)


def test_the_oracle_as_a_target_has_the_mean_of_the_signal_and_less_variance():
    task = {
        name: Forecast(B, F64, torch.device("cpu"), draws(), horizon=10, target=name) for name in ("clean", "oracle")
    }
    (past, clean), (same, target) = (task[name].sample_batch(2000, draws(1)) for name in ("clean", "oracle"))
    assert torch.equal(past, same) and target.var() < 0.95 * clean.var()
    # what the oracle leaves open has nothing to do with its forecast: the slope of the signal on it is 1
    slope = (clean * target).sum(1), target.square().sum(1)
    ratio = slope[0].sum() / slope[1].sum()
    reach = 3 * (slope[0] - ratio * slope[1]).norm() / slope[1].sum()
    assert abs(ratio - 1) < reach < 0.05
    with pytest.raises(ValueError, match=r"task\.target=oracle has no past to force"):
        Forecast(B, F64, torch.device("cpu"), draws(), target="oracle", training="teacher_forced")


# ---- the posterior ----


@pytest.mark.parametrize("uniform", [False, True])
def test_chains_find_the_posterior_that_a_grid_gives(uniform):
    """One component of two possible periods: with the scale integrated out, amplitudes have the density 1 / b^2."""
    N, H, periods = 12, 3, (6, 7)
    x = Harmonics((1, 1), periods, 0.3).sample(6, N + H, draws(5))[:, :N]
    sampler = HarmonicPosterior(x, H, periods, (1, 1), 0.3, 40, draws(), uniform=uniform)
    total = torch.zeros(len(x), H, dtype=F64)
    for n in range(300):
        sampler.update(2, 0.5, scale=n % 3 == 2, gaussian=n < 30)
        if n >= 60:
            total += sampler.forecast().unflatten(0, (len(x), -1)).mean(1) / 240
    axis = torch.linspace(-1.6, 1.6, 160, dtype=F64) + 1e-3
    of_cos, of_sin = (part.flatten() for part in torch.meshgrid(axis, axis, indexing="ij"))
    atoms = sinusoids(periods, N + H)
    clean = torch.cat([torch.outer(of_cos, atoms[0, p]) + torch.outer(of_sin, atoms[1, p]) for p in (0, 1)])
    top = clean.abs().amax(1)
    prior = -torch.cat([of_cos.square() + of_sin.square()] * 2).log() - N * top.log()
    for row, mean in zip(x, total, strict=True):
        full = (row.abs().max() > 1 - 1e-9).expand(len(clean))
        future = ScaledFuture(clean[:, N:], 0.3 * top[:, None])
        log = prior - (row - clean[:, :N]).square().sum(1) / (2 * (0.3 * top).square()) + future.log_chance(full)
        exact = log.softmax(0) @ future.mean(full)
        torch.testing.assert_close(mean, exact, rtol=0, atol=0.03)
        assert exact.abs().max() > 0.1


def test_the_posterior_is_calibrated_and_a_wrong_noise_is_not():
    N, H = 40, 4
    drawn = SMALL.draw(100, N + H, draws(1))
    past, future = drawn.signal[:, :N], drawn.signal[:, N:]

    def sampled(noise):
        found = bayes.sample_posterior(past, H, SMALL.periods, SMALL.components, noise, draws(), chains=2, updates=96)
        covered = {}
        for level in (0.5, 0.8, 0.95):
            low, high = found.draws.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=F64), 1)
            covered[level] = ((future >= low) & (future <= high)).double().mean().item()
        return found, covered

    found, covered = sampled(0.1)
    assert all(abs(covered[level] - level) < 3.5 * (level * (1 - level) / 200) ** 0.5 for level in covered), covered
    least = error(found.mean, future)
    assert error(oracle(drawn, N, SMALL.periods), future) < least
    net = sparse_bayes.build(N, H, F64, periods=SMALL.periods, noise=0.1)
    assert least < 0.9 * error(net(past).detach(), future) < 0.5
    assert found.rhat.median() < 1.2 and 0.3 < found.accepted.mean() < 1
    _, wrong = sampled(0.3)
    assert wrong[0.5] > 0.65, "intervals must be too wide for a noise three times too large"


def test_bayes_is_a_forecaster_whose_noise_yields_to_the_signal():
    x = B.sample(100, 100, draws())
    assert (bayes.plausible_noise(x, (10, 99), 0.1) == 0.1).double().mean() > 0.95
    loud = Harmonics((3, 44), (10, 99), 0.4).sample(100, 100, draws())
    assert 0.25 < bayes.plausible_noise(loud, (10, 99), 0.1).median() < 0.5
    net = bayes.build(100, 5, F64, chains=1, updates=16)
    forecast = net(x[:3])
    assert torch.equal(forecast, net(x[:3])) and forecast.shape == (3, 5) and forecast.std() > 0.01
    forecast.sum().backward()
    assert net.logarithm.grad == 0
    with pytest.raises(ValueError, match=r"model\.components must be two whole numbers"):
        bayes.build(100, 5, F64, components=(4, 3))


def test_samples_below_the_largest_have_the_moments_of_those_that_rejection_keeps():
    centre, deviation = torch.tensor([[0.9, -0.5, 0.2]], dtype=F64), torch.tensor([[0.3]], dtype=F64)
    raw = centre + deviation * torch.randn(400_000, 3, generator=draws(), dtype=F64)
    top = raw.abs().amax(1)
    kept = {True: raw[top < 1], False: raw[(top - 1).abs() < 0.02]}
    future = ScaledFuture(centre.expand(40_000, 3), deviation.expand(40_000, 1))
    for below, samples in kept.items():
        mask = torch.full((40_000,), below)
        torch.testing.assert_close(future.mean(mask)[0], samples.mean(0), rtol=0, atol=0.01)
        drawn = future.draw(mask, draws())
        torch.testing.assert_close(drawn.mean(0), samples.mean(0), rtol=0, atol=0.01)
        torch.testing.assert_close(drawn.std(0), samples.std(0), rtol=0, atol=0.01)
        assert (drawn.abs().amax(1) == 1).all() != below
    assert future.log_chance(torch.full((40_000,), True))[0].exp().item() == pytest.approx(
        (top < 1).double().mean().item(), abs=0.005
    )


def test_r_hat_tells_chains_that_agree_from_those_that_do_not():
    chains = torch.randn(400, 4, 3, generator=draws(), dtype=F64)
    assert (split_rhat(chains) - 1).abs().max() < 0.02
    apart = chains + torch.tensor([0.0, 0, 0, 2])[:, None]
    drifting = chains + torch.linspace(0, 3, 400)[:, None, None]
    assert split_rhat(apart).min() > 1.2 and split_rhat(drifting).min() > 1.2


# ---- intervals ----


@pytest.mark.parametrize("name", ["sparse_bayes", "learned_prior"])
def test_gaussian_intervals_hold_about_what_they_should(name):
    x = B.sample(200, 110, draws())
    past, future = x[:, :100], x[:, 100:]
    net = {
        "sparse_bayes": lambda: sparse_bayes.build(100, 10, F64, periods=(10, 99), noise=0.1),
        "learned_prior": lambda: learned_prior.build(100, 10, F64, draws(), periods=(10, 99), width=8),
    }[name]()
    low, middle, high = net.quantiles(past, (0.1, 0.5, 0.9))
    torch.testing.assert_close(middle, net(past).detach())
    assert (low < middle).all() and (middle < high).all()
    inside = ((future > low) & (future < high)).double().mean()
    half = ((future - middle).abs() < (high - low) / 4).double().mean()
    assert 0.65 < inside < 0.97 and half < inside - 0.2
    with pytest.raises(NotImplementedError, match="has no distribution"):
        linear_forecasters.zero(100, 10, F64).quantiles(past, (0.5,))


def test_intervals_that_are_too_narrow_are_fitted_to_other_signals():
    x = Harmonics((3, 18), (8, 39), 0.1).sample(900, 50, draws(5))
    (fitted, judged), future = x.split((600, 300)), x[600:, 40:]
    net = sparse_bayes.build(40, 10, F64, periods=(8, 39), noise=0.1)

    def held():
        low, middle, high = net.quantiles(judged[:, :40], (0.1, 0.5, 0.9))
        return middle, ((future > low) & (future < high)).double()[:, 5:].mean().item()

    middle, before = held()
    net.fit_spread(fitted[:, :40], fitted[:, 40:])
    same, after = held()
    assert before < 0.7 and after == pytest.approx(0.8, abs=0.05)
    torch.testing.assert_close(same, middle)
    posterior = bayes.build(100, 10, F64, chains=1, updates=16)
    posterior.fit_spread(fitted, fitted)
    assert posterior.spread == 1, "draws need no factor"


# ---- signals from practice ----


def test_a_forecast_in_inference_mode_leaves_nothing_behind_that_training_cannot_use():
    x = B.sample(2, 37, draws())
    with torch.inference_mode():
        preparation.prepare(x)
    wanted = x.clone().requires_grad_()
    preparation.prepare(wanted).past.sum().backward()
    assert wanted.grad.isfinite().all() and wanted.grad.any()


def test_gaps_are_filled_with_straight_lines():
    nan = math.nan
    x = torch.tensor([[nan, 1, nan, nan, 4, nan], [0, 1, 2, 3, 4, 5], [nan] * 6], dtype=F64)
    expected = torch.tensor([[1, 1, 2, 3, 4, 4], [0, 1, 2, 3, 4, 5], [0] * 6], dtype=F64)
    torch.testing.assert_close(preparation.fill(x), expected)


def test_lines_are_removed_where_they_are_and_only_there():
    x, t = B.sample(400, 100, draws()), torch.arange(100, dtype=F64) / 100 - 0.495
    usual = preparation.prepare(x)
    assert (usual.line == 0).double().mean() > 0.97 and (usual.scale == 1).double().mean() > 0.97
    for offset, slope in ((5.0, 0.0), (-300.0, 0.0), (2.0, 5.0)):
        found = preparation.prepare(x + offset + slope * t)
        wanted = torch.tensor([offset, slope], dtype=F64)
        assert (found.line[:, 0] != 0).all() and (found.line - wanted).abs().mean(0)[0] < 0.05
        torch.testing.assert_close(found.restore(found.past), _continued(found, x + offset + slope * t))
    assert not preparation.prepare(torch.zeros(2, 100, dtype=F64)).past.any()
    assert torch.equal(preparation.prepare(1000 * x).past.abs().amax(1), torch.ones(400, dtype=F64))


def _continued(found, signal):
    """The signal's own line, continued for as many samples as it has, beside what is left of it."""
    t = (torch.arange(200, dtype=F64) - 49.5) / 100
    line = found.line @ torch.stack([torch.ones_like(t), t])
    return signal - line[:, :100] + line[:, 100:]


@pytest.mark.parametrize("name", ["ridge", "linear prediction", "sparse Bayes", "learned prior", "Bayes"])
def test_robust_forecasters_survive_offset_trend_scale_and_gaps(name):
    x = Harmonics((2, 4), (10, 30), 0.1).sample(40, 105, draws(2))
    past, future, usual = x[:, :100], x[:, 100:], {"periods": (10, 30), "noise": 0.1}

    def build(robust):
        return {
            "ridge": lambda: linear_forecasters.dictionary_ridge(100, 5, F64, **usual, robust=robust),
            "linear prediction": lambda: linear_prediction.build(100, 5, F64, noise=0.1, robust=robust),
            "sparse Bayes": lambda: sparse_bayes.build(100, 5, F64, **usual, robust=robust),
            "learned prior": lambda: learned_prior.build(
                100, 5, F64, draws(), periods=(10, 30), width=8, robust=robust
            ),
            "Bayes": lambda: bayes.build(100, 5, F64, **usual, components=(2, 4), chains=1, updates=32, robust=robust),
        }[name]()

    def measured(net, *shown):
        """Errors on several pasts, given with a factor and with what was added: as one batch, which costs as much as one."""
        with torch.no_grad():
            forecasts = net(torch.cat([past for past, _, _ in shown])).split(len(past))
        return [
            error((found - added) / factor, future) for found, (_, factor, added) in zip(forecasts, shown, strict=True)
        ]

    t = torch.arange(105, dtype=F64) / 25
    holes = torch.where(torch.rand(past.shape, generator=draws()) < 0.1, math.nan, past)
    offset, trend = (past + 5, 1, 5), (past + t[:100], 1, t[100:])
    plain, *others = measured(build(True), (past, 1, 0), (holes, 1, 0), (70 * past, 70, 0), offset, trend)
    assert plain < 0.35
    assert others[0] < 2 * plain and others[1] < 1.5 * plain and others[2] < 2 * plain and others[3] < 0.7
    if name != "linear prediction":  # which has coefficients that continue a line
        raised, tilted = measured(build(False), offset, trend)
        assert raised > 5 and tilted > 2
