"""A sweep of 200 jobs, 10 of which cannot work, killed twice with SIGKILL and started again.

    python tests/sweep_two_hundred.py [launcher=stacked|basic|joblib|submitit] [jobs=200]

Every job reads a recording of its own; the ten at random places are missing, too short, not finite, no array or a folder.
submitit starts every job at once, so there each of its jobs is a stack of 25 (hydra/sweeper=stacks).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np

from conftest import run_as_command
from wavebase.cli import run
from wavebase.records.folder import find_runs

LAUNCHERS = {
    "basic": [],
    "stacked": ["hydra/launcher=stacked"],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=60", "hydra/sweeper=stacks", "hydra.sweeper.size=25"],
}  # fmt: skip
SETTINGS = (
    "T=4", "model=perturbed", "optim=adam", "train.steps=20", "train.batch=4", "train.checkpoint_every=10", "probe.every=10",
    "task.held_out_count=4", "probe.figures=[]", "probe.curvature=false", "probe.curvature_batch=8",
    "probe.measure=[function.held_out_error]", "signal=file",
)  # fmt: skip


# goes into every process of a sweep that is to be killed: once so many runs are finished none finishes any more, so that
# the sweep cannot be over before it is killed, however fast the machine
HOLD = """
import os, time
from wavebase.records.folder import RunFolder
def held(self, summary, finish=RunFolder.finish):
    def done():
        return sum('"status": "done"' in file.read_text() for file in self.path.parent.glob("*/summary.json"))
    while done() >= int(os.environ["WAVEBASE_HOLD_AT"]):
        time.sleep(0.05)
    finish(self, summary)
if "WAVEBASE_HOLD_AT" in os.environ:
    RunFolder.finish = held
"""


def plant(folder, count, share=0.05):
    """Recordings 0.npy, 1.npy, ...; returns the numbers of the broken ones and what must be said of each."""
    folder.mkdir()
    draw = random.Random(0)
    broken = sorted(draw.sample(range(count), round(share * count)))
    said = {}
    for n in range(count):
        file = folder / f"{n}.npy"
        wave = np.random.default_rng(n).standard_normal(400)
        kind = broken.index(n) % 5 if n in broken else None
        if kind is None:
            np.save(file, wave)
        elif kind == 0:
            said[n] = "no file"
        elif kind == 1:
            np.save(file, wave[:9])
            said[n] = "fit both parts"
        elif kind == 2:
            np.save(file, np.where(np.arange(400) == 7, np.nan, wave))
            said[n] = "finite"
        elif kind == 3:
            file.write_bytes(b"no array at all")
            said[n] = "readable"
        else:
            file.mkdir()
            said[n] = "no file"
    return said


class Interpreter:
    """A sweep in fresh interpreters, which all have a mark in their environment."""

    def __init__(self, root, words, hold_at):
        self.mark = f"WAVEBASE_TWO_HUNDRED={uuid.uuid4()}"
        environment = os.environ | dict([self.mark.split("=")])
        if hold_at is not None:
            (root / "hold").mkdir(exist_ok=True)
            (root / "hold" / "sitecustomize.py").write_text(HOLD)
            path = os.pathsep.join(filter(None, [str(root / "hold"), environment.get("PYTHONPATH")]))
            environment |= {"PYTHONPATH": path, "WAVEBASE_HOLD_AT": str(hold_at)}
        with (root / "log").open("ab") as log, (root / "out").open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "wavebase.run", *words],
                cwd=root, stdout=out, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip

    def poll(self):
        """The exit status, None while it runs."""
        return self.process.poll()

    def members(self):
        """The numbers of its processes."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if self.mark.encode() in (entry / "environ").read_bytes():
                        yield int(entry.name)


