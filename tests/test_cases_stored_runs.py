"""Stored runs whose surroundings changed: files that are gone, checkpoints that were edited, what leaves no folder behind."""

import copy

import pytest
import torch

from conftest import ONE_PROBE, SMALL
from same_records import contents, same
from wavebase.cli.probe import probe
from wavebase.experiment import build, config, runner
from wavebase.experiment.compare import load_net
from wavebase.experiment.judge import judge_folder
from wavebase.records import checkpoints
from wavebase.records.atomic import RecordsError
from wavebase.records.folder import RunFolder
from wavebase.training.interruption import Interrupted, Interruption

QUICK = (*SMALL[1:], "train.steps=6", "train.log_every=1", "train.checkpoint_every=1", "probe.every=3")
SYSTEMS = {
    "start_from": ("model=spectral", "T=4", "model.parametrization=unit_scaled", ONE_PROBE),
    "weights": (
        "experiment=harmonic_forecast", "model=learned_prior", "model.width=4", "signal.periods=[2,9]",
        "model.periods=[2,9]", "T=20", "task.horizon=4", "optim=adam", "optim.lr=0.001", ONE_PROBE,
    ),
}  # fmt: skip


def go(node, path):
    runner.run(runner.Job(node, path, {"model": "test"}), single=False)


@pytest.fixture(params=SYSTEMS)
def from_file(request, composed, tmp_path):
    """A configuration that starts from a file of weights, the file, and the option that names it."""
    key = request.param
    node = composed(*SYSTEMS[key], *QUICK)
    net = build.build_components(config.parse(node), learning_rate=1e-3).net
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.001)
    file = tmp_path / "theirs" / "checkpoints" / "step_00000003.pt"
    file.parent.mkdir(parents=True)
    torch.save(net.named_weights() if key == "start_from" else {"net": net.state_dict()}, file)
    node["model"][key] = str(file if key == "start_from" else tmp_path / "theirs")
    return node, file, key


def test_a_run_goes_on_without_the_file_that_it_started_from(from_file, tmp_path, monkeypatch):
    """Its first checkpoint holds the same start bit for bit. It was once neither continued nor read without the file."""
    node, file, key = from_file
    go(node, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        answers = iter([False] * 3)
        patch.setattr(Interruption, "__call__", lambda self: next(answers, True))
        go(node, tmp_path / "run")
    stopped = RunFolder(tmp_path / "run")
    before, (_, components) = build.load_run(stopped), build.load_run(stopped, 0)
    file.unlink()
    assert same(build.load_run(stopped)[1].net.state_dict(), before[1].net.state_dict()) is None
    assert same(build.load_run(stopped, 0)[1].net.named_weights(), components.net.named_weights()) is None
    assert judge_folder(stopped).last.name
    if key == "start_from":
        assert load_net(tmp_path / "run").about.T == 4
    go(node, tmp_path / "run")
    assert same(contents(tmp_path / "run"), contents(tmp_path / "whole")) is None
    assert stopped.summary()["start_sha256"] == RunFolder(tmp_path / "whole").summary()["start_sha256"] is not None


def test_a_new_run_still_needs_the_file(from_file, tmp_path):
    node, file, _ = from_file
    file.unlink()
    with pytest.raises(config.ConfigError, match="must be a"):
        go(node, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("optim", ["adam", "momentum", "lbfgs", "gauss_newton", "nadam"])
@pytest.mark.parametrize("forged", [{}, {0: {}}])
def test_a_checkpoint_without_the_optimizer_s_state_is_refused(optim, forged, composed, tmp_path):
    """It was once continued with averages of zero, as another run."""
    fraction = ["optim.lr=0.001", "optim.lr_over_boundary=null"] if optim == "momentum" else []
    node = composed(
        "model=cosine", "task=reconstruction", "T=4", *QUICK, f"optim={optim}", "probe.measure=[]", *fraction
    )
    go(node, tmp_path)
    (tmp_path / "summary.json").unlink()
    folder = RunFolder(tmp_path)
    state = folder.load_checkpoint(6)
    runner.prepare(runner.Job(node, tmp_path, {}))  # the control
    changed = copy.deepcopy(state)
    changed["optimizer"]["state"] = forged
    checkpoints.save(folder.checkpoint_file(6), changed)
    with pytest.raises(
        RecordsError, match=r"of step 6 with something else \(there is no state of \w+ after 6 steps\)"
    ) as caught:
        runner.prepare(runner.Job(node, tmp_path, {}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words", [("T=4",), ("T=4", "experiment=second_argmax"), ("T=4", "task=reconstruction", "model=cosine")]
)
def test_a_batch_beyond_all_memory_leaves_no_folder(words, cli, tmp_path):
    """It was once refused at the first step, when config.yaml, records and a checkpoint had been written."""
    status, _, err = cli(*SMALL, *words, "train.batch=1000000000000", "optim.lr=0.1", "hydra.run.dir=run/one")
    assert status == 1 and err.count("\n") == 1 and "use a smaller train.batch" in err, err
    assert not (tmp_path / "run").exists()


def test_a_run_on_one_long_stream_can_be_probed(ran):
    """Its stored signal has one axis: a traceback once took the place of the spectrum."""
    folder = ran(
        "experiment=frequency_extraction", "T=100", "signal.samples=1000", "signal.duration=9.99", "train.steps=1",
        "train.batch=4", "task.held_out_count=4", "probe.figures=[]", "probe.curvature=false", "model.hidden_size=4",
    )  # fmt: skip
    said = probe(folder.path, ["draws=4", "samples=4", "panels=eigenvalues"])
    assert "spectrum.json" in said and (folder.path / "spectrum.json").is_file()
    # no algorithm is in question: the task's numbers lead, beside its baselines, and no verdict is given
    for text in (said, (folder.path / "verdict.txt").read_text()):
        assert text.startswith("step 1: relative error ") and "verdict at" not in text and "no algorithm" not in text
        first = " ".join(text.split())
        assert "(zero 0." in first and "least_squares 0." in first and "task metrics: mean_squared_error " in first
    assert max(map(len, said.splitlines()[:6])) <= 80


def test_a_random_start_beside_a_known_algorithm_keeps_its_verdict(ran):
    folder = ran("model=random", "T=4", *SMALL)
    assert judge_folder(folder).short().startswith("verdict at step 2: no algorithm")
