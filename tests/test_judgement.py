"""The verdict on weights, on stored runs and over their checkpoints."""

import doctest
import json
import math
import re
import sys
from typing import ClassVar

import pytest
import torch

import wavebase
from wavebase.cli import probe
from wavebase.constructions import controls, symmetry
from wavebase.constructions.construction import pad
from wavebase.constructions.perturbation import Perturbation, perturb
from wavebase.constructions.rivals import delay_line_construction, resonator_construction
from wavebase.experiment import judge, runner
from wavebase.experiment.judge import judge_folder
from wavebase.experiment.summary import describe
from wavebase.models.spectral import random_weights
from wavebase.records.atomic import RecordsError
from wavebase.records.folder import RunFolder
from wavebase.training.trainer import SingleTrainer


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_documented_examples():
    assert doctest.testmod(judge).attempted == 4 and doctest.testmod(judge).failed == 0


@pytest.mark.parametrize("preset", ["exact", "trainable"])
class TestWeights:
    def start(self, preset):
        return wavebase.spectral_construction(4, preset=preset)

    def test_the_same_net_in_other_coordinates_is_preserved(self, preset):
        start = self.start(preset)
        element = symmetry.random_element(start.hidden_size, seeded())
        assert wavebase.verdict(symmetry.act(element, start.weights), start).name == "preserved"

    @pytest.mark.parametrize("kind", ["gen", "sum", "pair"])
    def test_a_continuous_move_in_other_coordinates_is_deformed(self, preset, kind):
        start = self.start(preset)
        moved = symmetry.linear_move(start, kind, 0.3, seeded())
        element = symmetry.random_element(start.hidden_size, seeded(1))
        assert wavebase.verdict(symmetry.act(element, moved.weights), start).name == "deformed"

    @pytest.mark.parametrize("build", [resonator_construction, delay_line_construction])
    def test_a_rival_has_drifted(self, preset, build):
        start = self.start(preset)
        rival = pad(build(4, preset=preset), start.hidden_size)
        found = wavebase.verdict(rival.weights, start)
        assert found.name == "drifted" and any("mechanism/mode_phase" in reason for reason in found.reasons)

    def test_noise_zero_and_random_weights_are_broken(self, preset):
        start = self.start(preset)
        zero = {**start.weights, "readout.weight": torch.zeros_like(start.weights["readout.weight"])}
        assert wavebase.verdict(zero, start).name == "broken"
        assert wavebase.verdict(random_weights(start, seeded()), start).name == "broken"
        silent = {name: torch.zeros_like(weight) for name, weight in start.weights.items()}
        assert wavebase.verdict(silent, start).name == "broken"
        nan = {**start.weights, "readout.bias": start.weights["readout.bias"] + torch.nan}
        assert wavebase.verdict(nan, start).name == "diverged"

    def test_weights_of_another_shape_are_refused(self, preset):
        start = self.start(preset)
        with pytest.raises(ValueError, match=r"must hold weight_ih_input \[28, 1\], got \[35, 1\]; pad"):
            wavebase.verdict(pad(start, 35).weights, start)


EPS = 2.0**-12


