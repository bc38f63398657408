"""Exact algorithms in several architectures: one contract for all, and for each what makes it fail."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

import wavebase
from wavebase.constructions.counter import counter_construction
from wavebase.constructions.handwritten import Handwritten, perturbed_weights, random_weights
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

CPU = torch.device("cpu")
DTYPES = (torch.float64, torch.float32)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(T, dtype, count=256):
    return (2 * torch.rand(count, T, generator=generator(1), dtype=torch.float64) - 1).to(dtype)


class Member(NamedTuple):
    """An algorithm, what makes a net of (weights, unit_scaled), inputs, the oracle's outputs, what errors are measured in."""

    algorithm: Handwritten
    net: object
    inputs: Tensor
    target: Tensor
    size: Tensor | float = 1.0
    transform: object = staticmethod(lambda output: output)


def counter(letters):
    def make(dtype):
        task = Counting(40, dtype, CPU, generator(), letters=letters, longest=256, held_out_count=2)
        algorithm = counter_construction(letters, 0.3, longest=256, dtype=dtype)
        inputs, target = task.held_out["lengths"]
        return Member(
            algorithm,
            lambda w=None, u=False: CounterLSTM(algorithm, w, u),
            inputs,
            target.double(),
            1.0,
            lambda logits: logits.softmax(-1),
        )

    return make


def state_space(eigenvalue, T=16):
    def make(dtype):
        algorithm, x = state_space_construction(T, "full", eigenvalue, dtype=dtype), noise(T, dtype)
        energy = T * x.double().square().sum(-1)[:, None, None]
        return Member(
            algorithm,
            lambda w=None, u=False: StateSpace(algorithm, T, 1.0, w, u),
            x,
            wavebase.power_spectrum(x, T),
            energy,
        )

    return make


def gru(orders, T=8):
    def make(dtype):
        algorithm, x = spectral_gru_construction(T, orders=orders, dtype=dtype), noise(T, dtype)
        return Member(
            algorithm, lambda w=None, u=False: SpectralGRU(algorithm, T, w, u), x, wavebase.power_spectrum(x, T), T**2
        )

    return make


def attention(dtype, N=16, d=4):
    task = InContextRegression(N, dtype, CPU, generator(), dimension=d)
    algorithm, tokens = linear_attention_construction(N, d, dtype=dtype), task.held_out["training"].input
    x, y, query = (part.double().abs() for part in (tokens[:, :-1, :-1], tokens[:, :-1, -1], tokens[:, -1, :-1]))
    size = best_rate(N, d) / N * (y * x.norm(dim=-1)).sum(1) * query.norm(dim=-1)
    oracle = gradient_step(tokens, best_rate(N, d))
    return Member(algorithm, lambda w=None, u=False: LinearAttention(algorithm, w, u), tokens, oracle, size)


