"""The analyser against published numbers, planted structure, its own nulls, and input that is none."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

import wavebase
from wavebase.analysis import modes, nonnormality, nulls, readout, rotations, simulation, trajectory
from wavebase.analysis.cell import make_cell
from wavebase.analysis.state_dicts import layers
from wavebase.cli import probe
from wavebase.recurrence.cells import GATES

# columns of the readout of AlgZoo's 432-parameter second-argmax net, rounded as published
N13 = [0.24, 0.37, -2.24, 0.25, 0.18, 2.09, -1.39, 0.23, 0.07, 0.26]
N0 = [1.96, -2.69, -1.65, 0.77, 0.68, 1.96, 1.24, -2.90, -0.30, 0.69]
N10 = [0.16, -1.67, -2.81, -3.87, 1.66, 1.11, 2.03, 1.64, 0.70, 1.67]
N14 = [-5.14, 0.61, 1.11, 1.31, 1.23, -0.62, -1.01, 1.22, 0.09, 1.18]


def column(values: list[float]) -> np.ndarray:
    return np.array(values)[:, None]


def test_published_column_energies() -> None:
    e, share = readout.energies(column(N13))[:, 0], readout.shares(column(N13))[:, 0]
    assert e.sum() == pytest.approx(117.33, abs=0.01)
    assert 100 * share == pytest.approx([0.00, 4.79, 34.06, 14.90, 11.98, 34.26], abs=0.4)
    assert np.mean(N13[::2]) == pytest.approx(-0.628, abs=5e-4)
    assert np.mean(N13[1::2]) == pytest.approx(0.640, abs=5e-4)


@pytest.mark.parametrize(("values", "k", "percent"), [(N0, 2, 57.2), (N10, 1, 65.9), (N14, 2, 40.0)])
def test_published_dominant_bins(values: list[float], k: int, percent: float) -> None:
    found = readout.read(column(values)).columns[0]
    assert found.dominant == k
    assert 100 * found.dominant_share == pytest.approx(percent, abs=0.3)


def test_published_rotation_block() -> None:
    block = np.array([[-0.553, -0.026], [0.039, -0.605]])
    found = rotations.rotation_of_block(block)
    assert found.plain_error == pytest.approx(0.065, abs=0.002)
    assert found.scale == pytest.approx(0.5799, abs=5e-5)
    assert np.degrees(found.angle) == pytest.approx(176.8, abs=0.05)
    assert found.error == pytest.approx(0.0462, abs=5e-5)
    values = [mode.eigenvalue for mode in modes.modes(block)]
    assert [v.real for v in values] == pytest.approx([-0.579] * 2, abs=1e-12)
    assert sorted(v.imag for v in values) == pytest.approx([-0.0184, 0.0184], abs=5e-5)


@pytest.mark.parametrize(
    ("eigenvalue", "modulus", "omega", "period"),
    [
        (0.435 + 1.027j, 1.115, 1.170, 5.37),
        (-0.106 + 0.895j, 0.901, 1.689, 3.72),
        (0.644 + 0.400j, 0.758, 0.556, 11.30),
        (0.406 + 0.526j, 0.664, 0.913, 6.88),
        (0.529 + 0.297j, 0.607, 0.512, 12.28),
    ],
)
def test_published_modes(eigenvalue: complex, modulus: float, omega: float, period: float) -> None:
    found = modes.mode(eigenvalue)
    assert found.modulus == pytest.approx(modulus, abs=1.1e-3)
    assert found.omega == pytest.approx(omega, abs=1.1e-3)
    assert found.period == pytest.approx(period, abs=0.011)
    assert found.rotating and found.growing == (modulus > 1)


def test_published_nulls_of_the_readout() -> None:
    """A random column's dominant share averages 48 % and its quality 74 %; the best of 16 has a 95th percentile of 87 %."""
    centred = random(0, 10, 16)
    centred -= centred.mean(0)
    drawn = readout.null_readouts(centred, "random", 4000, torch.Generator().manual_seed(0))
    assert np.abs(drawn.mean(1)).max() < 1e-12
    assert np.linalg.norm(drawn, axis=1) == pytest.approx(np.tile(np.linalg.norm(centred, axis=0), (4000, 1)))
    found = readout.statistics(drawn)
    assert found["mean_dominant_share"].mean() == pytest.approx(0.48, abs=0.01)
    assert found["mean_quality"].mean() == pytest.approx(0.74, abs=0.01)
    assert np.quantile(found["best_dominant_share"], 0.95) == pytest.approx(0.87, abs=0.01)


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_rotations_planted_behind_a_similarity_are_found() -> None:
    planted = [(0.9, 0.3), (1.05, 1.1), (0.5, 2.7)]
    blocks = [r * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for r, a in planted]
    weight = np.zeros((6, 6))
    for n, block in enumerate(blocks):
        weight[2 * n : 2 * n + 2, 2 * n : 2 * n + 2] = block
    basis = random(0, 6, 6)
    found = wavebase.analyze(basis @ weight @ np.linalg.inv(basis), activation="tanh").gates["recurrent"].modes
    pairs = sorted({(round(mode.modulus, 9), round(mode.omega, 9)) for mode in found})
    assert pairs == sorted(planted)
    plain = rotations.rotation_pairs(weight)
    assert {pair.units for pair in plain[:3]} == {(0, 1), (2, 3), (4, 5)}
    assert max(pair.error for pair in plain[:3]) < 1e-12 < plain[3].error
    assert sorted(abs(pair.angle) for pair in plain[:3]) == pytest.approx([0.3, 1.1, 2.7])
    assert [mode.modulus for mode in modes.sub_block_modes(weight, [2, 3])] == pytest.approx([1.05, 1.05])


