"""hydra/launcher=stacked deals a sweep to forked processes: the same numbers, the same signals, the same end."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from conftest import FEW, ONE_PROBE, SMALL, ForkedProcess, wait_until
from wavebase.cli import run
from wavebase.experiment import runner, stacked, summary
from wavebase.probes import curvature
from wavebase.records.atomic import lock_owner
from wavebase.records.folder import RunFolder, find_runs
from wavebase.training.interruption import Interrupted, Interruption
from wavebase.training.workers import run_in_processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")

LONG = ("T=4", "train.steps=10000000", "train.batch=4", "task.held_out_count=4", "probe.figures=[]", "probe.curvature=false",
        "train.checkpoint_every=20", "optim.lr=0.01", "threads=1", ONE_PROBE, FEW)  # fmt: skip
STACKED = ("hydra/launcher=stacked", "hydra.launcher.processes=2", "hydra.sweep.dir=sweep")


def held_run():
    """The command line, whose runs wait after the checkpoint before their step 40 until there is a file `go`."""

    def held(self, step, state, *more, save=RunFolder.save_checkpoint):
        while step >= 40 and not Path("go").exists():
            time.sleep(0.02)
        save(self, step, state, *more)

    RunFolder.save_checkpoint = held  # of a forked process, and of those that it forks
    run.main()


def numbers(run):
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def started(folder, *words, main=run.main):
    """A sweep under way, with the first checkpoints of all of its four runs."""
    process = ForkedProcess(main, "-m", *STACKED, *words, "seed=0,1,2,3", folder=folder)
    wait_until(lambda: len(list(folder.glob("sweep/*/checkpoints/step_00000020.pt"))) == 4, process)
    return process


def writers(folder):
    """The processes that write runs of the sweep."""
    return {
        int(lock_owner(path.parent).split()[1])
        for path in folder.glob("sweep/*/config.yaml")
        if lock_owner(path.parent)
    }


def test_processes_change_no_number(cli, tmp_path):
    words = ("-m", *SMALL, "model=perturbed", "seed=0,1,2", "hydra/launcher=stacked")
    for count in (1, 2):
        status, out, _ = cli(*words, f"hydra.launcher.processes={count}", f"hydra.sweep.dir={count}")
        assert status == 0 and "3 runs, 0 failed" in out
    one, two = ({run.path.name: numbers(run) for run in find_runs(tmp_path / name)} for name in "12")
    assert one.keys() == two.keys() and len({json.dumps(lines) for lines in one.values()}) == 3
    for name, lines in one.items():  # a stack's last bits may depend on who is in it
        for ours, theirs in zip(lines, two[name], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-12, nan_ok=True)
    assert all(run.summary()["relative_error"]["final"] < 0.2 for run in find_runs(tmp_path / "2")), (
        "a zero output has 1"
    )


def test_a_failed_job_of_another_process_is_told(cli, tmp_path):
    status, out, _ = cli("-m", *STACKED, *SMALL, "T=4,1,5", "model=perturbed")
    assert status == 1 and "3 runs, 1 failed" in out
    assert sorted(run.summary()["status"] for run in find_runs(tmp_path / "sweep")) == ["done", "done", "failed"]


def test_a_failure_that_left_nothing_behind_is_a_failure_all_the_same(cli, monkeypatch, tmp_path):
    def full(*given):
        raise OSError("No space left on device")

    monkeypatch.setattr(summary, "mark_failed", full)
    assert cli("-m", *STACKED, *SMALL, "T=4,1,5", "model=perturbed")[0] == 1
    assert [run.summary()["status"] for run in find_runs(tmp_path / "sweep")] == ["done", "done"]


@pytest.mark.parametrize("threads", [0, -1])
def test_wrong_threads_are_refused_in_one_line(threads, cli):
    status, out, err = cli(
        "-m", *SMALL, "hydra/launcher=stacked", "hydra.sweep.dir=sweep", "seed=0,1", f"threads={threads}"
    )
    assert status == 1 and "threads must be" in out + err and "Traceback" not in out + err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_process_between_two_steps(number, tmp_path):
    process = started(tmp_path, *LONG)
    assert len(writers(tmp_path)) == 2 and process.pid not in writers(tmp_path)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == 130 and "the same command continues it" in err, out + err
    states = [run.summary() for run in find_runs(tmp_path / "sweep")]
    assert [state["status"] for state in states] == ["interrupted"] * 4 and min(s["steps"] for s in states) >= 20
    for found in find_runs(tmp_path / "sweep"):
        assert found.checkpoint_steps()[-1] == found.summary()["steps"], "interrupted runs have saved where they were"


def test_they_die_with_the_process_that_forked_them(tmp_path):
    process = started(tmp_path, *LONG)
    children = writers(tmp_path)
    process.kill()
    process.communicate()
    assert len(children) == 2
    wait_until(lambda: not any(os.path.exists(f"/proc/{child}") for child in children))
    assert not writers(tmp_path)


def test_one_that_is_killed_is_told_and_the_others_finish(tmp_path):
    process = started(tmp_path, *LONG, "train.steps=60", main=held_run)
    os.kill(next(iter(writers(tmp_path))), signal.SIGKILL)
    (tmp_path / "go").touch()
    out, err = process.communicate()
    assert process.returncode == 1 and "must fit into memory" in err and "Traceback" not in err, out + err
    done = [run.path.name for run in find_runs(tmp_path / "sweep") if (run.summary() or {}).get("status") == "done"]
    assert len(done) == 2, out + err
    again = ForkedProcess(run.main, "-m", *STACKED, *LONG, "train.steps=60", "seed=0,1,2,3", folder=tmp_path)
    out, _ = again.communicate()
    assert again.returncode == 0 and "4 runs, 0 failed" in out and "continues from step" in out


def test_results_and_errors_come_back():
    with Interruption() as interruption:
        assert run_in_processes(lambda n: n * n, 3, interruption) == [0, 1, 4]
        with pytest.raises(ZeroDivisionError):
            run_in_processes(lambda n: 1 // n, 2, interruption)
        with pytest.raises(RuntimeError, match="ended with status 3"):
            run_in_processes(lambda n: os._exit(3), 2, interruption)

        def stop(n):
            raise Interrupted("told") if n else ValueError("other")

        with pytest.raises(Interrupted, match="told"):
            run_in_processes(stop, 2, interruption)


@pytest.mark.measures_starts
def test_equal_starts_are_measured_once(composed, tmp_path, monkeypatch):
    measured = []
    real = curvature.Hessian.largest
    monkeypatch.setattr(curvature.Hessian, "largest", lambda *given: measured.append(len(given)) or real(*given))

    def refuse(job, error):
        raise error

    words = [word for word in SMALL if word != "probe.curvature=false"]
    words = [*words, "probe.measure=[function.held_out_error]"]
    settings = [
        (*words, f"optim.lr_over_boundary={rate}", f"seed={seed}", "model=random", f"probe.curvature={known}")
        for rate in (0.1, 0.2) for seed in (0, 1) for known in ("true", "false")
    ]  # fmt: skip
    settings.append((*words, "optim.lr=0.1", "seed=0", "model=random", "probe.curvature=false"))
    listed = [runner.Job(composed(*each), tmp_path / str(n), {}) for n, each in enumerate(settings)]
    stacked.run_stacked(listed, 64, refuse)
    assert len(measured) == 2, "two seeds, whatever the rate and the probe"
    measured.clear()
    adaptive = [
        (*words, "model=random", "optim=adam", "optim.lr=null", f"optim.lr_over_boundary={rate}", f"optim.eps={eps}")
        for rate in (0.1, 0.2) for eps in (1e-8, 1e-2)
    ]  # fmt: skip
    more = [
        runner.Job(composed(*each), tmp_path / f"adam{n}", {}) for n, each in enumerate([settings[0][:-1], *adaptive])
    ]
    stacked.run_stacked(more, 64, refuse)
    assert len(measured) == 1 + 2 * 2, "lambda_max once for all optimisers, two preconditioned curvatures for each eps"
    optim = [RunFolder(job.path).summary()["optim"] for job in more]
    assert len({each["lambda_max"] for each in optim}) == 1
    kept = [each["preconditioned"] for each in optim[1:]]
    assert kept[0] == kept[2] != kept[1] == kept[3]
    assert optim[0]["preconditioned"] is None and optim[0]["boundary"] == pytest.approx(2 / optim[0]["lambda_max"])
    alone = runner.Job(composed(*adaptive[1]), tmp_path / "alone", {})
    runner.run(alone, single=False)
    assert RunFolder(alone.path).summary()["optim"] == optim[2], "a cached value is the one that a run alone measures"
    found = [RunFolder(job.path).summary()["optim"]["lambda_max"] for job in listed]
    assert found[:4] == found[4:8] and found[0] == found[1] != found[2] and found[8] is None
