"""What is particular to each exact algorithm: the numbers that its page gives, and the controls that must fail."""

import math

import pytest
import torch

import wavebase
from test_zoo import CPU, attention, every_dtype, generator, noise
from wavebase.constructions.counter import counter_construction
from wavebase.constructions.handwritten import perturbed_weights
from wavebase.constructions.linear_attention import (
    best_preconditioner,
    best_rate,
    gradient_step,
    linear_attention_construction,
)
from wavebase.constructions.modular_addition import modular_addition_construction
from wavebase.constructions.spectral_gru import extrapolation, spectral_gru_construction
from wavebase.constructions.state_space import eigenvalues, state_space_construction
from wavebase.models.counter import CounterLSTM
from wavebase.models.linear_attention import LinearAttention
from wavebase.models.modular_addition import ModularAddition
from wavebase.models.spectral_gru import SpectralGRU
from wavebase.models.state_space import StateSpace
from wavebase.probes.curvature import largest_curvature
from wavebase.recurrence.cells import GATES, GRU_GATES
from wavebase.tasks.counting import Counting
from wavebase.tasks.in_context_regression import InContextRegression

# ---- the counter ----


def largest_n(gain, dtype=torch.float64, longest=400, letters=2):
    task = Counting(8, dtype, CPU, generator(), letters=letters, longest=longest, held_out_count=2)
    inputs, target = task.held_out["lengths"]
    with torch.no_grad():
        output = CounterLSTM(counter_construction(letters, task.stop, gain=gain, dtype=dtype))(inputs)
    return task.metrics(output, target)["largest_n"]


@pytest.mark.parametrize("gain", [3.0, 5.0, 8.0, 10.0])
def test_a_small_gain_leaks_and_its_longest_string_is_foretold(gain):
    foretold = math.sqrt(0.6 / (1 - 1 / (1 + math.exp(-gain))))
    assert largest_n(gain) == pytest.approx(foretold, abs=1, rel=0.05)
    assert counter_construction(gain=gain).error_bound == math.inf


@every_dtype
def test_a_saturated_counter_knows_every_length(dtype):
    assert largest_n(40.0, dtype) == largest_n(40.0, dtype, letters=3, longest=100) * 4 == 400
    assert counter_construction(gain=20.0, longest=100, dtype=torch.float64).error_bound < 0.01


def test_curvature_in_natural_units_does_not_know_the_gain():
    """It goes with the square of the readout's certainty alone. With the drive for every candidate's unit it was 170 times as large."""
    task = Counting(32, torch.float64, CPU, generator(), held_out_count=2)
    inputs, target = task.sample_batch(64, generator(2))
    found = {}
    for gain, certainty in ((40.0, 40.0), (10.0, 40.0), (40.0, 10.0)):
        net = CounterLSTM(counter_construction(gain=gain, certainty=certainty), None, True)
        found[gain, certainty] = largest_curvature(lambda net=net: task.loss(net(inputs), target), net.parameters())
    assert found[10.0, 40.0] == pytest.approx(found[40.0, 40.0], rel=0.01)
    assert found[40.0, 40.0] == pytest.approx(16 * found[40.0, 10.0], rel=0.05) and found[40.0, 40.0] < 1e4


def test_the_counters_cell_is_torchs():
    algorithm = counter_construction(3)
    net = CounterLSTM(algorithm, perturbed_weights(algorithm, 0.1, generator()))
    w = net.named_weights()
    reference = torch.nn.LSTM(4, 5, batch_first=True, dtype=torch.float64)
    for name, kind in (("weight_ih_l0", "weight_ih"), ("weight_hh_l0", "weight_hh"), ("bias_ih_l0", "bias")):
        reference.get_parameter(name).data = torch.cat([w[f"{kind}_{gate}"] for gate in GATES])
    reference.bias_hh_l0.data.zero_()
    x = torch.nn.functional.one_hot(torch.randint(4, (5, 20), generator=generator()), 4).double()
    expected = reference(x)[0] @ w["readout_weight"].mT + w["readout_bias"]
    torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)


# ---- the state space ----