def modular(p):
    def make(dtype):
        algorithm = modular_addition_construction(p, dtype)
        first, second = (part.flatten() for part in torch.meshgrid(torch.arange(p), torch.arange(p), indexing="ij"))
        repeats = -(-256 // p**2)
        pairs = torch.nn.functional.one_hot(torch.stack([first, second], 1), p).to(dtype).repeat(repeats, 1, 1)
        target = torch.nn.functional.one_hot((first + second) % p, p).double().repeat(repeats, 1)
        return Member(algorithm, lambda w=None, u=False: ModularAddition(algorithm, w, u), pairs, target)

    return make


MEMBERS = {
    "a^n b^n": counter(2),
    "a^n b^n c^n": counter(3),
    **{f"state space {name}": state_space(name) for name in ("complex", "lru", "s4d")},
    **{f"gru {orders}": gru(orders) for orders in (1, 2, 3, 4)},
    "attention": attention,
    **{f"modular {p}": modular(p) for p in (5, 9, 11, 23)},
}
every_member = pytest.mark.parametrize("make", MEMBERS.values(), ids=MEMBERS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@every_dtype
@every_member
def test_errors_are_within_the_bound_and_constants_are_not(make, dtype):
    member = make(dtype)
    assert len(member.inputs) >= 256 and math.isfinite(member.algorithm.error_bound)

    def worst(output):
        return ((output.double() - member.target).abs() / member.size).max().item()

    for unit_scaled in (False, True):
        with torch.no_grad():
            output = member.transform(member.net(None, unit_scaled)(member.inputs))
        assert output.dtype == dtype and worst(output) <= member.algorithm.error_bound
    mean = member.target.flatten(0, -2).mean(0) if member.target.ndim > 1 else member.target.mean()
    for constant in (torch.zeros_like(member.target), mean.expand_as(member.target)):
        assert worst(constant) > 1e3 * member.algorithm.error_bound


@every_member
def test_symmetries_change_the_weights_and_not_the_function(make):
    """Of a net near the algorithm, not only of the algorithm."""
    member = make(torch.float64)
    weights = perturbed_weights(member.algorithm, 1e-3, generator())
    with torch.no_grad():
        before = member.transform(member.net(weights)(member.inputs))
        assert not torch.equal(before, member.transform(member.net()(member.inputs)))
        moves = [lambda w, move=move: move(w, 0.3) for move in member.algorithm.generators.values()]
        moves += member.algorithm.reflections.values()
        assert moves
        for move in moves:
            moved = move(weights)
            assert list(moved) == list(weights) and any(not torch.equal(moved[name], weights[name]) for name in weights)
            after = member.transform(member.net(moved)(member.inputs))
            # a pair of the GRU cancels down to its gain, 1e-5 for one order
            assert (after - before).norm() <= 1e-9 * before.norm()
        for move in member.algorithm.generators.values():
            assert all(torch.equal(moved, weights[name]) for name, moved in move(weights, 0.0).items())


@every_dtype
@every_member
def test_units_are_powers_of_two_and_lose_no_bit(make, dtype):
    member = make(dtype)
    net = member.net(None, True)
    for name, weight in member.algorithm.weights.items():
        unit = member.algorithm.unit_scale[name]
        assert torch.equal(unit.log2(), unit.log2().round()) and unit.expand_as(weight).shape == weight.shape
        assert torch.equal(net.named_weights()[name], weight)
        theta = net.get_parameter(name)
        # nu is -40 in units of one, where |lambda| changes by 1 % of its distance from 1
        assert theta.abs().max() <= 2 or name in ("nu", "log_decay", "theta", "omega", "log_step")


@every_dtype
@every_member
def test_stacks_of_nets_are_their_members(make, dtype):
    member = make(dtype)
    inputs = member.inputs[:8]
    nets = [member.net(perturbed_weights(member.algorithm, 0.01, generator(seed)), True) for seed in (0, 1)]
    parameters, buffers = stack_module_state(nets)

    def loss(parameters, buffers):
        return member.transform(functional_call(nets[0], (parameters, buffers), (inputs,))).square().mean()

    gradients = vmap(grad(loss))(parameters, buffers)
    for number, net in enumerate(nets):
        member.transform(net(inputs)).square().mean().backward()
        for name, parameter in net.named_parameters():
            scale = parameter.grad.abs().max()
            tolerance = 1e3 * torch.finfo(dtype).eps * scale + torch.finfo(dtype).tiny
            assert (gradients[name][number] - parameter.grad).abs().max() <= tolerance, name


@every_member
def test_perturbed_weights_err_by_their_scale_and_random_ones_are_lost(make):
    member = make(torch.float64)

    def error(weights):
        with torch.no_grad():
            output = member.transform(member.net(weights)(member.inputs))
        return ((output - member.target).norm() / member.target.norm()).item()

    near, nearer, none = (error(perturbed_weights(member.algorithm, s, generator())) for s in (1e-4, 1e-6, 0.0))
    assert near > 3 * nearer > 9 * none
    for unit_scaled in (False, True):
        assert error(random_weights(member.algorithm, unit_scaled, generator())) > 0.3
    for scale in (-1.0, math.nan):
        with pytest.raises(ValueError, match="perturbation_scale must be finite and not negative"):
            perturbed_weights(member.algorithm, scale, generator())


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
        (lambda: spectral_gru_construction(4, orders=5), "orders must be 1..4, got 5"),
        (lambda: spectral_gru_construction(4, gain=0.0), "gain must be positive and finite, got 0.0"),
        (lambda: linear_attention_construction(8, 2, -1.0), "rate must be positive and finite, got -1.0"),
    ],
)  # fmt: skip
def test_wrong_sizes_and_gains_are_named(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()
