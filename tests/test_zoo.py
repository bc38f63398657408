"""Exact algorithms in several architectures: one contract for all. What is particular to each: test_zoo_members.py."""

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
    best_rate,
    gradient_step,
    linear_attention_construction,
)
from wavebase.constructions.modular_addition import modular_addition_construction
from wavebase.constructions.spectral_gru import spectral_gru_construction
from wavebase.constructions.state_space import state_space_construction
from wavebase.models.counter import CounterLSTM
from wavebase.models.linear_attention import LinearAttention
from wavebase.models.modular_addition import ModularAddition
from wavebase.models.spectral_gru import SpectralGRU
from wavebase.models.state_space import StateSpace
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
