"""Every probe has a known answer, and a negative one."""

import math
from typing import ClassVar

import numpy as np
import pytest
import torch

import wavebase
from wavebase.constructions.perturbation import Perturbation, perturb
from wavebase.constructions.spectral import spectral_construction
from wavebase.models.spectral import SpectralLSTM
from wavebase.probes import drift, dynamics, function, gradient
from wavebase.probes.curvature import largest_curvature
from wavebase.probes.snapshot import Snapshot
from wavebase.probes.verdict import Thresholds, judge
from wavebase.signals.generators import WhiteNoise
from wavebase.tasks.power_spectrum import PowerSpectrum

T = 8
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
    construction = net.construction

    def predict(signal):
        with torch.no_grad():
            return net(signal)

    return Snapshot(
        step=0, weights=net.named_weights(), start=start or dict(construction.weights), blocks=construction.blocks,
        mask=construction.mask, held_out=TASK.held_out, predict=predict, trace=net.trace, metrics=TASK.metrics,
        baselines=TASK.baselines, forward=net, loss=TASK.loss, trained=dict(net.named_parameters()),
        learning_rate=learning_rate,
    )  # fmt: skip


def exact():
    return wavebase.spectral_lstm(T, dtype=torch.float64)


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


class TestVerdict:
    start: ClassVar = {
        "error/training": 1e-15,
        "error/tones": 1e-15,
        "loss/relative": 1e-30,
        "drift/weight_hh_cell": 0.0,
    }

    @pytest.mark.parametrize(
        "end,name",
        [
            ({}, "kept"),
            ({"drift/weight_hh_cell": 0.5}, "moved"),
            ({"error/tones": 0.02}, "lost"),
            ({"error/training": 0.02, "drift/weight_hh_cell": 0.5}, "lost"),
            ({"error/training": math.nan}, "diverged"),
            ({"error/tones": math.inf}, "diverged"),
        ],
    )
    def test_each(self, end, name):
        verdict = judge(self.start, {**self.start, **end}, Thresholds())
        assert verdict.name == name and verdict.reasons

    def test_a_zero_output_or_a_random_start_has_no_algorithm_to_keep(self):
        start: ClassVar = {"error/training": 1.0, "loss/relative": 1.86, "drift/weight_hh_cell": 0.0}
        assert judge(start, start, Thresholds()).name == "no algorithm"

    def test_thresholds_decide(self):
        end = {**self.start, "drift/weight_hh_cell": 0.5, "error/tones": 0.05}
        assert judge(self.start, end, Thresholds(error_floor=0.1, drift=1.0)).name == "kept"
        with pytest.raises(ValueError, match=r"verdict\.drift"):
            Thresholds(drift=-1.0)
