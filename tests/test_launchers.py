"""Other engines run the sweep: each test is skipped where its plugin is not installed (docs/sweeps.md says how)."""

import importlib.util
import os
import signal
import subprocess
import sys

import pytest

import sweep_two_hundred
from conftest import FULL, HANG, ONE_PROBE, SMALL, ForkedProcess, wait_until
from wavebase.cli import run
from wavebase.records.atomic import lock_owner
from wavebase.records.folder import find_runs


def needs(name):
    try:
        found = importlib.util.find_spec(f"hydra_plugins.{name}") is not None
    except ModuleNotFoundError:
        found = False
    return pytest.mark.skipif(not found, reason=f"{name} is not installed: pip install -e '.[{name.split('_')[1]}]'")


JOBLIB = pytest.param(
    ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], marks=needs("hydra_joblib_launcher"), id="joblib"
)
SUBMITIT = pytest.param(["hydra/launcher=submitit_local"], marks=needs("hydra_submitit_launcher"), id="submitit")
RAY = pytest.param(
    ["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=1", "+hydra.launcher.ray.init.include_dashboard=false"],
    marks=needs("hydra_ray_launcher"), id="ray",
)  # fmt: skip
STACKS = ["hydra/sweeper=stacks", "hydra.sweeper.size=2"]


def sweep(folder, *words):
    if "hydra/launcher=basic" in words:  # it starts no processes, so nothing depends on the interpreter that it runs in
        return ForkedProcess(run.main, "-m", *words, "hydra.sweep.dir=sweep", folder=folder)
    command = [sys.executable, "-m", "wavebase.run", "-m", *words, "hydra.sweep.dir=sweep"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process):
    out, err = process.communicate(timeout=HANG)
    return process.returncode, out, err


@pytest.mark.parametrize("engine", [JOBLIB, SUBMITIT, RAY])
def test_a_failing_job_is_named_and_the_others_go_on(engine, tmp_path):
    status, out, err = ended(sweep(tmp_path, *engine, *SMALL, "T=4,1", "seed=0"))
    assert status == 1 and "2 runs, 1 failed" in out and "failed: sweep/spectral-sgd-T1" in out, out + err
    assert sorted(found.summary()["status"] for found in find_runs(tmp_path / "sweep")) == ["done", "failed"]


@pytest.mark.parametrize("engine", [pytest.param(["hydra/launcher=basic"], id="basic"), SUBMITIT, JOBLIB])
def test_each_job_trains_a_stack(engine, tmp_path):
    status, out, err = ended(sweep(tmp_path, *engine, *STACKS, *SMALL, ONE_PROBE, "model=perturbed", "seed=0,1,2,3,4"))
    assert status == 0 and "5 runs, 0 failed" in out, out + err
    logs = out + err + "".join(file.read_text() for file in tmp_path.rglob("*_log.out"))
    assert logs.count("training 2 jobs together") == 2 and "training 1 job," in logs
    assert len(find_runs(tmp_path / "sweep")) == 5


def test_a_stack_of_a_job_needs_room(cli):
    status, _, err = cli("-m", "hydra/sweeper=stacks", "hydra.sweeper.size=0", *SMALL, "seed=0,1")
    assert status == 1 and "hydra.sweeper.size must be at least 1" in err


@needs("hydra_submitit_launcher")
def test_a_preempted_job_is_requeued_and_continues(tmp_path):
    words = (
        "train.steps=3000",
        "train.batch=4",
        "T=4",
        "train.checkpoint_every=100",
        "task.held_out_count=4",
        "probe.figures=[]",
    )
    process = sweep(tmp_path, "hydra/launcher=submitit_local", *words, "seed=0")
    wait_until(lambda: list(tmp_path.glob("sweep/*/checkpoints/step_00000200.pt")), process)
    (folder,) = (file.parent for file in tmp_path.glob("sweep/*/config.yaml"))
    os.kill(int(lock_owner(folder).split()[1]), signal.SIGUSR2)  # what a cluster sends before it takes a machine away
    status, out, err = ended(process)
    assert status == 0 and "1 run, 0 failed" in out, out + err
    said = "".join(file.read_text() for file in tmp_path.rglob("*_log.*"))
    assert "Requeued job" in said and "continues from step" in said
    steps = list(find_runs(tmp_path / "sweep")[0].metrics()["loss/train"][0])
    assert steps == list(range(0, 3000, 10))


@pytest.mark.parametrize("engine", [JOBLIB])
def test_a_killed_worker_leaves_a_report(engine, tmp_path):
    words = ("T=4", "train.batch=4", "task.held_out_count=4", "probe.figures=[]", "probe.curvature=false")
    process = sweep(tmp_path, *engine, *words, "train.steps=10000000", "train.checkpoint_every=20", "seed=0,1")
    wait_until(lambda: len(list(tmp_path.glob("sweep/*/checkpoints/step_00000020.pt"))) == 2, process)
    folder = next(file.parent for file in tmp_path.glob("sweep/*/config.yaml"))
    os.kill(int(lock_owner(folder).split()[1]), signal.SIGKILL)
    status, out, err = ended(process)
    assert status == 1 and "run the same command again for the rest" in err and "Traceback" not in err, err
    assert "2 runs, 0 failed, 2 unfinished" in out and out.count("unfinished: ") == 2, out


@needs("hydra_optuna_sweeper")
def test_optuna_looks_for_a_learning_rate(tmp_path):
    words = (
        "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1", "hydra.sweeper.study_name=rate",
        "hydra.sweeper.storage=sqlite:///rate.db", "optim.lr=interval(0.001,0.1)", "model=random", "optim=adam",
    )  # fmt: skip
    status, out, err = ended(sweep(tmp_path, *words, *SMALL))
    assert status == 0 and "3 runs, 0 failed" in out, out + err
    results = (tmp_path / "sweep" / "optimization_results.yaml").read_text()
    best = min(found.summary()["relative_error"]["final"] for found in find_runs(tmp_path / "sweep"))
    assert f"best_value: {best}" in results


def test_a_sweep_killed_twice_ends_with_all_its_results(tmp_path):
    count = 20 if FULL else 12
    seen = sweep_two_hundred.check(tmp_path, "stacked", count, sweep_two_hundred.Fork)
    assert f"{count - 1} results and 1 failures" in seen
