"""The two rival constructions against the float64 FFT, as the spectral net is tested. A zero output fails every test."""

import math

import pytest
import torch

from test_construction import BOUND, generator, noise, relative_error
from wavebase.constructions.construction import pad
from wavebase.constructions.perturbation import Perturbation, perturb
from wavebase.constructions.rivals import delay_line_construction, resonator_construction
from wavebase.constructions.spectral import spectral_construction
from wavebase.models.spectral import SpectralLSTM, build
from wavebase.signals.generators import WhiteNoise
from wavebase.spectrum import power_spectrum
from wavebase.tasks.power_spectrum import PowerSpectrum

WINDOWS = (2, 3, 4, 5, 7, 8, 16, 31, 32)
RIVALS = {"resonator": resonator_construction, "delay_line": delay_line_construction}
rivals = pytest.mark.parametrize("rival", RIVALS.values(), ids=RIVALS)


def output_of(construction, signal):
    with torch.no_grad():
        return SpectralLSTM(construction)(signal)


@rivals
@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("T", WINDOWS)
def test_exact_on_every_probe_signal_and_in_a_stream(rival, T, dtype):
    task = PowerSpectrum(
        WhiteNoise(), T, dtype, torch.device("cpu"), generator(), normalisation="power", held_out_count=32
    )
    signals = {name: batch.input for name, batch in task.held_out.items()} | {"stream": noise(64, 10 * T, dtype)}
    assert len(signals) == 8
    construction = rival(T, dtype=dtype, bound_windows=10)
    for name, signal in signals.items():
        target, output = power_spectrum(signal, T), output_of(construction, signal)
        assert relative_error(output, target) <= BOUND[dtype], name
        window_errors = [relative_error(output[:, j], target[:, j]) for j in range(output.shape[1])]
        assert max(window_errors) <= BOUND[dtype], name
        energy = T * signal.double().unflatten(1, (-1, T)).square().sum(-1, keepdim=True)
        assert ((output.double() - target).abs() <= construction.error_bound * energy).all(), name
        assert relative_error(torch.zeros_like(output), target) == 1.0, "the zero predictor must fail"
    assert construction.error_bound < 10 * BOUND[dtype]


def test_sizes_and_blocks():
    for T in (2, 5, 8):
        assert resonator_construction(T).hidden_size == 5 * T + 3
        assert delay_line_construction(T).hidden_size == 4 * T
    assert list(resonator_construction(8, "half").blocks) == ["clock", "late", "resonator", "prod", "spec"]
    assert delay_line_construction(8, [3]).hidden_size == 8 + 3


@rivals
@pytest.mark.parametrize("bins", ["half", [3], [0, 4]], ids=str)
@pytest.mark.parametrize("amplitude", [1e-3, 250.0])
def test_any_bins_and_any_amplitude(rival, bins, amplitude):
    signal = amplitude * noise(32, 24)
    output = output_of(rival(8, bins, amplitude=amplitude), signal)
    assert relative_error(output, power_spectrum(signal, 8, bins)) <= 1e-13


@rivals
@pytest.mark.parametrize("T", [2, 3, 8, 32])
def test_trainable_preset_is_approximate_at_every_window(rival, T):
    signal = noise(128, 3 * T)
    output, target = output_of(rival(T, preset="trainable"), signal), power_spectrum(signal, T)
    for window in range(3):
        assert 1e-3 < relative_error(output[:, window], target[:, window]) < 0.06


@rivals
def test_error_follows_the_square_of_eps(rival):
    signal, errors = noise(64, 16), []
    for eps in (2.0**-6, 2.0**-8):
        construction = rival(8, eps=eps, bound_windows=2)
        errors.append(relative_error(output_of(construction, signal), power_spectrum(signal, 8)))
        assert errors[-1] < construction.error_bound * 8
    assert 14 < errors[0] / errors[1] < 18


@rivals
def test_mask_marks_what_the_algorithm_uses_and_nothing_else(rival):
    construction, signal = rival(5), noise(16, 10)
    for name, mask in construction.mask.items():
        assert (construction.weights[name][~mask] == 0).all()
        assert mask.any() == construction.weights[name].any()
    weights = dict(construction.weights)
    weights["weight_hh_cell"] = weights["weight_hh_cell"] * (1 + 0.01 * construction.mask["weight_hh_cell"])
    assert relative_error(output_of(construction.replace_weights(weights), signal), power_spectrum(signal, 5)) > 1e-3