def test_a_delay_line_is_nilpotent_and_remembers_every_position() -> None:
    n = 8
    report = wavebase.analyze(np.diag(np.ones(n - 1), -1), np.eye(n)[:, :1], np.eye(n), np.abs(random(1, 64, n)))
    assert max(mode.modulus for mode in report.gates["recurrent"].modes) == 0
    assert report.quantities["henrici"].value == pytest.approx(1)
    assert np.array(report.impulse.response) == pytest.approx(np.eye(n)[::-1])
    assert report.quantities["clipped_share"].value == 0
    assert set(report.trajectory.roles) == {"backbone"}
    assert report.quantities["net_growth"].value > 1  # nothing is damped, every step adds a number
    assert report.trajectory.damping == pytest.approx([1] * (n - 1))


def test_a_fourier_readout_is_told_from_chance() -> None:
    n, H = 10, 8
    t = np.arange(n)
    k = 1 + np.arange(H) % 4
    fourier = np.cos(2 * np.pi * k * t[:, None] / n + random(2, H))
    found = wavebase.analyze(random(3, H, H) / 3, w_out=fourier)
    assert [c.dominant for c in found.readout.columns] == list(k)
    assert min(c.dominant_share for c in found.readout.columns) > 1 - 1e-12
    q = found.quantities["mean_dominant_share"]
    assert q.flagged and q.nulls[1].p_value <= 0.05
    phases = np.angle(np.exp(1j * (np.array([c.phase for c in found.readout.columns]) - random(2, H))))
    assert np.abs(phases).max() < 1e-9


def test_the_exact_spectral_lstm_shows_its_oscillators() -> None:
    T = 8
    construction = wavebase.spectral_lstm(T, dtype=torch.float64).construction
    (layer,) = layers(construction.weights, "lstm_signed")
    report = wavebase.analyze(**layer.arguments(), inputs=random(4, 8, T + 2) / 3, draws=4)
    found = [mode for mode in report.gates["cell"].modes if mode.modulus > 0.5]
    wanted = sorted(2 * np.pi * min(k, T - k) / T for k in range(T) for _ in range(2))
    assert len(found) == 2 * T
    assert sorted(mode.omega for mode in found) == pytest.approx(wanted, abs=1e-6)
    assert [mode.modulus for mode in found] == pytest.approx([1] * 2 * T, abs=1e-6)
    assert report.quantities["cell.growing_modes"].value == 0
    # the planar rotations are pairs of neighbouring units, exact, however much larger other weights are
    near = {pair.units: abs(pair.angle) for pair in report.gates["cell"].rotation_pairs if pair.error < 1e-9}
    for k in range(1, T):
        assert near[2 * k, 2 * k + 1] == pytest.approx(2 * np.pi * min(k, T - k) / T, abs=1e-6)