class TestSameChangeSameVerdict:
    """The same displacement in natural units has one verdict, whatever the gains and the dtype."""

    ways: ClassVar = {
        "exact": {},
        "float32": {"dtype": torch.float32},
        "eps": {"eps": EPS},
        "gains": {"gains": {"a": EPS / 3, "s1": 0.7, "s3": 1 / EPS, "s4": 3.0, "s5": 5 / EPS}},
    }

    def judged(self, change):
        """Verdicts by way; a change takes a construction and returns another."""
        nets = {way: wavebase.spectral_construction(4, **words) for way, words in self.ways.items()}
        return {way: wavebase.verdict(change(net).weights, net) for way, net in nets.items()}

    @pytest.mark.parametrize(
        "scale,names",
        [
            (1e-5, {"preserved"}),
            (1e-3, {"preserved"}),
            (0.003, {"deformed"}),
            (0.02, {"drifted", "deformed"}),
            (0.3, {"broken"}),
        ],
    )
    def test_displaced(self, scale, names):
        found = self.judged(lambda net: perturb(net, Perturbation("unit", scale), seeded()))
        assert len({verdict.name for verdict in found.values()}) == 1 and found["exact"].name in names
        for way in ("eps", "gains", "float32"):
            for one, other in zip(found["exact"].conditions, found[way].conditions, strict=True):
                rel = 0.02 if way == "float32" else 1e-3
                if one.use < 10:  # far over a bound a number means nothing: a stream that explodes
                    assert other.value == pytest.approx(one.value, rel=rel, abs=one.bound * 1e-3), (way, one.name)

    @pytest.mark.parametrize("k", [0, 2, 3])
    def test_one_oscillator_retuned(self, k):
        for found in self.judged(lambda net: controls.retune(net, k, 0.1)).values():
            assert found.name == "drifted"
            assert [r for r in found.reasons if "mode_phase is 0.4, over" in r and f"(bin {k})" in r]

    def test_one_bin_scaled_is_deformed_to_one_digit(self):
        for found in self.judged(lambda net: controls.scale_output(net, 1, 0.9)).values():
            assert found.name == "deformed" and 0.01 < found.precision.training < 0.1

    @pytest.mark.parametrize("algorithm", ["resonator", "delay_line"])
    @pytest.mark.parametrize("k", range(4))
    def test_one_bin_computed_by_a_rival(self, algorithm, k):
        start = wavebase.spectral_construction(4)
        padded, net = controls.replace_bin(start, k, algorithm)
        found = wavebase.verdict(net.weights, padded)
        assert found.name == "drifted" and found.precision.off_support < 1e-12
        assert found.conditions and any(f"(bin {k})" in reason for reason in found.reasons)
        assert not any(math.isnan(c.value) for c in found.conditions)

    def test_along_the_sharpest_direction(self):
        """Within 1e-3 of the algorithm and with its mechanism intact no net is drifted or broken, not even one whose outputs
        are all shifted: bias_hh_cell of spec moves an output by more than any other weight."""
        start = wavebase.spectral_construction(8)
        spec = start.blocks["spec"]
        weights = {name: weight.clone() for name, weight in start.weights.items()}
        weights["bias_hh_cell"][spec] += 0.01 * start.unit_scale["bias_hh_cell"][spec]
        found = wavebase.verdict(weights, start)
        values = {c.name: c for c in found.conditions}
        assert 1e-4 < values["position/distance"].value < 5e-3 and found.precision.training > 0.1
        assert all(c.holds for c in found.conditions if c.kind == "mechanism") and found.name == "preserved"

    def test_trained(self, ran):
        ways = {"exact": (), "eps": ("model.eps=1e-4",), "float32": ("dtype=float32",)}
        words = (*RUN, "train.steps=20", "task.label_noise=0.1")
        ends = {way: ran(*words, *more, name=way).summary() for way, more in ways.items()}
        assert {end["verdict"] for end in ends.values()} == {"preserved"}
        assert len({end["moved"]["nonzero_changed"] for end in ends.values()}) == 1
        assert ran(*RUN, "train.steps=20", name="without noise").summary()["verdict"] == "unmoved"


RUN = (
    "T=4",
    "train.batch=8",
    "task.held_out_count=8",
    "probe.figures=[]",
    "train.checkpoint_every=10",
    "probe.every=10",
)
LOST = ("task.shuffle_targets=true", "optim=adam", "optim.lr=0.02", "train.steps=30")


@pytest.fixture(scope="module")
def lost(tmp_path_factory, run_once):
    """A run that has lost its algorithm."""
    return run_once(tmp_path_factory.mktemp("lost") / "run", *RUN, *LOST)


def test_a_stored_run_is_judged_at_every_checkpoint(lost):
    folder = lost
    judged = judge_folder(folder)
    summary, measured = folder.summary(), folder.metrics()
    assert judged.last.name == summary["verdict"] == "broken"
    assert list(judged.verdicts) == [0, 10, 20, 30] and judged.verdicts[0].name == "unmoved"
    for condition in judged.last.conditions:
        assert condition.value == pytest.approx(summary["conditions"][condition.name]["value"], rel=1e-6), (
            condition.name
        )
    steps, losses = measured["centred/loss"]
    bound = summary["conditions"]["centred/loss"]["bound"]
    assert judged.first_failed["centred/loss"] == next(s for s, v in zip(steps, losses, strict=True) if v > bound)
    assert not [line for line in judged.table().splitlines() if len(line) > 80]
    assert [*judge_folder(folder, 10).verdicts] == [10]