@pytest.mark.parametrize("eigenvalue", ["lru", "s4d"])
def test_exactness_costs_gradient_where_the_modulus_is_below_one(eigenvalue):
    T, x = 64, noise(64, torch.float64)
    power = wavebase.power_spectrum(x, T)
    for log_decay, expected, slope in ((-20.0, 1.4e-7, 2.1e-9), (-10.0, 3e-3, 4.5e-5)):
        algorithm = state_space_construction(T, "full", eigenvalue, log_decay)
        output = StateSpace(algorithm, T)(x)
        assert ((output - power).norm() / power.norm()).item() == pytest.approx(expected, rel=0.05)
        energy = T * x.square().sum(-1)[:, None, None]
        assert ((output - power).abs() / energy).max() <= algorithm.error_bound < 10 * expected
        free = {name: weight.clone().requires_grad_() for name, weight in algorithm.weights.items()}
        real, imag = eigenvalues(free)
        name = "nu" if eigenvalue == "lru" else "log_decay"
        (found,) = torch.autograd.grad((real**2 + imag**2).sqrt()[3], free[name])
        assert -found[3].item() == pytest.approx(slope, rel=0.05)


# ---- the GRU ----


def gru_error(orders, gain, dtype=torch.float64, T=8):
    x = noise(T, dtype)
    with torch.no_grad():
        output = SpectralGRU(spectral_gru_construction(T, orders=orders, gain=gain, dtype=dtype), T)(x)
    power = wavebase.power_spectrum(x, T)
    return ((output.double() - power).norm() / power.norm()).item()


def test_no_gain_makes_the_gru_exact_to_rounding_as_it_does_the_signed_gate():
    """Its error falls with the gain as G^2 by truncation, rises as 1/G by rounding; more orders move both apart."""
    gains = [10.0**-n for n in range(1, 10)]
    errors = {orders: [gru_error(orders, gain) for gain in gains] for orders in (1, 2, 4)}
    first = errors[1]
    assert first[1] / first[2] == pytest.approx(100, rel=0.05) and first[-1] > 5 * first[-2] > 25 * first[-3]
    lstm, x = wavebase.spectral_lstm(8, dtype=torch.float64), noise(8, torch.float64)
    power = wavebase.power_spectrum(x, 8)
    signed = ((lstm(x) - power).norm() / power.norm()).item()
    assert signed < 2e-15 and min(first) > 1e3 * signed
    assert min(first) > 10 * min(errors[2]) > 10 * min(errors[4]) > 10 * signed
    for orders, swept in errors.items():  # and the gain that is chosen is as good as any
        assert gru_error(orders, None) < 4 * min(swept)


def test_extrapolation_reproduces_even_polynomials():
    for orders in (1, 2, 3, 4):
        shares = extrapolation(orders)
        for power in range(orders):
            assert sum(a * 4.0 ** (n * power) for n, a in enumerate(shares)) == pytest.approx(
                float(power == 0), abs=1e-12
            )


def test_the_grus_cell_is_torchs():
    algorithm = spectral_gru_construction(4, orders=1)
    net = SpectralGRU(algorithm, 4, perturbed_weights(algorithm, 0.1, generator()))
    w, H = net.named_weights(), len(algorithm.weights["bias_new"])
    reference = torch.nn.GRU(1, H, batch_first=True, dtype=torch.float64)
    for name, kind in (("weight_ih_l0", "weight_ih"), ("weight_hh_l0", "weight_hh"), ("bias_ih_l0", "bias")):
        reference.get_parameter(name).data = torch.cat([w[f"{kind}_{gate}"] for gate in GRU_GATES])
    reference.bias_hh_l0.data.zero_()
    x = noise(4, torch.float64, 3)
    flushed = torch.nn.functional.pad(x, (0, 1)).unsqueeze(-1)
    expected = reference(flushed)[0][:, -1:] @ w["readout_weight"].mT
    assert (net(x) - expected).norm() <= 1e-9 * expected.norm()


# ---- attention ----


def test_the_oracle_is_a_step_of_gradient_descent():
    tokens = InContextRegression(8, torch.float64, CPU, generator(), dimension=3).held_out["training"].input
    for prompt, found in zip(tokens[:16], gradient_step(tokens[:16], 0.7), strict=True):
        w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        loss = (prompt[:-1, :-1] @ w - prompt[:-1, -1]).square().mean() / 2
        (slope,) = torch.autograd.grad(loss, w)
        assert found.item() == pytest.approx((-0.7 * slope @ prompt[-1, :-1]).item(), rel=1e-12)


