"""What can go wrong with a disk or a process: nothing finished is lost, and each is named with its remedy."""

import contextlib
import errno
import io
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from conftest import FULL, SMALL, wait_until
from kill_sweeps import SETTINGS, Campaign
from same_records import contents, readable, same
from wavebase.experiment import runner, stacked
from wavebase.records import atomic
from wavebase.records.atomic import FolderLocked, RecordsError
from wavebase.records.folder import RunFolder, find_runs
from wavebase.training.interruption import Interrupted, Interruption

QUICK = (
    *SMALL,
    "train.steps=6",
    "train.log_every=1",
    "train.checkpoint_every=2",
    "probe.every=3",
    "probe.measure=[function.held_out_error]",
)


def go(node, path):
    runner.run(runner.Job(node, path, {"model": "test"}), single=False)


def refuse(job, error):
    """What a stack does with a failed job here."""
    raise error


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_sweeps_continue_to_the_same_bits(composed, tmp_path):
    steps = 20 if FULL else 12
    lengths = (f"train.steps={steps}", "train.checkpoint_every=4", f"probe.every={steps // 4}")
    nodes = [composed(*SETTINGS, *lengths, f"seed={seed}") for seed in (0, 1)]
    go(nodes[0], tmp_path / "warm")  # whatever is imported late is imported before the first fork
    campaign = Campaign(tmp_path, 0, ["basic", "stacked", "stacked_2"], steps=steps, fresh=0, nodes=nodes)
    kills = 20 if FULL else 12
    campaign.go(kills, most=8)
    assert campaign.kills.total() == kills and not campaign.tracebacks and not campaign.orphans
    assert len({name for name, _ in campaign.kills}) > 1 and len({kind for _, kind in campaign.kills}) > 2


def test_the_comparison_sees_one_bit(composed, tmp_path):
    go(composed(*QUICK), tmp_path / "a")
    one, two = contents(tmp_path / "a"), contents(tmp_path / "a")
    assert same(one, two) is None
    weight = two["checkpoints"][6]["net"]["weight_hh_cell"]
    weight.view(torch.int64)[0, 0] ^= 1
    assert same(one, two) == "/checkpoints/6/net/weight_hh_cell"
    assert same(one, two, tolerance=1e-6) is None
    weight += 1e-3
    assert same(one, two, tolerance=1e-6) == "/checkpoints/6/net/weight_hh_cell"


class Disk:
    """`open` for a disk with that many bytes left: what does not fit is cut off, as a full disk does."""

    def __init__(self, left):
        self.left, self.written = left, 0

    def open(self, path, mode="r", *rest, **others):
        if not set(mode) & set("wax+") or path.name == ".lock":
            return open(path, mode, *rest, **others)
        disk = self

        class Raw(io.FileIO):
            def write(self, data):
                fits = min(len(memoryview(data).cast("B")), disk.left - disk.written)
                if fits <= 0:
                    raise OSError(errno.ENOSPC, "No space left on device", str(path))
                disk.written += fits
                return super().write(memoryview(data).cast("B")[:fits])

        return io.BufferedWriter(Raw(str(path), mode.replace("b", ""), **others))


def test_a_disk_full_at_any_write_loses_nothing(composed, tmp_path, monkeypatch):
    node = composed(*QUICK, "probe.figures=[train_loss]")
    go(node, tmp_path / "whole")
    needed = Disk(10**12)
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "open", needed.open, raising=False)
        go(node, tmp_path / "measured")
    whole, hit = contents(tmp_path / "whole"), set()
    for n, share in enumerate((0, 0.003, 0.2, 0.45, 0.9, 0.999) if FULL else (0, 0.2, 0.45, 0.9, 0.999)):
        disk, folder = Disk(int(share * needed.written)), tmp_path / f"cut{n}"
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "open", disk.open, raising=False)
            with pytest.raises(OSError, match="No space left"):
                go(node, folder)
        hit.add(readable(folder))
        assert RunFolder(folder).writer() is None, "the folder is let go of"
        go(node, folder)
        assert same(whole, contents(folder)) is None
    assert len(hit) > 2, hit


