"""What is measured is a function of the net: no rounding of its weights, and no choice of a basis, changes a number.

Processors round differently, and so do a net alone and one in a stack. Where eigenvalues coincide, that turns their
eigenvectors at will; where candidates are equally good, it chooses one.
"""

import functools
import math

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag

import wavebase
from conftest import FULL
from wavebase.analysis import ties
from wavebase.analysis.state_dicts import layers
from wavebase.constructions import symmetry
from wavebase.constructions.construction import pad
from wavebase.constructions.perturbation import Perturbation, perturb
from wavebase.constructions.spectral import spectral_construction
from wavebase.models import relu_rnn
from wavebase.models.spectral import SpectralLSTM, random_weights
from wavebase.probes import drift, dynamics, function, gradient, mechanism, position
from wavebase.probes.snapshot import snapshot_of
from wavebase.signals.generators import WhiteNoise
from wavebase.tasks.power_spectrum import PowerSpectrum

T = 8
F64, CPU = torch.float64, torch.device("cpu")
PROBES = (
    mechanism.oscillators, mechanism.masked_error, mechanism.interchange, position.distance, function.held_out_error,
    function.quadratic_forms, dynamics.gen_spectrum, gradient.live_gradient, gradient.swap_tie, drift.weight_drift, drift.leakage,
)  # fmt: skip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def task(T):
    return PowerSpectrum(WhiteNoise(), T, F64, CPU, seeded(), normalisation="power", held_out_count=16)


def trained(start):
    """Weights after some steps of Adam, near the start and far from where rounding decides."""
    net, source = SpectralLSTM(perturb(start, Perturbation(scale=0.1), seeded(2))), task(start.T)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for step in range(60):
        signal, target = source.sample_batch(16, seeded(step))
        optimizer.zero_grad()
        source.loss(net(signal), target).backward()
        optimizer.step()
    return {name: weight.detach() for name, weight in net.named_weights().items()}


def without_a_bin(start):
    """Bin 1 receives nothing, and its power is zero."""
    weights = {name: weight.clone() for name, weight in start.weights.items()}
    weights["readout.weight"][1] = 0
    return weights


def nets(T):
    """Name to (the algorithm it is held against, weights)."""
    exact, soft = spectral_construction(T), spectral_construction(T, preset="trainable")
    padded, learnt = pad(soft, soft.hidden_size + 3), trained(soft)
    return {
        "exact": (exact, exact.weights),
        "trainable": (soft, soft.weights),
        "eps": (start := spectral_construction(T, eps=0.01), start.weights),
        "moved": (exact, symmetry.linear_move(exact, "pair", 0.5, seeded()).weights),
        "perturbed": (soft, perturb(soft, Perturbation(scale=0.1), seeded(1)).weights),
        "padded": (padded, perturb(padded, Perturbation(scale=0.1), seeded(1)).weights),
        "trained": (soft, learnt),
        "permuted": (soft, symmetry.act(symmetry.random_element(soft.hidden_size, seeded(4)), learnt)),
        "without a bin": (soft, without_a_bin(soft)),
        "random": (exact, random_weights(exact, seeded())),
    }


NETS = nets(T)


@functools.cache
def undisturbed(name):
    """What the probes measure of a net as it is."""
    return measured(*NETS[name])


def measured(start, weights, probes=PROBES):
    seen = snapshot_of(SpectralLSTM(start.replace_weights(weights)), task(start.T), dict(start.weights), start)
    return {name: value for probe in probes for name, value in probe(seen).items()}


def jittered(weights, generator):
    """As another order of additions would leave them."""
    return {
        name: weight * (1 + 1e-13 * torch.randn(weight.shape, generator=generator, dtype=F64))
        for name, weight in weights.items()
    }


