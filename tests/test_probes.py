"""Every probe has a known answer, and a negative one."""

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

import wavebase
from wavebase import limits
from wavebase.constructions import controls, symmetry
from wavebase.constructions.perturbation import Perturbation, perturb
from wavebase.constructions.spectral import spectral_construction
from wavebase.models.spectral import SpectralLSTM, random_weights
from wavebase.probes import curvature, drift, dynamics, function, gradient, mechanism, position
from wavebase.probes.curvature import group_sharpness, largest_curvature, sharpness
from wavebase.probes.snapshot import snapshot_of
from wavebase.probes.verdict import Thresholds, first_failures, judge, judge_run
from wavebase.recurrence.cells import plain_sequence
from wavebase.signals.generators import WhiteNoise
from wavebase.tasks.power_spectrum import PowerSpectrum

T = 8
BLOCKS = ("gen", "sum", "prod")
TASK = PowerSpectrum(
    WhiteNoise(),
    T,
    torch.float64,
    torch.device("cpu"),
    torch.Generator().manual_seed(0),
    normalisation="power",
    held_out_count=16,
)


def snapshot(net, start=None, learning_rate=1e-3):
    start = start or dict(net.construction.weights)
    return snapshot_of(net, TASK, start, net.construction, learning_rate=learning_rate)


def exact():
    return wavebase.spectral_lstm(T, dtype=torch.float64, parametrization="raw")


def test_function_error_of_exact_and_of_zero():
    net = exact()
    good = function.held_out_error(snapshot(net))
    assert {name for name in good if name.startswith("error/")} == {f"error/{name}" for name in TASK.held_out}
    assert all(good[f"error/{name}"] < 1e-13 for name in TASK.held_out) and good["loss/relative"] < 1e-26
    torch.nn.init.zeros_(net.readout.weight)
    zero = function.held_out_error(snapshot(net))
    assert all(zero[f"error/{name}"] == 1.0 for name in TASK.held_out)
    assert zero["loss/held_out"] == pytest.approx(TASK.baselines["zero"]) and zero["loss/relative"] > 1
    assert zero["task/worst_window_error"] == 1.0


def test_a_constant_in_each_bin_is_taken_from_the_centred_error_only():
    net = exact()
    with torch.no_grad():
        net.readout.bias.copy_(TASK.held_out["training"].target.mean((0, 1)))
    plain, centred = function.held_out_error(snapshot(net)), function.centred_error(snapshot(net))
    assert plain["error/training"] > 0.5 and plain["loss/relative"] > 0.5
    assert centred["centred/loss"] < 1e-25 and all(centred[f"centred/{name}"] < 1e-12 for name in TASK.held_out)
    torch.nn.init.zeros_(net.readout.weight)
    constant = function.centred_error(snapshot(net))
    assert constant["centred/loss"] == pytest.approx(1) and constant["centred/white_noise"] > Thresholds().off_support
    assert function.centred_error(replace(snapshot(net), construction=None)) == {}


def test_mean_baseline_is_the_best_constant():
    target = TASK.held_out["training"].target
    mean = target.mean((0, 1))
    assert TASK.loss(mean.expand_as(target), target).item() == pytest.approx(TASK.baselines["mean"])
    assert TASK.loss(mean.expand_as(target) * 1.1, target) > TASK.baselines["mean"]


def test_drift_of_a_planted_change():
    net = exact()
    still = drift.weight_drift(snapshot(net))
    assert all(value == 0 for value in still.values())
    gen, spec = net.construction.blocks["gen"], net.construction.blocks["spec"]
    size = net.weight_hh_cell.norm().item()
    with torch.no_grad():
        net.weight_hh_cell[gen.start, gen.start] += 3.0 * size
        net.weight_hh_cell[spec.start, gen.start] += 4.0 * size
        net.weight_hh_output[0, 0] += 2.0
    moved = drift.weight_drift(snapshot(net))
    assert moved["drift/weight_hh_cell"] == pytest.approx(5.0)
    assert moved["drift/weight_hh_cell/gen_from_gen"] == pytest.approx(3.0)
    assert moved["drift/weight_hh_cell/spec_from_gen"] == pytest.approx(4.0)
    assert moved["drift/weight_hh_cell/gen_from_spec"] == 0
    assert moved["drift/weight_hh_output"] == 2.0, "a weight that starts at zero: the norm of the change itself"
    assert drift.leakage(snapshot(net))["leakage/weight_hh_cell"] == pytest.approx(4.0 / math.sqrt(26), rel=0.3)
    assert drift.leakage(snapshot(exact()))["leakage/weight_hh_cell"] == 0


