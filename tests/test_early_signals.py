"""Signals outside training: one line and exit status 130, whatever the process is doing."""

import os
import signal
import subprocess
import sys
import time

import pytest

from conftest import HANG, SMALL, wait_until
from wavebase.cli import run
from wavebase.records.folder import RunFolder

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