def turned(decompose, generator):
    """An eigh that turns the eigenvectors of (nearly) equal values, and chooses their signs, at random."""

    def eigh(matrix):
        values, vectors = decompose(matrix)
        batch = vectors if vectors.ndim == 3 else vectors[None]
        for value, vector in zip(values if values.ndim == 2 else values[None], batch, strict=True):
            largest = abs(value).max()
            for n in range(len(value)):
                vector[:, n] *= generator.choice([-1.0, 1.0])
            for n in range(len(value) - 1):
                if abs(value[n + 1] - value[n]) <= 1e-9 * largest:
                    a = generator.uniform(0, 2 * math.pi)
                    one, other = vector[:, n] + 0, vector[:, n + 1] + 0
                    vector[:, n] = math.cos(a) * one + math.sin(a) * other
                    vector[:, n + 1] = math.cos(a) * other - math.sin(a) * one
        return values, vectors

    return eigh


@pytest.mark.parametrize("name", NETS)
def test_no_basis_of_a_plane_changes_a_probe(name, monkeypatch):
    wanted, generator = undisturbed(name), np.random.default_rng(0)
    for module in (torch.linalg, np.linalg):
        monkeypatch.setattr(module, "eigh", turned(module.eigh, generator))
    for _ in range(3 if FULL else 1):
        assert measured(*NETS[name]) == pytest.approx(wanted, rel=1e-9, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", NETS)
def test_no_rounding_of_the_weights_changes_a_probe(name):
    start, weights = NETS[name]
    wanted, generator = undisturbed(name), seeded(5)
    for _ in range(4 if FULL else 2):
        assert measured(start, jittered(weights, generator)) == pytest.approx(wanted, rel=1e-9, abs=1e-9, nan_ok=True)


def test_the_parts_of_a_drift_do_not_depend_on_rounding():
    start = spectral_construction(3, preset="trainable")
    weights = perturb(start, Perturbation(scale=0.1), seeded(1)).weights
    wanted = measured(start, weights, [position.drift_split])
    assert min(wanted[f"position/{part}"] for part in ("visible", "gauge", "null")) > 1e-6
    got = measured(start, jittered(weights, seeded(5)), [position.drift_split])
    assert got == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_the_algorithm_passes_the_exchange_with_any_gains():
    """In the coordinates that a window's start fixes, Re is exchanged for Re and Im for Im: no tanh spoils that."""
    assert measured(*NETS["trainable"])["mechanism/interchange_gen"] == pytest.approx(1, abs=1e-9)
    assert measured(*NETS["random"])["mechanism/interchange_gen"] < 0.5  # the exchange may harm such a net


def test_a_plane_that_is_not_there_is_at_a_right_angle():
    assert measured(*NETS["without a bin"])["function/kernel_angle"] == pytest.approx(math.pi / 2)
    assert measured(*NETS["exact"])["function/kernel_angle"] < 1e-12


def test_a_symmetry_of_the_start_counts_for_no_unit():
    """Rows of a square may be swapped and dead units exchanged; a unit that really moved is counted."""
    start, weights = NETS["padded"]
    assert measured(start, weights, [position.distance])["position/permuted"] == 0
    assert measured(*NETS["permuted"], [position.distance])["position/permuted"] > 0.9


def rotation(angle, modulus=0.9):
    return modulus * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def systems():
    """Layers with multiple and equally large eigenvalues, equal singular values, flat spectra and equal feeders."""

    def draw(*shape):
        return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape)

    n, t = 8, np.arange(8)
    fourier = np.stack([f(2 * math.pi * k * t / n) for k in (1, 2, 3) for f in (np.cos, np.sin)], 1)
    around, x = np.linalg.qr(draw(6, 6))[0], draw(16, n)
    distinct, repeated = (block_diag(*[rotation(2 * math.pi * k / n) for k in bins]) for bins in ((1, 2, 3), (1, 1, 3)))
    argmax = relu_rnn.build(7, 7, F64, seeded(), start="exact")
    ((second,), (spectral,)) = (
        layers(argmax.state_dict()),
        layers(wavebase.spectral_lstm(4, dtype=F64).construction.weights, "lstm_signed"),
    )
    return {
        "rotations": {"w_hh": distinct, "w_ih": draw(6, 1), "w_out": fourier, "activation": "tanh", "inputs": x},
        "repeated": {
            "w_hh": around @ repeated @ around.T, "w_ih": draw(6, 1), "w_out": fourier, "activation": "tanh", "inputs": x,
        },
        "low rank": {"w_hh": draw(n, 3) @ draw(3, n) / 4, "w_ih": draw(n, 1), "w_out": draw(n, n), "inputs": x},
        "identity": {"w_hh": np.eye(n) / 2, "w_ih": draw(n, 1), "w_out": np.eye(n), "activation": "tanh", "inputs": x},
        "delays": {"w_hh": np.diag(np.ones(n - 1), -1), "w_ih": np.eye(n)[:, :1], "w_out": np.eye(n), "inputs": abs(x)},
        "second argmax": {**second.arguments(), "inputs": abs(draw(64, 7))},
        "spectral": {**spectral.arguments(), "inputs": draw(8, 6) / 3},
    }  # fmt: skip


