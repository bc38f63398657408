"""The construction against the float64 FFT, for every T, dtype, cell and probe signal. A zero output fails every test."""

import functools
import math

import pytest
import torch

import wavebase
from conftest import FULL
from wavebase.constructions.perturbation import Perturbation, perturb
from wavebase.constructions.spectral import linearity_bound, spectral_construction
from wavebase.models.spectral import SpectralLSTM
from wavebase.models.stock import StockLSTM
from wavebase.signals.generators import WhiteNoise
from wavebase.spectrum import power_spectrum, root_of_unity
from wavebase.tasks.power_spectrum import PowerSpectrum

WINDOWS = (2, 3, 4, 5, 7, 8, 16, 31, 32, 64, 100, 128)
BOUND = {torch.float64: 1e-13, torch.float32: 1e-5}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@functools.cache
def exact_net(T, dtype):
    """One net for all tests that only read it: building those of long windows takes seconds."""
    return wavebase.spectral_lstm(T, dtype=dtype)


def relative_error(output, target):
    return ((output.double() - target.double()).norm() / target.double().norm()).item()


def noise(batch, samples, dtype=torch.float64, seed=0):
    return WhiteNoise().sample(batch, samples, generator(seed)).to(dtype)


def outputs(net, signals):
    """The net's answer to each signal. Signals of equal length go through it together: long windows cost by the step."""
    found = {}
    for length in {signal.shape[1] for signal in signals.values()}:
        alike = {name: signal for name, signal in signals.items() if signal.shape[1] == length}
        with torch.no_grad():
            output = net(torch.cat([*alike.values()]))
        found |= dict(zip(alike, output.split([len(signal) for signal in alike.values()]), strict=True))
    return found


# of the two longest windows, one in each dtype
EXACT = [(T, dtype) for T in WINDOWS for dtype in BOUND if FULL or (T < 100 or (T, dtype) == (100, torch.float32))]  # fmt: skip


