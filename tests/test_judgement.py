"""The verdict on weights, on stored runs and over their checkpoints."""

import doctest
import json
import sys

import pytest
import torch

import wavebase
from wavebase import judgement, probe
from wavebase.constructions import symmetry
from wavebase.constructions.construction import pad
from wavebase.constructions.rivals import delay_line_construction, resonator_construction
from wavebase.judgement import judge_run
from wavebase.models.spectral import random_weights
from wavebase.records import RecordsError, RunFolder


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_documented_examples():
    assert doctest.testmod(judgement).attempted == 4 and doctest.testmod(judgement).failed == 0


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
        nan = {**start.weights, "readout.bias": start.weights["readout.bias"] + torch.nan}
        assert wavebase.verdict(nan, start).name == "diverged"

    def test_weights_of_another_shape_are_refused(self, preset):
        start = self.start(preset)
        with pytest.raises(ValueError, match=r"must hold weight_ih_input \[28, 1\], got \[35, 1\]; pad"):
            wavebase.verdict(pad(start, 35).weights, start)


RUN = (
    "T=4",
    "train.batch=8",
    "task.held_out_count=8",
    "probe.figures=[]",
    "train.checkpoint_every=10",
    "probe.every=10",
)
LOST = ("model.preset=trainable", "task.shuffle_targets=true", "optim=adam", "optim.lr=0.02", "train.steps=40")


def test_a_stored_run_is_judged_at_every_checkpoint(ran):
    folder = ran(*RUN, *LOST)
    judged = judge_run(folder)
    summary, measured = folder.summary(), folder.metrics()
    assert judged.last.name == summary["verdict"] == "broken"
    assert list(judged.verdicts) == [0, 10, 20, 30, 40] and judged.verdicts[0].name == "preserved"
    for condition in judged.last.conditions:
        assert condition.value == pytest.approx(summary["conditions"][condition.name]["value"], rel=1e-6), (
            condition.name
        )
    steps, errors = measured["error/training"]
    bound = summary["conditions"]["error/training"]["bound"]
    assert judged.first_failed["error/training"] == next(s for s, e in zip(steps, errors, strict=True) if e > bound)
    assert not [line for line in judged.table().splitlines() if len(line) > 80]
    assert [*judge_run(folder, 10).verdicts] == [10]


def test_the_command_judges_runs_and_checkpoints(ran, monkeypatch, capsys):
    folder = ran(*RUN, *LOST)
    monkeypatch.setattr(sys, "argv", ["wavebase.probe", str(folder.path), "samples=16", "draws=4"])
    probe.main()
    out = capsys.readouterr().out
    assert (
        "verdict at step 40: broken" in out
        and "so far: preserved from step 0, broken from step" in out
        and "spectral_radius" in out
    )
    stored = json.loads((folder.path / "verdict.json").read_text())
    assert stored["verdict"] == "broken" and stored["first_failed"]["error/training"] in (10, 20, 30, 40)


def test_a_wrong_word_leaves_nothing_behind(ran, monkeypatch, capsys):
    folder = ran(*RUN)
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


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(RecordsError, match="must hold checkpoints, got none"):
        judge_run(RunFolder(tmp_path))


@pytest.mark.parametrize(
    "samples,name",
    [(torch.sin(2 * torch.pi * torch.arange(800) / 4), "unmoved"), (torch.full((800,), 0.3), "unmoved")],
    ids=["steady tone", "constant"],
)
def test_where_all_targets_are_the_same_the_mean_predictor_decides_nothing(ran, tmp_path, samples, name):
    """All windows of such a recording have one spectrum, which the mean predictor gets right to rounding."""
    import numpy as np

    np.save(tmp_path / "same.npy", samples.numpy())
    recording = ("signal=file", f"signal.path={tmp_path / 'same.npy'}", "train.steps=2")
    summary = ran(*RUN, *recording).summary()
    assert summary["verdict"] == name and summary["relative_loss"]["final"] < 1e-20
    lost = ran(*RUN, *recording, "model=random", name="random").summary()
    assert lost["verdict"] == "no algorithm" and lost["relative_loss"]["initial"] > 0.5


def test_a_silent_held_out_part_is_refused_before_anything_is_written(cli, tmp_path):
    import numpy as np

    np.save(tmp_path / "tail.npy", np.r_[np.random.default_rng(0).standard_normal(800), np.zeros(200)])
    status, _, said = cli(*RUN, "signal=file", "signal.path=tail.npy", "hydra.run.dir=run")
    assert status == 1 and said.count("\n") == 1 and "signal must not be silent where it is held out" in said
    assert not (tmp_path / "run").exists()
