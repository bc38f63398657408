"""A sweep in a process of its own that can be killed in several ways. Linux only: processes are found in /proc."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from hydra.core.global_hydra import GlobalHydra

from conftest import HANG, run_as_command
from wavebase.cli import run
from wavebase.cli.signals import NAMES, STATUS
from wavebase.experiment import runner, stacked
from wavebase.records.atomic import FolderLocked

KINDS = ("all processes", "one worker", "the parent alone", "SIGTERM twice", "SIGINT twice")


class Sweep:
    """A sweep that runs now, in a session of its own.

    Args:
        root: The working directory; it gets the files out and log.
        words: The command line.
        fork: Whether a forked copy of this process runs it, in place of a fresh interpreter.
        act: What the forked copy does instead of the command line; it gets the root.
    """

    def __init__(self, root, words, fork, act=None):
        root.mkdir(exist_ok=True)
        self.act, self.root, self.mark = act, root, f"WAVEBASE_KILLED_SWEEP={root}"
        if fork:
            self.process = multiprocessing.get_context("fork").Process(target=self._target, args=(words,))
            self.process.start()
        else:
            with (root / "log").open("wb") as log, (root / "out").open("wb") as out:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "wavebase.run", *words], cwd=root, stdout=out, stderr=log,
                    env=os.environ | dict([self.mark.split("=")]), start_new_session=True,
                )  # fmt: skip
        self.pid = self.process.pid

    def _target(self, words):
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's handler would print a traceback of this harness
        for number, name in ((1, "out"), (2, "log")):
            with (self.root / name).open("wb") as file:
                os.dup2(file.fileno(), number)
        if self.act is None:
            fork_workers()
            try:
                run_as_command(run.main, ["wavebase", *words], self.root)
            finally:
                threading._shutdown()  # what a forked process leaves out; joblib ends its workers there
        else:
            self.act(self.root)

    def status(self):
        """Return the exit status, None while it runs."""
        return (
            self.process.exitcode
            if isinstance(self.process, multiprocessing.process.BaseProcess)
            else self.process.poll()
        )

    def members(self):
        """Return the numbers of its processes that live, orphans too: by session, or by a mark in their environment."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                    if state != "Z" and (
                        int(session) == self.pid or self.mark.encode() in (entry / "environ").read_bytes().split(b"\0")
                    ):
                        found.append(int(entry.name))
        return found

    def kill_all(self):
        """Send SIGKILL to every process until none is left."""
        while found := self.members():
            for pid in found:
                send(pid, signal.SIGKILL)
            self.status()
            time.sleep(0.005)

    def wait(self, what):
        """Wait until the parent has ended; raises AssertionError if it does not."""
        until = time.monotonic() + HANG
        while self.status() is None:
            if time.monotonic() > until:
                self.kill_all()
                raise AssertionError(f"{what}: the sweep must end, got none in {HANG} s: it hangs")
            time.sleep(0.005)
        return self.status()

    def said(self):
        """Return what it printed, standard output first."""
        return "".join(
            (self.root / name).read_text(errors="replace") for name in ("out", "log") if (self.root / name).exists()
        )


def fork_workers():
    """Let joblib's and submitit's workers be forked copies of this process, where theirs would import torch anew."""
    with contextlib.suppress(ImportError):
        from joblib.externals.loky import process_executor
        from joblib.externals.loky.backend.context import set_start_method

        work = process_executor._process_worker
        process_executor._process_worker = lambda *args: (_default_signals(), work(*args))
        set_start_method("fork", force=True)
        warnings.filterwarnings("ignore", message=".*fork.*")
    with contextlib.suppress(ImportError):
        from submitit.local import local

        local.subprocess = SimpleNamespace(Popen=ForkedPython)


def _default_signals():
    for name in NAMES:
        signal.signal(getattr(signal, name), signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)


class ForkedPython:
    """What submitit needs of subprocess.Popen for `python -m module folder`, in a forked copy of this process.

    Args:
        command: The module is submitit's controller of a job, or its task.
        env: All variables of the environment.
        stdout, stderr: Open files; None for this process's.
    """

    def __init__(self, command, env, stdout=None, stderr=None, **ignored):
        self.returncode = None
        self.pid = os.fork()
        if self.pid:
            return
        status = 1
        try:
            _default_signals()
            os.environ.clear()
            os.environ.update(env)
            for number, file in ((1, stdout), (2, stderr)):
                if file is not None:
                    os.dup2(file.fileno(), number)
            self._main(command[command.index("-m") + 1], command[-1])
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    @staticmethod
    def _main(module, folder):
        from submitit.core.submission import process_job
        from submitit.local.local import Controller

        if module == "submitit.local._local":
            time.sleep(0.3)  # as an interpreter needs to start: the parent makes the folder meanwhile
            Controller(Path(folder)).run()
        else:
            process_job(folder)

    def poll(self):
        """Return the exit status, negative for a signal; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number):
        """Send a signal, if the process still runs."""
        if self.poll() is None:
            send(self.pid, number)


def run_directly(nodes, processes, root):
    """Do what a launcher does after Hydra, whose part costs most of a short sweep. It ends the process with its status.

    Args:
        nodes: Resolved configurations.
        processes: Of a stacked sweep; 0 for the runs one by one.
    """
    jobs = [runner.Job(node, root / "sweep" / str(n), {"model": "test"}) for n, node in enumerate(nodes)]

    def failed(job, error):
        raise error

    try:
        if processes:
            stacked.run_stacked(jobs, 64, failed, processes)
        else:
            for job in jobs:
                runner.run(job, single=False)
    except FolderLocked as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(STATUS)
    sys.exit(0)


def warm(root, words):
    """Run a sweep in this process, so that whatever is imported late is imported before the first fork."""
    root.mkdir()
    for name in ("hydra_plugins.hydra_joblib_launcher._core", "submitit.local.local", "submitit.core.submission"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    streams = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with streams[0], streams[1], contextlib.chdir(root), mock.patch.object(sys, "argv", ["wavebase", *words]):
        GlobalHydra.instance().clear()
        with contextlib.suppress(SystemExit):
            run.main()
    logging.root.handlers.clear()  # they write to the streams of the sweep


def send(pid, number):
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def strike(sweep, kind, draw):
    """Kill a sweep in one way and wait for the parent's end. Returns whether it still ran."""
    if sweep.status() is not None:
        return False
    if kind == "all processes":
        sweep.kill_all()
    elif kind == "one worker":
        workers = [pid for pid in sweep.members() if pid != sweep.pid]
        if not workers:
            return False
        send(draw.choice(workers), signal.SIGKILL)
    elif kind == "the parent alone":
        send(sweep.pid, signal.SIGKILL)
    else:
        number = signal.SIGTERM if "SIGTERM" in kind else signal.SIGINT
        for pause in (draw.uniform(0, 0.2), 0):
            # Ctrl-C reaches every process of a terminal's foreground group
            if sweep.status() is None:
                (os.killpg if number == signal.SIGINT else send)(sweep.pid, number)
            time.sleep(pause)
    sweep.wait(kind)
    return True