SYSTEMS = systems()


def read(layer):
    """Every number of a report but the nulls', by a name of its own; pairs of units and feeders as they are listed."""
    report = wavebase.analyze(**layer, draws=4)
    values = {name: quantity.value for name, quantity in report.quantities.items()}
    for gate, found in report.gates.items():
        values |= {f"{gate}.omega{n}": mode.omega for n, mode in enumerate(found.modes)}
        values |= {f"{gate}.pair{n}.{i}": pair.units[i] for n, pair in enumerate(found.rotation_pairs) for i in (0, 1)}
        for unit in found.self_recurrence:
            values |= {f"{gate}.feeder{unit.unit}.{n}": feeder for n, (feeder, _) in enumerate(unit.feeders)}
    if report.readout:
        values |= {f"dominant{column.unit}": column.dominant for column in report.readout.columns}
        values |= {f"svd{n}": k for n, k in enumerate(report.readout.svd_dominant)}
        values |= {f"svd_share{n}": share for n, share in enumerate(report.readout.svd_dominant_share)}
    if report.impulse:
        values |= {f"impulse{n}": k for n, k in enumerate(report.impulse.dominant)}
    if report.trajectory:
        values |= {f"survival{n}": value for n, value in enumerate(report.trajectory.survival)}
        values |= {f"measured{n}": row[0] for n, row in enumerate(report.trajectory.measured)}
    return values


@pytest.mark.parametrize("name", SYSTEMS)
def test_no_rounding_of_the_weights_changes_a_reading(name):
    layer, generator = SYSTEMS[name], np.random.default_rng(1)

    def rounded(part):
        if isinstance(part, dict):
            return {key: rounded(value) for key, value in part.items()}
        return np.asarray(part) * (1 + 1e-13 * generator.standard_normal(np.shape(part)))

    wanted = read(layer)
    for _ in range(3 if FULL else 1):
        got = read(
            {key: rounded(part) if part is not None and key[:2] == "w_" else part for key, part in layer.items()}
        )
        assert got.keys() == wanted.keys()
        assert got == pytest.approx(wanted, rel=1e-7, abs=1e-7, nan_ok=True)


def test_a_multiple_mode_holds_the_norm_of_its_projection():
    """In a basis of its own choice an eigenvalue's coordinates would depend on that choice, their norm does not."""
    impulse = np.eye(6)[:1].repeat(2, 0) / 100
    w_in = np.array([[3.0], [4.0], [1.0]])
    path = wavebase.analyze(np.diag([0.5, 0.5, 0.25]), w_in, None, impulse, "tanh", draws=4).trajectory
    assert path.eigenvalues == pytest.approx([0.5, 0.25])
    assert [row[0] for row in path.measured] == pytest.approx([0.5, 0.25], rel=1e-3)
    assert path.survival == pytest.approx([1, 1], rel=1e-3)


def test_levels_and_firsts():
    values = np.array([1.0, 0.0, 1 + 1e-12, math.inf, 0.5, -1e-15, math.inf])
    assert ties.levels(values).tolist() == [2, 0, 2, 3, 1, 0, 3]
    assert ties.in_order(values).tolist() == [1, 5, 4, 0, 2, 3, 6]
    assert ties.first_largest(np.array([[0.2, 0.0], [0.5, 0.0], [0.5 + 1e-15, 0.0]])).tolist() == [1, 0]
    assert ties.clusters(np.array([1j, -1j, 1j + 1e-9, 0.5])).tolist() == [0, 1, 0, 2]
