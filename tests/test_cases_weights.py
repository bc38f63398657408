"""Weights that other people save: what they hold is read rightly, or the user is asked; nothing is guessed in silence."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import wavebase
from wavebase import probe
from wavebase.analysis import simulation, weight_files
from wavebase.analysis.cell import make_cell
from wavebase.analysis.layer_inputs import layer_inputs
from wavebase.analysis.state_dicts import find, layers

QUICK = ["draws=4", "samples=4", "steps=4", "panels=eigenvalues"]


@pytest.fixture
def analyzed(tmp_path, monkeypatch, capsys):
    """analyzed(content, *words) -> (spectrum.json, standard output) of `wavebase analyze FILE`."""

    def call(content, *words, name="net.pt"):
        status, out, err = commanded(content, *words, name=name)
        assert (status, err) == (0, ""), err
        return json.loads((tmp_path / "out" / "spectrum.json").read_text()), " ".join(out.split())

    def commanded(content, *words, name="net.pt"):
        file = tmp_path / name
        np.savez(file, **content) if name.endswith(".npz") else torch.save(content, file)
        monkeypatch.setattr("sys.argv", ["wavebase analyze", str(file), f"out={tmp_path / 'out'}", *words])
        try:
            probe.main(judge=False)
            status = 0
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    call.refused = lambda *args, **kwargs: commanded(*args, **kwargs)
    return call


def states(**modules):
    torch.manual_seed(0)
    net = nn.Module()
    for name, make in modules.items():
        net.add_module(name, make())
    return net.state_dict()


def seq2seq():
    return states(encoder=lambda: nn.GRU(3, 6), decoder=lambda: nn.GRU(3, 6), fc=lambda: nn.Linear(6, 5))


class TestReadouts:
    def test_an_embedding_is_none(self):
        for name in ("embedding", "emb", "words"):
            weights = states(**{name: lambda: nn.Embedding(9, 6), "rnn": lambda: nn.GRU(6, 6)})
            (layer,), notes = find(weights)
            assert layer.w_out is None
            assert (name == "words") == any("readout=NAME of words.weight" in note for note in notes)

    def test_a_language_model_has_its_decoder(self):
        weights = states(encoder=lambda: nn.Embedding(9, 6), rnn=lambda: nn.LSTM(6, 6), decoder=lambda: nn.Linear(6, 9))
        assert np.array_equal(layers(weights)[0].w_out, weights["decoder.weight"].numpy())

    def test_the_second_layer_of_a_head_is_none_and_the_first_reads_both_directions(self):
        weights = states(
            lstm=lambda: nn.LSTM(4, 6, bidirectional=True),
            head=lambda: nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 9)),
        )
        forward, reverse = layers(weights)
        assert np.array_equal(forward.w_out, weights["head.0.weight"][:, :6].numpy())
        assert np.array_equal(reverse.w_out, weights["head.0.weight"][:, 6:].numpy())

    @pytest.mark.parametrize(
        "modules",
        [
            {"concat": lambda: nn.Linear(12, 6), "out": lambda: nn.Linear(6, 9)},  # attention before the readout
            {"mu": lambda: nn.Linear(6, 4), "logvar": lambda: nn.Linear(6, 4)},
            {"fc1": lambda: nn.Linear(6, 6), "fc2": lambda: nn.Linear(6, 9)},
        ],
    )
    def test_what_names_do_not_tell_is_asked_for(self, modules, analyzed):
        weights = states(rnn=lambda: nn.GRU(3, 6), **modules)
        result, out = analyzed(weights, *QUICK)
        (layer,) = result["layers"].values()
        last = f"{list(modules)[-1]}.weight"
        assert layer["readout"] is None and "no readout of rnn is read" in out and last in out
        result, _ = analyzed(weights, *QUICK, f"readout={last}")
        (layer,) = result["layers"].values()
        energy = (weights[last].double().norm(dim=0) ** 2 * len(weights[last])).numpy()
        assert [column["energy"] for column in layer["readout"]["columns"]] == pytest.approx(energy)

    def test_a_layer_before_the_net_is_no_reason_to_ask(self):
        weights = states(inp=lambda: nn.Linear(4, 6), rnn=lambda: nn.GRU(6, 6), fc=lambda: nn.Linear(6, 9))
        assert layers(weights)[0].w_out.shape == (9, 6)

    def test_the_decoder_s_is_not_the_encoder_s(self, analyzed):
        result, out = analyzed(seq2seq(), *QUICK)
        assert list(result["layers"]) == ["encoder.weight_hh_l0", "decoder.weight_hh_l0"]
        assert result["layers"]["encoder.weight_hh_l0"]["readout"] is None
        assert result["layers"]["decoder.weight_hh_l0"]["readout"] is not None
        assert "fc.weight is taken for the readout of decoder" in out
        result, _ = analyzed(seq2seq(), *QUICK, "readout=none")
        assert all(layer["readout"] is None for layer in result["layers"].values())

    def test_of_two_nets_with_names_that_tell_nothing_one_is_asked_for(self, analyzed):
        weights = states(a=lambda: nn.GRU(3, 6), b=lambda: nn.GRU(6, 6), fc=lambda: nn.Linear(6, 5))
        assert all(layer.w_out is None for layer in layers(weights))
        assert [layer.w_out is None for layer in layers(weights, readout="b:fc.weight")] == [True, False]
        for word, complaint in {
            "readout=fc": "readout must name its net",
            "readout=c:fc": "must name one of the nets a, b",
            "readout=fb": "one of fc.weight",
        }.items():
            status, _, err = analyzed.refused(weights, *QUICK, word)
            assert status == 1 and err.count("\n") == 1 and complaint in err


class TestActivations:
    def test_a_word_concerns_the_layers_that_it_fits(self, analyzed):
        weights = states(gru=lambda: nn.GRU(3, 4), rnn=lambda: nn.RNN(4, 4))
        result, _ = analyzed(weights, *QUICK, "activation=tanh")
        assert [layer["activation"] for layer in result["layers"].values()] == ["gru", "tanh"]
        _, out = analyzed(weights, *QUICK)
        assert "rnn.weight_hh_l0 is read as relu, because names do not tell it from tanh" in out

    def test_a_kind_for_each_net(self):
        weights = states(a=lambda: nn.RNN(3, 4), b=lambda: nn.RNN(3, 4), c=lambda: nn.LSTM(3, 4))
        found = layers(weights, "a:relu,tanh,lstm_signed")
        assert [layer.activation for layer in found] == ["relu", "tanh", "lstm_signed"]

    @pytest.mark.parametrize(
        "word,complaint",
        [
            ("gru", "3 for gru gates, got 1"),
            ("b:tanh", "must name layers, got 'b'"),
            ("relu,tanh", "one kind for each layer"),
        ],
    )
    def test_a_word_that_fits_nothing_is_refused(self, word, complaint):
        with pytest.raises(ValueError, match=complaint):
            layers(states(a=lambda: nn.RNN(3, 4)), word)


class TestWeightsInParts:
    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize(
        "part",
        [
            nn.utils.weight_norm,
            nn.utils.spectral_norm,
            parametrizations.weight_norm,
            parametrizations.spectral_norm,
            lambda module, name: prune.random_unstructured(module, name, 0.5),
        ],
    )
    def test_they_are_multiplied_out(self, part):
        def make():
            net = nn.LSTM(3, 6, 2)
            part(net, "weight_hh_l0")
            for parameter in net.parameters():
                parameter.data *= 1.5  # the magnitude is no longer that of the direction
            return net.eval()

        torch.manual_seed(0)
        net = make()
        for hook in net._forward_pre_hooks.values():  # of the old forms, which set the weight before each call
            hook(net, None)
        wanted = net.weight_hh_l0
        first, second = layers(net.state_dict())
        assert np.asarray(first.w_hh) == pytest.approx(wanted.detach().double().numpy(), rel=1e-5)
        assert second.name == "weight_hh_l1"

    def test_an_unknown_parametrization_is_named(self, analyzed):
        net = nn.RNN(3, 4, 2)
        parametrizations.orthogonal(net, "weight_hh_l0")
        _, out = analyzed(net.state_dict(), *QUICK)
        assert "weight_hh_l0 is left out" in out
        net = nn.RNN(3, 4)
        parametrizations.orthogonal(net, "weight_hh_l0")
        status, _, err = analyzed.refused(net.state_dict(), *QUICK)
        assert status == 1 and "remove the parametrization of weight_hh_l0" in err

    def test_a_projection_acts_on_the_units(self):
        torch.manual_seed(0)
        net, head = nn.LSTM(3, 8, 2, proj_size=2, batch_first=True).double(), nn.Linear(2, 5).double()
        found, notes = find({**net.state_dict(), "fc.weight": head.weight.detach()})
        assert "through its projection" in notes[0]
        x = torch.randn(4, 6, 3, dtype=torch.float64)
        wanted = net(x)[0]
        signals, _ = layer_inputs(found, x, None)
        top = simulation.simulate(make_cell(**found[1].arguments()), signals[found[1].name]).hidden
        assert top @ found[1].projection.T == pytest.approx(wanted.detach().numpy(), abs=1e-12)
        assert top @ found[1].w_out.T == pytest.approx((wanted @ head.weight.T).detach().numpy(), abs=1e-12)

    def test_a_sparse_matrix_is_read_densely(self, analyzed):
        dense = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.5], [1.0, 0.0, 0.0]])
        for kept in (dense.to_sparse(), dense.to_sparse_csr()):
            result, _ = analyzed({"w_hh": kept}, *QUICK[:1])
            assert result["layers"]["w_hh"]["quantities"]["spectral_radius"]["value"] == pytest.approx(1)
        huge = torch.sparse_coo_tensor([[0], [0]], [1.0], (10**6, 10**6))
        status, _, err = analyzed.refused({"w_hh": huge}, *QUICK[:1])
        assert status == 1 and "a sparse tensor of 1000000000000 numbers" in err

    @pytest.mark.parametrize("part", ["w_hh", "w_ih", "w_out", "bias_hh"])
    def test_complex_numbers_are_refused(self, part, analyzed):
        content = {"w_hh": np.eye(3), "w_ih": np.ones((3, 1)), "w_out": np.ones((5, 3)), "bias_hh": np.ones(3)}
        status, _, err = analyzed.refused({**content, part: content[part] * 1j}, *QUICK, name="net.npz")
        assert (
            status == 1 and err.count("\n") == 1 and f"{part} must be an array of real numbers, got complex128" in err
        )
        with pytest.raises(ValueError, match="got complex64"):
            wavebase.analyze(torch.eye(3) * 1j)


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

    def test_what_torch_refuses_is_named(self, analyzed):
        from omegaconf import OmegaConf

        content = {"state_dict": states(rnn=lambda: nn.LSTM(3, 4)), "cfg": OmegaConf.create({"lr": 1})}
        status, _, err = analyzed.refused(content)
        assert status == 1 and err.count("\n") == 1 and "\\x1b" not in err
        assert "an object of omegaconf.dictconfig.DictConfig" in err
        status, _, err = analyzed.refused(nn.LSTM(3, 4))
        assert status == 1 and "an object of torch.nn.modules.rnn.LSTM" in err

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
        from wavebase.analysis import report

        monkeypatch.setattr(report, "STATES", 60)
        found = wavebase.analyze(np.eye(2) / 2, np.ones(2), inputs=np.ones((20, 5)), draws=4)
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

    @pytest.mark.parametrize("size", [1e-40, 1e-300, 0.0])
    def test_a_gate_without_effect_is_not_judged(self, size):
        weights = {gate: np.diag([0.5, 0.2, 0.1]) for gate in ("reset", "update", "new")}
        found = wavebase.analyze({**weights, "reset": weights["reset"] * size}, activation="gru", draws=39)
        assert not any(q.flagged for name, q in found.quantities.items() if name.startswith("reset."))
        assert any(q.flagged for name, q in found.quantities.items() if name.startswith("update."))
        assert any("recurrent matrix of reset has no effect" in note for note in found.notes)
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


def test_the_summary_is_short(tmp_path, monkeypatch, capsys):
    torch.save(states(rnn=lambda: nn.LSTM(1, 8), fc=lambda: nn.Linear(8, 5)), tmp_path / "net.pt")
    monkeypatch.setattr(
        "sys.argv", ["wavebase analyze", str(tmp_path / "net.pt"), "draws=39", "samples=4", "panels=eigenvalues"]
    )
    probe.main(judge=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 15 and max(map(len, lines[:-1])) <= 80
