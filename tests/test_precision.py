"""Classical forecasters in both dtypes: floors follow from the rounding of the dtype, and no signal makes a matrix singular."""

import math

import pytest
import torch

from test_forecast import A, draws, error
from wavebase.experiment import session
from wavebase.models import esprit, learned_prior, linear_prediction, matching_pursuit, sparse_bayes, toeplitz
from wavebase.signals.harmonics import Harmonics

DTYPES = {"float64": torch.float64, "float32": torch.float32}
BUILDERS = {
    "linear_prediction": linear_prediction.build,
    "omp": matching_pursuit.build,
    "sparse_bayes": sparse_bayes.build,
    "esprit": esprit.build,
}


def awkward(N):
    """Signals of N samples that leave little to fit: silence, constants, impulses, one sinusoid, loud and soft, white noise."""
    t, unit = torch.arange(N, dtype=torch.float64), torch.eye(N, dtype=torch.float64)
    wave = (2 * math.pi * t / 7).sin()
    rows = [0 * t, 0 * t + 1, unit[0], unit[-1], unit[N // 2], (-1) ** t, wave, 100 * wave, 1e-6 * wave, (-t).exp()]
    noise = torch.randn(2, N, generator=draws(), dtype=torch.float64)
    return torch.cat(
        [torch.stack(rows), noise, Harmonics((1, 1), (2, 2)).sample(4, N, draws()), A.sample(20, N, draws())]
    )


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-2])
@pytest.mark.parametrize("name", BUILDERS)
def test_no_signal_makes_a_forecaster_fail(name, noise, dtype):
    for N in (2, 3, 4, 12, 100):
        net = BUILDERS[name](N, 3, dtype, noise=noise)
        forecast = net(awkward(N).to(dtype))
        assert forecast.dtype == dtype and forecast.isfinite().all(), N
        assert not forecast[0].any(), "silence goes on"
        forecast.square().mean().backward()
        assert net.logarithm.grad.isfinite()


@pytest.mark.parametrize(
    "name,exact,rounded",
    [("linear_prediction", 1e-10, 1e-3), ("omp", 1e-3, 2e-2), ("sparse_bayes", 1e-6, 5e-3), ("esprit", 1e-9, 5e-3)],
)
def test_clean_signals_are_solved_as_far_as_the_dtype_allows(name, exact, rounded):
    """NMSE; 1 for a forecast of zero."""
    for dtype, bound in ((torch.float64, exact), (torch.float32, rounded)):
        net = BUILDERS[name](100, 5, dtype)
        assert error(lambda past, net=net, dtype=dtype: net(past.to(dtype)).double(), A, 5, count=50) < bound


@pytest.mark.parametrize("name", ["linear_prediction", "omp", "esprit"])
def test_a_ridge_that_rounding_would_ignore_is_refused(name):
    build = BUILDERS[name]
    build(20, 2, torch.float64, ridge=1e-9)
    with pytest.raises(ValueError, match=r"^model\.ridge must be at least \S+ in float32, got 1e-09; use null, or "):
        build(20, 2, torch.float32, ridge=1e-9)
    with pytest.raises(ValueError, match=r"in float64, got 1e-20; use null$"):
        build(20, 2, torch.float64, ridge=1e-20)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_a_covariance_with_the_least_noise_can_be_factorised(dtype):
    for N in (2, 10, 100, 500):
        correlation = torch.cos(2 * math.pi * torch.arange(N, dtype=torch.float64) / torch.tensor([[2.0], [7], [99]]))
        correlation = torch.cat([correlation, 100 * correlation, torch.ones(1, N)]).to(dtype)
        correlation[:, 0] *= 1 + toeplitz.least_noise(N, dtype)
        assert toeplitz.solve(correlation, torch.ones(7, N, dtype=dtype)).isfinite().all()


def test_a_learned_prior_solves_long_lookbacks_in_float32():
    net = learned_prior.build(500, 2, torch.float32, draws(), periods=(2, 20), width=8)
    with torch.no_grad():  # as certain of one period as training can make it
        net.log_power.fill_(-14)
        net.log_power[0] = 2
        net.log_power[-1] = -30
    assert net(A.sample(4, 500, draws()).float()).isfinite().all()


@pytest.mark.parametrize("name", BUILDERS)
def test_the_command_line_forecasts_clean_signals_in_float32(name, cli, monkeypatch):
    monkeypatch.setattr(session, "FRESH", 10)  # signals for intervals, which nothing here looks at
    words = ("hydra.mode=RUN", "experiment=harmonic_forecast", "task=forecast_a", "dtype=float32", f"model={name}")
    status, out, err = cli(*words, "task.held_out_count=50", "hydra.run.dir=run")
    assert status == 0, out + err
