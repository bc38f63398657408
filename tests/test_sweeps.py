"""Sweeps as a whole: every job has a folder of its own, callbacks hear of the training, and searches get values."""

from types import SimpleNamespace

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import ConfigCompositionException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import OmegaConf

from conftest import ONE_PROBE, SMALL
from hydra_plugins.wavebase_stacked.launcher import _DeferredJobEnds
from test_launchers import needs
from wavebase.cli import composing, names, sweep_folders
from wavebase.experiment import runner, summary
from wavebase.experiment.progress import Pace
from wavebase.records.folder import RunFolder, find_runs

RANDOM = (*SMALL, ONE_PROBE, "model=random", "hydra.sweep.dir=sweep")
STACKED = ("hydra/launcher=stacked", "hydra.launcher.processes=1")
calls = []


class Recorder(Callback):
    """Notes what a job had left in its folder when Hydra said that it ended, and its value."""

    def on_job_end(self, config, job_return, **kwargs):
        folder = RunFolder(config.hydra.runtime.output_dir)
        calls.append((folder.summary()["relative_error"]["final"], job_return.return_value, job_return.status))


@pytest.mark.parametrize("launcher", ["stacked", "basic"])
@pytest.mark.parametrize(
    "words,missing",
    [
        (["seed=0,1", "optim.lr=0.1,0.2", "hydra.sweep.subdir=lr${optim.lr}"], "seed"),
        (["optim.lr=0.1,0.2", "hydra.sweep.subdir=one"], "optim.lr"),
    ],
)
def test_jobs_that_would_share_a_folder_are_refused_before_training(launcher, words, missing, cli, tmp_path):
    status, out, err = cli("-m", *RANDOM, f"hydra/launcher={launcher}", *words)
    assert status == 1 and f"for jobs that differ in {missing}" in err and err.count("\n") == 1 and not out
    assert not list(tmp_path.iterdir()), "nothing half-written"


def test_a_subdir_that_the_configuration_sets_is_checked_too(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_folders, "check_sweep", lambda *given: None)
    monkeypatch.setattr("wavebase.cli.run.check_sweep", lambda *given: None)
    status, _, err = cli("-m", *RANDOM, *STACKED, "seed=0,1", "hydra.sweep.subdir=one")
    assert status == 1 and "for jobs that differ in seed" in err
    assert not list(tmp_path.rglob("config.yaml")), "nothing was trained"


def test_a_folder_that_names_what_differs_is_none_of_its_business(cli, tmp_path):
    words = ("seed=0,1", "optim.lr=0.1,0.2", "hydra.sweep.subdir=${model.start}/${seed}_${optim.lr}")
    status, out, err = cli("-m", *RANDOM, *STACKED, *words)
    assert status == 0 and "4 runs, 0 failed" in out, "the report finds runs at any depth" + err
    assert len(list(tmp_path.glob("sweep/*/0_0.1/summary.json"))) == 1


def test_equal_jobs_are_one_run_with_one_value(cli, tmp_path):
    calls.clear()
    words = ("optim.lr=1e-1,0.1", "hydra.sweep.subdir=one", "+hydra.callbacks.r._target_=test_sweeps.Recorder")
    status, out, err = cli("-m", *RANDOM, *STACKED, *words)
    assert status == 0 and "1 run, 0 failed" in out and "written by one process" not in out + err
    assert len(calls) == 2 and calls[0] == calls[1] and 0 < calls[0][1] < 10


def test_callbacks_hear_that_a_job_ended_after_its_training(cli):
    calls.clear()
    status, _, err = cli(
        "-m", *RANDOM, *STACKED, "seed=0,1", "+hydra.callbacks.r._target_=test_sweeps.Recorder"
    )  # fmt: skip
    assert status == 0, err
    assert len(calls) == 2 and all(stored == value for stored, value, _ in calls) and calls[0] != calls[1]
    assert {state for *_, state in calls} == {JobStatus.COMPLETED}