def test_the_exact_second_argmax_is_right_and_readable() -> None:
    from wavebase.models.relu_rnn import build
    from wavebase.tasks.order_statistic import answer

    T = 7
    net = build(T, T, torch.float64, torch.Generator(), start="exact")
    assert net.weight_hh.shape == (16, 16)
    x = torch.randn(20000, T, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    right = net(x).argmax(-1) == answer(x, "second_argmax")
    assert right[x.topk(2).values[:, 1] >= 0].all()
    assert not right.all()  # a second largest number below zero is out of its reach
    (layer,) = layers(net.state_dict())
    report = wavebase.analyze(**layer.arguments(), inputs=x[:64].abs())
    negative = net.blocks["negative"].start
    assert report.trajectory.clip_rate[negative] == 1 and report.trajectory.roles[negative] == "usually clipped"
    assert report.trajectory.roles[0] == "backbone"


@pytest.mark.parametrize("size", [1, 2, 7, 24])
def test_kreiss_constants_are_the_largest_on_the_whole_grid(size: int) -> None:
    """Most points of the grid are left out because of a bound; none of them may have been the largest."""
    draw = np.random.default_rng(size)
    W = draw.normal(size=(4, size, size))
    jordan = 0.9 * np.eye(size) + 3 * np.eye(size, k=1)
    nets = [*W, np.triu(W[0]), W[0] - W[0].T, W[1, :, :1] * W[1, :1], np.eye(size), jordan, np.zeros((size, size))]
    nets += [np.linalg.qr(W[2])[0], np.diag(draw.normal(size=size)), W[3] * 1e-30]
    weights = np.array(nets)
    values = np.linalg.eigvals(weights)
    found = nonnormality.kreiss(weights, values)
    for weight, radius, constant in zip(weights, np.abs(values).max(-1), found, strict=True):
        if radius <= 1e-8 * np.linalg.norm(weight):
            assert np.isnan(constant)
            continue
        excess = np.geomspace(1e-3, 10, 8)[:, None]
        z = ((1 + excess) * np.exp(1j * np.linspace(0, np.pi, 9)))[..., None, None]
        least = np.linalg.svd(z * np.eye(size) - weight / radius, compute_uv=False)[..., -1]
        assert constant == pytest.approx((excess / least).max(), rel=1e-9)


def test_a_kreiss_constant_needs_few_points_of_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.random.default_rng(0).normal(size=(6, 56, 56))
    computed, svd = [], np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda a, **kwargs: computed.append(len(a)) or svd(a, **kwargs))
    nonnormality.kreiss(weights, np.linalg.eigvals(weights))
    assert 6 <= sum(computed) <= 6 * 72 / 2


@pytest.mark.parametrize("points", [5, 6])
def test_both_halves_of_a_pseudospectrum_are_one(points: int) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 4))
    x, y, found = nonnormality.pseudospectrum(weight, 2.0, points)
    z = (x + 1j * y[:, None])[..., None, None] * np.eye(4) - weight
    assert found == pytest.approx(np.linalg.svd(z, compute_uv=False)[..., -1], rel=1e-9)


def test_jacobians_are_the_derivatives() -> None:
    """Along an LSTM's, a signed LSTM's, a GRU's and a plain net's trajectory, against autograd and torch's own cells."""
    H, generator = 5, torch.Generator().manual_seed(5)
    for kind, module in {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "tanh": torch.nn.RNN}.items():
        net = module(2, H, batch_first=True, dtype=torch.float64)
        for parameter in net.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        (layer,) = layers(net.state_dict(), "tanh" if kind == "tanh" else None)
        cell = make_cell(**layer.arguments())
        assert cell.activation == kind
        x = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
        run = simulation.simulate(cell, x.numpy())
        assert run.hidden == pytest.approx(net(x)[0].detach().numpy(), abs=1e-12)

        def step(state: torch.Tensor, net=net, kind=kind, x=x) -> torch.Tensor:
            parts = [part[None, None] for part in state.split(H)]
            _, last = net(x[1:2, 2:3], tuple(parts) if kind == "lstm" else parts[0])
            return torch.cat([part.flatten() for part in last]) if kind == "lstm" else last.flatten()

        before = [run.hidden[1, 1]] + ([run.cell[1, 1]] if kind == "lstm" else [])
        wanted = torch.autograd.functional.jacobian(step, torch.from_numpy(np.concatenate(before)))
        assert simulation.jacobian(cell, run, 1, 2) == pytest.approx(wanted.numpy(), abs=1e-12)