def mounted(words, folder):
    done = subprocess.run(["mount", *words, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this machine lets nobody mount: {done.stderr.strip()}")


def test_a_really_full_disk(cli, tmp_path):
    (tmp_path / "disk").mkdir()
    mounted(["-t", "tmpfs", "-o", "size=64k", "tmpfs"], tmp_path / "disk")
    try:
        status, _, err = cli(*SMALL, "hydra.run.dir=disk/run")
        assert (
            status == 1
            and "No space left on device" in err
            and "free space there" in err
            and len(err.splitlines()) == 1
        )
        status, out, err = cli("-m", *SMALL, "seed=1,2", "hydra.sweep.dir=disk/sweep")
        assert status == 1 and "No space left on device" in err and "Traceback" not in out + err
        subprocess.run(["mount", "-o", "remount,size=8m", str(tmp_path / "disk")], check=True)
        assert cli("-m", *SMALL, "seed=1,2", "hydra.sweep.dir=disk/sweep")[0] == 0
        assert [found.summary()["status"] for found in find_runs(tmp_path / "disk" / "sweep")] == ["done", "done"]
    finally:
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def test_a_folder_that_cannot_be_written(cli, tmp_path, monkeypatch):
    assert cli("-m", *SMALL, "seed=1,2", "hydra.sweep.dir=sweep")[0] == 0
    mounted(["--bind", str(tmp_path / "sweep")], tmp_path / "sweep")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(tmp_path / "sweep")], check=True)
        for words in (("seed=7", "hydra.run.dir=sweep/run"), ("-m", "seed=1,7", "hydra.sweep.dir=sweep")):
            status, out, err = cli(*words, *SMALL)
            assert (
                status == 1
                and "Read-only file system" in err
                and "hydra.run.dir" in err
                and "Traceback" not in out + err
            )
        from wavebase.report import __main__

        monkeypatch.setattr("sys.argv", ["report", "sweep"])
        with pytest.raises(SystemExit, match="1"):
            __main__.main()
        monkeypatch.setattr("sys.argv", ["report", "sweep", "out=elsewhere"])
        __main__.main()
        assert (tmp_path / "elsewhere" / "report.html").exists()
    finally:
        subprocess.run(["umount", str(tmp_path / "sweep")], check=True)
    assert [found.summary()["status"] for found in find_runs(tmp_path / "sweep")] == ["done", "done"]


def test_any_broken_byte_of_a_checkpoint_is_seen(composed, tmp_path):
    go(composed(*QUICK), tmp_path / "run")
    found = RunFolder(tmp_path / "run")
    file, good = tmp_path / "run" / "checkpoints" / "step_00000004.pt", found.load_checkpoint(4)
    content, draw, seen = file.read_bytes(), random.Random(0), 0
    for _ in range(60):
        at, cut = draw.randrange(len(content)), draw.random() < 0.3
        broken = (
            content[:at] if cut else content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]
        )
        file.write_bytes(broken)
        try:
            assert same(found.load_checkpoint(4), good) is None, "a byte that nothing depends on"
        except RecordsError as error:
            assert "delete it to use an older one" in str(error) and "\n" not in str(error)
            seen += 1
    assert seen > 30