@pytest.mark.parametrize("T,dtype", EXACT, ids=str)
def test_exact_on_every_probe_signal(T, dtype):
    count = 32 if FULL or T <= 32 else 4
    task = PowerSpectrum(
        WhiteNoise(), T, dtype, torch.device("cpu"), generator(), normalisation="power", held_out_count=count
    )
    signals = {name: batch.input for name, batch in task.held_out.items()} | {"windows": noise(8 * count, T, dtype)}
    if not FULL and T >= 64:
        signals["tones"] = signals["tones"][::8]
        del signals["stream"]  # longer ones are below
    net = exact_net(T, dtype)
    assert net.construction.hidden_size == 7 * T
    for name, output in outputs(net, signals).items():
        target = power_spectrum(signals[name], T)
        bound = BOUND[dtype] * max(1, target.shape[1] // 2)  # rounding of the rotations adds up, window by window
        assert relative_error(output, target) <= bound, name
        worst = ((output.double() - target).norm(dim=-1) / target.norm(dim=-1)).max().item()
        assert worst <= 5 * bound, name
        assert relative_error(torch.zeros_like(output), target) == 1.0, "the zero predictor must fail"


@pytest.mark.parametrize("T", WINDOWS if FULL else WINDOWS[:-1])
def test_ten_windows_in_a_stream(T):
    net, signal = exact_net(T, torch.float64), noise(256 if FULL else 64 if T <= 16 else 8 if T < 64 else 2, 10 * T)
    target = power_spectrum(signal, T)
    with torch.no_grad():
        output = net(signal)
    for window in range(10):
        assert relative_error(output[:, window], target[:, window]) <= 2 * BOUND[torch.float64]


@pytest.mark.parametrize("eps", [None, 2.0**-12, 2.0**-8, 2.0**-5])
@pytest.mark.parametrize("T", [2, 3, 8, 31])
def test_error_stays_within_its_bound(T, eps):
    """|P_hat - P| <= bound * T * sum x^2, for every bin, where a bound is given; and the bound says something."""
    construction = spectral_construction(T, eps=eps, bound_windows=2)
    signal = noise(256, 2 * T, seed=3)
    with torch.no_grad():
        error = (SpectralLSTM(construction)(signal) - power_spectrum(signal, T)).abs()
    energy = T * signal.unflatten(1, (2, T)).square().sum(-1, keepdim=True)
    measured = (error / energy).max().item()
    assert measured <= construction.error_bound
    if math.isfinite(construction.error_bound):
        assert construction.error_bound < 1  # the zero output's error reaches 1, so it breaks this bound
    assert eps is None or eps > 2.0**-12 or construction.error_bound < 1e-4


@pytest.mark.parametrize("dtype,bound", [(torch.float64, 2e-9), (torch.float32, 1e-3)], ids=str)
@pytest.mark.parametrize("T", [2, 3, 8, 31])
def test_stock_cell_in_an_unmodified_torch_lstm(T, dtype, bound):
    construction = spectral_construction(T, dtype=dtype, input_gate="sigmoid", bound_windows=3)
    net = StockLSTM(construction.hidden_size, T, T, dtype=dtype)
    net.load(construction)
    assert type(net.lstm) is torch.nn.LSTM and construction.hidden_size == 11 * T
    signal = noise(64, 3 * T, dtype)
    with torch.no_grad():
        output, own = net(signal), SpectralLSTM(construction)(signal)
    assert relative_error(output, power_spectrum(signal, T)) <= bound
    assert relative_error(own, power_spectrum(signal, T)) <= bound
    loud = signal.unflatten(1, (3, T)).square().mean(-1) >= 1 / 16  # what the stock cell's bound is stated for
    error = (output.double() - power_spectrum(signal, T)).abs().amax(-1)
    energy = T * signal.double().unflatten(1, (3, T)).square().sum(-1)
    assert (error / energy)[loud].max() <= construction.error_bound


@pytest.mark.parametrize(
    "T,bins,units", [(8, "half", 35), (9, [3], 9), (8, [0, 2, 4], 23), (8, [3, 6], 14), (5, [2], 7)]
)
def test_any_bins(T, bins, units):
    """A list without a bin coprime with T brings its own clock: two more units."""
    net, signal = wavebase.spectral_lstm(T, bins, dtype=torch.float64), noise(32, 3 * T)
    assert net.construction.hidden_size == units
    assert relative_error(net(signal), power_spectrum(signal, T, bins)) <= 1e-13


@pytest.mark.parametrize("amplitude", [1e-3, 1.0, 250.0])
def test_any_amplitude(amplitude):
    net, signal = wavebase.spectral_lstm(8, amplitude=amplitude, dtype=torch.float64), amplitude * noise(32, 16)
    assert relative_error(net(signal), power_spectrum(signal, 8)) <= 1e-13


def test_the_output_gain_follows_from_any_gains():
    gains = {"a": 2.0**-20, "s1": 0.5, "s2": -(2.0**-24), "s3": 2.0**21, "s4": 2.0**20, "s5": 2.0**19}
    construction = spectral_construction(8, gains=gains)
    k = construction.gains
    assert construction.output_gain == (k["a"] * k["s1"] * k["s2"]) ** 2 * k["s3"] * k["s4"] * k["s5"]
    signal = noise(32, 16)
    assert relative_error(SpectralLSTM(construction)(signal), power_spectrum(signal, 8)) <= 1e-9


@pytest.mark.parametrize("T", [4, 8, 16, 32])
def test_trainable_preset_is_approximate_at_every_window(T):
    """Without the stabilised oscillators the second window at T = 32 is off by more than its own size."""
    net, signal = wavebase.spectral_lstm(T, preset="trainable", dtype=torch.float64), noise(128, 3 * T)
    output, target = net(signal), power_spectrum(signal, T)
    for window in range(3):
        assert 1e-3 < relative_error(output[:, window], target[:, window]) < 0.05


def test_margin_decides_how_far_a_gate_forgets():
    signal = noise(64, 16)
    errors = [
        relative_error(wavebase.spectral_lstm(8, margin=m, dtype=torch.float64)(signal), power_spectrum(signal, 8))
        for m in (5.0, 10.0, 40.0)
    ]
    assert errors[0] > 1e-2 > errors[1] > 1e-6 and errors[2] < 1e-13


def test_tanh_is_the_identity_within_the_linearity_bound():
    for dtype, eps in ((torch.float64, 2.0**-27), (torch.float32, 2.0**-12)):
        assert linearity_bound(dtype) == eps
        u = torch.linspace(eps / 2, eps, 10_001, dtype=torch.float64).to(dtype)
        assert ((torch.tanh(u) - u).abs() / u).max() <= torch.finfo(
            dtype
        ).eps  # one unit in the last place of torch's tanh
        assert ((torch.tanh(16 * u) - 16 * u).abs() / u).max() > torch.finfo(dtype).eps


@pytest.mark.parametrize("T", [3, 8, 100, 1024])
def test_roots_of_unity(T):
    roots = [complex(*root_of_unity(k, T)) for k in range(T)]
    assert max(abs(abs(z) - 1) for z in roots) < 2.5e-16
    exact = [complex(math.cos(2 * math.pi * k / T), math.sin(2 * math.pi * k / T)) for k in range(T)]
    assert max(abs(z - w) for z, w in zip(roots, exact, strict=True)) < 1e-15
    assert all(roots[k] == roots[T - k].conjugate() for k in range(1, T))


def test_mask_marks_what_the_algorithm_uses_and_nothing_else():
    construction = spectral_construction(5)
    for name, mask in construction.mask.items():
        weight = construction.weights[name]
        assert (weight[~mask] == 0).all()
        assert mask.any() == weight.any()
    used = SpectralLSTM(construction)
    with torch.no_grad():
        used.weight_hh_cell[construction.mask["weight_hh_cell"]] *= 1.01
    signal = noise(16, 5)
    assert relative_error(used(signal), power_spectrum(signal, 5)) > 1e-3


class TestPerturbation:
    construction = spectral_construction(8)
    signal = noise(128, 8)

    def error(self, **settings):
        moved = perturb(self.construction, Perturbation(**settings), generator(1))
        return moved, relative_error(SpectralLSTM(moved)(self.signal), power_spectrum(self.signal, 8))

    @pytest.mark.parametrize("kind", ["gaussian", "leakage", "rotation", "modulus"])
    def test_error_grows_with_the_scale_from_zero(self, kind):
        _, none = self.error(kind=kind, scale=0.0)
        _, small = self.error(kind=kind, scale=1e-4)
        moved, large = self.error(kind=kind, scale=1e-2)
        assert none < 1e-13 and 1e-6 < small < 1e-2 and small < large < 1
        assert moved.error_bound == math.inf
        assert all(
            torch.equal(moved.weights[n], w) for n, w in self.construction.weights.items() if n != "weight_hh_cell"
        )

    def test_known_answers(self):
        gen = self.construction.blocks["gen"]
        turned, _ = self.error(kind="rotation", scale=0.1)
        grown, _ = self.error(kind="modulus", scale=0.1)
        draws = 0.1 * torch.randn(8, generator=generator(1), dtype=torch.float64)
        for moved, expected in ((turned, torch.exp(1j * draws)), (grown, 1 + draws + 0j)):
            for n, factor in enumerate(expected):
                pair = slice(gen.start + 2 * n, gen.start + 2 * n + 2)
                before = torch.linalg.eigvals(self.construction.weights["weight_hh_cell"][pair, pair])
                after = torch.linalg.eigvals(moved.weights["weight_hh_cell"][pair, pair])
                assert (
                    after[:, None] - torch.stack([before * factor, before * factor.conj()], 1).flatten()
                ).abs().min() < 1e-12

    def test_gaussian_keeps_zeros_and_leakage_keeps_the_mask(self):
        before, mask = self.construction.weights["weight_hh_cell"], self.construction.mask["weight_hh_cell"]
        noisy, _ = self.error(kind="gaussian", scale=0.1)
        leaky, _ = self.error(kind="leakage", scale=0.1)
        assert torch.equal(noisy.weights["weight_hh_cell"] == 0, before == 0)
        assert torch.equal(leaky.weights["weight_hh_cell"][mask], before[mask])
        assert (leaky.weights["weight_hh_cell"][~mask] != 0).all()

    def test_chosen_weights_only(self):
        moved, _ = self.error(kind="gaussian", scale=0.1, weights=["weight_hh_input", "bias_ih_output"])
        changed = {n for n, w in self.construction.weights.items() if not torch.equal(moved.weights[n], w)}
        assert changed == {"weight_hh_input", "bias_ih_output"}

    def test_generator_alone_decides(self):
        one, two = (perturb(self.construction, Perturbation(), generator(5)) for _ in range(2))
        other = perturb(self.construction, Perturbation(), generator(6))
        assert torch.equal(one.weights["weight_hh_cell"], two.weights["weight_hh_cell"])
        assert not torch.equal(one.weights["weight_hh_cell"], other.weights["weight_hh_cell"])


@pytest.mark.parametrize(
    "arguments,words",
    [
        ({"T": 1}, "T must be"),
        ({"T": 8, "bins": [8]}, "bins must be"),
        ({"T": 8, "bins": [1, 1]}, "bins must be"),
        ({"T": 8, "bins": []}, "bins must be"),
        ({"T": 8, "bins": "most"}, "bins must be"),
        ({"T": 8, "gains": {"s1": 0.0}}, "s1 must be finite"),
        ({"T": 8, "gains": {"s1": math.inf}}, "s1 must be finite"),
        ({"T": 8, "gains": {"s9": 1.0}}, "must name gains"),
        ({"T": 8, "margin": -1.0}, "margin must be"),
        ({"T": 8, "amplitude": 0.0}, "amplitude must be"),
        ({"T": 8, "eps": 2.0}, "eps must lie"),
        ({"T": 8, "preset": "trainable", "eps": 0.1}, "belongs to preset=exact"),
        ({"T": 8, "preset": "best"}, "preset must be"),
        ({"T": "8"}, "T must be a window of at least 2 samples, got '8'; use a whole number"),
        ({"T": 8.0}, "got 8.0; use a whole number"),
        ({"T": 8, "bins": [1, 2.5]}, r"bins must be distinct numbers in 0..7 for T=8, got \[1, 2.5\]"),
        ({"T": 8, "dtype": "float64"}, "dtype must be a floating torch.dtype, got 'float64'"),
        ({"T": 8, "dtype": torch.int64}, "dtype must be a floating torch.dtype, got torch.int64"),
        ({"T": 8, "input_gate": "relu"}, "input_gate must be"),
        ({"T": 8, "input_gate": "sigmoid", "preset": "trainable"}, "must be exact with input_gate"),
        ({"T": 128, "dtype": torch.float16}, "dtype must hold every state"),
        ({"T": 8, "dtype": torch.float32, "gains": {"s3": 1e39}}, "overflows or underflows"),
        ({"T": 8, "gains": {"s4": 1e300, "s5": 1e300}}, "finite output gain"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(arguments, words):
    with pytest.raises(ValueError, match=words) as refusal:
        spectral_construction(**arguments)
    assert "\n" not in str(refusal.value) and ";" in str(refusal.value)