@pytest.mark.parametrize("kind,moves", [("rotation", "angle"), ("modulus", "radius")])
def test_gen_eigenvalues_of_planted_rotations(kind, moves):
    construction = spectral_construction(T)
    gen = construction.blocks["gen"]
    values = dynamics.gen_eigenvalues(construction.weights["weight_hh_cell"], gen)
    expected = np.exp(2j * np.pi * np.arange(T) / T)
    assert np.abs(values[:, None] - expected).min(0).max() < 1e-15
    assert np.abs(values[:, None] - expected).min(1).max() < 1e-15
    moved = SpectralLSTM(perturb(construction, Perturbation(kind, 0.01), torch.Generator().manual_seed(0)))
    moved_values = dynamics.gen_spectrum(snapshot(moved, dict(construction.weights)))
    draws = 0.01 * torch.randn(T, generator=torch.Generator().manual_seed(0), dtype=torch.float64).abs().numpy()
    assert moved_values["spectrum/gen_shift_max"] == pytest.approx(draws.max(), rel=1e-3)
    assert moved_values["spectrum/gen_shift_rms"] == pytest.approx(np.sqrt(np.mean(draws**2)), rel=1e-3)
    assert (abs(moved_values["spectrum/gen_radius_max"] - 1) < 1e-9) == (moves == "angle")
    still = dynamics.gen_spectrum(snapshot(SpectralLSTM(construction)))
    assert still["spectrum/gen_shift_max"] == 0


def test_live_fraction_is_the_rows_that_are_not_saturated():
    """Dead: all f rows, all o rows, the i rows of gen and spec: 17/28 of a cell with 7F units."""
    values = gradient.live_gradient(snapshot(exact()))
    assert values["gradient/live_fraction"] == pytest.approx(11 / 28)
    soft = wavebase.spectral_lstm(T, dtype=torch.float64, margin=5.0)
    assert gradient.live_gradient(snapshot(soft))["gradient/live_fraction"] > 0.9


def test_movable_fraction_sees_the_rounding_freeze():
    net = SpectralLSTM(perturb(spectral_construction(T), Perturbation(), torch.Generator().manual_seed(0)))
    frozen, small, large = (
        gradient.movable(snapshot(net, learning_rate=rate))["gradient/movable_fraction"]
        for rate in (1e-300, 1e-12, 1e3)
    )
    assert frozen < small < large < 1


@pytest.mark.parametrize("unit_scaled", [False, True])
@pytest.mark.parametrize("shown", ["exact", "weight_hh", "bias_ih", "bias_hh", "cell_0", "readout.bias"])
def test_zeros_that_become_tiny_have_not_moved(shown, unit_scaled):
    """All of these are zero in an exact net, so that their own size is no measure; half of the numbers once counted."""
    net = SpectralLSTM(spectral_construction(T), unit_scaled=unit_scaled)
    seen = snapshot(net, learning_rate=1e-30)
    names = [name for name in seen.trained if shown == "exact" or name.startswith(shown)]
    some = replace(seen, trained={name: seen.trained[name] for name in names})
    assert gradient.movable(some) == {"gradient/movable_fraction": 0}
    with torch.no_grad():
        net.readout.weight.add_(1e-3 * torch.ones_like(net.readout.weight) * (1 if unit_scaled else net.readout.weight))
    far = replace(snapshot(net, learning_rate=1e12), trained={name: some.trained[name] for name in names})
    assert gradient.movable(far)["gradient/movable_fraction"] > 0


@pytest.mark.parametrize("unit_scaled", [False, True])
def test_weights_far_below_their_units_are_seen_to_move(unit_scaled):
    """A readout's unit of 1e15 times eps is more than all that a random readout changes by; none of them counted once."""
    construction, draw = spectral_construction(T), torch.Generator().manual_seed(0)
    start = {
        name: torch.rand(weight.shape, generator=draw, dtype=weight.dtype) / 10
        for name, weight in construction.weights.items()
    }
    net = SpectralLSTM(construction, start, unit_scaled=unit_scaled)
    start = {name: weight.clone() for name, weight in net.named_weights().items()}
    still = gradient.movement(snapshot(net, start))
    with torch.no_grad():
        net.readout.weight.mul_(1.01)
    moved = gradient.movement(snapshot(net, start))
    assert still["moved/changed"] == 0 and still["moved/trained"] > net.readout.weight.numel()
    assert moved["moved/changed"] == moved["moved/nonzero_changed"] == net.readout.weight.numel()


@pytest.mark.parametrize("size", [2, 3, 40])
def test_curvature_of_a_quadratic(size):
    draw = torch.Generator().manual_seed(size)
    basis = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64)).Q
    values = torch.linspace(-20, 7, size, dtype=torch.float64)
    hessian = basis @ torch.diag(values) @ basis.T
    x = torch.randn(size, generator=draw, dtype=torch.float64, requires_grad=True)
    y = torch.zeros(1, dtype=torch.float64, requires_grad=True)  # does not enter the loss
    assert largest_curvature(lambda: x @ hessian @ x / 2, [x, y]) == pytest.approx(7, rel=1e-3)
    assert largest_curvature(lambda: -(x @ hessian @ x) / 2, [x, y]) == pytest.approx(20, rel=1e-3)
    assert math.isnan(largest_curvature(lambda: x.sum() * math.inf, [x]))


def test_gradient_descent_is_stable_just_under_the_boundary_and_not_over_it():
    """What the boundary 2/lambda_max says, on the construction itself."""

    def loss_after(fraction):
        net = wavebase.spectral_lstm(4, eps=2.0**-5, dtype=torch.float64)
        signal = WhiteNoise().sample(64, 4, torch.Generator().manual_seed(0))
        target = wavebase.power_spectrum(signal, 4) / 4
        weights = [p for n, p in net.named_parameters() if n not in ("hidden_0", "cell_0")]

        def loss():
            return torch.nn.functional.mse_loss(net(signal) / 4, target)

        rate = fraction * 2 / largest_curvature(loss, weights)
        optimizer = torch.optim.SGD(weights, lr=rate)
        first = loss().item()
        for _ in range(60):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        return loss().item() / first

    assert loss_after(0.8) < 1
    assert loss_after(1.2) > 10