@pytest.mark.parametrize("damage", ["cut", "a line lost", "a digit changed", "gone"])
def test_metrics_that_no_checkpoint_vouches_for_are_recorded_again(damage, composed, tmp_path, caplog):
    go(composed(*QUICK), tmp_path / "whole")
    go(composed(*QUICK), tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    file = tmp_path / "run" / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    if damage == "gone":
        file.unlink()
    else:
        at = next(n for n, line in enumerate(lines) if json.loads(line)["step"] == 2)
        lines[at:] = {
            "cut": [lines[at][:20]],
            "a line lost": lines[at + 1 :],
            "a digit changed": [lines[at].replace(b"1", b"2"), *lines[at + 1 :]],
        }[damage]
        file.write_bytes(b"".join(lines))
    go(composed(*QUICK), tmp_path / "run")
    assert "vouches for" in caplog.text and "goes back to an older checkpoint" in caplog.text
    assert same(contents(tmp_path / "whole"), contents(tmp_path / "run")) is None


def test_a_run_stopped_twice_at_one_step_continues_to_the_same_bits(composed, tmp_path, monkeypatch):
    node = composed(*QUICK)
    go(node, tmp_path / "whole")
    for calls in (4, 0):  # the second time before the step that the first one came to has been taken
        with monkeypatch.context() as patch, pytest.raises(Interrupted, match="step 4"):
            answers = iter([False] * calls)
            patch.setattr(Interruption, "__call__", lambda self, answers=answers: next(answers, True))
            go(node, tmp_path / "run")
    go(node, tmp_path / "run")
    assert same(contents(tmp_path / "whole"), contents(tmp_path / "run")) is None


def test_a_stack_whose_members_were_left_a_checkpoint_apart_goes_on_together(composed, tmp_path, caplog):
    listed = [
        runner.Job(composed(*QUICK, "model=perturbed", f"seed={seed}"), tmp_path / f"{seed}", {}) for seed in (0, 1)
    ]
    stacked.run_stacked(listed, 64, refuse)
    whole = [contents(job.path) for job in listed]
    for job in listed:
        (job.path / "summary.json").unlink()
    for step in (4, 6):  # as if killed between the two checkpoints of step 4
        (listed[1].path / "checkpoints" / f"step_{step:08d}.pt").unlink()
    (listed[0].path / "checkpoints" / "step_00000006.pt").unlink()
    with caplog.at_level("INFO", "wavebase"):
        stacked.run_stacked(listed, 64, refuse)
    assert "training 2 jobs together" in caplog.text
    assert [same(before, contents(job.path)) for before, job in zip(whole, listed, strict=True)] == [None, None]


def test_an_interrupted_stack_keeps_the_result_of_a_member_that_had_diverged(composed, tmp_path, monkeypatch):
    rates = ("optim.lr=0.01", "optim.lr=1e300")
    listed = [runner.Job(composed(*QUICK, "model=random", rate), tmp_path / rate, {}) for rate in reversed(rates)]
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="was interrupted at step 5"):
        answers = iter([False] * 5)
        patch.setattr(Interruption, "__call__", lambda self: next(answers, True))
        stacked.run_stacked(listed, 64, refuse)
    assert [RunFolder(job.path).summary()["status"] for job in listed] == ["diverged", "interrupted"]
    stacked.run_stacked(listed, 64, refuse)
    assert [RunFolder(job.path).summary()["status"] for job in listed] == ["diverged", "done"]