def test_the_resonator_forgets_only_by_its_closed_gate_and_the_late_sample_matters():
    construction, signal = resonator_construction(8), noise(64, 24)
    target = power_spectrum(signal, 8)
    late, resonator = construction.blocks["late"], construction.blocks["resonator"]
    weights = {name: weight.clone() for name, weight in construction.weights.items()}
    weights["weight_hh_cell"][resonator, late] = 0
    missing = output_of(construction.replace_weights(weights), signal)
    without_first = signal.clone()
    without_first[:, ::8] = 0
    assert relative_error(missing, power_spectrum(without_first, 8)) < 1e-13 < 0.1 < relative_error(missing, target)
    weights = {name: weight.clone() for name, weight in construction.weights.items()}
    weights["weight_hh_output"][resonator] = 0  # open for ever: later windows hold earlier ones
    output = output_of(construction.replace_weights(weights), signal)
    assert relative_error(output[:, 0], target[:, 0]) > 0.1  # the first sample counts twice
    assert relative_error(output[:, 2], target[:, 2]) > 0.5


@rivals
@pytest.mark.parametrize("kind", ["gaussian", "leakage", "rotation", "modulus"])
def test_perturbed_starts(rival, kind):
    construction, signal = rival(8), noise(128, 8)
    if kind in ("rotation", "modulus") and rival is delay_line_construction:
        with pytest.raises(ValueError, match=r"perturbation\.kind must be"):
            perturb(construction, Perturbation(kind), generator())
        return
    errors = [
        relative_error(
            output_of(perturb(construction, Perturbation(kind, scale), generator(1)), signal), power_spectrum(signal, 8)
        )
        for scale in (0.0, 1e-4, 1e-2)
    ]
    assert errors[0] < 1e-13 and 1e-6 < errors[1] < 1e-2 and errors[1] < errors[2] < 1


@pytest.mark.parametrize("preset", ["exact", "trainable"])
@pytest.mark.parametrize("build_one", [spectral_construction, *RIVALS.values()])
def test_padding_leaves_the_function(build_one, preset):
    small, signal = build_one(5, preset=preset), noise(32, 15)
    large = pad(small, 60)
    assert large.hidden_size == 60 and large.blocks["dead"] == slice(small.hidden_size, 60)
    before, after = output_of(small, signal), output_of(large, signal)
    assert before.any() and relative_error(after, before) < 1e-15
    net = SpectralLSTM(large)
    assert not net.trace(signal).hidden[..., large.blocks["dead"]].any()
    net(signal).square().sum().backward()
    assert not net.weight_hh_cell.grad[large.blocks["dead"]].any() and net.weight_hh_cell.grad.any()
    assert pad(small, small.hidden_size) is small
    noisy = perturb(large, Perturbation("leakage", 0.01), generator())
    assert noisy.weights["weight_hh_cell"].isfinite().all()
    with pytest.raises(ValueError, match=f"hidden_size must be at least .* {small.hidden_size}"):
        pad(small, 3)


def test_the_model_config_chooses_the_algorithm():
    def net(**keys):
        return build(4, 0.25, 1.0, 1, torch.float64, generator(), generator(), **keys)

    signal = noise(16, 4)
    nets = [net(algorithm=name, hidden_size=30) for name in ("spectral", *RIVALS)]
    for one in nets:
        assert one.construction.hidden_size == 30
        assert relative_error(one(signal), power_spectrum(signal, 4) / 4) < 1e-14
    assert len({tuple(one.construction.blocks) for one in nets}) == 3
    with pytest.raises(ValueError, match="algorithm must be"):
        net(algorithm="fourier")
    with pytest.raises(ValueError, match="input_gate must be tanh"):
        net(algorithm="resonator", input_gate="sigmoid")


@rivals
@pytest.mark.parametrize(
    "arguments,words",
    [
        ({"T": 1}, "T must be"),
        ({"T": 8, "bins": [8]}, "bins must be"),
        ({"T": 8, "gains": {"s1": 1.0}}, "must name gains"),
        ({"T": 8, "gains": {"s2": math.nan}}, "s2 must be finite"),
        ({"T": 8, "margin": 0.0}, "margin must be"),
        ({"T": 8, "amplitude": -1.0}, "amplitude must be"),
        ({"T": 8, "eps": 2.0}, "eps must lie"),
        ({"T": 8, "preset": "trainable", "eps": 0.1}, "belongs to preset=exact"),
        ({"T": 8, "preset": "best"}, "preset must be"),
        ({"T": 128, "dtype": torch.float16}, "dtype must hold every"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(rival, arguments, words):
    with pytest.raises(ValueError, match=words) as refusal:
        rival(**arguments)
    assert "\n" not in str(refusal.value) and ";" in str(refusal.value)
