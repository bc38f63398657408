"""Weights that other people save: what they hold is read rightly, or the user is asked; nothing is guessed in silence."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import wavebase
from conftest import states
from wavebase.analysis import simulation
from wavebase.analysis.cell import make_cell
from wavebase.analysis.layer_inputs import layer_inputs
from wavebase.analysis.state_dicts import find, layers

QUICK = ["draws=4", "samples=4", "steps=4", "panels=eigenvalues"]


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