def holding(folder):
    """A process that writes the folder until it is killed."""
    ready, told = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            lock = atomic.Lock(folder)  # bound, or it would be let go of
            os.write(told, str(lock.file.fileno()).encode())
            time.sleep(600)
        finally:
            os._exit(1)
    os.read(ready, 1)
    return pid


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_never_write_one_run(cli, tmp_path):
    words = ("-m", *SMALL, "seed=1,2", "hydra.sweep.dir=sweep")
    assert cli(*words)[0] == 0
    taken, other = (found.path for found in find_runs(tmp_path / "sweep"))
    for folder in (taken, other):
        (folder / "summary.json").unlink()
    before = {file: file.read_bytes() for file in taken.rglob("*") if file.is_file() and file.name != ".lock"}
    pid = holding(taken)
    try:
        status, out, err = cli(*words)
        line = f"got process {pid} on {os.uname().nodename} writing it; wait until it ends or stop it"
        assert status == 0 and line in err and "Traceback" not in err, "another's run is no failure"
        assert "1 unfinished" in out and f"written now by process {pid}" in out
        assert {file: file.read_bytes() for file in before} == before and RunFolder(other).summary()["status"] == "done"
        status, _, err = cli(*SMALL, f"seed={1 if '-s1-' in taken.name else 2}", f"hydra.run.dir={taken}")
        assert status == 1 and line in err and len(err.splitlines()) == 1
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert cli(*words)[0] == 0, "a dead process holds no lock"
    assert RunFolder(taken).summary()["status"] == "done"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_reader_that_looks_all_the_time_keeps_no_writer_out(tmp_path):
    """Looking took the exclusive lock, so that a job that began at that moment was lost."""
    atomic.Lock(tmp_path).release()
    pid = os.fork()
    if not pid:
        try:
            while True:
                atomic.lock_owner(tmp_path)
        finally:
            os._exit(1)
    try:
        wait_until(lambda: os.getpgid(pid) >= 0)
        for _ in range(600):
            lock = atomic.Lock(tmp_path)
            assert atomic.lock_owner(tmp_path) == f"process {os.getpid()} on {os.uname().nodename}"
            with pytest.raises(FolderLocked, match="must be written by one process"):
                atomic.Lock(tmp_path)
            lock.release()
            time.sleep(0)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_share_a_sweep(composed, tmp_path, monkeypatch):
    from wavebase.experiment.session import Session

    listed = [runner.Job(composed(*QUICK, f"seed={seed}"), tmp_path / f"{seed}", {}) for seed in range(6)]

    def opened(self, plain=Session.open):
        plain(self)
        with (tmp_path / "trained").open("a") as file:
            file.write(f"{self.folder.path.name} {os.getpid()}\n")
        # neither goes on before both have a run: a fast one would leave nothing to the other
        wait_until(lambda: len({line.split()[1] for line in (tmp_path / "trained").read_text().splitlines()}) == 2)

    monkeypatch.setattr(Session, "open", opened)
    workers = []
    for _ in range(2):
        workers.append(os.fork())
        if not workers[-1]:
            try:
                for job in listed:
                    with contextlib.suppress(FolderLocked):
                        runner.run(job, single=False)
                os._exit(0)
            finally:
                os._exit(1)
    assert [os.waitpid(pid, 0)[1] for pid in workers] == [0, 0]
    trained = [line.split() for line in (tmp_path / "trained").read_text().splitlines()]
    assert sorted(name for name, _ in trained) == [str(seed) for seed in range(6)], "each run by one process, once"
    assert len({pid for _, pid in trained}) == 2, "and both had work"
    assert all(RunFolder(job.path).summary()["status"] == "done" for job in listed)


def test_a_run_that_another_process_moved_on_is_left_to_it(composed, tmp_path):
    node = composed(*QUICK)
    late = runner.prepare(runner.Job(node, tmp_path / "run", {}), single=False)
    go(node, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(FolderLocked, match="continued by another process"):
        late.open()
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before and RunFolder(tmp_path / "run").writer() is None


def test_a_summary_of_another_configuration_is_not_taken_for_this_one(composed, tmp_path):
    go(composed(*QUICK), tmp_path / "run")
    node = composed(*QUICK, "seed=9")
    (tmp_path / "run" / "config.yaml").write_text(runner.config_text(node))
    with pytest.raises(RecordsError, match="was written for"):
        go(node, tmp_path / "run")


def test_parts_of_files_are_taken_away(composed, tmp_path):
    part = tmp_path / "run" / "checkpoints" / ".step_00000002.pt.host-1.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"cut")
    go(composed(*QUICK), tmp_path / "run")
    assert not part.exists() and np.isfinite(RunFolder(tmp_path / "run").metrics()["loss/train"][1]).all()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP])
def test_a_signal_ends_a_run_between_two_steps(number, cli, tmp_path, monkeypatch):
    from wavebase.experiment.session import Session

    def observe(self, step, plain=Session._observe):
        plain(self, step)
        if step == 3 and not (tmp_path / "sent").exists():
            (tmp_path / "sent").touch()
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Session, "_observe", observe)
    handled = []
    before = signal.signal(signal.SIGUSR2, lambda *_: handled.append(RunFolder(tmp_path / "run").summary()["status"]))
    try:
        status, _, err = cli(*QUICK, "hydra.run.dir=run")
        assert status == 130 and "interrupted at step 4; the same command continues it" in err
        summary = RunFolder(tmp_path / "run").summary()
        assert summary["status"] == "interrupted" and RunFolder(tmp_path / "run").checkpoint_steps()[-1] == 4
        assert handled == (["interrupted"] if number == signal.SIGUSR2 else []), "the previous handler is called, last"
        assert cli(*QUICK, "hydra.run.dir=run")[0] == 0 and RunFolder(tmp_path / "run").summary()["status"] == "done"
    finally:
        signal.signal(signal.SIGUSR2, before)