class Fork:
    """A sweep in a forked copy of this process and in its children, which are one session."""

    def __init__(self, root, words, hold_at):
        def target():
            os.setsid()
            for number, name, mode in ((1, "out", "wb"), (2, "log", "ab")):
                with (root / name).open(mode) as file:
                    os.dup2(file.fileno(), number)
            if hold_at is not None:
                os.environ["WAVEBASE_HOLD_AT"] = str(hold_at)
            exec(HOLD, {})
            run_as_command(run.main, ["wavebase", *words], root)

        self.process = multiprocessing.get_context("fork").Process(target=target)
        self.process.start()

    def poll(self):
        """The exit status, None while it runs."""
        return self.process.exitcode

    def members(self):
        """The numbers of its processes."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                    if int(session) == self.process.pid and state != "Z":
                        yield int(entry.name)


def sweep(root, launcher, count, start, kill_at=None):
    """Run the sweep, or kill all of its processes once so many jobs are finished; returns (status, output)."""
    words = [*SETTINGS, "signal.path='recordings/${seed}.npy'", f"seed=range(0,{count})", "hydra.sweep.dir=sweep"]
    process = start(root, ["-m", *LAUNCHERS[launcher], *words], kill_at)
    while process.poll() is None:
        time.sleep(0.2)
        if kill_at is not None and len(finished(root)) >= kill_at:
            while found := list(process.members()):
                for pid in found:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.poll()
                time.sleep(0.1)
    return process.poll(), (root / "out").read_text()


def finished(root):
    """When each finished run's summary was written, by folder."""
    found = {}
    for file in (root / "sweep").glob("*/summary.json"):
        if '"status": "done"' in file.read_text():
            found[file.parent.name] = file.stat().st_mtime_ns
    return found


def check(root, launcher, count, start=Interpreter):
    """The whole story; raises AssertionError where it is not as promised. Returns a line of what was seen.

    Args:
        start: Interpreter for a sweep as a user starts it, Fork for one that has everything imported.
    """
    said = plant(root / "recordings", count)
    seen, good = [], count - len(said)
    for share in (0.3, 0.65):
        status, _ = sweep(root, launcher, count, start, kill_at=int(share * good))
        assert status == -signal.SIGKILL, f"the sweep ended with {status} before it was killed"
        now = finished(root)
        assert all(now.get(name) == when for name, when in (seen[-1] if seen else {}).items()), (
            "finished means finished"
        )
        seen.append(now)
    status, out = sweep(root, launcher, count, start)
    assert status == 1, f"failures must be told by status 1, got {status}"
    now = finished(root)
    assert len(now) == good and all(now[name] == when for name, when in seen[-1].items())
    runs = {found.summary()["status"]: 0 for found in find_runs(root / "sweep")}
    for found in find_runs(root / "sweep"):
        runs[found.summary()["status"]] += 1
        assert not list(found.path.rglob("*.part"))
    assert runs == {"done": good, "failed": len(said)}, runs
    lines = [line for line in out.splitlines() if line.startswith("failed: ")]
    assert len(lines) == len(said), lines
    for n, reason in said.items():
        (line,) = [line for line in lines if f"-s{n}-" in line]
        assert reason in line, f"{reason!r} must be said of {n}, got {line}"
    assert f"{count} runs, {len(said)} failed;" in out and "broken: " not in out
    html = (root / "sweep" / "report.html").read_text()
    assert all(f"-s{n}-" in html for n in said) and html.count("data:image/png;base64,") >= 1
    return (
        f"{launcher}: killed at {len(seen[0])} and {len(seen[1])}, then {good} results and {len(said)} failures named"
    )


def main():
    options = dict(word.split("=") for word in sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        root, began = Path(folder), time.monotonic()
        try:
            line = check(root, options.get("launcher", "stacked"), int(options.get("jobs", 200)))
        except AssertionError:
            print((root / "log").read_text()[-3000:], (root / "out").read_text()[-3000:])
            raise
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"{line}; {time.monotonic() - began:.0f} s wall, {used.ru_utime + used.ru_stime:.0f} s CPU")
        print((root / "out").read_text())


if __name__ == "__main__":
    main()
