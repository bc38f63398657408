"""Two nets side by side: symmetric copies are one net, unrelated nets are far, and blocks that were changed are named."""

import json
import sys

import pytest
import torch

import wavebase
from wavebase.__main__ import main
from wavebase.constructions import symmetry
from wavebase.constructions.lock_in import lock_in_construction
from wavebase.experiment.compare import compare, load_net
from wavebase.models.spectral import random_weights
from wavebase.signals.jittered_mix import JitteredMix


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """Paths of constructions at T = 4: exact, a symmetric copy, one with moved oscillators, a random one, one of T = 5."""
    folder = tmp_path_factory.mktemp("nets")
    exact = wavebase.spectral_construction(4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    moved = {name: weight.clone() for name, weight in exact.weights.items()}
    moved["weight_hh_cell"][exact.blocks["gen"]] *= 0.9
    element = symmetry.random_element(exact.hidden_size, generator)
    made = {
        "exact": exact.weights,
        "copy": symmetry.act(element, exact.weights),
        "moved": moved,
        "random": random_weights(exact, generator, True),
    }
    for name, weights in made.items():
        wavebase.save_construction(exact.replace_weights(weights), folder / f"{name}.safetensors")
    wavebase.save_construction(wavebase.spectral_construction(5), folder / "other.safetensors")
    wavebase.save_construction(lock_in_construction(JitteredMix(), 1000), folder / "lock_in.safetensors")
    return folder


def test_a_symmetric_copy_is_the_same_net(nets):
    found = compare(load_net(nets / "exact.safetensors"), load_net(nets / "copy.safetensors"), steps=0)
    assert found.distance < 1e-9 < 0.1 < found.as_they_are
    assert max(*found.straight, *found.exchanged.values()) < 1e-9 and max(found.modes.values()) < 1e-9
    assert 0.5 < found.errors["mean"] < 1


def test_a_changed_block_is_named_and_its_modes_are_measured(nets):
    found = compare(load_net(nets / "exact.safetensors"), load_net(nets / "moved.safetensors"), steps=0)
    assert found.exchanged["gen"] > 0.1 > 1e-9 > max(found.exchanged[name] for name in ("sum", "prod", "spec"))
    assert found.modes["modulus"] == pytest.approx(0.1, rel=0.05) and found.modes["phase"] < 1e-6
    assert found.straight[0] < 1e-9 and found.straight[-1] == pytest.approx(found.errors["second"])


def test_the_curve_is_never_worse_where_it_was_looked_at_and_training_lowers_it(nets):
    one, other = load_net(nets / "exact.safetensors", count=8), load_net(nets / "random.safetensors", count=8)
    line, curve = compare(one, other, steps=0), compare(one, other, steps=50)
    assert line.curved == pytest.approx(line.straight), "an untrained middle is the straight line"
    assert max(curve.curved[n] for n in (5, 10, 15)) <= max(line.straight[n] for n in (5, 10, 15))
    assert curve.distance > 0.3


def command(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["wavebase", "compare", *map(str, words)])
    try:
        main()
        status = 0
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


def test_the_command(nets, ran, monkeypatch, capsys, tmp_path):
    first = ran(
        "T=4", "train.steps=4", "train.batch=4", "task.held_out_count=8", "probe.figures=[]", "task.label_noise=0.1"
    )
    newest = sorted((first.path / "checkpoints").iterdir())[-1]
    status, out, _ = command(monkeypatch, capsys, first.path, newest, "steps=2", f"out={tmp_path / 'made'}")
    assert status == 0 and "distance             0 modulo symmetry" in out
    assert max(map(len, out.splitlines()[:-1])) <= 80
    record = json.loads((tmp_path / "made" / "comparison.json").read_text())
    assert record["distance"] == 0 and len(record["straight"]) == 21
    assert (tmp_path / "made" / "comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "words,said",
    [
        (("exact.safetensors",), "two nets must be given"),
        (("exact.safetensors", "absent"), "the net must be a run's folder"),
        (("exact.safetensors", "other.safetensors"), "both nets must have weights of one shape"),
        (("exact.safetensors", "copy.safetensors", "steps=-1"), "steps must be at least 0"),
        (("exact.safetensors", "copy.safetensors", "stepz=1"), "must be a known key"),
        (("exact.safetensors", "text.pt"), "must be a run's checkpoint"),
        (
            ("lock_in.safetensors", "lock_in.safetensors"),
            "must have an output a bin, got the construction of a lock-in",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_line(words, said, nets, monkeypatch, capsys):
    (nets / "text.pt").write_text("x")
    status, _, err = command(monkeypatch, capsys, *(nets / w if w.endswith(("rs", "nt", "pt")) else w for w in words))
    assert status == 1 and said in err and err.count("\n") == 1
