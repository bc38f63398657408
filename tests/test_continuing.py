"""What an interrupted run may be continued with, and what it keeps, records and notices on the way."""

import copy
import functools
import gc
import json
import operator
import shutil
import tracemalloc

import numpy as np
import pytest
import torch
import yaml

from conftest import SMALL
from same_records import contents, same
from wavebase.experiment import build, config, parts, runner
from wavebase.experiment.session import Session
from wavebase.records import checkpoints
from wavebase.records import folder as folders
from wavebase.records.atomic import RecordsError
from wavebase.records.folder import RunFolder
from wavebase.training.interruption import Interrupted, Interruption

QUICK = (*SMALL, "train.steps=8", "train.log_every=1", "train.checkpoint_every=1", "probe.every=4",
         "probe.measure=[function.held_out_error,drift.weight_drift]")  # fmt: skip


def go(node, path):
    runner.run(runner.Job(node, path, {"model": "test"}), single=False)


@pytest.fixture
def stopped(monkeypatch):
    """stopped(node, path, at) -> runs it up to that step, where a signal comes."""

    def go_on(node, path, at=4):
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            answers = iter([False] * at)
            patch.setattr(Interruption, "__call__", lambda self: next(answers, True))
            go(node, path)

    return go_on


def test_keep_checkpoints_keeps_the_first_the_last_and_the_end(composed, stopped, tmp_path):
    go(composed(*QUICK), tmp_path / "all")
    assert RunFolder(tmp_path / "all").checkpoint_steps() == list(range(9))
    node = composed(*QUICK, "train.keep_checkpoints=2")
    stopped(node, tmp_path / "run")
    assert RunFolder(tmp_path / "run").checkpoint_steps() == [0, 2, 3, 4]
    go(node, tmp_path / "run")
    assert RunFolder(tmp_path / "run").checkpoint_steps() == [0, 6, 7, 8]
    whole, kept = contents(tmp_path / "all"), contents(tmp_path / "run")
    assert same(whole["checkpoints"][8], kept["checkpoints"][8]) is None
    with pytest.raises(config.ConfigError, match=r"train.keep_checkpoints must be at least 1, got 0; use null"):
        config.parse(composed(*QUICK, "train.keep_checkpoints=0"))


def test_checkpoints_that_are_newer_than_the_run_protect_no_older_one(composed, stopped, tmp_path):
    """A run that goes back to an older checkpoint, because a newer one is broken, does not count that one."""
    node = composed(*QUICK, "train.keep_checkpoints=1")
    stopped(node, tmp_path / "run")
    broken = tmp_path / "run" / "checkpoints" / "step_00000004.pt"
    broken.write_bytes(b"broken")
    found = RunFolder(tmp_path / "run")
    assert found.newest_checkpoint()["step"] == 3
    found.start(runner.config_text(node), found.load_checkpoint(3)["metrics_bytes"])
    found.save_checkpoint(3, {}, keep=1)
    found.abandon()
    assert found.checkpoint_steps() == [0, 3, 4]


def test_a_long_run_has_flat_memory(tmp_path):
    found, state = RunFolder(tmp_path / "run"), {"a": list(range(50))}
    found.start("T: 4\n")

    def write(steps):
        for step in steps:
            found.log(step, {"loss/train": 1.0 / (step + 1)})
            if step % 20 == 0:
                found.save_checkpoint(step, state, keep=3)

    write(range(200))
    tracemalloc.start()
    write(range(200, 400))
    gc.collect()  # torch.save leaves circles
    before = tracemalloc.get_traced_memory()[0]
    write(range(400, 1200))
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    found.abandon()
    assert grown < 50_000 and found.checkpoint_steps() == [0, 1120, 1140, 1160, 1180]


def test_every_part_of_a_run_is_recorded_and_a_change_is_told(composed, stopped, tmp_path, monkeypatch, caplog):
    node = composed(*QUICK)
    stopped(node, tmp_path / "same")
    shutil.copytree(tmp_path / "same", tmp_path / "other")
    go(node, tmp_path / "same")
    summary = RunFolder(tmp_path / "same").summary()
    first, second = summary["parts"]
    assert (first["step"], second["step"]) == (0, 4) and {**first, "step": 4} == second and summary["changes"] == []
    assert first["kernel"] in ("avx512", "avx2", "plain") or first["kernel"].endswith("bits")
    assert set(first) >= {"launcher", "torch", "wavebase", "torch_kernel"} and "last digits" not in caplog.text
    monkeypatch.setattr(parts.lstm, "vectors", lambda: "another")
    go(node, tmp_path / "other")
    (line,) = RunFolder(tmp_path / "other").summary()["changes"]
    assert line.startswith(f"from step 4 on with kernel another (before: {first['kernel']})") and line in caplog.text
    assert RunFolder(tmp_path / "other").load_checkpoint(8)["parts"][1]["kernel"] == "another"