def spectral(preset="exact", **arguments):
    return spectral_construction(T, preset=preset, **arguments)


def trained_on(construction, weights):
    """A snapshot of a net with these weights that started at the construction."""
    seen = snapshot(SpectralLSTM(construction.replace_weights(weights)), dict(construction.weights))
    return replace(seen, construction=construction)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("input_gate", ["tanh", "sigmoid"])
def test_an_exact_net_has_its_mechanism(input_gate):
    seen = snapshot(SpectralLSTM(spectral(input_gate=input_gate)))
    values = mechanism.oscillators(seen) | mechanism.masked_error(seen) | mechanism.interchange(seen)
    assert values["mechanism/mode_phase"] < 1e-12 and values["mechanism/mode_modulus"] == 0
    assert values["mechanism/masked_error"] < 1e-9
    for block in ("gen", "sum", "prod"):
        assert values[f"mechanism/interchange_{block}"] == pytest.approx(1, abs=1e-9)
    products = [value for name, value in mechanism.oscillators(seen).items() if "gain_product" in name]
    assert products == [pytest.approx(1)] * 2


@pytest.mark.parametrize("kind", ["gen", "sum", "balance", "pair", "prod", "spec", "bias"])
def test_continuous_moves_leave_the_mechanism_alone(kind):
    """In the linear regime; a displacement of the same size does not."""
    construction = spectral()
    moved = symmetry.linear_move(construction, kind, 0.5, seeded())
    seen = trained_on(construction, moved.weights)
    values = mechanism.oscillators(seen) | mechanism.masked_error(seen) | mechanism.interchange(seen)
    for name, value in values.items():
        if not name.endswith("_bin"):
            wanted = 1.0 if "interchange" in name or "gain_product" in name else 0.0
            assert value == pytest.approx(wanted, abs=1e-6), name
    displaced = {}
    for name, weight in construction.weights.items():
        noise = torch.randn(weight.shape, generator=seeded(), dtype=torch.float64)
        displaced[name] = weight + noise * ((moved.weights[name] - weight).norm() / noise.norm())
    values = mechanism.oscillators(trained_on(construction, displaced))
    values |= mechanism.interchange(trained_on(construction, displaced))
    measured = {name: value for name, value in values.items() if not name.endswith("_bin")}
    assert any(abs(v - (1.0 if "interchange" in n or "gain" in n else 0.0)) > 1e-3 for n, v in measured.items())


def test_modes_see_a_planted_turn_and_a_planted_growth():
    construction = spectral()
    draws = 0.003 * torch.randn(T, generator=seeded(), dtype=torch.float64).abs()
    for kind, seen, still in (("rotation", "phase", "modulus"), ("modulus", "modulus", "phase")):
        moved = perturb(construction, Perturbation(kind, 0.003), seeded())
        values = mechanism.oscillators(trained_on(construction, moved.weights))
        assert values[f"mechanism/mode_{seen}"] == pytest.approx(T * draws.max().item(), rel=0.02)
        # second order: DC and Nyquist, of which one mode is asked, turn too
        assert values[f"mechanism/mode_{still}"] < 0.01 * T * draws.max().item()


def test_modes_are_what_the_sum_block_sees():
    """A mode that nothing reads changes W_g's eigenvalues and no output: the sine of DC; cut off, a bin has no modes left."""
    construction = spectral()
    weights = {name: weight.clone() for name, weight in construction.weights.items()}
    weights["weight_hh_cell"][1, 1] = 0.5
    seen = trained_on(construction, weights)
    assert dynamics.gen_spectrum(seen)["spectrum/gen_shift_max"] > 0.4
    assert mechanism.oscillators(seen)["mechanism/mode_phase"] < 1e-9
    weights["weight_hh_input"][construction.blocks["sum"], 4:6] = 0
    assert mechanism.oscillators(trained_on(construction, weights))["mechanism/mode_phase"] == math.inf


def test_realisation_recovers_planted_modes():
    t = np.arange(40)
    planted = np.array([0.99 * np.exp(0.7j), 0.95 * np.exp(1.9j)])
    series = np.stack([(planted[None] ** t[:, None] @ np.array([1, 2 - 1j])).real, (planted[0] ** t).imag], 1)
    found = mechanism.realised_modes(series, 4)
    assert np.abs(found[:, None] - np.concatenate([planted, planted.conj()])).min(1).max() < 1e-10 and len(found) == 4
    assert len(mechanism.realised_modes(series, 8, least=1e-9)) == 4
    assert len(mechanism.realised_modes(np.zeros((40, 2)), 2)) == 0


def test_gain_product_of_a_planted_gain():
    construction = spectral()
    weights = dict(construction.weights)
    prod = construction.blocks["prod"]
    weights["weight_hh_cell"] = weights["weight_hh_cell"].clone()
    weights["weight_hh_cell"][prod.start : prod.start + 2] *= 3
    values = mechanism.oscillators(trained_on(construction, weights))
    assert values["mechanism/gain_product_min"] == pytest.approx(1)
    assert values["mechanism/gain_product_max"] == pytest.approx(3)