def test_jobs_are_composed_as_hydra_does(tmp_path):
    """Swept values, groups, added and removed keys, null, lists, words and interpolations, each after another of its kind."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(names.conf_folder()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        fixed = ["T=4", "optim=adam", "+train.extra=1", "hydra.sweep.dir=here"]
        master = loader.load_configuration("config", fixed, RunMode.MULTIRUN)
        whole, made = loader.load_sweep_config, composing.JobComposer(loader)
        others = [
            "optim.betas=[0.5,0.9]",
            "optim.lr=null",
            "~optim.eps",
            "train.steps=${T}",
            "++seed=7",
            "experiment=counting",
        ]
        jobs = [[*fixed, "model=random", f"seed={seed}", f"dtype={dtype}", f"train.batch={seed}", "resume=false"]
                for seed, dtype in ((0, "float32"), (1, "'float64'"), (2, "float32"))]  # fmt: skip
        jobs += [[*fixed, f"seed={n}", other] for n, other in enumerate(others)]
        jobs += [[*fixed, "model=lstm", "+probe.new=a", f"optim.lr={rate}"] for rate in (0.1, 1)]
        for words in jobs:
            wanted, got = (compose(master_config=master, sweep_overrides=words) for compose in (whole, made))
            assert made(master, words, check=True).seed == wanted.seed
            assert OmegaConf.to_container(got) == OmegaConf.to_container(wanted), words
            assert names.run_name(_root_=got) == names.run_name(_root_=wanted)
        assert len(made.kinds) == len(jobs) - 4, "one overlaps"
        with pytest.raises(ConfigCompositionException, match=r"Could not override 'train\.nothing'"):
            made(master, [*fixed, "train.nothing=1"])


@pytest.mark.parametrize("callbacks", [[], [Callback()], [Callback(), Recorder()]])
def test_a_job_keeps_its_configurations_only_for_callbacks(callbacks):
    """What every job of a sweep keeps until the end is what thousands of them fill the memory with."""
    cfg = OmegaConf.create({"T": 4})
    ended, ends = JobReturn(cfg=cfg, hydra_cfg=cfg), _DeferredJobEnds(SimpleNamespace(callbacks=callbacks))
    ends.on_job_end(cfg, ended)
    kept = len(callbacks) == 2
    assert len(ends.ended) == kept and (ended.cfg is ended.hydra_cfg is (cfg if kept else None))


def test_a_sweep_without_jobs_is_refused(cli, tmp_path):
    status, _, err = cli("-m", *RANDOM, "seed=range(0,0)")
    assert status == 1 and "got none from seed=range(0,0)" in err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("launcher", ["stacked", "basic"])
def test_a_sweep_that_cannot_start_leaves_what_was_there(launcher, cli, tmp_path):
    wrong = ("-m", f"hydra/launcher={launcher}", "model=nonsense,spectral", "hydra.sweep.dir=mine/sweep")
    status, _, err = cli(*wrong)
    assert status == 1 and "got 'nonsense'" in err and not list(tmp_path.iterdir())
    events = tmp_path / "mine" / "sweep" / "events.out.tfevents.1.host.1.0"  # a run's own, say
    events.parent.mkdir(parents=True)
    events.write_bytes(b"numbers")
    status, _, err = cli(*wrong)
    assert status == 1 and events.read_bytes() == b"numbers"


def test_a_diverged_run_has_the_worst_value(composed, tmp_path):
    job = runner.Job(composed(*SMALL, "model=random", "optim.lr=1e300", "train.log_every=1"), tmp_path / "run", {})
    assert runner.run(job, single=False) == float("inf")
    assert runner.run(job, single=False) == float("inf"), "and so does one that is read again"
    assert summary.objective({"status": "done", "relative_error": {"final": 0.5}}) == 0.5


OPTUNA = ("hydra/sweeper=optuna", "hydra.sweeper.sampler.seed=1")


@needs("hydra_optuna_sweeper")
def test_a_diverged_trial_is_one_among_others(cli, tmp_path):
    words = (
        "optim.lr=choice(0.1,1e300,1e299)",
        "train.log_every=1",
        "hydra.sweeper.n_trials=4",
        "hydra.sweeper.n_jobs=1",
    )
    status, out, err = cli("-m", *RANDOM, *OPTUNA, *words)
    assert status == 0 and "Traceback" not in out + err, out + err
    states = {run.summary()["status"] for run in find_runs(tmp_path / "sweep")}
    assert "diverged" in states
    best = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    assert best["best_params"] == {"optim.lr": 0.1} or states == {"diverged"}


@needs("hydra_optuna_sweeper")
def test_equal_trials_of_a_batch_have_the_value_of_their_run(cli):
    words = ("optim.lr=choice(0.1,1.0)", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=4")
    status, out, err = cli("-m", *RANDOM, *OPTUNA, *STACKED, *words)
    assert status == 0 and "Failed experiment" not in out + err and "2 runs, 0 failed" in out, out + err


@needs("hydra_optuna_sweeper")
def test_a_killed_search_continues(cli, tmp_path):
    import optuna

    storage = f"sqlite:///{tmp_path}/study.db"
    words = ("optim.lr=interval(0.01,0.1)", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1",
             "hydra.sweeper.study_name=rate", f"hydra.sweeper.storage={storage}")  # fmt: skip
    study = optuna.create_study(study_name="rate", storage=storage)
    killed = study.ask({"optim.lr": optuna.distributions.UniformDistribution(0.01, 0.1)})
    for _ in range(2):
        status, out, err = cli("-m", *RANDOM, *OPTUNA, *words)
        assert status == 0 and "3 runs, 0 failed" in out, out + err
        trials = optuna.load_study(study_name="rate", storage=storage).get_trials()
        assert [trial.state.name for trial in trials] == ["FAIL", *["COMPLETE"] * 3], "the second time adds none"
        assert trials[1].params == killed.params, "the killed trial is tried again"


def test_the_pace_of_work():
    pace = Pace(100)
    assert not pace.due() and pace.text("steps") == "0 steps/s"
    pace.done, pace.began, pace.last = 20, pace.began - 10, pace.last - 10
    assert pace.due() and not pace.due()
    rate, left = pace.text("steps").split(", ")
    assert float(rate.split()[0]) == pytest.approx(2, rel=0.2) and left.endswith("left") and left.startswith("0:")


def test_a_worker_that_joblib_lost_is_the_user_s_to_resolve():
    from wavebase.cli.errors import is_expected, one_line

    kind = type("TerminatedWorkerError", (RuntimeError,), {})
    assert is_expected(kind("A worker process managed by the executor was unexpectedly terminated"))
    assert "run the same command again for the rest" in one_line(kind("terminated"))