def test_the_command_judges_runs_and_checkpoints(lost, monkeypatch, capsys):
    folder = lost
    monkeypatch.setattr(
        sys, "argv", ["wavebase.probe", str(folder.path), "samples=16", "draws=4", "panels=eigenvalues"]
    )
    probe.main()
    out = capsys.readouterr().out
    assert "verdict at step 30: broken" in out and "so far: unmoved from step 0, " in out and "spectral_radius" in out
    stored = json.loads((folder.path / "verdict.json").read_text())
    assert stored["verdict"] == "broken" and stored["first_failed"]["centred/loss"] in (10, 20, 30)
    lines = out.splitlines()
    assert (
        len(lines) <= 14 and max(map(len, lines[:-1])) <= 80
    )  # the verdict in about five lines, the spectrum in seven
    conditions = judge_folder(folder).last.conditions
    failing = [c for c in conditions if not c.holds]
    text = " ".join(out.split())
    assert (
        failing
        and f"{len(conditions) - len(failing)} of {len(conditions)} conditions hold; not {failing[0].name}" in text
    )
    table = (folder.path / "verdict.txt").read_text()
    assert lines[-1] == str(folder.path) and all(c.name in table for c in conditions)
    assert "verdict.txt, verdict.json, spectrum.txt" in " ".join(lines[-4:-1])


def test_a_wrong_word_leaves_nothing_behind(ran, monkeypatch, capsys):
    folder = ran(*RUN, "train.steps=2")
    before = {file.name for file in folder.path.iterdir()}
    monkeypatch.setattr(sys, "argv", ["wavebase.probe", str(folder.path), "panels=roles,eigen"])
    with pytest.raises(SystemExit) as stop:
        probe.main()
    said = capsys.readouterr().err
    assert stop.value.code == 1 and said.count("\n") == 1 and "panels must be some of" in said and "'eigen'" in said
    assert {file.name for file in folder.path.iterdir()} == before


def test_a_run_without_recurrent_weights_is_judged_all_the_same(ran, monkeypatch, capsys):
    words = ("experiment=cosine_reconstruction", "T=8", "train.steps=2", "task.held_out_count=8", "probe.figures=[]")
    folder = ran(*words)
    monkeypatch.setattr(sys, "argv", ["wavebase.probe", str(folder.path)])
    probe.main()
    out = capsys.readouterr().out
    assert "verdict at step 2: preserved" in out and "no recurrent weights" in out


def probed(monkeypatch, capsys, path, *words, judge=True):
    """What the command prints of a path; it must not exit with an error."""
    monkeypatch.setattr(
        sys, "argv", ["wavebase.probe", str(path), "samples=16", "draws=4", "panels=eigenvalues", *words]
    )
    probe.main(judge=judge)
    out, err = capsys.readouterr()
    assert err == ""
    return " ".join(out.split())


DIVERGED = ("model=random", "train.log_every=1", "optim.lr=1e300", "train.steps=4")


@pytest.mark.filterwarnings("error::RuntimeWarning")  # numpy's would stand between the lines of an answer
@pytest.mark.parametrize("rate", ["1e300", "1e60"])  # the second leaves weights whose products overflow
def test_a_diverged_run_is_judged_and_its_finite_checkpoints_are_read(rate, ran, monkeypatch, capsys):
    folder = ran(*RUN, *DIVERGED, f"optim.lr={rate}", "train.checkpoint_every=1")
    last = folder.checkpoint_steps()[-1]
    assert folder.summary()["status"] == "diverged"
    out = probed(monkeypatch, capsys, folder.path)
    assert f"verdict at step {last}: diverged" in out and "spectral_radius" in out
    assert re.search(rf"left out, because their weights are not finite or too large: step_.*step_{last:08d}", out)
    stored = json.loads((folder.path / "verdict.json").read_text())
    assert stored["verdict"] == "diverged" and stored["steps"]["0"]["verdict"] != "diverged"
    read = json.loads((folder.path / "spectrum.json").read_text())["step"]
    assert read not in out and read < f"step_{last:08d}"
    assert "left out" in probed(monkeypatch, capsys, folder.path, judge=False)
    single = folder.checkpoint_file(last)
    out = probed(monkeypatch, capsys, single)
    assert f"verdict at step {last}: diverged" in out and "no finite weights" in out
    monkeypatch.setattr(sys, "argv", ["wavebase analyze", str(single)])
    with pytest.raises(SystemExit) as stop:
        probe.main(judge=False)
    said = capsys.readouterr().err
    assert stop.value.code == 1 and said.count("\n") == 1 and "take an earlier checkpoint" in said


