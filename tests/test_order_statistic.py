"""The order statistic tasks, the ReLU net and its recipe."""

from __future__ import annotations

import math

import pytest
import torch

from test_experiments import EXPERIMENTS, load
from wavebase.models.relu_rnn import ReluRNN, build
from wavebase.recurrence.cells import relu_states
from wavebase.signals.generators import WhiteNoise
from wavebase.tasks.order_statistic import OrderStatistic, Statistic, answer
from wavebase.training.schedule import schedule_factor


def task(statistic: Statistic, T: int = 5, **keys) -> OrderStatistic:
    return OrderStatistic(
        WhiteNoise(4.0, "gaussian"),
        T,
        torch.float64,
        torch.device("cpu"),
        torch.Generator().manual_seed(0),
        statistic=statistic,
        **keys,
    )


def test_answers() -> None:
    odd = torch.tensor([[3.0, -1.0, 2.0, 7.0, 0.0]])
    assert answer(odd, "argmax").item() == 3
    assert answer(odd, "second_argmax").item() == 0
    assert answer(odd, "argmedian").item() == 2
    assert answer(odd, "median").item() == 2
    assert answer(odd[:, :4], "median").item() == 2.5


@pytest.mark.parametrize("statistic", ["second_argmax", "argmax", "argmedian"])
def test_position_tasks_measure_what_they_say(statistic: Statistic) -> None:
    it = task(statistic)
    target = it.held_out["training"].target
    right = torch.nn.functional.one_hot(target, 5).double()
    assert it.metrics(right, target) == {"relative_error": 0, "accuracy": 1}
    assert it.metrics(torch.zeros_like(right), target)["accuracy"] == 0  # no choice is no answer
    assert it.metrics(right * math.nan, target)["relative_error"] == 1.25
    guess = torch.rand(right.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert it.metrics(guess, target)["relative_error"] == pytest.approx(1, abs=0.03)
    assert it.baselines["zero"] == pytest.approx(it.loss(torch.zeros_like(right), target).item())
    assert it.baselines["mean"] == pytest.approx(math.log(5), abs=1e-3) and it.baselines["mean"] < it.baselines["zero"]
    assert torch.equal(it.held_out["double_amplitude"].target, target)


def test_median_task() -> None:
    it = task("median", nonnegative=True)
    signal, target = it.held_out["training"]
    assert it.sizes["outputs"] == 1 and target.shape == (8192, 1) and signal.min() >= 0
    assert it.baselines["mean"] == pytest.approx(it.loss(target.mean().expand_as(target), target).item())
    assert it.metrics(torch.zeros_like(target), target)["relative_error"] == 1


def test_relu_states_are_torchs_and_stack() -> None:
    net = torch.nn.RNN(1, 6, nonlinearity="relu", bias=False, batch_first=True, dtype=torch.float64)
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w_ih, w_hh = net.weight_ih_l0.detach(), net.weight_hh_l0.detach()
    states = torch.stack([state.mT for state in relu_states(x[0], w_ih, w_hh)], 1)
    torch.testing.assert_close(states, net(x[0].unsqueeze(-1))[0].detach())
    stacked = relu_states(x, torch.stack([w_ih, 2 * w_ih]), torch.stack([w_hh, w_hh]))[-1]
    torch.testing.assert_close(stacked[1], relu_states(x[1], 2 * w_ih, w_hh)[-1])


def test_the_published_net_has_432_parameters_and_is_homogeneous() -> None:
    net: ReluRNN = build(10, 10, torch.float64, torch.Generator().manual_seed(0))
    assert sum(p.numel() for p in net.parameters()) == 432
    x = torch.randn(7, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(net(3 * x), 3 * net(x))


def test_exponential_schedule_is_the_published_one() -> None:
    steps = 2**20
    for step in (2**15, 2**18, 2**19, 2**20):
        published = min(step / 2**14, 1) * max(0.01 ** (2 * step / steps), 0.01)
        # ours starts to fall after the warmup of 1/64 of the run, theirs during it
        assert schedule_factor("exponential", step, steps, 1 / 64) == pytest.approx(published, rel=0.16)
    assert schedule_factor("exponential", 2**13, steps, 1 / 64) == pytest.approx(0.5, rel=1e-3)
    assert schedule_factor("exponential", steps, steps, 1 / 64) == 0.01


@pytest.mark.parametrize("n", [2, 3, 6, 10])
def test_the_exact_net_is_right_wherever_the_second_largest_is_not_negative(n: int) -> None:
    net = build(n, n, torch.float64, torch.Generator(), start="exact")
    assert len(net.weight_hh) == 2 * n + 2
    x = torch.randn(5000, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    possible = x.topk(2).values[:, 1] >= 0
    assert (net(x).argmax(-1) == answer(x, "second_argmax"))[possible].all()


def test_the_best_of_many_go_on_as_they_were() -> None:
    """Of an exact net and two random ones of its size the exact one is chosen, and steps as it would have alone."""
    study = load(EXPERIMENTS / "second_argmax.py")
    exact = build(10, 10, torch.float32, torch.Generator(), start="exact")
    others = [build(10, 10, torch.float32, torch.Generator().manual_seed(s), hidden_size=exact.weight_hh.shape[0]) for s in (0, 1)]  # fmt: skip
    for other in others:
        other.readout.weight.data *= 1e5  # sure of what it does not know
    weights, _ = torch.func.stack_module_state([others[0], exact, others[1]])
    x = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))

    def step(stack: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        study.logits(stack, x).square().sum().backward()
        optimizer.step()

    optimizer = study.adamw(weights)
    step(weights, optimizer)
    chosen, following, kept = study.best(weights, optimizer, 1)
    assert kept == [1]
    step(chosen, following)
    step(weights, optimizer)
    for name, weight in chosen.items():
        torch.testing.assert_close(weight[0], weights[name][1])