def test_masked_error_misses_what_was_learnt_outside_the_mask():
    """One prod unit's work moved to a copy of it outside the mask: the same function, but not without that copy."""
    construction = spectral()
    weights = {name: weight.clone() for name, weight in construction.weights.items()}
    prod, spec = construction.blocks["prod"], construction.blocks["spec"]
    first, other = weights["weight_hh_cell"][spec, prod.start].clone(), prod.start + 2
    weights["weight_hh_cell"][spec, prod.start] = 0
    weights["weight_hh_cell"][spec, other] += first
    for gate in ("input", "cell"):  # unit `other` holds a second square of the first bin instead of its own
        weights[f"weight_hh_{gate}"][other] = weights[f"weight_hh_{gate}"][prod.start]
    seen = trained_on(construction, weights)
    assert mechanism.masked_error(snapshot(SpectralLSTM(construction)))["mechanism/masked_error"] < 1e-13
    assert mechanism.masked_error(seen)["mechanism/masked_error"] > 0.1


@pytest.mark.parametrize("names", [("readout.weight",), ("weight_hh_input",), None])
def test_silence_holds_no_mechanism(names):
    """A readout, an input gate or a whole net of zeros: every measure has a value, and none says that something is there."""
    construction = spectral()
    zero = {n: torch.zeros_like(w) if names is None or n in names else w for n, w in construction.weights.items()}
    seen = trained_on(construction, zero)
    values = mechanism.oscillators(seen) | mechanism.masked_error(seen) | mechanism.interchange(seen)
    assert not any(math.isnan(value) for value in values.values())
    assert values["mechanism/mode_phase"] == math.inf and values["mechanism/gain_product_max"] == 0
    assert values["mechanism/masked_error"] > 0.5 and max(values[f"mechanism/interchange_{b}"] for b in BLOCKS) <= 0
    found = judge(function.held_out_error(seen) | function.centred_error(seen) | values, Thresholds())
    assert found.name == "broken" and "centred/loss is 1" in found.reasons[0] and "(bin 0)" in found.reasons[1]


@pytest.mark.parametrize("k", [0, 2, 4, 7])
def test_a_retuned_oscillator_is_found_by_its_bin(k):
    construction = spectral()
    values = mechanism.oscillators(trained_on(construction, controls.retune(construction, k, 0.1).weights))
    assert values["mechanism/mode_phase_bin"] == k and values["mechanism/mode_phase"] == pytest.approx(0.1 * T)
    assert values["mechanism/mode_modulus"] < 1e-12


def test_interchange_fails_where_the_blocks_do_not_carry_the_function():
    random = SpectralLSTM(spectral().replace_weights(random_weights(spectral(), seeded())))
    values = mechanism.interchange(snapshot(random))
    assert all(value < 0.7 for value in values.values())
    construction = spectral()
    weights = {name: weight.clone() for name, weight in construction.weights.items()}
    weights["readout.weight"].zero_()
    weights["readout.bias"] += 1
    assert all(value == 0 for value in mechanism.interchange(trained_on(construction, weights)).values())


def test_quadratic_forms_of_an_exact_a_zero_and_a_planted_net():
    construction = spectral()
    exact_forms = function.quadratic_forms(snapshot(SpectralLSTM(construction)))
    assert exact_forms["function/quadratic_form_error"] < 1e-13 and exact_forms["function/kernel_angle"] < 1e-12
    zero = {**construction.weights, "readout.weight": torch.zeros_like(construction.weights["readout.weight"])}
    assert function.quadratic_forms(trained_on(construction, zero))["function/quadratic_form_error"] == 1
    double = {**construction.weights, "readout.weight": 2 * construction.weights["readout.weight"]}
    assert function.quadratic_forms(trained_on(construction, double))["function/quadratic_form_error"] == pytest.approx(
        1
    )
    angle = 0.3  # bin 1 reads samples along a plane that is turned out of its own
    planes = torch.stack([torch.cos(2 * math.pi * k * torch.arange(T) / T) for k in (1, 2)]).double() / 2
    axis = math.cos(angle) * planes[0] + math.sin(angle) * planes[1]
    form = function.recover_forms(lambda x: (x @ axis).square()[:, None, None], T, 1.0, planes)[0]
    assert torch.allclose(form, torch.outer(axis, axis), atol=1e-12)