def test_a_rescaling_of_units_moves_nothing_that_is_reported() -> None:
    H = 8
    weight, w_in, out, x = random(6, H, H) / 2, random(7, H, 1), random(8, 10, H), random(9, 64, 10)
    scale = np.exp(random(10, H))
    first = wavebase.analyze(weight, w_in, out, x, draws=4)
    second = wavebase.analyze(weight * scale / scale[:, None], w_in / scale[:, None], out * scale, x, draws=4)
    assert any(q.gauge for q in first.quantities.values())
    for name, q in first.quantities.items():
        # energies of all units in common may be scaled: only ratios are reported
        assert second.quantities[name].value == pytest.approx(q.value, rel=1e-5, nan_ok=True), name
    raw = nonnormality.henrici(weight * scale / scale[:, None], np.linalg.eigvals(weight))
    assert abs(raw - nonnormality.henrici(weight, np.linalg.eigvals(weight))) > 0.01


def test_nulls_flag_one_random_system_in_twenty() -> None:
    """At the 5 % level 5 +- 2 % of random systems are flagged, for every continuous quantity of matrices and readouts."""
    systems, draws, H = 400, 39, 3
    generator = torch.Generator().manual_seed(11)
    flagged: dict[str, list[bool]] = {}

    def matrices(count: int) -> np.ndarray:
        drawn = nonnormality.balanced(nulls.random_like(np.ones((H, H)), count, generator))
        return nulls.of_norm(drawn, 1.0)

    found = [
        modes.statistics(weights) | rotations.statistics(weights)
        for weights in (matrices(systems), matrices(systems * draws))
    ]
    columns = nulls.random_like(np.ones((10, H)), systems, generator)
    own = np.concatenate([readout.null_readouts(c, "random", draws, generator) for c in columns])
    found = [m | readout.statistics(v) for m, v in zip(found, (columns, own), strict=True)]
    about = modes.ABOUT | rotations.ABOUT | readout.ABOUT
    for name, values in found[0].items():
        null = found[1][name].reshape(systems, draws)
        flagged[name] = [
            nulls.p_value(v, row, about[name][0]) <= nulls.LEVEL for v, row in zip(values, null, strict=True)
        ]
    counts = {"growing_modes", "complex_share", "rotation_pairs", "top_complex_modulus"}  # ties make these conservative
    for name, marks in flagged.items():
        share = np.mean(marks)
        assert share <= 0.07, name
        assert name in counts or share >= 0.03, name


