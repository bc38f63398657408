"""What leaves the function unchanged, and finding it again: group laws, orders of error, planted elements, nulls."""

import math

import pytest
import torch

from conftest import FULL
from test_construction import generator, noise, relative_error
from test_rivals import RIVALS, output_of
from wavebase.constructions.alignment import align, distance, least_size, natural_units
from wavebase.constructions.construction import pad
from wavebase.constructions.perturbation import Perturbation, perturb
from wavebase.constructions.rows import act_on_rows, rows_of
from wavebase.constructions.spectral import spectral_construction
from wavebase.constructions.symmetry import (
    act,
    flatten,
    identity_element,
    linear_kinds,
    linear_move,
    random_element,
    tangent,
)
from wavebase.models.spectral import SpectralLSTM, random_weights
from wavebase.recurrence.cells import GATES
from wavebase.spectrum import power_spectrum

CONSTRUCTIONS = {"spectral": spectral_construction, **RIVALS}
ROUNDING = 1e-13  # the same sums in another order: a few dozen roundings a step, over 26 steps
every_construction = pytest.mark.parametrize("construct", CONSTRUCTIONS.values(), ids=CONSTRUCTIONS)


def noisy(construction, scale=1e-3, seed=0):
    """Every weight times 1 + normal, and leakage of the same size in every recurrent matrix."""
    moved = perturb(construction, Perturbation("gaussian", scale, nonzero(construction)), generator(seed))
    return perturb(moved, Perturbation("leakage", scale, [f"weight_hh_{gate}" for gate in GATES]), generator(seed + 1))


def nonzero(construction):
    return [name for name, weight in construction.weights.items() if weight.any()]


def large_random(construction, seed=0):
    """Random weights, five times as large as usual, and a random state: nothing is linear, nothing is saturated."""
    weights = {name: 5 * weight for name, weight in random_weights(construction, generator(seed)).items()}
    state = torch.rand(2, construction.hidden_size, generator=generator(seed + 1), dtype=torch.float64) - 0.5
    return construction.replace_weights({**weights, "hidden_0": state[0], "cell_0": state[1]})


def same_weights(one, other):
    return all(torch.equal(one[name], other[name]) for name in other)


class TestDiscrete:
    signal = noise(16, 24, seed=2)

    @every_construction
    @pytest.mark.parametrize("change", [lambda c: c, noisy, large_random], ids=["exact", "perturbed", "random"])
    def test_function_unchanged(self, construct, change):
        construction = change(construct(8))
        before = output_of(construction, self.signal)
        assert before.std(0).max() > 1e-3 * before.abs().max(), "an output that does not vary tells nothing"
        for seed in range(5):
            weights = act(random_element(construction.hidden_size, generator(seed)), construction.weights)
            assert not torch.allclose(weights["weight_hh_cell"], construction.weights["weight_hh_cell"])
            assert relative_error(output_of(construction.replace_weights(weights), self.signal), before) < ROUNDING

    def test_each_generator_of_the_group_alone(self):
        construction = large_random(spectral_construction(4))
        signal, H = self.signal[:, :8], construction.hidden_size
        before = output_of(construction, signal)
        for name, changes in {
            "swap": {"swap": True},
            "both rows": {"sign_input": -1.0, "sign_cell": -1.0},
            "input row and state": {"sign_input": -1.0},
            "cell row and state": {"sign_cell": -1.0},
        }.items():
            element = identity_element(H)
            for field, value in changes.items():
                getattr(element, field)[5] = value
            weights = act(element, construction.weights)
            assert not same_weights(weights, construction.weights)
            assert relative_error(output_of(construction.replace_weights(weights), signal), before) < ROUNDING, name

    def test_what_is_no_element_changes_the_function(self):
        construction = large_random(spectral_construction(4))
        signal, before = self.signal[:, :8], output_of(construction, self.signal[:, :8])
        weights = {name: weight.clone() for name, weight in construction.weights.items()}
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            weights[f"{kind}_input"], weights[f"{kind}_forget"] = weights[f"{kind}_forget"], weights[f"{kind}_input"]
        assert relative_error(output_of(construction.replace_weights(weights), signal), before) > 1e-2
        for name in ("hidden_0", "readout.weight", "weight_hh_output"):  # an element, but for one part
            weights = act(random_element(construction.hidden_size, generator(1)), construction.weights)
            weights[name] = construction.weights[name]
            assert relative_error(output_of(construction.replace_weights(weights), signal), before) > 1e-4, name

    def test_group_laws(self):
        construction = large_random(spectral_construction(4))
        H, weights = construction.hidden_size, construction.weights
        one, two, three = (random_element(H, generator(seed)) for seed in range(3))
        assert same_weights(act(two, act(one, weights)), act(one.then(two), weights))
        assert same_weights(act(one.then(two).then(three), weights), act(one.then(two.then(three)), weights))
        assert same_weights(act(one.inverse(), act(one, weights)), weights)
        assert same_weights(act(one, act(one.inverse(), weights)), weights)
        assert same_weights(act(identity_element(H), weights), weights)
        assert not same_weights(act(one.then(two), weights), act(two.then(one), weights))

    def test_it_acts_on_rows_as_on_weights(self):
        start = large_random(spectral_construction(4))
        rows = rows_of(start.weights)
        for seed in range(5):
            element = random_element(start.hidden_size, generator(seed))
            wanted = rows_of(act(element, start.weights))
            assert not torch.equal(wanted.gates, rows.gates)
            assert all(map(torch.equal, act_on_rows(element, rows), wanted))

    def test_sigmoid_cell_admits_the_smaller_group_only(self):
        construction = spectral_construction(4, input_gate="sigmoid")
        signal, H = self.signal[:, :8], construction.hidden_size
        before = output_of(construction, signal)
        small, large = (
            construction.replace_weights(act(random_element(H, generator(3), gate), construction.weights))
            for gate in ("sigmoid", "tanh")
        )
        assert relative_error(output_of(small, signal), before) < 1e-8  # its pairs cancel all but 9 digits
        assert relative_error(output_of(large, signal), before) > 0.1