def test_parts_of_weight_space_in_units_belong_to_the_algorithm_not_to_its_gains():
    """Ranks are alike for all gains; a step is felt at first order in the visible part only."""
    exact, other = (spectral_construction(3, gains=gains) for gains in ({}, {"s3": 2.0**20, "s4": 2.0**27}))
    parts = [position.subspaces(net, 64, unit_scaled=True) for net in (exact, other)]
    counts = [(len(found.visible), len(found.gauge), int(found.live.sum())) for found in parts]
    assert counts[0] == counts[1] and 0 < counts[0][0] < counts[0][2] < len(parts[0].live)
    unit = symmetry.flatten({name: exact.unit_scale[name] for name in exact.weights})
    signal = torch.rand(32, 3, generator=seeded(), dtype=torch.float64) * 2 - 1
    wanted = wavebase.power_spectrum(signal, 3)

    def felt(kind, size):
        step = torch.zeros_like(unit)
        draw = torch.randn(len(unit), generator=seeded(), dtype=torch.float64)
        step[parts[0].live] = parts[0].split(draw)[kind]
        step *= size / step.norm() * unit
        components = step.split([weight.numel() for weight in exact.weights.values()])
        moved = {n: w + piece.view_as(w) for (n, w), piece in zip(exact.weights.items(), components, strict=True)}
        with torch.no_grad():
            return (SpectralLSTM(exact, moved)(signal)[:, 0] - wanted[:, 0]).norm().item()

    assert felt("visible", 2e-5) == pytest.approx(2 * felt("visible", 1e-5), rel=0.01)
    for kind in ("null", "gauge"):
        assert felt(kind, 1e-3) < 0.02 * felt("visible", 1e-3)
        assert felt(kind, 2e-3) > 3 * felt(kind, 1e-3)  # second order


def test_swap_tie():
    construction = spectral()
    assert gradient.swap_tie(snapshot(SpectralLSTM(construction)))["gradient/swap_tie_broken"] == 0
    weights = {name: weight.clone() for name, weight in construction.weights.items()}
    prod, sum_ = construction.blocks["prod"], construction.blocks["sum"]
    weights["weight_hh_cell"][prod.start, sum_.start + 1] = weights["weight_hh_cell"][prod.start, sum_.start]
    broken = gradient.swap_tie(trained_on(construction, weights))["gradient/swap_tie_broken"]
    assert broken == pytest.approx(2 * math.sin(math.pi / 8))


def descend(net, steps, lr, **settings):
    optimizer = torch.optim.SGD(net.parameters(), lr, **settings)
    for _ in range(steps):
        signal, target = TASK.held_out["training"]
        optimizer.zero_grad()
        TASK.loss(net(signal), target).backward()
        optimizer.step()


def test_conserved_quantities_under_descent_and_weight_decay():
    construction = spectral("trainable")
    start = perturb(construction, Perturbation("gaussian", 0.05), seeded())
    values = {}
    boundary = 2 / sharpness(snapshot(SpectralLSTM(start)))["curvature/lambda_max"]
    for name, settings in (("plain", {}), ("decay", {"weight_decay": 0.05})):
        net = SpectralLSTM(start)
        with torch.no_grad():
            net.bias_hh_cell.copy_(0.01 * torch.randn(net.bias_hh_cell.shape, generator=seeded(1), dtype=torch.float64))
        begun = {n: w.clone() for n, w in net.named_weights().items()}
        descend(net, 40, 0.1 * boundary, **{key: value / boundary for key, value in settings.items()})
        values[name] = gradient.conserved(snapshot(net, begun))
    assert values["plain"]["conserved/bias_difference"] < 1e-9
    assert values["decay"]["conserved/bias_difference"] > 1e-3
    assert values["plain"]["conserved/product_balance"] < 0.1 * values["decay"]["conserved/product_balance"]


def test_sharpness_of_a_quadratic_with_known_hessian():
    size = torch.tensor([1.0, 2.0, 3.0, 4.0, 7.0], dtype=torch.float64)
    first, second = (torch.nn.Parameter(torch.ones(n, dtype=torch.float64)) for n in (2, 3))
    seen = replace(
        snapshot(exact()),
        trained={"first": first, "second": second},
        forward=lambda signal: torch.cat([first, second]),
        loss=lambda output, target: (size * output.square()).sum() / 2,
        learning_rate=0.1,
    )
    assert sharpness(seen) == {
        "curvature/lambda_max": pytest.approx(7, rel=1e-3), "curvature/lr_times_lambda_max": pytest.approx(0.7, rel=1e-3)
    }  # fmt: skip
    assert group_sharpness(seen) == {"curvature/first": pytest.approx(2), "curvature/second": pytest.approx(7)}