def test_roles_and_margin_of_a_net_with_known_units() -> None:
    thresholds = trajectory.RoleThresholds()
    assert [thresholds.role(r, s) for r, s in ((0, 0), (0.4, 1), (0.1, 3), (0.9, 1), (0.1, 1))] == [
        "backbone",
        "switch",
        "switch",
        "usually clipped",
        "mixed",
    ]
    cell = make_cell(np.zeros((2, 2)), [[1.0], [-1.0]], [[1.0, 0.0], [0.0, 1.0]])
    x = np.array([[1.0, -2.0], [3.0, 4.0]])[..., None]
    run = simulation.simulate(cell, x)
    assert trajectory.margins(cell, run).tolist() == [[-1, 2], [3, 4]]
    assert trajectory.clipped(cell, run).mean((0, 1)).tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"w_hh": np.ones((3, 2))}, "w_hh must be square"),
        ({"w_hh": np.full((2, 2), np.nan)}, "w_hh must be finite"),
        ({"w_hh": np.ones((4, 2))}, "gates, got 2"),
        ({"w_hh": np.ones((6, 2)), "activation": "lstm"}, "4 for lstm gates, got 3"),
        ({"w_hh": np.ones((2, 2)), "activation": "sine"}, "activation must be one of"),
        ({"w_hh": np.ones((2, 2)), "w_ih": np.ones(3)}, "w_ih must have 2 rows"),
        ({"w_hh": np.ones((2, 2)), "w_out": np.ones((5, 3))}, "w_out must be"),
        ({"w_hh": np.ones((2, 2)), "w_ih": np.ones(2), "inputs": np.ones((3, 4, 2))}, "inputs must be"),
        ({"w_hh": np.ones((2, 2)), "inputs": np.ones((3, 4))}, "given together with w_ih"),
        ({"w_hh": np.ones((2, 2)), "draws": 1}, "draws must be at least 4"),
        ({"w_hh": "weights"}, "w_hh must be an array"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        wavebase.analyze(**arguments)
    assert "\n" not in str(error.value) and ";" in str(error.value)


def test_every_name_of_a_layer_is_recognised() -> None:
    H = 3
    own = {f"weight_hh_{gate}": np.eye(H) * n for n, gate in enumerate(GATES)} | {"readout.weight": np.ones((5, H))}
    (layer,) = layers(own)
    assert layer.activation == "lstm" and layer.w_out.shape == (5, H) and list(layer.w_hh) == list(GATES)
    net = torch.nn.LSTM(1, H, num_layers=2, bidirectional=True)
    found = layers({f"encoder.{k}": v for k, v in net.state_dict().items()} | {"fc.weight": torch.ones(2, 2 * H)})
    assert [layer.name.removeprefix("encoder.weight_hh") for layer in found] == [
        "_l0",
        "_l0_reverse",
        "_l1",
        "_l1_reverse",
    ]
    assert found[0].w_out is None and found[1].w_out is None
    assert found[2].w_out.shape == found[3].w_out.shape == (2, H)  # it reads both directions of the last layer
    assert wavebase.analyze(**found[1].arguments(), draws=4).activation == "lstm"
    (layer,) = layers(torch.nn.GRUCell(1, H).state_dict())
    assert wavebase.analyze(**layer.arguments(), draws=4).activation == "gru"
    with pytest.raises(ValueError, match="4 gates, got none named weight_hh_cell"):
        layers({name: value for name, value in own.items() if name != "weight_hh_cell"})
    with pytest.raises(ValueError, match="must hold a recurrent layer"):
        layers({"fc.weight": torch.ones(2, 2)})


@pytest.mark.draws
def test_command_line_reads_files_and_series(tmp_path, capsys, monkeypatch) -> None:
    net = torch.nn.RNN(1, 6, nonlinearity="relu", bias=False)
    for step in (0, 10, 20):
        torch.save({"state_dict": net.state_dict()}, tmp_path / f"step_{step:08d}.pt")
        net.weight_hh_l0.data *= 1.5
    monkeypatch.setattr(
        sys, "argv", ["probe", str(tmp_path), "draws=19", "steps=6", "samples=16", "roles.backbone=0.1"]
    )
    probe.main()
    table = capsys.readouterr().out
    assert "over 3 checkpoints" in table
    assert max(map(len, table.splitlines()[:-1])) <= 80
    result = json.loads((tmp_path / "spectrum.json").read_text())
    radius = [values["spectral_radius"] for values in result["series"]["weight_hh_l0"].values()]
    assert radius[2] == pytest.approx(2.25 * radius[0], rel=1e-5)
    assert result["layers"]["weight_hh_l0"]["quantities"]["spectral_radius"]["nulls"][0]["draws"] == 19
    for name in ("spectrum.png", "series.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
    np.savez(tmp_path / "weights.npz", w_hh=np.eye(3) / 2)
    monkeypatch.setattr(sys, "argv", ["probe", str(tmp_path / "weights.npz"), "draws=4"])
    probe.main()
    assert (tmp_path / "weights_spectrum" / "spectrum.json").is_file()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nowhere"], "the path must exist"),
        (["broken.pt"], "must be readable weights"),
        (["text.csv"], "must end in .pt"),
        (["text.csv"], "a recording is trained on: wavebase run signal=file"),
        (["."], "must hold checkpoints"),
        (["ok.npz", "speed=3"], "must be a known key"),
        (["ok.npz", "samples=0"], "samples must be at least 2"),
        (["ok.npz", "activation=lstm"], "4 for lstm gates, got 1"),
    ],
)
def test_command_line_refuses_in_one_line(tmp_path, capsys, monkeypatch, words: list[str], complaint: str) -> None:
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    (tmp_path / "text.csv").write_text("1,2")
    np.savez(tmp_path / "ok.npz", w_hh=np.eye(3))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["probe", *words])
    with pytest.raises(SystemExit) as stop:
        probe.main()
    said = capsys.readouterr().err
    assert stop.value.code == 1 and complaint in said and said.count("\n") == 1