def old_config(folder, change):
    node = yaml.safe_load((folder / "config.yaml").read_text())
    change(node)
    (folder / "config.yaml").write_text(yaml.safe_dump(node))


def before_the_keys_existed(node):
    del (
        node["train"]["keep_checkpoints"],
        node["probe"]["curvature_batch"],
        node["seeds"]["probe"],
        node["model"]["input_gate"],
    )
    del node["task"]["held_out_count"], node["optim"]["momentum"]


def other_machine(node):
    node["threads"], node["device"], node["probe"]["figures"] = 3, "cpu", ["train_loss"]


@pytest.mark.parametrize("change", [before_the_keys_existed, other_machine])
def test_a_run_is_the_same_with_defaults_left_out_and_on_another_machine(change, composed, stopped, tmp_path):
    node = composed(*QUICK, "task.held_out_count=64", "probe.curvature_batch=256")
    go(node, tmp_path / "whole")
    stopped(node, tmp_path / "run")
    old_config(tmp_path / "run", change)
    go(node, tmp_path / "run")
    assert RunFolder(tmp_path / "run").summary()["steps"] == 8
    assert same(contents(tmp_path / "whole"), contents(tmp_path / "run")) is None
    before = (tmp_path / "run" / "summary.json").read_bytes()
    go({**node, "threads": 2}, tmp_path / "run")
    assert (tmp_path / "run" / "summary.json").read_bytes() == before, "it was finished"


@pytest.mark.parametrize("path, value", [("T", 5), ("seed", 1), ("optim.lr_over_boundary", 0.25), ("model.input_gate", "sigmoid"), ("probe.every", 3)])  # fmt: skip
def test_another_value_is_another_run(path, value, composed, stopped, tmp_path):
    node = composed(*QUICK)
    stopped(node, tmp_path / "run", 1)

    def change(stored):
        *above, last = path.split(".")
        for key in above:
            stored = stored[key]
        assert stored.get(last) != value
        stored[last] = value

    old_config(tmp_path / "run", change)
    with pytest.raises(
        RecordsError, match=r"must be new or hold this very configuration, got another run's; use resume=false"
    ):
        go(node, tmp_path / "run")


def test_a_recording_is_its_content(composed, stopped, tmp_path):
    def record(seed):
        np.save(tmp_path / "x.npy", np.random.default_rng(seed).normal(size=500))

    node = composed(*QUICK, "signal=file", f"signal.path={tmp_path}/x.npy")
    record(0)
    stopped(node, tmp_path / "run")
    record(1)
    with pytest.raises(RecordsError, match="with the recording that it began with, got another content of"):
        go(node, tmp_path / "run")
    record(0)
    go(node, tmp_path / "run")
    record(1)
    with pytest.raises(RecordsError, match="with the recording that it began with"):
        go(node, tmp_path / "run")
    (tmp_path / "x.npy").unlink()
    go(node, tmp_path / "run")


@pytest.mark.parametrize("key", ["start_from", "weights"])
def test_a_start_is_its_content(key, composed, stopped, tmp_path):
    """A file of weights that was replaced: the old result was once returned for it, and drift measured from it."""
    if key == "start_from":
        words, file = ("model=spectral",), tmp_path / "start.pt"
        given, make = file, lambda net: torch.save(net.named_weights(), file)
    else:
        words = ("experiment=harmonic_forecast", "model=learned_prior", "model.width=4", "signal.periods=[2,9]", "model.periods=[2,9]", "T=20", "task.horizon=4", "optim=adam", "optim.lr=0.001")  # fmt: skip
        given, file = tmp_path / "theirs", tmp_path / "theirs" / "checkpoints" / "step_00000003.pt"
        file.parent.mkdir(parents=True)
        make = lambda net: torch.save({"net": net.state_dict()}, file)  # noqa: E731
    node = composed(*words, *QUICK[1:], "probe.measure=[]", *(["T=4"] if key == "start_from" else []))
    net = build.build_components(config.parse(node), learning_rate=1e-3).net
    node["model"][key] = str(given)
    make(net)
    before = file.read_bytes()
    stopped(node, tmp_path / "run")
    with torch.no_grad():
        next(net.parameters()).add_(1e-3)
    make(net)
    for _ in range(2):
        with pytest.raises(RecordsError, match=r"with the start that it began with, got another content of .*\.pt; "):
            go(node, tmp_path / "run")
        changed, _ = file.read_bytes(), file.write_bytes(before)
        go(node, tmp_path / "run")  # to its end
        file.write_bytes(changed)
    file.unlink()
    go(node, tmp_path / "run")


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_folder_that_is_removed_under_a_run_ends_it_at_the_next_write(how, cli, tmp_path, monkeypatch):
    steps, observe = [], Session._observe

    def removing(self, step):
        observe(self, step)
        steps.append(step)
        if step == 4:
            folder = tmp_path / "run"
            folder.rename(tmp_path / "elsewhere")
            if how == "removed":
                shutil.rmtree(tmp_path / "elsewhere")
            elif how == "replaced":
                folder.mkdir()
                (folder / "metrics.jsonl").touch()

    monkeypatch.setattr(Session, "_observe", removing)
    status, _, err = cli(*QUICK, "train.checkpoint_every=3", "hydra.run.dir=run")
    assert status == 1 and err.count("\n") == 1 and "run must stay in place while its run is written" in err, err
    assert steps == [0, 4] and not (tmp_path / "run" / "summary.json").exists()


