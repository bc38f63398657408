"""What a model refuses: nets too large for memory, options without effect, wrong start files, wrong signals."""

import importlib
import math
import warnings

import numpy as np
import pytest
import torch

import wavebase
from conftest import SMALL
from test_models import SHORT_MIX
from wavebase import limits
from wavebase.constructions.construction import pad
from wavebase.constructions.options import IgnoredOption, refuse_ignored
from wavebase.constructions.rivals import delay_line_construction, resonator_construction
from wavebase.experiment import build, config, validation
from wavebase.models import (
    esprit,
    learned_prior,
    linear_forecasters,
    linear_prediction,
    matching_pursuit,
    recurrent_forecasters,
    relu_rnn,
    sparse_bayes,
    stateful,
    stock,
)
from wavebase.signals.generators import WhiteNoise
from wavebase.signals.harmonics import Harmonics
from wavebase.signals.jittered_mix import JitteredMix
from wavebase.tasks.power_spectrum import PowerSpectrum

F64 = torch.float64


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def one_line(error):
    return "\n" not in str(error.value) and "; " in str(error.value)


# ---- memory ----

TOO_LARGE = {
    "spectral": lambda: wavebase.spectral_construction(5000),
    "spectral, most T": lambda: wavebase.spectral_construction(2**20),
    "stock cell": lambda: wavebase.spectral_construction(1000, input_gate="sigmoid"),
    "resonator": lambda: resonator_construction(5000),
    "delay line": lambda: delay_line_construction(5000),
    "padding": lambda: pad(wavebase.spectral_construction(4), 10**5),
    "torch LSTM": lambda: stock.build(4, 1.0, 1.0, 1, F64, draws(), hidden_size=10**5),
    "random ReLU": lambda: relu_rnn.build(4, 4, F64, draws(), hidden_size=10**5),
    "exact ReLU": lambda: relu_rnn.build(10**5, 10**5, F64, draws(), start="exact"),
    "stateful": lambda: stateful.build(JitteredMix(), 1, 1, F64, draws(), hidden_size=10**5),
    "forecaster": lambda: recurrent_forecasters.lstm(100, 5, F64, draws(), hidden_size=10**5),
    "seq2seq": lambda: recurrent_forecasters.seq2seq_gru(10**5, 5, F64, draws()),
    "mlp": lambda: recurrent_forecasters.mlp_gru(100, 5, F64, draws(), units=10**5),
    "learned prior": lambda: learned_prior.build(100, 5, F64, draws(), width=10**5),
    "cosine": lambda: wavebase.cosine_transform(10**5),
    "dft": lambda: linear_forecasters.dft(10**5, 5, F64),
    "ridge": lambda: linear_forecasters.dictionary_ridge(10**5, 5, F64),
    "omp": lambda: matching_pursuit.build(10**6, 5, F64, atoms=3),
    "sparse Bayes": lambda: sparse_bayes.build(100, 5, F64, periods=(2, 10**7)),
    "held-out signals": lambda: PowerSpectrum(WhiteNoise(), 2**20, F64, torch.device("cpu"), draws()),
}


