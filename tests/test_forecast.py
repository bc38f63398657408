"""Sums of harmonics and their forecasts: signals, classical answers, nets, the task and what it refuses."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from conftest import FULL
from test_stacks import SWEEP, listed, numbers, refuse
from wavebase.experiment import runner, stacked
from wavebase.experiment.session import parameter_table
from wavebase.models import (
    esprit,
    learned_prior,
    linear_forecasters,
    linear_prediction,
    matching_pursuit,
    recurrent_forecasters,
    sparse_bayes,
    toeplitz,
)
from wavebase.records.folder import RunFolder
from wavebase.recurrence import cells
from wavebase.signals import scaled_future
from wavebase.signals.generators import WhiteNoise
from wavebase.signals.harmonics import Harmonics, sinusoids
from wavebase.signals.subspace import oracle
from wavebase.statistics import nmse, paired_difference
from wavebase.tasks.forecast import Forecast

A, B = Harmonics(), Harmonics((3, 44), (10, 99))
F64 = torch.float64


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def error(forecaster, signal, horizon, count=200, lookback=100):
    """NMSE on fresh signals; 1 for a forecast of zero."""
    x = signal.sample(count, lookback + horizon, draws(3))
    with torch.no_grad():
        forecast = forecaster(x[:, :lookback])
    return nmse((forecast - x[:, lookback:]).square(), x[:, lookback:].square()).value


SILENT = [(scale, horizon) for scale in (1.0, 1e-6, 1e6) for horizon in (20, 100, 3000)]


@pytest.mark.parametrize("scale,horizon", SILENT if FULL else [*SILENT[:3], SILENT[4], SILENT[7]])
def test_linear_prediction_after_a_silence_stays_in_bounds(scale, horizon):
    """It grew to 1e24 times the past, from a past that is silent but for its last samples."""
    t = torch.arange(100, dtype=F64)
    onset, rise = torch.where(t > 97, t.sin(), 0), torch.exp((t - 100) / 3)
    past = scale * torch.stack([onset, rise, 0 * t, (t / 7).sin()])
    net = linear_prediction.build(100, horizon, F64)
    found = net(past)
    found.square().sum().backward()
    assert net.logarithm.grad.isfinite()
    ratio = found.detach().abs().amax(1) / past.abs().amax(1)
    assert (ratio[:2] < 4.001).all() and (ratio[:2] > 1).all() and (found[2] == 0).all()
    torch.testing.assert_close(found[3].detach()[:20], scale * (torch.arange(100, 120, dtype=F64) / 7).sin())


# ---- signals ----


@pytest.mark.parametrize("signal", [A, B, Harmonics((1, 1), (2, 2)), Harmonics((2, 5), (7, 30), 0.1)])
def test_signals_are_what_they_say(signal):
    drawn = signal.draw(300, 64, draws())
    x, K = drawn.signal, drawn.components
    assert x.dtype == F64 and torch.equal(x, signal.sample(300, 64, draws()))
    torch.testing.assert_close(x.abs().amax(1), torch.ones(300, dtype=F64))
    assert K.min() == signal.components[0] and K.max() == signal.components[1]
    assert torch.equal((drawn.periods > 0).sum(1), K)
    present = drawn.periods[drawn.periods > 0]
    assert present.min() == signal.periods[0] and present.max() == signal.periods[1]
    if signal.noise:
        measured = ((x - drawn.clean) / drawn.noise[:, None]).std().item()
        assert measured == pytest.approx(1, abs=0.02)
    for row in range(20):  # the clean signal is made of the periods it names, and of no others
        atoms = sinusoids((1, 99), 64)[:, drawn.periods[row][drawn.periods[row] > 0] - 1].flatten(0, 1).mT.numpy()
        residual = drawn.clean[row].numpy() - atoms @ np.linalg.lstsq(atoms, drawn.clean[row].numpy())[0]
        assert np.linalg.norm(residual) < 1e-10 * np.linalg.norm(drawn.clean[row])


def test_a_modulated_component_swells_and_returns():
    signal = Harmonics((1, 1), (2, 9), modulated=True)
    N, generator = 40, draws()
    x = signal.draw(50, N, draws()).signal
    torch.randint(1, 2, (50, 1), generator=generator)  # the same draws, in the same order
    period = torch.randint(2, 10, (50, 1), generator=generator)
    _, turn = torch.rand(2, 50, 1, generator=generator, dtype=F64)
    ratio = 0.5 + 1.5 * torch.rand(50, 1, generator=generator, dtype=F64)
    top = torch.randint(N, (50, 1), generator=generator)
    for row in range(50):
        r, s = ratio[row].item(), top[row].item()
        envelope = np.interp(np.arange(N), [0, s, N - 1], [1, r, 1]) if 0 < s < N - 1 else None
        if envelope is not None:
            wave = envelope * np.sin(2 * np.pi * (np.arange(N) / period[row].item() + turn[row].item()))
            np.testing.assert_allclose(x[row], wave / np.abs(wave).max(), atol=1e-12)


# ---- classical forecasters ----


@pytest.mark.parametrize("N", [9, 10, 100, 101])
def test_the_dft_continues_the_lookback_for_odd_and_even_lengths(N):
    x = torch.randn(3, N, generator=draws(), dtype=F64)
    forecast = linear_forecasters.dft(N, N + 3, F64)(x)
    torch.testing.assert_close(forecast, torch.cat([x, x[:, :3]], 1), rtol=0, atol=1e-13 * N)
    for k in range(N // 2 + 1):  # DC and, for even N, Nyquist have no partner
        wave = 0.7 * torch.cos(2 * math.pi * k * torch.arange(N, dtype=F64) / N)
        for window in ("none", "hamming"):
            amplitude, frequency = linear_forecasters.dft_components(wave, window)
            inside = window == "none" or (k > 1 and k < N // 2 - 1)
            if inside:
                assert amplitude[k].abs().item() == pytest.approx(0.7, rel=1e-12)
                assert frequency[k].item() == pytest.approx(k / N)


def test_classical_forecasters_solve_clean_signals():
    assert error(linear_forecasters.zero(100, 5, F64), A, 5) == 1
    assert 0.3 < error(linear_forecasters.last(100, 5, F64), A, 5) < 0.8
    assert 1.5 < error(linear_forecasters.dft(100, 5, F64), A, 5) < 2.5
    assert error(linear_prediction.build(100, 5, F64), A, 5) < 1e-10
    assert error(linear_prediction.build(100, 10, F64), B, 10) < 1e-4
    assert error(linear_forecasters.dictionary_ridge(100, 5, F64), A, 5) < 1e-5
    assert error(matching_pursuit.build(100, 5, F64), A, 5) < 1e-3
    assert error(sparse_bayes.build(100, 5, F64), A, 5, count=50) < 1e-6
    assert error(esprit.build(100, 5, F64), Harmonics((1, 3)), 5) < 1e-9


def test_sparse_bayes_is_the_best_of_them_where_there_is_noise():
    noisy = Harmonics(noise=0.1)
    sparse = error(sparse_bayes.build(100, 5, F64, noise=0.1), noisy, 5)
    others = [
        linear_forecasters.dictionary_ridge(100, 5, F64, noise=0.1),
        matching_pursuit.build(100, 5, F64, noise=0.1),
        esprit.build(100, 5, F64, noise=0.1),
        linear_prediction.build(100, 5, F64, noise=0.1),
    ]
    assert 0.03 < sparse < 0.09
    assert all(sparse < error(other, noisy, 5) < 0.5 for other in others)


def test_a_linear_forecaster_that_is_trained_finds_a_better_one(ran):
    folder = ran(
        "experiment=harmonic_forecast", "task=forecast_a", "model=last", "signal.noise=0.1", "T=12",
        "train.steps=300", "optim.lr=0.2", "task.held_out_count=500", "probe.figures=[forecast.forecasts,forecast.lookback_spectrum]", "probe.draw=true",
    )  # fmt: skip
    error = folder.summary()["relative_error"]
    assert error["final"] < 0.9 * error["initial"]
    assert all((folder.path / "figures" / f"{name}.png").exists() for name in ("forecasts", "lookback_spectrum"))


# ---- stationary processes ----


def test_toeplitz_solutions_and_their_derivatives():
    correlation = torch.cat([torch.full((3, 1), 2.0, dtype=F64), torch.rand(3, 6, generator=draws(), dtype=F64) / 8], 1)
    x = torch.randn(3, 7, generator=draws(), dtype=F64)
    dense = torch.stack([torch.from_numpy(_toeplitz(row.numpy())) for row in correlation])
    assert torch.equal(toeplitz.covariance(correlation), dense)
    solved = toeplitz.solve(correlation, x)
    torch.testing.assert_close(solved, torch.linalg.solve(dense, x))
    variables = correlation.requires_grad_(), x.requires_grad_()
    assert torch.autograd.gradcheck(toeplitz.solve, variables)
    assert torch.autograd.gradgradcheck(toeplitz.solve, variables)
    longer = torch.rand(3, 11, generator=draws(), dtype=F64)
    across = torch.from_numpy(np.stack([_toeplitz(row.numpy()) for row in longer]))[:, 7:, :7]
    torch.testing.assert_close(toeplitz.forecast(longer, solved), (across @ solved[..., None])[..., 0])


def _toeplitz(column):
    n = np.arange(len(column))
    return column[np.abs(n[:, None] - n)]


def test_sparse_bayes_climbs_the_likelihood(monkeypatch):
    x = Harmonics(noise=0.1).sample(20, 100, draws())
    seen = []
    covariance = toeplitz.covariance

    def noted(column):
        C = covariance(column)
        seen.append((torch.linalg.slogdet(C)[1] + torch.einsum("bi,bi->b", x, torch.linalg.solve(C, x))).clone())
        return C

    monkeypatch.setattr(toeplitz, "covariance", noted)
    sparse_bayes.build(100, 5, F64, noise=0.05, steps=10)(x)
    path = torch.stack(seen)
    assert (path.diff(dim=0) <= 1e-9 * path[0].abs()).all() and (path[-1] < path[0] - 1).all()


# ---- nets ----


def test_gru_step_is_torchs():
    cell = torch.nn.GRUCell(3, 5, dtype=F64)
    x, h = torch.randn(4, 3, generator=draws(), dtype=F64), torch.randn(4, 5, generator=draws(), dtype=F64)
    ours = cells.gru_step(x, h, cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
    torch.testing.assert_close(ours, cell(x, h))


@pytest.mark.parametrize(
    "build,parameters",
    [
        (recurrent_forecasters.lstm, 41_301),
        (recurrent_forecasters.seq2seq_gru, 45_415),
        (recurrent_forecasters.mlp_gru, 141_573),
    ],
)
def test_recurrent_forecasters_have_the_projects_sizes_and_run_freely_on_themselves(build, parameters):
    net = build(100, 5, F64, draws())
    assert sum(p.numel() for p in net.parameters()) == parameters
    past = A.sample(3, 100, draws())
    free = net(past)
    assert free.shape == (3, 5) and free.std() > 0
    shown = net((past, free))  # shown its own forecasts as if they were the truth, it says the same again
    torch.testing.assert_close(shown[:, -5:], free)
    other = net((past, free + 1))
    torch.testing.assert_close(other[:, -5], free[:, 0])
    assert not torch.allclose(other[:, -4:], free[:, 1:])


def test_learned_prior_starts_as_ridge_regression_and_contains_the_oracle():
    net = learned_prior.build(100, 10, F64, draws(), periods=(10, 99), width=16)
    ridge = (math.exp(-3.912023) + 1e-4 * 0.2) / (0.2 / 90)
    x = Harmonics((3, 44), (10, 99), 0.1).sample(50, 100, draws())
    torch.testing.assert_close(
        net(x), linear_forecasters.dictionary_ridge(100, 10, F64, periods=(10, 99), ridge=ridge)(x), rtol=0, atol=1e-6
    )
    drawn = Harmonics((2, 2), (10, 30), 0.02).draw(1, 110, draws())
    with torch.no_grad():  # tell it the two periods
        net.log_power.fill_(-14)
        net.log_power[drawn.periods[0] - 10] = math.log(0.25)
        net.log_power[-1] = math.log(0.02**2)
    future = drawn.signal[:, 100:]
    assert nmse((net(drawn.signal[:, :100]) - future).square(), future.square()).value < 0.01


@pytest.mark.parametrize("change", [lambda net: {}, lambda net: None, lambda net: {**net, "embed.bias": net["embed.bias"] + 1j},
                                    lambda net: {**net, "embed.bias": net["embed.bias"][:1]}])  # fmt: skip
def test_a_learned_prior_refuses_the_weights_of_another_net(change, tmp_path):
    net = learned_prior.build(20, 4, F64, draws(), periods=(2, 9), width=4)
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "checkpoints" / "step_00000001.pt"
    torch.save({"net": net.state_dict()}, file)
    build = partial(learned_prior.build, 20, 4, F64, draws(), periods=(2, 9), width=4, weights=str(tmp_path))
    assert torch.equal(build().embed.bias, net.embed.bias)
    torch.save({"net": change(net.state_dict())}, file)
    with pytest.raises(ValueError, match=r"model\.weights must be a run of model=learned_prior with the same T"):
        build()


@pytest.mark.parametrize("model", ["learned_prior", "lstm", "seq2seq", "mlp_gru"])
def test_forecasters_train_as_a_stack(model, composed, tmp_path):
    base = (f"experiment=forecast_{model}", "dtype=float64", "train.steps=10", "optim.fused=false", *SWEEP, "T=8")
    small = {"learned_prior": ("model.width=8", "signal.periods=[2,9]"), "lstm": ("model.hidden_size=3",)}.get(
        model, ()
    )
    settings = [(*base, *small, f"seed={seed}") for seed in (0, 1)]
    finals = stacked.run_stacked(listed(composed, tmp_path / "together", *settings), 64, refuse)
    for n, (alone, final) in enumerate(zip(listed(composed, tmp_path / "alone", *settings), finals, strict=True)):
        assert runner.run(alone, single=False) == pytest.approx(final, rel=1e-6)
        ours, theirs = numbers(RunFolder(tmp_path / "together" / str(n))), numbers(RunFolder(alone.path))
        assert ours[-1] == pytest.approx(theirs[-1], rel=1e-6, abs=1e-12)
    assert finals[0] != finals[1]


# ---- the task ----


def test_batches_of_the_task():
    noisy = Harmonics((3, 30), (10, 99), 0.1)
    forced = Forecast(noisy, F64, torch.device("cpu"), draws(), lookback=20, horizon=4, training="teacher_forced")
    (past, future), target = forced.sample_batch(5, draws(1))
    assert torch.equal(torch.cat([past, future], 1)[:, 1:], target)
    free = Forecast(noisy, F64, torch.device("cpu"), draws(), lookback=20, horizon=4, target="clean", weights="falling")
    same, clean = free.sample_batch(5, draws(1))
    assert torch.equal(same, past) and clean.shape == future.shape and not torch.equal(clean, future)
    error = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1.0]], dtype=F64)
    losses = [free.loss(row, torch.zeros(4, dtype=F64)).item() for row in error]
    assert losses[0] == pytest.approx(4 * losses[1])
    assert free.loss(torch.ones(3, 4, dtype=F64), torch.zeros(3, 4, dtype=F64)).item() == pytest.approx(1)


def test_targets_have_the_expectation_of_the_signal_wherever_the_largest_sample_lies():
    drawn = Harmonics((3, 44), (10, 99), 0.1).draw(8000, 110, draws())
    future, full = drawn.signal[:, 100:], drawn.signal[:, :100].abs().amax(1) == 1
    targets = {
        "expected": scaled_future.expected(drawn, 100),
        "oracle": scaled_future.scaled_oracle(drawn, 100, (10, 99), draws()),
        "unscaled oracle": oracle(drawn, 100, (10, 99)),
    }
    slopes = {
        name: [((future * aim)[part].sum() / aim[part].square().sum()).item() for part in (full, ~full)]
        for name, aim in targets.items()
    }
    assert slopes["expected"] == pytest.approx([1, 1], abs=0.01)
    assert slopes["oracle"] == pytest.approx([1, 1.01], abs=0.02)
    assert slopes["unscaled oracle"][0] < 0.98 and slopes["unscaled oracle"][1] > 1.08, "the control"
    errors = {name: (aim - future).square().sum().item() for name, aim in targets.items()}
    assert errors["expected"] < errors["oracle"] < 0.95 * errors["unscaled oracle"]


def test_training_aims_at_what_it_is_asked_for():
    noisy = Harmonics((3, 30), (10, 99), 0.1)

    def aims(target):
        task = Forecast(noisy, F64, torch.device("cpu"), draws(), lookback=20, horizon=4, target=target)
        return task.sample_batch(50, draws(1)).target

    expected, clean, known = aims("expected"), aims("clean"), aims("oracle")
    assert expected.abs().max() <= 1 and not torch.equal(expected, clean)
    assert torch.equal(expected, scaled_future.expected(noisy.draw(50, 24, draws(1)), 20))
    assert known.shape == expected.shape and 0.05 < (known - expected).square().mean() / expected.square().mean() < 1
    exact = scaled_future.expected(B.draw(50, 24, draws(1)), 20)  # without noise it is the signal itself
    torch.testing.assert_close(exact, B.draw(50, 24, draws(1)).signal[:, 20:], rtol=0, atol=1e-3)


def test_the_curriculum_raises_the_number_of_components(monkeypatch):
    counts = []
    sample = Harmonics.sample
    monkeypatch.setattr(
        Harmonics, "sample", lambda self, *a, **k: counts.append(self.components) or sample(self, *a, **k)
    )
    task = Forecast(B, F64, torch.device("cpu"), draws(), curriculum=100, held_out_count=2)
    for step in (0, 50, 99, 100, 1000):
        task.sample_batch(2, draws(), step)
    assert counts == [(3, 44), (3, 3), (3, 23), (3, 43), (3, 44), (3, 44)]


def test_intervals_hold_what_they_should():
    generator, inside, better = draws(), 0, 0
    for _ in range(200):
        noise, size = torch.randn(2, 300, 2, generator=generator, dtype=F64).square()
        found = nmse(0.3 * size * noise, size)
        inside += found.low < 0.3 < found.high
        if better < 20:
            other = paired_difference(0.3 * size * noise, 0.3 * size * noise.flip(0), size, generator, 200)
            better += other.low < 0 < other.high
    assert 175 <= inside <= 200 and better >= 15
    assert nmse(size, size).value == 1


@pytest.mark.parametrize(
    "words,complaint",
    [
        (("task.horizon=0",), "task.horizon must be at least 1, got 0"),
        (("signal.periods=[1,9]",), "signal.periods must be two whole numbers, 2 samples <= least"),
        (("signal.components=[6,3]",), "signal.components must be two whole numbers, 1 component <= least"),
        (("signal.noise=-1",), "signal.noise must be a standard deviation of at least 0, got -1"),
        (("model=linear_prediction", "T=20", "model.order=20"), "model.order must lie in 1..19 for a lookback of 20"),
        (("model=omp", "T=20", "model.atoms=11"), "model.atoms must lie in 1..10"),
        (("signal=white_noise", "task=forecast", "task.curriculum=5"), "use signal=harmonics"),
    ],
)
def test_bad_input_is_refused_in_one_line(words, complaint, cli):
    base = ("hydra.mode=RUN", "experiment=harmonic_forecast", "task=forecast_a", "task.held_out_count=4")
    status, _, err = cli(*base, *words)
    assert status == 1 and complaint in err and len(err.strip().splitlines()) == 1


def test_any_signal_can_be_forecast():
    task = Forecast(WhiteNoise(), F64, torch.device("cpu"), draws(), lookback=8, horizon=2)
    past, target = task.sample_batch(3, draws())
    assert past.shape == (3, 8) and target.shape == (3, 2)
    measured = task.metrics(torch.zeros(2000, 2, dtype=F64), task.held_out["training"].target)
    assert measured["nmse"] == measured["nmse_1"] == measured["nmse_2"] == measured["relative_error"] == 1


def test_a_run_tells_its_parameters():
    table = parameter_table(recurrent_forecasters.lstm(100, 5, F64, draws()))
    assert "| cell.weight_hh | 400 x 100 | 40000 | yes |" in table and "| all | | 41301 | |" in table