def test_another_rate_is_another_algorithm():
    member = attention(torch.float64)
    wrong = linear_attention_construction(16, 4, 1.0)
    output = LinearAttention(wrong)(member.inputs).detach()
    assert (output - member.target).norm() / member.target.norm() == pytest.approx(1 / best_rate(16, 4) - 1)


@pytest.mark.parametrize(
    ("condition", "rate", "minimum"),
    [(1.0, "plain", True), (1.0, "too large", False), (4.0, "plain", False), (4.0, "preconditioned", True)],
)
def test_the_step_is_a_minimum_where_theory_has_it(condition, rate, minimum):
    """The mean gradient over 2^15 prompts is zero within its error, or is not: isotropic inputs and others are the two controls."""
    N, d = 16, 4
    task = InContextRegression(N, torch.float64, CPU, generator(), dimension=d, condition=condition, held_out_count=2)
    rates = {"plain": None, "too large": 1.0, "preconditioned": best_preconditioner(N, task.variances).tolist()}
    net, gradients = LinearAttention(linear_attention_construction(N, d, rates[rate])), []
    for seed in range(32):
        batch = task.sample_batch(1024, generator(seed))
        parts = torch.autograd.grad(task.loss(net(batch.input), batch.target), list(net.parameters()))
        gradients.append(torch.cat([part.flatten() for part in parts]))
    stacked = torch.stack(gradients)
    largest = (stacked.mean(0) / (stacked.std(0) / 32**0.5)).abs().max().item()
    assert largest < 5 if minimum else largest > 15


# ---- modular addition ----


def test_two_phases_are_not_enough_and_more_than_three_are():
    first = torch.nn.functional.one_hot(torch.arange(11).repeat(11), 11).double()
    second = torch.nn.functional.one_hot(torch.arange(11).repeat_interleave(11), 11).double()
    pairs = torch.stack([first, second], 1)
    target = torch.nn.functional.one_hot(
        (torch.arange(11).repeat(11) + torch.arange(11).repeat_interleave(11)) % 11, 11
    )
    for phases, exact in ((1, False), (2, False), (3, True), (4, True)):
        for offsets in ((0.0, 0.0), (0.4, -1.1)):
            algorithm = modular_addition_construction(11, phases=phases, offsets=offsets)
            assert len(algorithm.weights["weight_first"]) == phases**2 * 5
            output = ModularAddition(algorithm)(pairs)
            worst = (output - target).abs().max().item()
            assert worst <= algorithm.error_bound < 1e-12 if exact else worst > 0.5
            right = (output.argmax(-1) == target.argmax(-1)).double().mean()
            assert (right == 1) if exact else (right < 0.7)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: modular_addition_construction(4), "task.p must be odd and at least 3, got 4"),
        (lambda: modular_addition_construction(5, phases=0), "phases must be at least 1, got 0"),
        (lambda: counter_construction(1), "letters must be at least 2, got 1"),
        (lambda: counter_construction(stop=1.0), "stop must lie between 0 and 1, got 1.0"),
        (lambda: counter_construction(gain=-1.0), "gain must be positive and finite, got -1.0"),
        (lambda: state_space_construction(4, eigenvalue="s5"), "eigenvalue must be complex, lru or s4d, got 's5'"),
        (lambda: state_space_construction(4, log_decay=-9.0), "log_decay must be null with eigenvalue=complex, got -9.0"),
        (lambda: state_space_construction(4, eigenvalue="lru", log_decay=math.nan), "log_decay must lie in -700..3, got nan"),
        (lambda: spectral_gru_construction(4, orders=5), "orders must be 1..4, got 5"),
        (lambda: spectral_gru_construction(4, gain=0.0), "gain must be positive and finite, got 0.0"),
        (lambda: linear_attention_construction(8, 2, -1.0), "rate must be positive and finite, got -1.0"),
    ],
)  # fmt: skip
def test_wrong_sizes_and_gains_are_named(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()
