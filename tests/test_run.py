"""The command line: options act, wrong values end in one line, records hold what the contracts say."""

import functools
import json
import math

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import FEW, FULL, ONE_PROBE, SMALL
from wavebase.experiment import runner
from wavebase.records.atomic import RecordsError
from wavebase.records.folder import RunFolder, find_runs
from wavebase.training import interruption

QUICK = ("train.steps=6", "train.batch=4", "task.held_out_count=8", "probe.figures=[]", "probe.every=3", "T=4", FEW)
ENDS = (*QUICK, "probe.measure=[function.held_out_error,drift.weight_drift]")
DRAWN = "probe.draw=true"  # as a run alone


def numbers(folder):
    """metrics.jsonl without the times."""
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


@pytest.mark.draws
class TestRecords:
    @pytest.mark.parametrize("model", ["spectral", "random"] if FULL else ["spectral"])
    def test_float32_has_every_figure_too(self, model, ran):
        folder = ran(
            *QUICK[:3], "T=4", "dtype=float32", f"model={model}", "probe.curvature=false", "optim.lr=0.01", DRAWN
        )
        figures = {file.stem for file in (folder.path / "figures").iterdir()}
        assert figures >= {"weight_hh_init", "train_loss", "spectrum"}, figures

    def test_a_run_leaves_what_the_contract_says(self, ran):
        folder = ran(
            "T=4",
            "train.steps=20",
            "train.batch=4",
            "task.held_out_count=8",
            "probe.every=10",
            "train.checkpoint_every=10",
            "probe.dashboard=all",
            DRAWN,
        )
        files = {file.name for file in folder.path.iterdir()}
        assert {"config.yaml", "metrics.jsonl", "checkpoints", "figures", "summary.json", "examples.npz"} <= files
        figures = {file.name for file in (folder.path / "figures").iterdir()}
        names = ("weight_hh_init", "weight_hh_change", "train_loss", "drift", "distance", "spectrum", "gen_eigenvalues")
        assert figures == {f"{name}.png" for name in names}
        assert folder.checkpoint_steps() == [0, 10, 20]
        summary = folder.summary()
        assert summary["status"] == "done" and summary["verdict"] == "unmoved" and summary["steps"] == 20
        assert summary["relative_error"]["initial"] < 1e-13 and summary["relative_error"]["final"] < 1e-12
        assert 0 < summary["baseline"]["mean"] < summary["baseline"]["zero"]
        assert set(summary["loss"]) == {"initial", "final"} and summary["optim"]["lr_over_boundary"] == pytest.approx(
            0.5
        )
        assert {"weight_hh_cell", "weight_hh_input", "weight_hh_forget", "weight_hh_output"} <= set(summary["drift"])
        assert summary["versions"]["torch"] and set(summary["git"] or {"commit": 0, "changed": 0}) == {
            "commit",
            "changed",
        }
        assert summary["seed"] == 0 and summary["seconds"] > 0 and summary["metrics"]["relative_error"] < 1e-12
        series = folder.metrics()
        assert list(series["error/tones"][0]) == [0, 10, 20] and list(series["loss/train"][0]) == [0, 10]
        assert np.isfinite(series["drift/weight_hh_cell"][1]).all()

        events = EventAccumulator(str(folder.path), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()
        tags = events.Tags()
        wanted = {"loss/train", "loss/relative", "error/white_noise", "drift/weight_hh_cell", "spectrum/gen_radius_max"}
        assert wanted | {"curvature/lambda_max"} <= set(tags["scalars"])
        assert tags["images"] == ["weights/weight_hh_cell"] and len(events.Images("weights/weight_hh_cell")) == 2
        assert "verdict/text_summary" in tags["tensors"]
        assert "_hparams_/session_start_info" in events.summary_metadata
        for tag in wanted:
            steps = [event.step for event in events.Scalars(tag)]
            assert steps == sorted(set(steps)) == list(series[tag][0])

    def test_same_command_same_numbers(self, ran):
        one, two = ran(*QUICK, name="one"), ran(*QUICK, name="two")
        assert numbers(one) == numbers(two)
        assert all(torch.equal(w, two.load_checkpoint(6)["net"][n]) for n, w in one.load_checkpoint(6)["net"].items())

    def test_a_finished_run_is_left_alone_and_resume_false_takes_a_new_folder(self, ran, composed, tmp_path):
        folder = ran(*ENDS)
        before = (folder.path / "summary.json").stat().st_mtime_ns
        ran(*ENDS)
        assert (folder.path / "summary.json").stat().st_mtime_ns == before
        runner.run(runner.Job(composed(*ENDS, "resume=false"), folder.path, {}), single=False)
        assert RunFolder(tmp_path / "run-2").summary()["status"] == "done"
        with pytest.raises(RecordsError, match="another run's"):
            runner.run(runner.Job(composed(*ENDS, "seed=5"), folder.path, {}), single=False)

    def test_an_interrupted_run_continues_to_the_same_numbers(self, ran, composed, tmp_path, monkeypatch):
        whole = ran(*ENDS, "train.checkpoint_every=2", "optim=adam", name="whole")
        stop_at = iter([False] * 5 + [True])
        monkeypatch.setattr(interruption.Interruption, "__call__", lambda self: next(stop_at, False))
        with pytest.raises(interruption.Interrupted, match="step 5"):
            ran(*ENDS, "train.checkpoint_every=2", "optim=adam", name="cut")
        assert RunFolder(tmp_path / "cut").summary()["status"] == "interrupted"
        with (tmp_path / "cut" / "metrics.jsonl").open("ab") as file:
            file.write(b'{"step": 5, "loss/tr')  # a process killed while writing
        cut = ran(*ENDS, "train.checkpoint_every=2", "optim=adam", name="cut")
        assert numbers(cut) == numbers(whole)
        ours, theirs = cut.load_checkpoint(6), whole.load_checkpoint(6)
        assert all(torch.equal(weight, theirs["net"][name]) for name, weight in ours["net"].items())
        events = EventAccumulator(str(cut.path)).Reload()
        assert [event.step for event in events.Scalars("loss/held_out")] == [0, 3, 6]
        assert "custom_scalars__config__" in events.Tags()["tensors"]

    def test_a_broken_checkpoint_gives_way_to_an_older_one(self, ran, caplog):
        folder = ran(*ENDS, "train.checkpoint_every=2")
        expected = numbers(folder)
        (folder.path / "summary.json").unlink()
        (folder.path / "checkpoints" / "step_00000006.pt").write_bytes(b"cut off")
        again = ran(*ENDS, "train.checkpoint_every=2")
        assert numbers(again) == expected and "must be a readable checkpoint" in caplog.text

    def test_unreadable_records_are_named(self, tmp_path):
        with pytest.raises(RecordsError, match="must exist"):
            find_runs(tmp_path / "none")
        (tmp_path / "summary.json").write_text("{")
        with pytest.raises(RecordsError, match="readable JSON"):
            RunFolder(tmp_path).summary()
        (tmp_path / "metrics.jsonl").write_text('{"step": 0, "a": 1}\n{"st\n{"step": 2, "a": 2}\n')
        with pytest.raises(RecordsError, match="in line 2"):
            RunFolder(tmp_path).metrics()

    def test_a_run_over_the_boundary_is_told_apart(self, ran):
        settings = (
            "T=4",
            "train.steps=150",
            "train.batch=16",
            "task.held_out_count=16",
            "probe.figures=[]",
            "model.eps=0.03125",
        )
        under = ran(*settings, "optim.lr_over_boundary=0.5", name="under").summary()
        over = ran(*settings, "optim.lr_over_boundary=3", name="over").summary()
        assert under["verdict"] in ("preserved", "deformed") and over["verdict"] in ("broken", "diverged")
        assert (
            over["relative_error"]["final"] is None
            or over["relative_error"]["final"] > 10 * under["relative_error"]["final"]
        )


def start_and_end(ran, name, *overrides):
    folder = ran(*ENDS, *overrides, name=name)
    return folder.load_checkpoint(0)["weights"], folder.load_checkpoint(6)["weights"], folder


@pytest.fixture(scope="module")
def unchanged(run_once, tmp_path_factory):
    """unchanged("model=random") -> the weights of such a run at its start and its end; each is run once."""

    @functools.cache
    def go(*overrides):
        folder = run_once(tmp_path_factory.mktemp("unchanged") / "run", *ENDS, *overrides)
        return folder.load_checkpoint(0)["weights"], folder.load_checkpoint(6)["weights"]

    return go


@pytest.mark.parametrize(
    "base,change,where",
    [
        ((), "seeds.data=7", "end"),
        (("model=random",), "seeds.init=7", "start"),
        (("model=perturbed",), "seeds.perturbation=7", "start"),
        ((), "signal=sinusoids", "start"),
        ((), "signal=chirp", "end"),
        ((), "signal=tones", "end"),
        ((), "signal=impulse", "end"),
        ((), "signal.amplitude=0.5", "start"),
        ((), "signal.distribution=gaussian", "end"),
        ((), "task.normalisation=power", "start"),
        ((), "task.windows=2", "end"),
        ((), "optim.momentum=0.9", "end"),
        ((), "optim.schedule=cosine", "end"),
        ((), "optim.schedule=linear", "end"),
        ((), "optim.warmup=3", "end"),
        ((), "optim.clip_norm=1e-6", "end"),
        ((), "optim.weight_decay=0.1", "end"),
        ((), "optim.lr_over_boundary=0.1", "end"),
        ((), "optim.lr=1e-20", "end"),
        ((), "train.parameters=[weight_hh_cell]", "end"),
        ((), "train.initial_state=true", "end"),
        ((), "train.batch=5", "end"),
        ((), "model.preset=trainable", "start"),
        ((), "model.eps=0.01", "start"),
        ((), "model.gains.s1=0.5", "start"),
        ((), "model.margin=20", "start"),
        ((), "model.amplitude=3", "start"),
        ((), "dtype=float32", "start"),
        (("model=perturbed",), "model.perturbation.scale=0.1", "start"),
        (("model=perturbed",), "model.perturbation.kind=rotation", "start"),
        (("model=perturbed",), "model.perturbation.weights=[weight_hh_input]", "start"),
    ],
)
def test_each_option_changes_what_it_should(base, change, where, ran, unchanged):
    # eps large enough that updates survive the rounding of the weights
    exact_gains = "preset" not in change and "eps" not in change and "model=random" not in base
    common = (*base, "model.eps=0.02") if exact_gains else base
    if "schedule" in change or "warmup" in change or "clip" in change:
        common = (*common, "model=perturbed")
    plain_start, plain_end = unchanged(*common)
    start, end, _ = start_and_end(ran, "changed", *common, change)
    same_start = all(torch.equal(weight, plain_start[name]) for name, weight in start.items())
    same_end = all(torch.equal(weight, plain_end[name]) for name, weight in end.items())
    assert same_start == (where == "end") and not same_end


@pytest.mark.parametrize(
    "words,known",
    [
        ((), True),
        (("optim.schedule=cosine",), False),
        (("optim.clip_norm=1",), False),
        (("task.off_task_steps=3",), False),
        (("model=random",), False),
        (("task.label_noise=0",), False),
    ],
)
def test_what_label_noise_explains_is_said_only_where_the_law_holds(words, known, ran):
    summary = ran(*QUICK, ONE_PROBE, "task.label_noise=0.1", *words).summary()
    assert (summary["label_noise"] is not None) == known
    assert not known or 0 < summary["label_noise"]["expected_error"] < 0.1


@pytest.mark.parametrize("name", ["seeds.init=7", "seeds.perturbation=7", "seeds.probe=7"])
def test_seeds_leave_the_other_draws_alone(name, ran, unchanged):
    start, end, _ = start_and_end(ran, "changed", name, "optim.lr=1e-20")
    (plain, _), (_, still) = unchanged(), unchanged("optim.lr=1e-20")
    assert all(torch.equal(weight, still[key]) for key, weight in end.items())
    assert all(torch.equal(weight, plain[key]) for key, weight in start.items())


def test_the_seed_of_the_data_leaves_start_and_held_out_data_alone(ran):
    settings = (*QUICK, ONE_PROBE, "model=perturbed", "model.eps=0.02", "train.log_every=1")
    one, two = ran(*settings, name="one"), ran(*settings, "seeds.data=7", name="two")
    for name in ("loss", "relative_error"):
        assert one.summary()[name]["initial"] == two.summary()[name]["initial"]
    assert one.summary()["baseline"] == two.summary()["baseline"]
    assert (one.metrics()["loss/train"][1] != two.metrics()["loss/train"][1]).all()


def test_frozen_weights_stay_and_only_they(ran):
    start, end, folder = start_and_end(
        ran, "run", "train.parameters=[weight_hh_cell,bias_*]", "model=perturbed", "model.eps=0.02"
    )
    moved = {name for name, weight in end.items() if not torch.equal(weight, start[name])}
    assert moved and moved <= {n for n in start if n == "weight_hh_cell" or n.startswith("bias_")}
    assert folder.summary()["drift"]["weight_hh_input"] == 0


def test_a_weight_in_which_the_loss_is_flat_has_no_boundary(ran):
    """The output gates of the exact net are saturated, to the last digit."""
    optim = ran(*SMALL, "train.parameters=[weight_hh_output]", "optim.lr=0.1", "probe.curvature=true").summary()[
        "optim"
    ]
    assert optim["lambda_max"] == 0 and optim["boundary"] is None and optim["lr_over_boundary"] is None


@pytest.mark.parametrize(
    "words,complaint",
    [
        (["T=1"], "T must be a window of at least 2"),
        (["T=eight"], "T must be a whole number, got 'eight'"),
        (["model.bins=[0,9]"], "bins must be distinct numbers in 0..7"),
        (["model.bins=some"], "bins must be"),
        (["modle=spectral"], "did you mean model"),
        (["model=spectrl"], "did you mean spectral"),
        (["optim.lrr=1"], "did you mean optim.lr"),
        (["+model.preste=exact"], "did you mean preset"),
        (["+foo=1"], "foo must be a known key"),
        (["+optim.nesterof=true"], "did you mean nesterov"),
        (["+train.step=3"], "did you mean steps"),
        (["model.preset=perfect"], "model.preset must be one of exact, trainable"),
        (["model.gains.s1=0"], "s1 must be finite and not zero"),
        (["model.gains.s1=inf"], "s1 must be finite and not zero"),
        (["model.margin=none"], "model.margin must be a number, got 'none'"),
        (["signal=file"], "signal.path must be given"),
        (["signal=file", "signal.path=nowhere.wav"], "which is no file"),
        (["train.steps=-1"], "train.steps must be at least 0"),
        (["train.parameters=[weight_hh_sell]"], "did you mean weight_hh_cell"),
        (["optim.lr=-1"], "optim.lr must be positive"),
        (["optim.lr_over_boundary=null"], "optim.lr or optim.lr_over_boundary must be given"),
        (
            ["optim=adam", "optim.lr=0.1", "optim.lr_over_boundary=0.5"],
            "from the command line; set one of them to null",
        ),
        (["T=[4"], "what Hydra understands"),
        (["optim.momentum=-3"], "optim.momentum must lie in"),
        (["optim._target_=os.system"], "must name what is registered for it, got 'os.system'; see conf/optim"),
        (["optim._target_=torch.optim.SDG"], "did you mean torch.optim.SGD?"),
        (["dtype=float16"], "dtype must be one of float32, float64"),
        (["device=tpu"], "device must be auto, cpu, cuda"),
        (["device=cuda:7"], "device=cuda:7 must exist"),
        (["seed=-1"], "seed must lie in"),
        (["task.training_count=9223372036854775808"], "task.training_count must lie in -2^63..2^63-1"),
        (["train.batch=9223372036854775808"], "train.batch must lie in -2^63..2^63-1"),
        (["model.bins=[0,99999999999999999999]"], "model.bins.1 must lie in -2^63..2^63-1"),
        (["task.training_count=1000000000000"], "signals must fit into"),
        (["threads=0"], "threads must be at least 1"),
        (["task.windows=0"], "task.windows must be at least 1"),
        (["probe.measure=[function.nothing]"], "probe.measure must name what is registered for it"),
        (["dtype=float32", "T=64", "model.eps=1e-20"], "underflows at states"),
    ],
)
def test_wrong_values_end_in_one_line(words, complaint, cli, tmp_path):
    status, out, err = cli(*words)
    assert status == 1 and complaint in err, err
    assert "Traceback" not in err and len(err.strip().splitlines()) == 1 and not out
    assert not list(tmp_path.iterdir()), "nothing half-written"


def test_a_window_longer_than_the_recording(cli, tmp_path):
    np.save(tmp_path / "short.npy", np.ones(40))
    status, _, err = cli("signal=file", f"signal.path={tmp_path}/short.npy", "T=16")
    assert status == 1 and "use T=8 or less" in err and {file.name for file in tmp_path.iterdir()} == {"short.npy"}


def test_a_recording_trains(cli, tmp_path):
    np.save(tmp_path / "wave.npy", np.sin(np.arange(400)))
    status, out, _ = cli(*SMALL, "signal=file", f"signal.path={tmp_path}/wave.npy", "hydra.run.dir=here")
    assert status == 0 and "unmoved" in out
    assert RunFolder(tmp_path / "here").summary()["relative_error"]["final"] < 1e-12


def test_a_failed_job_runs_when_its_cause_is_gone(cli, tmp_path):
    words = (
        "-m",
        *SMALL,
        ONE_PROBE,
        "signal=file",
        f"signal.path={tmp_path}/late.npy",
        "seed=1,2",
        "hydra.sweep.dir=sweep",
    )
    assert cli(*words)[0] == 1 and all(f.summary()["status"] == "failed" for f in find_runs(tmp_path / "sweep"))
    np.save(tmp_path / "late.npy", np.sin(np.arange(400)))
    status, out, err = cli(*words)
    assert status == 0, out + err
    assert [f.summary()["status"] for f in find_runs(tmp_path / "sweep")] == ["done", "done"]


def test_a_failure_on_the_way_loses_no_records(ran, composed, tmp_path, monkeypatch):
    from wavebase.experiment.summary import mark_failed

    whole = ran(*ENDS, "train.checkpoint_every=2", name="whole")
    job = runner.Job(composed(*ENDS, "train.checkpoint_every=2"), tmp_path / "cut", {})
    with monkeypatch.context() as patch:
        patch.setattr(
            interruption.Interruption,
            "__call__",
            lambda self: 1 / 0 if len(list(job.path.rglob("*.pt"))) > 2 else False,
        )
        with pytest.raises(ZeroDivisionError):
            runner.run(job, single=False)
    mark_failed(job.path, runner.config_text(job.node), "broken", "", {})
    assert RunFolder(job.path).summary()["status"] == "failed" and RunFolder(job.path).metrics()
    runner.run(job, single=False)
    assert numbers(RunFolder(job.path)) == numbers(whole)


def test_a_sweep_goes_on_past_a_failing_job_and_names_it(cli, tmp_path):
    status, out, err = cli("-m", *SMALL, ONE_PROBE, "model=spectral,random", "T=4,1", "hydra.sweep.dir=sweep")
    assert status == 1 and out.count("failed: ") == 2 and "T must be a window" in out and "4 runs, 2 failed" in out
    assert {file.name for file in (tmp_path / "sweep").iterdir() if file.is_file()} >= {
        "summary.csv",
        "runs.csv",
        "train_loss.png",
    }
    statuses = sorted(folder.summary()["status"] for folder in find_runs(tmp_path / "sweep"))
    assert statuses == ["done", "done", "failed", "failed"] and "Traceback" not in err


def test_a_sweep_over_seeds_becomes_one_row_a_model_and_the_report_rebuilds_it(cli, tmp_path, monkeypatch, capsys):
    status, out, _ = cli("-m", *SMALL, "model=spectral,random", "seed=range(0,2)", "hydra.sweep.dir=sweep")
    assert status == 0
    table = (tmp_path / "sweep" / "summary.csv").read_text()
    rows = table.splitlines()
    assert (
        len(rows) == 3 and rows[1].startswith("spectral,2,0,unmoved") and rows[2].startswith("random,2,0,no algorithm")
    )
    assert max(map(len, out[out.index("relative error on") :].splitlines())) <= 80 + 60  # folder names may be long
    for name in ("summary.csv", "runs.csv", "train_loss.png"):
        (tmp_path / "sweep" / name).unlink()
    from wavebase.report import __main__

    monkeypatch.setattr("sys.argv", ["report", str(tmp_path / "sweep")])
    __main__.main()
    assert (tmp_path / "sweep" / "summary.csv").read_text() == table and (
        tmp_path / "sweep" / "train_loss.png"
    ).is_file()
    assert "4 runs, 0 failed" in capsys.readouterr().out
    status, _, _ = cli("-m", *SMALL, "model=spectral,random", "seed=range(0,2)", "hydra.sweep.dir=sweep")
    assert status == 0, "a finished sweep is left as it is"


@pytest.mark.parametrize("launcher", ["basic", "stacked"])
def test_a_sweep_finds_its_own_folder_again(launcher, cli, tmp_path):
    words = ("-m", *SMALL, ONE_PROBE, "seed=1,2", f"hydra/launcher={launcher}")
    status, out, _ = cli(*words)
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert status == 0 and "2 runs, 0 failed" in out and len(find_runs(folder)) == 2
    times = [(found.path / "summary.json").stat().st_mtime_ns for found in find_runs(folder)]
    assert cli(*reversed(words[1:]), "-m")[0] == 0
    assert [(found.path / "summary.json").stat().st_mtime_ns for found in find_runs(folder)] == times


def test_report_refuses_what_is_not_there(monkeypatch, capsys, tmp_path):
    from wavebase.report import __main__

    for words, complaint in ((["nowhere"], "must exist"), ([str(tmp_path)], "must hold runs"), ([], "usage")):
        monkeypatch.setattr("sys.argv", ["report", *words])
        with pytest.raises(SystemExit) as stop:
            __main__.main()
        said = capsys.readouterr()
        assert stop.value.code == 1 and complaint in said.err + said.out


def test_diverging_is_a_result_not_a_failure(ran):
    folder = ran(*QUICK, "model=random", "optim.lr=1e300", "train.log_every=1", "probe.every=1")
    steps = list(folder.metrics()["loss/held_out"][0])
    assert steps == sorted(set(steps)), "no step is recorded twice"
    summary = folder.summary()
    assert summary["status"] == "diverged" == summary["verdict"]
    assert summary["relative_error"]["final"] is None or math.isfinite(summary["relative_error"]["final"])


@pytest.mark.parametrize(
    "words", [(), ("experiment=harmonic_forecast", "resume=false"), ("optim=adam", "trust=[math]")]
)
def test_the_text_of_a_configuration_is_that_of_its_parts(words, composed):
    """All other tests put a config.yaml together of parts that were written before (conftest.py)."""
    node, whole = composed(*words), runner.config_text.__wrapped__
    text = whole(node)
    assert runner.config_text(node) == text and runner.config_text(node) == text, "the second time of known parts"
    assert yaml.safe_load(text) == {
        key: value for key, value in node.items() if key != "resume" and (key != "trust" or value)
    }
    node["seed"] += 1
    assert runner.config_text(node) == whole(node) != text
    assert runner.config_text({"resume": True}) == whole({"resume": True})
