"""Signals outside training: one line and exit status 130, whatever the process is doing."""

import ctypes
import os
import signal
import subprocess
import sys
import time
import weakref

import pytest

from conftest import HANG, SMALL, wait_until
from wavebase.cli import run
from wavebase.cli.signals import raise_on_signal
from wavebase.experiment import runner
from wavebase.records.folder import RunFolder
from wavebase.training.interruption import Interruption

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP]
# a command whose imports stop at Hydra's
IMPORTING = """
import sys, time
class Slow:
    def find_spec(name, path, target=None):
        if name in ("hydra", "torch"):
            open("importing", "w").close()
            time.sleep(600)
sys.meta_path.insert(0, Slow)
sys.argv = ["wavebase", "run"]
from wavebase.{module} import main
main()
"""


@pytest.mark.parametrize("module", ["run", "__main__"])
@pytest.mark.parametrize("number", SIGNALS)
def test_during_imports(number, module, tmp_path):
    program = [sys.executable, "-c", IMPORTING.format(module=module)]
    process = subprocess.Popen(program, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until((tmp_path / "importing").exists, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == 130 and not out, err
    assert err == f"wavebase: interrupted by {number.name} outside training; run the same command again\n"


@pytest.mark.parametrize("number", SIGNALS)
def test_before_training(number, cli, monkeypatch, tmp_path):
    def start():
        os.kill(os.getpid(), number)
        time.sleep(HANG)

    monkeypatch.setattr(run, "_start", start)
    before = [signal.getsignal(each) for each in SIGNALS]
    status, out, err = cli("T=4")
    assert status == 130 and err.count("\n") == 1 and number.name in err and not out
    assert [signal.getsignal(each) for each in SIGNALS] == before


def ignored(kind, number):
    """Send a signal where Python ignores the exception that its handler raises."""

    def send(*_):
        os.kill(os.getpid(), number)

    thing = type("Thing", (), {"__del__": send} if kind == "__del__" else {})()
    kept = weakref.ref(thing, send) if kind == "weakref" else None
    if kind == "C code":
        ctypes.CFUNCTYPE(None)(send)()
    del thing, kept


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("kind", ["weakref", "__del__", "C code"])
def test_an_exception_that_python_ignores_is_raised_before_the_next_training(kind, number, capsys):
    with raise_on_signal() as stop:
        ignored(kind, number)
        assert stop.pending is not None, "it was ignored, and noted"
        with pytest.raises(KeyboardInterrupt, match=f"interrupted by {number.name}"), Interruption():
            raise AssertionError("training began")
    assert capsys.readouterr().err == "", "Python prints a traceback of what it ignores"
    with Interruption() as interruption:
        assert not interruption(), "nothing is left of it"


@pytest.mark.parametrize("last", [False, True], ids=["between two runs", "after the last run"])
def test_a_command_ends_by_a_signal_whose_exception_python_ignored(last, cli, monkeypatch):
    begun = []

    def run_one(job, single):
        with Interruption():
            begun.append(job.path)
        if len(begun) == 1 + last:
            ignored("weakref", signal.SIGTERM)

    monkeypatch.setattr(runner, "run", run_one)
    status, _, err = cli("-m", "T=4", "seed=1,2", "hydra.sweep.dir=sweep")
    assert status == 130 and len(begun) == 1 + last
    assert err == "wavebase: interrupted by SIGTERM outside training; run the same command again\n"


def test_a_signal_that_nohup_ignores_stays_ignored(cli, monkeypatch, tmp_path):
    from wavebase.experiment.session import Session

    def observe(self, step, plain=Session._observe):
        plain(self, step)
        os.kill(os.getpid(), signal.SIGHUP)

    monkeypatch.setattr(Session, "_observe", observe)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert cli(*SMALL, "hydra.run.dir=run")[0] == 0
        assert RunFolder(tmp_path / "run").summary()["status"] == "done"
    finally:
        signal.signal(signal.SIGHUP, before)