class TestVerdict:
    exact: ClassVar = {
        "error/training": 1e-15,
        "error/tones": 1e-15,
        "error/impulses": 1e-15,
        "loss/relative": 1e-30,
        "function/quadratic_form_error": 1e-15,
        "mechanism/mode_phase": 0.0,
        "mechanism/mode_modulus": 0.0,
        "mechanism/masked_error": 1e-15,
        "mechanism/interchange_sum": 1.0,
        "position/distance": 0.0,
    }
    centred: ClassVar = {"centred/loss": 1e-30, "centred/training": 1e-15, "centred/tones": 1e-15}
    unknown: ClassVar = {name: value for name, value in exact.items() if "/mode" not in name and "mech" not in name}

    @pytest.mark.parametrize("signal", ["white_noise", "tones", "double_amplitude", "two_windows", "stream"])
    def test_one_signal_that_fails_is_enough(self, signal):
        """An error on a stream of windows was not measured once, and repair was claimed of a net that lacks it."""
        values = {**self.exact, **self.centred, f"error/{signal}": 1.0}
        assert judge({**values, f"centred/{signal}": 1e-3}, Thresholds()).name == "preserved"
        for error in (0.6, 1e300):
            found = judge({**values, f"centred/{signal}": error}, Thresholds())
            assert found.name == "drifted" and any(signal in reason for reason in found.reasons)

    @pytest.mark.parametrize(
        "end,name",
        [
            ({}, "preserved"),
            ({"error/training": 0.05, "loss/relative": 5e-3, "error/impulses": 0.9}, "preserved"),  # to one digit
            ({"position/distance": 0.5}, "deformed"),
            ({"error/tones": 0.6}, "drifted"),
            ({"function/quadratic_form_error": 0.11}, "drifted"),
            ({"mechanism/mode_phase": 0.06}, "drifted"),
            ({"mechanism/mode_modulus": math.inf}, "drifted"),
            ({"mechanism/masked_error": 0.11}, "drifted"),
            ({"mechanism/masked_error": 0.11, "error/training": 0.06}, "preserved"),  # not twice the error with them
            ({"mechanism/interchange_sum": 0.85}, "drifted"),
            ({"mechanism/interchange_sum": 0.85, "loss/relative": 0.3}, "broken"),
            ({"loss/relative": 1.9, "error/training": 1.0, "position/distance": 0.5}, "broken"),
            ({"error/training": math.nan}, "diverged"),
            ({"error/tones": math.inf}, "diverged"),
        ],
    )
    def test_each(self, end, name):
        verdict = judge({**self.exact, **end}, Thresholds())
        assert verdict.name == name and verdict.reasons
        assert {c.name for c in verdict.conditions} == set(self.exact) - {"error/training", "error/impulses"}
        assert (verdict.precision is None) == (name in ("broken", "diverged"))

    def test_a_constant_costs_precision_and_no_name(self):
        offset = {**self.exact, "loss/relative": 2.0, "error/training": 0.9, "error/tones": 0.8}
        assert judge(offset, Thresholds()).name == "broken"  # nothing is known of a constant
        found = judge({**offset, **self.centred}, Thresholds())
        assert found.name == "preserved" and found.precision.training == 0.9
        assert judge({**offset, **self.centred, "centred/tones": 0.6}, Thresholds()).name == "drifted"
        assert judge({**offset, **self.centred, "centred/loss": 0.3}, Thresholds()).name == "broken"
        masked = {**offset, **self.centred, "mechanism/masked_error": 0.11}
        assert judge(masked, Thresholds()).name == "drifted"  # the constant does not widen the bound

    def test_a_lost_function_says_which_oscillator_is_off(self):
        end = {**self.exact, "loss/relative": 0.3, "mechanism/mode_phase": 0.4, "mechanism/mode_phase_bin": 3.0}
        found = judge(end, Thresholds())
        assert found.name == "broken" and found.reasons[1] == "mechanism/mode_phase is 0.4, over 0.05 (bin 3)"

    def test_how_precisely_is_a_number_beside_the_name(self):
        end = {**self.exact, "error/training": 0.0122, "error/impulses": 0.045}
        found = judge(end, Thresholds())
        assert found.precision.training == 0.0122 and found.precision.worst == "impulses"
        assert found.precision.words() == (
            "to 1.9 digits on the training signal (error 0.0122), 1.3 at worst (0.045, impulses)"
        )

    def test_the_bin_of_an_oscillator_that_is_off_is_named(self):
        end = {**self.exact, "mechanism/mode_phase": 0.4, "mechanism/mode_phase_bin": 3.0}
        assert judge(end, Thresholds()).reasons == ["mechanism/mode_phase is 0.4, over 0.05 (bin 3)"]

    def test_a_moved_net_of_unknown_mechanism_is_not_called_deformed(self):
        start = {**self.unknown, "drift/weight_hh_cell": 0.0}
        del start["position/distance"]
        assert judge(start, Thresholds()).name == "preserved"
        assert judge({**start, "drift/weight_hh_cell": 0.5}, Thresholds()).name == "moved"

    def test_a_run_that_neither_begins_nor_ends_at_an_algorithm_has_none(self):
        lost = {**self.exact, "error/training": 1.0, "loss/relative": 1.86}
        assert judge_run(lost, lost, Thresholds()).name == "no algorithm"
        assert judge_run(self.exact, lost, Thresholds()).name == "broken"
        assert judge_run(lost, {**self.exact, "position/distance": 0.1}, Thresholds()).name == "deformed"  # repaired
        unknown: ClassVar = {"error/training": 1.0, "loss/relative": 1.86, "drift/weight_hh_cell": 0.0}
        assert judge_run(unknown, unknown, Thresholds()).name == "no algorithm"

    def test_a_run_in_which_nothing_moved_is_not_called_preserved(self):
        counts = {"moved/trained": 100.0, "moved/changed": 0.0}
        found = judge_run(self.exact, {**self.exact, **counts}, Thresholds())
        assert found.name == "unmoved" and "none of 100 trained weights" in found.reasons[0]
        assert judge_run(self.exact, {**self.exact, **counts, "moved/changed": 1.0}, Thresholds()).name == "preserved"

    def test_thresholds_decide(self):
        end = {**self.exact, "position/distance": 0.5, "error/tones": 0.6}
        assert judge(end, Thresholds(off_support=0.7, distance=1.0)).name == "preserved"
        with pytest.raises(ValueError, match=r"verdict\.distance"):
            Thresholds(distance=-1.0)

    def test_the_step_at_which_each_condition_first_failed(self):
        worse = {**self.exact, "mechanism/mode_phase": 0.06}
        series = {0: self.exact, 10: worse, 20: {**worse, "error/tones": 0.6}, 30: self.exact}
        first = first_failures(series, Thresholds())
        assert first["mechanism/mode_phase"] == 10 and first["error/tones"] == 20
        assert first["loss/relative"] is None and first["position/distance"] is None