@pytest.mark.parametrize("make", TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_net_too_large_for_memory_is_refused_before_it_is_built(make, monkeypatch):
    monkeypatch.setattr(limits, "available_memory", lambda: 2**30)
    with pytest.raises(
        ValueError, match=r"must fit into the 1 GiB of memory that are free, got about .* GiB; use "
    ) as e:
        make()
    assert one_line(e)


def test_what_is_small_or_fits_is_built(monkeypatch):
    monkeypatch.setattr(limits, "available_memory", lambda: 0)
    assert wavebase.spectral_construction(16).hidden_size == 112
    monkeypatch.setattr(limits, "SMALL", 2**20)
    monkeypatch.setattr(limits, "available_memory", lambda: 2**24)
    assert recurrent_forecasters.lstm(10, 5, F64, draws(), hidden_size=299).cell.hidden_size == 299  # 11.6 MB
    monkeypatch.setattr(limits, "available_memory", lambda: 2**23)
    with pytest.raises(ValueError, match=r"^model of \d+ weights must fit into the 0\.00781 GiB"):
        recurrent_forecasters.lstm(10, 5, F64, draws(), hidden_size=299)


def test_a_run_too_large_for_memory_says_so(cli, monkeypatch):
    monkeypatch.setattr(limits, "available_memory", lambda: 2**30)
    status, _, err = cli(*SMALL, "T=2000", "hydra.run.dir=here")
    assert status == 1 and "a net of 14000 units must fit into the 1 GiB" in err and len(err.strip().splitlines()) == 1


# ---- options without effect ----

LOCK_IN = ("experiment=extraction_lock_in", *SMALL, *SHORT_MIX)
COSINE = ("experiment=cosine_reconstruction", *SMALL)
IGNORED = (
    (("model.perturbation={kind: gaussian}",), "perturbation", "use model=perturbed"),
    (("model=random", "model.perturbation={kind: gaussian}"), "perturbation", "use model=perturbed"),
    (("model=random", "model.preset=trainable"), "preset", "leave it out"),
    (("model=random", "model.eps=0.01"), "eps", "leave it out"),
    (("model=random", "model.margin=20"), "margin", "leave it out"),
    (("model=random", "model.gains.a=0.5"), "gains.a", "leave it out"),
    (("model=random", "model.start_from=x.pt"), "start", "use start_from=null"),
    (("model=perturbed", "model.start_from=x.pt"), "start", "use start_from=null"),
    (("model=lstm", "model.start=exact", "model.hidden_size=40"), "hidden_size", "use null"),
    (
        ("experiment=second_argmax", *SMALL, "T=4", "model.start=exact", "model.hidden_size=40"),
        "hidden_size",
        "leave it out",
    ),
    ((*LOCK_IN, "model=lock_in", "model.perturbation={kind: gaussian}"), "perturbation", "use model=lock_in_perturbed"),
    ((*LOCK_IN, "model=lock_in_random", "model.eps=0.001"), "eps", "leave it out"),
    ((*LOCK_IN, "model=lock_in_random", "model.margin=20"), "margin", "leave it out"),
    ((*COSINE, "model.start=exact", "model.frequency_scale=0.5"), "frequency_scale", "leave it out"),
    ((*COSINE, "model.start=random", "model.frequency_scale=0.5"), "frequency_scale", "leave it out"),
)


@pytest.mark.parametrize("words,key,remedy", IGNORED, ids=[" ".join(words[-2:]) for words, *_ in IGNORED])
def test_an_option_without_effect_is_refused(words, key, remedy, composed):
    words = words if words[0].startswith("experiment") else (*SMALL, *words)
    with pytest.raises(validation.ConfigError, match=rf"^model\.{key} must be .*{remedy}") as error:
        build.build_components(config.parse(composed(*words)), learning_rate=1e-3)
    assert one_line(error)


@pytest.mark.parametrize("kind", ["rotation", "modulus"])
def test_weights_that_a_perturbation_would_not_touch_are_refused(kind):
    start = wavebase.spectral_construction(4)
    for weights in (None, ["weight_hh_cell"]):
        moved = wavebase.perturb(start, wavebase.Perturbation(kind, 0.1, weights), draws())
        assert not torch.equal(moved.weights["weight_hh_cell"], start.weights["weight_hh_cell"])
    with pytest.raises(ValueError, match=rf"^perturbation\.weights must be null with kind={kind}.*; use null$"):
        wavebase.perturb(start, wavebase.Perturbation(kind, 0.1, ["bias_*"]), draws())


@pytest.mark.parametrize(
    "words", [("model.preset=trainable",), ("model.eps=0.01",), ("model.margin=20",), ("model.gains.s1=0.5",)], ids=str
)
def test_what_decides_the_units_of_a_random_start_is_obeyed(words, composed):
    def weights(*more):
        cfg = config.parse(composed(*SMALL, "model=random_scaled", *more))
        return build.build_components(cfg, learning_rate=1e-3).net.named_weights()

    default, changed = weights(), weights(*words)
    assert any(not torch.equal(weight, changed[name]) for name, weight in default.items())


def test_a_stored_run_with_an_option_that_was_ignored_is_still_read(ran):
    """Version 0.1 accepted gains, which did nothing, beside a random start."""
    import yaml

    folder = ran(*SMALL, "model=random")
    node = yaml.safe_load((folder.path / "config.yaml").read_text())
    node["model"] |= {"preset": "trainable", "gains": {"a": 0.5}}
    (folder.path / "config.yaml").write_text(yaml.safe_dump(node))
    _, components = build.load_run(folder)
    final = folder.load_checkpoint(2)["weights"]
    assert all(torch.equal(weight, final[name]) for name, weight in components.net.named_weights().items())


def test_an_option_names_what_it_refuses():
    refuse_ignored("here", "leave it out", ("a", 1, 1), ("b", None, None))
    with pytest.raises(IgnoredOption, match=r"^model\.gains\.a must be null here, got 2; leave it out$") as error:
        refuse_ignored("here", "leave it out", ("gains.a", 2, None))
    assert error.value.key == "gains.a"


# ---- the file of a start ----


def test_a_wrong_start_file_is_named_in_one_line(ran, composed, tmp_path):
    spectral, other = ran(*SMALL, name="spectral"), ran(*SMALL, "model=lstm", name="lstm")
    text, bare, empty = tmp_path / "notes.pt", tmp_path / "bare.pt", tmp_path / "nothing"
    text.write_text("not a checkpoint")
    torch.save(torch.nn.LSTM(1, 28).state_dict(), bare)
    empty.mkdir()
    odd, none = tmp_path / "complex.pt", tmp_path / "none.pt"
    weights = spectral.load_checkpoint(2)["weights"]
    torch.save({**weights, "weight_hh_cell": weights["weight_hh_cell"] + 1j}, odd)
    torch.save({"weights": None}, none)
    last = f"{spectral.path}/checkpoints/step_00000002.pt"
    for file, got, remedy in (
        (odd, "must hold real numbers in weight_hh_cell, got torch.complex128", "use a checkpoint of a run"),
        (none, "must be a readable checkpoint, got", "use a checkpoint of a run"),
        (tmp_path / "absent.pt", "must be a file that exists, got", "use a checkpoint of a run"),
        (text, "must be a readable checkpoint, got", "use a checkpoint of a run"),
        (spectral.path, "must be a file, got the folder", f"use {last}"),
        (empty, "must be a file, got the folder", "use a checkpoint of a run"),
        (bare, "must hold a spectral net's weights", "with model=spectral"),
        (f"{other.path}/checkpoints/step_00000002.pt", "must hold a spectral net's weights", "with model=spectral"),
    ):
        with pytest.raises(validation.ConfigError) as error:
            build.build_components(config.parse(composed(*SMALL, f"model.start_from={file}")), learning_rate=1e-3)
        message = str(error.value)
        assert message.startswith(f"model.start_from {got}") and remedy in message, message
        assert one_line(error) and str(file) in message and "delete" not in message
    build.build_components(config.parse(composed(*SMALL, f"model.start_from={last}")), learning_rate=1e-3)


# ---- the library ----


@pytest.mark.parametrize("make", [wavebase.spectral_construction, resonator_construction, delay_line_construction])
@pytest.mark.parametrize("key", ["scale", "amplitude", "margin", "eps", "bound_windows"])
def test_what_is_no_number_is_refused(make, key):
    for value in ("a", [1.0], True):
        with pytest.raises(ValueError, match=rf"^{key} must be a number, got ") as error:
            make(8, **{key: value})
        assert one_line(error)
    if key == "scale":
        with pytest.raises(ValueError, match="scale must be finite"):
            make(8, scale=math.inf)
    with pytest.raises(ValueError, match="s2 must be finite and not zero, got a"):
        make(8, gains={"s2": "a"})
    with pytest.raises(ValueError, match=r"perturbation\.scale must be finite"):
        wavebase.Perturbation("unit", "a")


@pytest.mark.parametrize("net", [wavebase.spectral_lstm(8), wavebase.cosine_transform(8)], ids=["spectral", "cosine"])
def test_a_signal_that_is_no_real_tensor_is_refused(net):
    for signal, got in ((np.zeros((2, 8)), "ndarray"), ([[0.0] * 8], "list"), (torch.zeros(2, 8) * 1j, "complex64")):
        with pytest.raises(ValueError, match=f"signal must be a real tensor .*got .*{got}; use torch.as_tensor"):
            net(signal)
    assert net(torch.zeros(2, 8, dtype=torch.int64)).shape == (2, *net(torch.zeros(2, 8)).shape[1:])


def test_net_and_oracle_take_the_same_signals():
    net = wavebase.spectral_lstm(8)
    for samples in (4, 10, 15):
        signal = torch.zeros(2, samples)
        for call in (net, lambda x: wavebase.power_spectrum(x, 8)):
            with pytest.raises(ValueError, match=rf"8.*got .*{samples}"):
                call(signal)
    with pytest.raises(ValueError, match=r"got 10 samples; cut it, x\[\.\.\., : 8\]"):
        wavebase.power_spectrum(torch.zeros(10), 8)


def test_a_signal_beyond_the_amplitude_gives_one_warning():
    net = wavebase.spectral_lstm(8, amplitude=2.0)
    loud = torch.full((1, 8), 3.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(torch.full((1, 8), 2.0))
    with pytest.warns(
        UserWarning, match=r"within the amplitude 2 .*got \|x\| up to 3, .*build it with amplitude=3"
    ) as seen:
        net(loud)
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(loud)
        fresh = wavebase.spectral_lstm(8)  # a stack has no numbers to look at
        stacked = torch.func.vmap(fresh)(torch.stack([loud, loud]))
    torch.testing.assert_close(stacked[0], net(loud), rtol=1e-3, atol=1e-3)
    construction = wavebase.spectral_construction(8, input_gate="sigmoid")
    host = stock.StockLSTM(construction.hidden_size, 8, 8)
    host.load(construction)
    with pytest.warns(UserWarning, match="build it with amplitude=3"):
        host(loud)


# ---- an offset in the signal ----

FORECASTERS = {
    "linear prediction": linear_prediction.build,
    "omp": matching_pursuit.build,
    "sparse Bayes": sparse_bayes.build,
    "esprit": esprit.build,
    "dictionary ridge": linear_forecasters.dictionary_ridge,
}


@pytest.mark.parametrize("make", FORECASTERS.values(), ids=FORECASTERS)
def test_no_offset_does_harm_and_without_one_little_is_lost(make):
    """Without `robust`, and in version 0.1, matching pursuit is off by 20 times the signal.

    Only a mean that stands out is removed, so that a signal without an offset loses less than one with it, and any two
    offsets that stand out cost the same.
    """
    x = Harmonics(noise=0.1).sample(30, 105, draws(3))
    past, future = x[:, :100], x[:, 100:]

    def error(offset, **options):
        with torch.no_grad():
            forecast = make(100, 5, F64, noise=0.1, **options)(past + offset) - offset
        return ((forecast - future).square().sum() / future.square().sum()).item()

    plain, removed = error(0.0), error(0.0, robust=True)
    assert 0 < removed < 1.5 * plain < 1.2
    large = error(5.0, robust=True)
    assert removed * (1 - 1e-6) <= large < 1.5 * plain
    assert error(-100.0, robust=True) == pytest.approx(large, rel=1e-6)
    assert error(5.0) > 3 * plain
    assert plain == error(0.0, robust=False), "configurations of version 0.1 lack the key"


def test_the_mean_is_removed_by_default_in_conf_and_by_no_means_in_the_library(composed):
    for model in ("linear_prediction", "omp", "sparse_bayes", "esprit", "dictionary_ridge"):
        node = composed("experiment=harmonic_forecast", f"model={model}", *SMALL)
        assert node["model"]["robust"] is True
    del node["model"]["robust"]
    old = build.build_components(config.parse(node), learning_rate=1e-3).net
    assert not torch.allclose(old.weight.sum(1), torch.ones((), dtype=F64), atol=1e-3)


@pytest.mark.parametrize("name", ["linear_prediction", "omp", "sparse_bayes", "esprit"])
def test_old_names_of_the_forecasters_work(name, composed):
    node = composed("experiment=harmonic_forecast", f"model={name}", *SMALL)
    new = build.build_components(config.parse(node), learning_rate=1e-3).net
    node["model"]["_target_"] = f"wavebase.models.harmonic_forecasters.{name}"
    assert type(build.build_components(config.parse(node), learning_rate=1e-3).net) is type(new)
    old = importlib.import_module("wavebase.models.harmonic_forecasters")
    with pytest.warns(DeprecationWarning, match=rf"harmonic_forecasters\.{type(new).__name__} is wavebase\.models"):
        assert getattr(old, type(new).__name__) is type(new)