def test_a_run_that_stopped_before_the_first_checkpoint_of_its_interval_is_judged(ran, monkeypatch, capsys):
    folder = ran(*RUN, *DIVERGED, "train.steps=400", "train.checkpoint_every=200")
    assert folder.checkpoint_steps()[0] == 0 and 0 < folder.checkpoint_steps()[-1] < 200
    assert f"verdict at step {folder.checkpoint_steps()[-1]}: diverged" in probed(monkeypatch, capsys, folder.path)


def test_a_run_whose_loss_alone_is_not_finite_has_one_verdict(composed, tmp_path, monkeypatch, capsys):
    """The summary said that it diverged, and the probe found a net that was only broken."""

    def losses(self, batches, plain=SingleTrainer.losses):
        return plain(self, batches) * torch.nan

    monkeypatch.setattr(SingleTrainer, "losses", losses)
    node = composed(*RUN, "model=random", "train.log_every=1", "train.steps=4")
    runner.run(runner.Job(node, tmp_path / "run", {"model": "test"}), single=False)
    folder = RunFolder(tmp_path / "run")
    summary = folder.summary()
    assert summary["status"] == summary["verdict"] == "diverged" and folder.checkpoint_steps() == [0, 1]
    assert all(torch.isfinite(w).all() for w in folder.load_checkpoint(1)["weights"].values())
    assert summary["reasons"][0] == "the training loss is not finite"
    judged = judge_folder(folder)
    assert judged.last.name == "diverged" and judged.last.reasons == summary["reasons"]
    assert "verdict at step 1: diverged" in probed(monkeypatch, capsys, folder.path)


@pytest.mark.parametrize(
    "words",
    [("train.steps=0",), ("optim.lr=1e-300",), ("optim=adam", "optim.lr=1e-30"), ("train.parameters=readout.bias",), ("train.parameters=[weight_hh_output]", "optim.lr=0.1")],
    ids=["no steps", "no rate", "adam", "a bias", "a matrix of zeros"],
)  # fmt: skip
def test_a_run_in_which_nothing_moves_preserves_nothing(words, ran):
    summary = ran(*RUN, "train.steps=2", *words).summary()
    assert summary["verdict"] == "unmoved" and summary["moved"]["nonzero_changed"] == 0


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(RecordsError, match="must hold checkpoints, got none"):
        judge_folder(RunFolder(tmp_path))


@pytest.mark.parametrize(
    "samples,name",
    [
        (torch.sin(2 * torch.pi * torch.arange(800) / 4), "unmoved"),
        (torch.full((800,), 0.3), "unmoved"),
        (torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(200), "unmoved"),
        (torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(200), "unmoved"),
        (torch.tensor([0.3, -0.2, 0.5, -0.6]).repeat(200), "unmoved"),
    ],
    ids=["steady tone", "constant", "square wave", "impulses", "any period"],
)
def test_where_all_targets_are_the_same_the_mean_predictor_decides_nothing(ran, tmp_path, samples, name):
    """All windows of such a recording have one spectrum, which the mean predictor gets right to rounding."""
    import numpy as np

    np.save(tmp_path / "same.npy", samples.numpy())
    recording = ("signal=file", "signal.remove_mean=false", f"signal.path={tmp_path / 'same.npy'}", "train.steps=2")
    summary = ran(*RUN, *recording).summary()
    assert summary["verdict"] == name and summary["relative_loss"]["final"] < 1e-20
    assert (
        max(map(len, describe(summary, tmp_path).splitlines()[:-2])) <= 80
    )  # zero is 1e31 of it; the last line is the path
    lost = ran(*RUN, *recording, "model=random", name="random").summary()
    assert lost["verdict"] == "no algorithm" and lost["relative_loss"]["initial"] > 0.5


def test_a_silent_held_out_part_is_refused_before_anything_is_written(cli, tmp_path):
    import numpy as np

    np.save(tmp_path / "tail.npy", np.r_[np.random.default_rng(0).standard_normal(800), np.zeros(200)])
    status, _, said = cli(*RUN, "signal=file", "signal.path=tail.npy", "hydra.run.dir=run")
    assert status == 1 and said.count("\n") == 1 and "signal must not be silent where it is held out" in said
    assert not (tmp_path / "run").exists()