class TestNothingToDifferentiate:
    """No trained weight, weights or losses that are not finite, outputs that do not depend on the weights."""

    probes = (gradient.movable, gradient.movement, sharpness, group_sharpness)

    @pytest.mark.parametrize("probe", probes, ids=lambda probe: probe.__name__)
    def test_no_trained_weight_gives_no_value(self, probe):
        assert probe(replace(snapshot(exact()), trained={})) == {}

    @pytest.mark.parametrize("probe", probes, ids=lambda probe: probe.__name__)
    def test_weights_that_are_not_finite(self, probe):
        net = exact()
        torch.nn.init.constant_(net.readout.weight, math.nan)
        values = probe(snapshot(net))
        assert all(math.isnan(value) for value in values.values()) and (values != {}) == (probe not in self.probes[:2])

    def test_a_loss_that_overflows_moves_nothing_that_can_be_counted(self):
        seen = snapshot(exact())
        broken = replace(seen, loss=lambda output, target: (output * 1e300).square().sum())
        assert gradient.movable(broken) == {} and math.isnan(sharpness(broken)["curvature/lambda_max"])

    @pytest.mark.parametrize("probe", probes, ids=lambda probe: probe.__name__)
    def test_outputs_that_depend_on_no_weight(self, probe):
        seen = snapshot(exact())
        constant = replace(seen, forward=lambda signal: TASK.held_out["training"].target[: len(signal)] + 1)
        values = probe(constant)
        fixed = {"moved/trained", "moved/nonzero"}
        assert values and all(value == 0 for name, value in values.items() if name not in fixed)

    def test_a_second_derivative_that_is_not_finite(self):
        x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        y = torch.zeros(9, dtype=torch.float64, requires_grad=True)
        assert math.isnan(largest_curvature(lambda: (x.abs() ** 1.5).sum(), [x]))
        assert math.isnan(largest_curvature(lambda: (y.abs() ** 1.5).sum(), [y]))

    def test_a_conserved_quantity_that_is_not_finite_is_seen_in_any_block(self):
        for block in ("sum", "prod"):
            net = exact()
            with torch.no_grad():
                net.weight_hh_input[net.construction.blocks[block]] = math.nan
            assert math.isnan(gradient.conserved(snapshot(net))["conserved/product_balance"])


def test_the_input_gate_is_what_the_cell_says_not_what_its_signs_look_like():
    """A tanh gate at exactly zero has slope 1, a sigmoid's slope there would be zero."""
    net = exact()
    for name in ("weight_ih_input", "weight_hh_input", "bias_ih_input", "bias_hh_input"):
        torch.nn.init.zeros_(net.get_parameter(name))
    assert gradient.live_gradient(snapshot(net))["gradient/live_fraction"] == pytest.approx(2 / 4)


