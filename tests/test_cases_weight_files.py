"""Files of weights: containers, stacked nets, inputs, draws that are too few, and what the console gets."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import wavebase
from conftest import states
from wavebase.analysis import simulation, weight_files
from wavebase.analysis.cell import make_cell
from wavebase.analysis.layer_inputs import layer_inputs
from wavebase.analysis.state_dicts import layers
from wavebase.cli import probe

QUICK = ["draws=4", "samples=4", "steps=4", "panels=eigenvalues"]


class TestContainers:
    def test_they_are_looked_into(self, analyzed):
        inner = states(rnn=lambda: nn.LSTM(3, 4))
        for content, name in (
            ({"state_dict": inner, "epoch": 3, "hyper_parameters": {"lr": 0.1}}, "net.ckpt"),
            ({"step": 1, "model_state": inner}, "net.pt"),
            ({"agent": inner, "optimizer": {"state": {}}}, "net.pth"),
            (inner, "net.pt"),
        ):
            result, _ = analyzed(content, *QUICK, name=name)
            assert list(result["layers"]) == ["rnn.weight_hh_l0"]

    def test_several_in_one_file(self, analyzed):
        one, two = states(rnn=lambda: nn.LSTM(3, 4)), states(rnn=lambda: nn.LSTM(3, 5))
        result, _ = analyzed({"encoder": one, "generator": two}, *QUICK)
        assert list(result["layers"]) == ["encoder.rnn.weight_hh_l0", "generator.rnn.weight_hh_l0"]
        result, out = analyzed({"ema": two, "model": one}, *QUICK)
        assert result["layers"]["rnn.weight_hh_l0"]["hidden_size"] == 4 and "model is read and not ema" in out

    def test_what_torch_refuses_to_load_is_read_without_its_classes(self, analyzed):
        from omegaconf import OmegaConf

        net = states(rnn=lambda: nn.LSTM(3, 4))
        result, _ = analyzed({"state_dict": net, "cfg": OmegaConf.create({"lr": 1})}, *QUICK)
        alone, _ = analyzed(net, *QUICK)
        assert result["layers"] == alone["layers"] and list(alone["layers"]) == ["rnn.weight_hh_l0"]
        result, _ = analyzed(nn.LSTM(3, 4), *QUICK)
        assert list(result["layers"]) == ["weight_hh_l0"]

    def test_indices_out_of_range_are_refused(self, tmp_path):
        torch.save(
            {"w_hh": torch.sparse_coo_tensor([[0, 9], [0, 9]], [1.0, 1.0], (3, 3), check_invariants=False)},
            tmp_path / "net.pt",
        )
        with pytest.raises(ValueError, match="must be readable weights"):
            weight_files.read(tmp_path / "net.pt")

    def test_safetensors(self, tmp_path):
        from safetensors.torch import save_file

        inner = states(rnn=lambda: nn.LSTM(3, 4), fc=lambda: nn.Linear(4, 5))
        save_file(inner, tmp_path / "net.safetensors")
        (layer,) = layers(weight_files.read(tmp_path / "net.safetensors").weights)
        assert layer.name == "rnn.weight_hh_l0" and layer.w_out.shape == (5, 4)
        construction = wavebase.spectral_construction(4)
        wavebase.save_construction(construction, tmp_path / "exact.safetensors")
        stored = weight_files.read(tmp_path / "exact.safetensors")
        (layer,) = layers(stored.weights, stored.activation)
        assert layer.activation == "lstm_signed"
        assert np.array_equal(layer.w_hh["cell"], construction.weights["weight_hh_cell"])
        (tmp_path / "cut.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{")
        with pytest.raises(ValueError, match="got what safetensors cannot read"):
            weight_files.read(tmp_path / "cut.safetensors")

    def test_one_of_stacked_nets(self, analyzed):
        one, two = (states(bn=lambda: nn.BatchNorm1d(3), rnn=lambda n=n: nn.GRU(3, 4)) for n in range(2))
        two = {name: value + (value.ndim > 0) for name, value in two.items()}
        stack = {name: torch.stack([one[name], two[name]]) if one[name].ndim else one[name] for name in one}
        result, _ = analyzed(stack, *QUICK, "net=1")
        alone, _ = analyzed(two, *QUICK)
        assert result["layers"] == alone["layers"]
        for content, word, complaint in (
            (stack, "net=5", "net must lie in 0..1, got 5"),
            (stack, "net=-1", "net must lie in 0..1, got -1"),
            (stack, "samples=4", "net must be given for the weights of 2 nets"),
            (one, "net=0", "leave it out"),
        ):
            status, _, err = analyzed.refused(content, word)
            assert status == 1 and err.count("\n") == 1 and complaint in err


class TestInputs:
    @pytest.mark.parametrize("ways", [1, 2])
    def test_a_deeper_layer_reads_the_states_of_the_one_below(self, ways):
        torch.manual_seed(0)
        net = nn.GRU(3, 5, 3, batch_first=True, bidirectional=ways == 2).double()
        x = torch.randn(4, 7, 3, dtype=torch.float64)
        found = layers(net.state_dict())
        signals, notes = layer_inputs(found, x.numpy(), None)
        assert not notes and [signals[layer.name].shape[2] for layer in found] == [3] * ways + [5 * ways] * 2 * ways
        wanted = net(x)[0].detach().numpy()
        for layer in found[-ways:]:
            hidden = simulation.simulate(make_cell(**layer.arguments()), signals[layer.name]).hidden
            part = wanted[..., 5:] if layer.reverse else wanted[..., :5]
            assert (hidden[:, ::-1] if layer.reverse else hidden) == pytest.approx(part, abs=1e-12)

    def test_inputs_in_the_file_reach_every_layer(self, analyzed):
        weights = {name: value.numpy() for name, value in states(rnn=lambda: nn.GRU(3, 4, 2)).items()}
        x = np.random.default_rng(0).standard_normal((8, 6, 3))
        result, _ = analyzed({**weights, "inputs": x}, "draws=4", "panels=eigenvalues", name="net.npz")
        assert all(layer["effective"]["steps"] == 5 for layer in result["layers"].values())
        status, _, err = analyzed.refused({**weights, "inputs": x[..., :2]}, "draws=4", name="net.npz")
        assert status == 1 and "inputs must be [samples >= 2, steps >= 2, 3], got [8, 6, 2]" in err
        status, _, err = analyzed.refused({**weights, "inputs": x}, "samples=9", name="net.npz")
        assert status == 1 and "samples and steps must be left out" in err

    def test_a_net_that_the_inputs_do_not_fit_is_named(self):
        weights = states(a=lambda: nn.GRU(3, 4), b=lambda: nn.GRU(2, 4))
        signals, notes = layer_inputs(layers(weights), np.ones((4, 5, 3)), None)
        assert signals["b.weight_hh_l0"] is None and "b.weight_hh_l0 reads 2 channels" in notes[0]

    def test_a_cut_of_the_inputs_is_said(self, monkeypatch):
        from wavebase.analysis import analyze

        monkeypatch.setattr(analyze, "STATES", 60)
        found = wavebase.analyze(np.eye(2) / 2, np.ones(2), inputs=np.ones((20, 5)), draws=4)
        assert any("of 20 inputs the first 6 are run" in note for note in found.notes)
        found = wavebase.analyze(np.eye(2) / 2, np.ones(2), inputs=np.ones((20, 12)), draws=4)
        assert any("the impulse response over 12 steps is left out" in note for note in found.notes)

    @pytest.mark.parametrize("kind", ["relu", "tanh", "gru", "lstm", "lstm_signed"])
    def test_a_cut_is_said_of_every_kind_of_net(self, kind, monkeypatch):
        from wavebase.analysis import analyze

        monkeypatch.setattr(analyze, "STATES", 60)
        rows = {"gru": 3, "lstm": 4, "lstm_signed": 4}.get(kind, 1) * 2
        weights = np.random.default_rng(0).standard_normal((rows, 2))
        found = wavebase.analyze(weights, np.ones((rows, 1)), inputs=np.ones((20, 5, 1)), activation=kind, draws=4)
        assert any("of 20 inputs the first 6 are run" in note for note in found.notes)


class TestStars:
    def test_draws_that_cannot_reject_are_said(self):
        W = np.random.default_rng(0).standard_normal((65, 65)) / 8
        few = wavebase.analyze(W, np.ones(65), inputs=np.ones((2, 3)), activation="tanh", draws=49)
        assert any(note.startswith("12 draws a null cannot reject at 5 %") for note in few.notes)
        assert not any(note.startswith("49 draws") for note in few.notes)

    @pytest.mark.parametrize(
        "draws,two_sided,one_sided", [(18, True, True), (19, True, False), (38, True, False), (39, False, False)]
    )
    def test_the_least_p_decides(self, draws, two_sided, one_sided):
        found = wavebase.analyze(np.diag([0.5, 0.2, 0.1]), draws=draws).quantities
        assert found["spectral_radius"].undecidable == two_sided and found["rotation_pairs"].undecidable == one_sided
        assert not any(q.flagged for q in found.values() if q.undecidable)

    @pytest.mark.parametrize("kind,gate", [("gru", "reset"), ("lstm", "output"), ("lstm_signed", "input")])
    @pytest.mark.parametrize("size", [1e-16, 1e-40, 1e-300, 0.0])
    def test_a_gate_without_effect_is_not_judged(self, size, kind, gate):
        gates = ("reset", "update", "new") if kind == "gru" else ("input", "forget", "cell", "output")
        weights = {name: np.diag([0.5, 0.2, 0.1]) for name in gates}
        found = wavebase.analyze({**weights, gate: weights[gate] * size}, activation=kind, draws=39)
        for name in gates:
            judged = any(q.flagged for key, q in found.quantities.items() if key.startswith(f"{name}."))
            assert judged == (name != gate)
        assert any(f"recurrent matrix of {gate} has no effect" in note for note in found.notes)
        if size == 1e-300:
            with pytest.raises(ValueError, match="w_hh must have a largest entry between"):
                wavebase.analyze(np.diag([0.5, 0.2, 0.1]) * size)


def test_the_console_gets_a_summary_and_a_file_the_table(tmp_path, analyzed):
    torch.manual_seed(0)
    _, out = analyzed(
        states(rnn=lambda: nn.LSTM(1, 8), fc=lambda: nn.Linear(8, 5)), "draws=39", "samples=4", "panels=eigenvalues"
    )
    table = (tmp_path / "out" / "spectrum.txt").read_text()
    assert "spectrum.txt" in out and len(table.splitlines()) > 40 and "shuffled" in table and "shuffled" not in out
    assert "forget.top_complex_modulus " in table and max(map(len, table.splitlines())) <= 80


def printed(monkeypatch, capsys, path, *words):
    monkeypatch.setattr("sys.argv", ["wavebase analyze", str(path), "samples=4", "panels=eigenvalues", *words])
    probe.main(judge=False)
    return capsys.readouterr().out.splitlines()


def test_the_summary_is_short(tmp_path, monkeypatch, capsys):
    torch.save(states(rnn=lambda: nn.LSTM(1, 8), fc=lambda: nn.Linear(8, 5)), tmp_path / "net.pt")
    lines = printed(monkeypatch, capsys, tmp_path / "net.pt", "draws=39")
    assert len(lines) <= 12 and max(map(len, lines[:-1])) <= 80
    text = " ".join(" ".join(lines).split())
    quantities = json.loads((tmp_path / "net_spectrum" / "spectrum.json").read_text())["layers"]["rnn.weight_hh_l0"]
    assert f"p <= 0.05, 9 to 39 draws, {len(quantities['flagged'])} of" in text and "(random 5..95 %) input 0." in text


def test_the_layers_of_a_deep_net_have_a_line_each(tmp_path, monkeypatch, capsys):
    """A reverse layer below another once ended in a traceback of torch's, which takes no negative strides."""
    net = states(rnn=lambda: nn.LSTM(2, 3, num_layers=4, bidirectional=True), fc=lambda: nn.Linear(6, 5))
    torch.save(net, tmp_path / "net.pt")
    lines = printed(monkeypatch, capsys, tmp_path / "net.pt", "draws=4")
    assert len(lines) <= 12 and max(map(len, lines[:-1])) <= 80
    assert lines[0].startswith("8 layers: the largest spectral radius") and "  and 3 more in spectrum.txt" in lines
    table = (tmp_path / "net_spectrum" / "spectrum.txt").read_text()
    layers = json.loads((tmp_path / "net_spectrum" / "spectrum.json").read_text())["layers"]
    for name, layer in layers.items():
        assert f"{name} of net" in table and layer["effective"] is not None
    radii = {q: layers["rnn.weight_hh_l1"]["quantities"][f"{q}.spectral_radius"]["value"] for q in ("input", "forget", "cell", "output")}  # fmt: skip
    gate = max(radii, key=radii.get)
    (line,) = [line for line in lines if line.startswith("  rnn.weight_hh_l1, lstm of 3: ")]
    assert f"{gate} {radii[gate]:.3g} (" in line