class TestLinearRegime:
    signal = noise(64, 8, seed=2)

    @every_construction
    def test_moves_change_the_function_at_second_order(self, construct):
        """Slope 2 over eps = 2^-3..2^-9; the bias split is exact."""
        for kind in linear_kinds(construct(8).blocks):
            changes = []
            for power in (3, 5, 7, 9):
                construction = construct(8, eps=2.0**-power)
                moved = linear_move(construction, kind, 0.3, generator(4))
                change = (flatten(moved.weights) - flatten(construction.weights)).norm()
                assert change > 0.1 * 2.0**-power
                changes.append(relative_error(output_of(moved, self.signal), output_of(construction, self.signal)))
            if kind in ("bias", "clock"):  # a clock's radius and phase space matter only past its threshold
                assert max(changes) < ROUNDING
            else:
                slope = math.log2(changes[0] / changes[-1]) / 6
                assert abs(slope - 2) < 0.1 and changes[0] > 1e-5, (kind, changes)

    def test_half_a_move_is_no_move(self):
        construction = spectral_construction(8, eps=2.0**-9)
        gen, before = construction.blocks["gen"], output_of(construction, self.signal)
        moved = dict(linear_move(construction, "gen", 0.3, generator(4)).weights)
        moved["weight_hh_input"] = construction.weights["weight_hh_input"]
        assert relative_error(output_of(construction.replace_weights(moved), self.signal), before) > 0.1
        assert not torch.equal(moved["hidden_0"][gen], construction.weights["hidden_0"][gen])

    def test_moves_of_a_net_whose_readers_differ(self):
        """spec weights and input weights that differ from unit to unit: pair and sum take them into account."""
        construction = spectral_construction(8, eps=2.0**-9)
        names = ["weight_ih_cell", "weight_hh_cell", "weight_hh_input"]
        construction = perturb(construction, Perturbation("gaussian", 0.05, names), generator())
        before = output_of(construction, self.signal)
        for kind in ("pair", "sum"):
            moved = linear_move(construction, kind, 0.3, generator(4))
            assert relative_error(output_of(moved, self.signal), before) < 1e-4, kind

    @every_construction
    def test_tangents_are_the_derivatives_of_the_moves(self, construct):
        construction = construct(4, preset="trainable")
        directions = tangent(construction.weights, construction.blocks)
        assert tuple(directions) == linear_kinds(construction.blocks)
        start = flatten(construction.weights)
        for kind, rows in directions.items():
            size, n = 1e-6, round(len(rows) ** 0.5)
            shape = {"pair": (len(rows) // 4, 2, 2), "bias": (4, construction.hidden_size)}.get(
                kind, (len(rows),) if kind in ("balance", "prod", "spec") else (n, n)
            )
            draw = torch.randn(shape, generator=generator(9), dtype=torch.float64)
            scale = 1.0 if kind in ("balance", "prod", "spec", "bias") else shape[-1] ** 0.5
            there, back = (
                flatten(linear_move(construction, kind, sign * size, generator(9)).weights) for sign in (1, -1)
            )
            expected = (draw / scale).flatten() @ rows
            assert relative_error((there - back) / (2 * size), expected) < 1e-6, kind
            assert relative_error(torch.zeros_like(expected), expected) == 1.0
            assert (there - start).norm() > 0

    def test_tangents_are_invisible_to_the_linear_function_and_a_part_of_them_is_not(self):
        construction = spectral_construction(4, eps=2.0**-9)
        net = SpectralLSTM(construction)
        sizes = [weight.numel() for weight in construction.weights.values()]

        def along(direction):
            components = direction.split(sizes)
            tangents = {
                name: piece.view_as(weight)
                for (name, weight), piece in zip(construction.weights.items(), components, strict=True)
            }

            def output(weights):
                return torch.func.functional_call(net, weights, (self.signal,))

            step = 1e-5
            up, down = (
                output({name: weight + sign * step * tangents[name] for name, weight in construction.weights.items()})
                for sign in (1, -1)
            )
            return ((up - down).detach() / (2 * step)).norm() / power_spectrum(self.signal[:, :8], 4).norm()

        in_cell = [
            torch.full((n,), name == "weight_hh_cell") for name, n in zip(construction.weights, sizes, strict=True)
        ]
        for kind, rows in tangent(construction.weights, construction.blocks, ["gen", "sum", "pair", "spec"]).items():
            direction = torch.randn(len(rows), generator=generator(), dtype=torch.float64) @ rows
            assert along(direction) < 1e-3 < 0.1 < along(direction.masked_fill(torch.cat(in_cell), 0)), kind

    def test_what_a_net_does_not_have_is_refused(self):
        with pytest.raises(ValueError, match="kind must be a move of these blocks, got 'gen'"):
            linear_move(RIVALS["delay_line"](4), "gen", 0.1, generator())


PLANTED = [("exact", 3, "full"), ("trainable", 4, "full"), ("exact", 4, [0, 2]), ("trainable", 5, "half"), ("trainable", 8, "full"), ("exact", 8, "half")]  # fmt: skip
if FULL:
    PLANTED = [(preset, T, bins) for preset in ("exact", "trainable") for _, T, bins in PLANTED]


class TestAlignment:
    @staticmethod
    def probe(T):
        return noise(4, T, seed=7)

    @every_construction
    @pytest.mark.parametrize("preset,T,bins", PLANTED)
    def test_planted_elements_are_found(self, construct, T, bins, preset):
        start = construct(T, bins, preset=preset)
        noise_free, noise_added = start.weights, noisy(start, seed=5).weights
        for seed in range(2 if FULL else 1):
            element = random_element(start.hidden_size, generator(seed))
            hidden = act(element, noise_free)
            assert distance(hidden, start) > 0.5
            found = align(hidden, start, self.probe(T))
            assert found.distance < 1e-15 and same_weights(found.weights, act(found.element, hidden))
            found = align(act(element, noise_added), start, self.probe(T))
            assert 1e-4 < found.distance <= distance(noise_added, start) * (1 + 1e-9) < 0.02

    @every_construction
    def test_trained_nets_are_as_far_in_any_coordinates(self, construct):
        start = construct(4, preset="trainable", scale=0.25)
        net, draw = SpectralLSTM(start), generator(3)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        for _ in range(60):
            x = torch.rand(32, 4, generator=draw, dtype=torch.float64) * 2 - 1
            optimizer.zero_grad()
            (net(x) - power_spectrum(x, 4) / 4).square().mean().backward()
            optimizer.step()
        trained = net.named_weights()
        here = align(trained, start, self.probe(4)).distance
        assert 1e-3 < here <= distance(trained, start) < 0.2
        for seed in range(3):
            element = random_element(start.hidden_size, generator(seed))
            assert align(act(element, trained), start, self.probe(4)).distance == pytest.approx(here, rel=1e-9)

    def test_padded_and_sigmoid_nets(self):
        start = pad(spectral_construction(4), 32)
        element = random_element(32, generator(1))
        assert align(act(element, start.weights), start, self.probe(4)).distance < 1e-15
        start = spectral_construction(4, input_gate="sigmoid")
        element = random_element(start.hidden_size, generator(1), "sigmoid")
        found = align(act(element, start.weights), start, self.probe(4))
        assert found.distance < 1e-15 and not found.element.swap.any() and (found.element.sign_input == 1).all()

    @pytest.mark.parametrize("preset", ["exact", "trainable"])
    def test_unrelated_nets_stay_far(self, preset):
        start = spectral_construction(4, preset=preset)
        zero = {name: torch.zeros_like(weight) for name, weight in start.weights.items()}
        assert distance(zero, start) == 1.0
        for seed in range(3 if FULL else 2):
            weights = random_weights(start, generator(seed))
            assert align(weights, start, self.probe(4)).distance > 0.9
        for rival in RIVALS.values():
            other = pad(rival(4, preset=preset), start.hidden_size)
            assert align(other.weights, start, self.probe(4)).distance > 0.5

    @every_construction
    def test_no_element_makes_weights_smaller_than_the_bound(self, construct):
        start = construct(4)
        zero = {name: torch.zeros_like(weight) for name, weight in start.weights.items()}
        assert least_size(zero, start) == 0 and least_size(start.weights, start) <= 1
        unrelated = random_weights(start, generator(7))
        assert least_size(unrelated, start) > 2, "a search would be run for nothing"
        for seed in range(4):
            element = random_element(start.hidden_size, generator(seed))
            for weights in (noisy(start, seed=5).weights, unrelated):
                moved = act(element, weights)
                assert least_size(moved, start) == pytest.approx(least_size(weights, start), rel=1e-9)
                away = distance(moved, start)  # at most the size of the moved weights and 1
                assert least_size(weights, start) <= (away + 1) * (1 + 1e-9)
                doubled = {name: 2 * weight for name, weight in weights.items()}
                assert least_size(doubled, start) == pytest.approx(2 * least_size(weights, start), rel=1e-9)
        near = align(unrelated, start, self.probe(4))
        assert least_size(unrelated, start) <= (near.distance + 1) * (1 + 1e-9)

    def test_the_distance_weighs_every_row_alike_and_ignores_the_split_of_biases(self):
        start = spectral_construction(8)
        moved = linear_move(start, "bias", 1.0, generator())
        assert not torch.equal(moved.weights["bias_ih_cell"], start.weights["bias_ih_cell"])
        assert distance(moved.weights, start) < 1e-15
        units = natural_units(start)
        rows = start.weights["weight_hh_cell"].abs() * units.gates[2][:, :-2]
        assert (rows.sum(1)[start.blocks["gen"]] - 1).abs().max() < 1e-12  # of cell rows without input
        small = {name: weight.clone() for name, weight in start.weights.items()}
        small["weight_hh_cell"][start.blocks["gen"], start.blocks["gen"]] *= 1.1  # lost in a raw norm
        raw = (small["weight_hh_cell"] - start.weights["weight_hh_cell"]).norm() / start.weights[
            "weight_hh_cell"
        ].norm()
        assert raw < 1e-7 < 1e-2 < distance(small, start) < 0.1

    def test_weights_that_are_not_finite_are_refused(self):
        start = spectral_construction(4)
        broken = {**start.weights, "hidden_0": start.weights["hidden_0"] * math.nan}
        with pytest.raises(ValueError, match="weights must be finite"):
            align(broken, start, self.probe(4))