class TestCurvatureInChunks:
    def test_products_and_eigenvalue_are_those_of_the_whole_batch(self, monkeypatch):
        net = wavebase.spectral_lstm(4, eps=2.0**-5, dtype=torch.float64)
        signal = WhiteNoise().sample(30, 8, torch.Generator().manual_seed(0))
        target = wavebase.power_spectrum(signal, 4)
        trained = list(net.parameters())
        loss = torch.nn.functional.mse_loss
        whole = curvature.loss_terms(net, loss, signal, target, trained, True)
        assert len(whole) == 1
        monkeypatch.setattr(curvature, "GRAPH_BYTES", 2**18)
        terms = curvature.loss_terms(net, loss, signal, target, trained, True)
        assert 3 < len(terms) < 30
        one, many = curvature.Hessian(whole, trained), curvature.Hessian(terms, trained)
        vector = np.random.default_rng(0).standard_normal(sum(one.sizes))
        wanted = one.product(vector)
        assert np.linalg.norm(many.product(vector) - wanted) <= 1e-12 * np.linalg.norm(wanted) > 0
        assert many.largest() == pytest.approx(one.largest(), rel=1e-6)

    def test_a_graph_of_chunks_keeps_less(self, monkeypatch):
        net, held = exact(), TASK.held_out["training"]
        trained = list(net.parameters())
        loss = torch.nn.functional.mse_loss
        whole = curvature._graph_bytes(lambda: loss(net(held.input), held.target), trained)
        monkeypatch.setattr(curvature, "GRAPH_BYTES", whole // 4)
        terms = curvature.loss_terms(net, loss, *held, trained, True)
        assert len(terms) >= 4 and curvature._graph_bytes(terms[0], trained) < whole / 3

    def test_the_weight_has_one_node_for_all_steps(self):
        """Where each step had its own, second derivatives held one gradient of the weight's size for each of them."""
        weight = torch.zeros(8, 2, requires_grad=True)
        state = torch.zeros(3, 2)
        steps, *_ = plain_sequence(torch.ones(3, 5, 1), state, state, torch.ones(8, 1), weight, torch.zeros(8), "tanh")
        nodes, seen = [steps.grad_fn], set()
        users = set()
        while nodes:
            node = nodes.pop()
            for below, _ in node.next_functions:
                if getattr(below, "variable", None) is weight:
                    users.add(node)
                elif below is not None and below not in seen:
                    seen.add(below)
                    nodes.append(below)
        assert len(users) == 1

    def test_a_graph_without_memory_for_it_is_refused(self, monkeypatch):
        net, held = exact(), TASK.held_out["training"]
        monkeypatch.setattr(limits, "SMALL", 0)
        monkeypatch.setattr(limits, "available_memory", lambda: 2**17)
        with pytest.raises(ValueError, match=r"curvature must fit into the 0\.000122 GiB .* use a smaller T"):
            curvature.loss_terms(net, torch.nn.functional.mse_loss, *held, net.parameters(), True)

    @pytest.mark.parametrize("why", ["no mean", "a batch norm", "a pair of inputs"])
    def test_only_what_is_exact_is_cut(self, why, monkeypatch):
        monkeypatch.setattr(curvature, "GRAPH_BYTES", 1)
        net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)).double()
        signal = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        inputs = (signal, signal) if why == "a pair of inputs" else signal
        mean = why != "no mean"
        forward = net[0] if why != "a batch norm" else net
        terms = curvature.loss_terms(forward, torch.nn.functional.mse_loss, inputs, signal, net.parameters(), mean)
        assert len(terms) == 1
        if why == "no mean":
            assert len(curvature.loss_terms(net[0], torch.nn.functional.mse_loss, signal, signal, net[0].parameters(), True)) == 12  # fmt: skip

    def test_the_probe_cuts_what_its_task_allows(self, monkeypatch):
        found = sharpness(snapshot(exact()))["curvature/lambda_max"]
        monkeypatch.setattr(curvature, "GRAPH_BYTES", 2**20)
        cut = []
        terms = curvature.loss_terms
        monkeypatch.setattr(curvature, "loss_terms", lambda *given: cut.append(terms(*given)) or cut[-1])
        assert sharpness(snapshot(exact()))["curvature/lambda_max"] == pytest.approx(found, rel=1e-6)
        assert len(cut[0]) > 1


class TestExtremes:
    """Relative quantities at both ends of the range of floating-point numbers."""

    @pytest.mark.parametrize("size", [1e-300, 1e-200, 1e-40, 1.0, 1e200, 1e300])
    def test_drift_does_not_depend_on_the_scale(self, size):
        start = size * torch.linspace(0.5, 1, 9, dtype=torch.float64).view(3, 3)
        assert drift.relative_drift(1.5 * start, start) == pytest.approx(0.5)
        assert drift.relative_drift(0 * start, start) == pytest.approx(1)

    def test_subnormal_numbers_and_zero(self):
        least = torch.full((3, 3), 5e-322, dtype=torch.float64)
        assert drift.relative_drift(2 * least, least) == pytest.approx(1)
        assert drift.relative_drift(0 * least, 0 * least) == 0
        assert math.isnan(drift.relative_drift(least * math.nan, least))

    @pytest.mark.parametrize("amplitude", [1e-15, 1e-10, 1.0, 1e10])
    def test_a_net_that_outputs_zero_has_lost_its_function_at_any_amplitude_of_float32(self, amplitude):
        """float32 squares of powers of 1e-30 are zero, those of 1e20 infinite."""
        generator = torch.Generator().manual_seed(0)
        start = spectral_construction(4, amplitude=amplitude, dtype=torch.float32)
        task = PowerSpectrum(
            WhiteNoise(amplitude), 4, torch.float32, torch.device("cpu"), generator, normalisation="power", held_out_count=8
        )  # fmt: skip
        net = SpectralLSTM(start)
        seen = snapshot_of(net, task, start.weights, start)
        assert function.held_out_error(seen)["loss/relative"] < 1e-6
        torch.nn.init.zeros_(net.readout.weight)
        torch.nn.init.zeros_(net.readout.bias)
        zero = snapshot_of(net, task, start.weights, start)
        for values, name in ((function.held_out_error(zero), "loss/relative"), (function.centred_error(zero), "centred/loss")):  # fmt: skip
            assert 0.99 < values[name] < 10
        assert wavebase.verdict({**start.weights, "readout.weight": 0 * start.weights["readout.weight"]}, start).name == "broken"  # fmt: skip

    def test_a_silent_reference(self):
        silent = replace(snapshot(exact()), baselines={"zero": 0.0, "mean": 0.0})
        assert function.held_out_error(silent)["loss/relative"] == math.inf
        assert function.centred_error(silent)["centred/loss"] == math.inf


def test_weight_space_of_a_net_that_no_output_can_feel():
    net = spectral_construction(4)
    silent = net.replace_weights({**net.weights, "readout.weight": 0 * net.weights["readout.weight"]})
    dead = silent.replace_weights({name: 0 * weight for name, weight in silent.weights.items()})
    for unit_scaled in (False, True):
        parts = position.subspaces(dead, windows=4, unit_scaled=unit_scaled)
        assert len(parts.visible) <= len(dead.bins), "only the readout's biases are felt"