WRONG = {  # what becomes of one entry of a checkpoint
    "no step": ("step", lambda step: None), "a step beyond the run": ("step", lambda step: 99),
    "no time": ("seconds", lambda seconds: "x"), "values": ("values", lambda values: 1), "nested values": ("values", lambda values: {"a": {}}),
    "an end that is none": ("ended", lambda ended: torch.ones(2)), "a rate": ("learning_rate", lambda rate: "fast"),
    "parts": ("parts", lambda parts: [1]), "no generator": ("data", lambda data: None), "no weights": ("net", lambda net: {}),
    "a weight's shape": ("net.bias_ih_cell", lambda w: w[:-1].clone()), "a weight's dimension": ("net.bias_ih_cell", lambda w: w[:, None]),
    "an empty weight": ("net.weight_hh_cell", lambda w: w[:0].clone()), "a weight that is none": ("net.weight_hh_cell", lambda w: w.tolist()),
    "complex": ("net.weight_hh_cell", lambda w: w.to(torch.complex128)), "integer": ("net.weight_hh_cell", lambda w: w.int()),
    "float32": ("net.weight_hh_cell", lambda w: w.float()), "a surplus weight": ("net", lambda net: {**net, "x": torch.ones(2)}),
    "no optimiser": ("optimizer", lambda saved: 3), "no groups": ("optimizer.param_groups", lambda groups: []),
    "fewer parameters": ("optimizer.param_groups.0.params", lambda numbers: numbers[1:]), "a setting": ("optimizer.param_groups.0.betas", lambda betas: None),
    "a state's shape": ("optimizer.state.0.exp_avg", lambda mean: mean[:-1].clone()), "a state's dtype": ("optimizer.state.0.exp_avg", lambda mean: mean.to(torch.complex128)),
    "a state that is none": ("optimizer.state.0", lambda state: {"step": state["step"]}), "another's state": ("optimizer.state", lambda state: {**state, 99: state[0]}),
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(composed, tmp_path_factory):
    """A configuration, the folder of its run with one checkpoint, of step 2, and what that holds."""
    folder = tmp_path_factory.mktemp("forged") / "run"
    node = composed(*QUICK, "train.steps=2", "optim=adam", "probe.measure=[]")
    go(node, folder)
    (folder / "summary.json").unlink()
    for step in (0, 1):
        (folder / "checkpoints" / f"step_{step:08d}.pt").unlink()
    return node, RunFolder(folder), RunFolder(folder).load_checkpoint(2)


@pytest.mark.parametrize("where,change", WRONG.values(), ids=WRONG)
def test_a_checkpoint_of_something_else_ends_in_one_line(where, change, checkpoint):
    """Each of these once ended in a traceback of torch's at the first step, or trained on as another run."""
    node, found, state = checkpoint
    state = copy.deepcopy(state)
    *above, last = [int(key) if key.isdigit() else key for key in where.split(".")]
    at = functools.reduce(operator.getitem, above, state)
    at[last] = change(at[last])
    checkpoints.save(found.checkpoint_file(2), state)
    with pytest.raises(RecordsError, match="must hold checkpoints of this run, got one of step") as caught:
        runner.prepare(runner.Job(node, found.path, {}))
    assert "\n" not in str(caught.value) and str(caught.value).endswith("delete it to use an older one")
    if where.startswith("net"):
        with pytest.raises(RecordsError, match=r"must hold checkpoints of the net in its config\.yaml"):
            build.load_run(found)


def test_a_checkpoint_as_it_was_written_is_taken(checkpoint):
    """The control of the test above; checking an optimiser's state takes a step, of which nothing stays."""
    node, found, state = checkpoint
    checkpoints.save(found.checkpoint_file(2), state)
    session = runner.prepare(runner.Job(node, found.path, {}))
    assert session.first_step == 2 and same(dict(session.components.net.state_dict()), state["net"]) is None
    assert same(session.components.optimizer.state_dict(), state["optimizer"]) is None
    assert all(p.grad is None for p in session.components.net.parameters())


def test_json_of_the_summary_is_strict(tmp_path):
    found = RunFolder(tmp_path / "run")
    found.start("T: 4\n")
    found.finish({"status": "done", "x": float("nan"), "y": (1, float("inf"))})
    text = (tmp_path / "run" / "summary.json").read_text()
    assert json.loads(text)["x"] is None and "NaN" not in text and "Infinity" not in text
    assert folders.RunFolder(tmp_path / "run").summary()["y"] == [1, None]
