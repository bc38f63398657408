"""What the console and reports print: one format of numbers, no interval of a single run, names in full, singular and plural."""

import contextlib
import csv
import fcntl
import math
import os
import pty
import struct
import sys
import termios
import time

import numpy as np
import pytest
from omegaconf import OmegaConf

from conftest import SMALL
from wavebase.analysis.nulls import Quantity
from wavebase.analysis.report_text import number as of_weights
from wavebase.console import PLAIN_WIDTH
from wavebase.experiment.progress import steps_shown
from wavebase.experiment.summary import describe
from wavebase.figures.movement import movement_table
from wavebase.figures.sweeps import Point, heat_map
from wavebase.formatting import number, short_cell
from wavebase.probes.verdict import Condition, Precision
from wavebase.records.folder import RunFolder
from wavebase.report.__main__ import Options
from wavebase.report.write import write
from wavebase.signals.recordings import Recording


@pytest.mark.parametrize(
    "value", [0.0285, 7.4123e-3, 1.2123e14, 2.8e-16, 0.999, 1234.5, 0.0, -3.21e-5, 1e-300, 123456.0]
)
def test_a_number_has_one_form_everywhere(value):
    """`0.0285 -> 7.4e-03` and `1.21e+14` once stood in one text: three digits of one number, two of the next."""
    text = number(value)
    assert float(text) == pytest.approx(value, rel=6e-3) and len(text) <= 9
    assert text == short_cell(value) == of_weights(value)
    assert f"is {text}, " in Condition("function", "x", value, 1.0).words()
    assert f"(error {text})" in Precision(value, math.nan, "").words() or value <= 0


def test_numbers_of_one_size_are_written_alike():
    assert number(0.0285) + " -> " + number(7.4123e-3) == "0.0285 -> 0.00741"


def made(folder, final=0.5, **settings):
    run = RunFolder(folder)
    run.start(OmegaConf.to_yaml(OmegaConf.create({"seed": 0, **settings})))
    summary = {"status": "done", "verdict": "broken", "choices": {"model": "random"}, "seed": 0}
    ends = {"initial": 0.125, "final": final}
    run.finish({**summary, "relative_error": {"initial": 1.0, "final": final}, "loss": ends, "drift": {"w": 0.25}})


class TestReport:
    def printed(self, capsys, folder, **options):
        write(folder, Options(**options))
        out = capsys.readouterr().out
        assert all(len(line) <= PLAIN_WIDTH for line in out.splitlines() if str(folder) not in line), out
        (row,) = [line.split() for line in out.splitlines() if line.startswith("all runs")]
        return out, row[5:9]  # start, end, low, high

    def test_a_single_run_has_no_interval(self, tmp_path, capsys):
        """It was once printed as `0.5 0.5`, as if one run told anything about the spread."""
        made(tmp_path / "a")
        out, cells = self.printed(capsys, tmp_path)
        assert cells == ["1", "0.5", "-", "-"] and "1 run, 0 failed" in out
        with (tmp_path / "summary.csv").open() as file:
            (row,) = csv.DictReader(file)
        assert row["error_end_median"] == "0.5" and row["error_end_low"] == row["error_end_high"] == ""
        assert "0.5 …" not in (tmp_path / "report.html").read_text()

    def test_two_runs_have_one(self, tmp_path, capsys):
        made(tmp_path / "a")
        made(tmp_path / "b", 0.25)
        out, cells = self.printed(capsys, tmp_path)
        assert cells == ["1", "0.375", "0.25", "0.5"] and "2 runs, 0 failed" in out

    @pytest.mark.parametrize("value,start,end", [("loss.final", "0.125", "0.5"), ("drift.w", "-", "0.25")])
    def test_start_and_end_are_of_one_quantity(self, value, start, end, tmp_path, capsys):
        """With value=drift.w the start of the error once stood before the end of the drift."""
        made(tmp_path / "a")
        out, cells = self.printed(capsys, tmp_path, value=value)
        assert cells == [start, end, "-", "-"] and out.startswith(f"{value}: ")

    def test_settings_are_written_as_the_command_line_takes_them(self, tmp_path, capsys):
        made(tmp_path / "a", lr=None, on=True)
        made(tmp_path / "b", lr=0.5, on=False)
        write(tmp_path)
        out = capsys.readouterr().out
        assert "lr=null on=true" in out and "lr=0.5 on=false" in out and "None" not in out


def test_an_absent_setting_is_not_called_none():
    figure = heat_map([Point({"model": "spectral", "lr": None}, 0.5, "done")], "model", "lr", "relative_error.final")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["-"]


def test_names_of_quantities_are_never_cut():
    names = ["candidate.top_complex_modulus_of_all", "spectral_radius"]
    lines = movement_table(
        {
            f"step_{n:08d}": {name: Quantity(name, 1.2345e-5 * n + 0.1, "two-sided", (), False, "") for name in names}
            for n in (1, 2, 3)
        }
    )
    assert names[0] in lines and any(line.startswith(f"{names[1]} ") for line in lines)
    assert all(len(line) <= PLAIN_WIDTH for line in lines)


def test_a_run_of_one_step_took_one_step(ran):
    folder = ran("T=4", *SMALL, "train.steps=1")
    assert "after 1 step (" in describe(folder.summary(), folder.path)


@pytest.mark.parametrize("size", [(0, 0), (24, 80)])
def test_the_bar_shows_loss_and_error_from_the_first_frame_on(size):
    """On a terminal that does not know its size there was once no bar, and the first frame had no numbers."""
    pid, end = pty.fork()
    if pid == 0:
        fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115  # pytest has its own
        values = {}
        with steps_shown(range(3, 8), "", True, lambda: values) as steps:
            for step in steps:
                if step == 7:
                    break
                values |= {"loss/held_out": 0.5, "error/training": 0.25}
                time.sleep(0.11)
        sys.stderr.flush()
        os._exit(0)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while part := os.read(end, 65536):
            shown += part
    os.waitpid(pid, 0)
    os.close(end)
    frames = [frame for frame in shown.decode().split("\r") if frame.strip()]
    assert frames[0].startswith("3/7 |") and frames[0].endswith("| loss -, error -, ? left")
    assert frames[-1].startswith("7/7 |") and "| loss 0.5, error 0.25, " in frames[-1]
    assert all(len(frame) <= 79 for frame in frames)


@pytest.mark.parametrize(
    "samples,advice", [(1, "use a longer"), (5, "use a longer"), (10, "use T=2 or less, or a longer")]
)
def test_advice_can_be_followed(samples, advice, tmp_path):
    """`use T=0 or less` was once the advice."""
    np.save(tmp_path / "x.npy", np.arange(1.0, samples + 1))
    with pytest.raises(ValueError, match=f"; {advice} recording"):
        Recording(str(tmp_path / "x.npy"), 8)


def test_where_no_algorithm_is_known_the_task_s_numbers_lead(ran):
    """A forecaster that starts at a known answer has a verdict, which once took the place of the task's metrics."""
    words = ("task=forecast", "signal=harmonics", "model=dictionary_ridge", "T=24", "signal.periods=[2,9]", "model.periods=[2,9]", "signal.noise=0.0", "model.noise=0.0")  # fmt: skip
    folder = ran(*words, *SMALL[1:], "task.horizon=4", "optim.lr=1e-6", "optim.lr_over_boundary=null")
    labels = [line[:16].strip() for line in describe(folder.summary(), folder.path).splitlines() if line[:16].strip()]
    assert labels[:3] == ["task metrics", "final loss", "verdict"]
    exact = ran("T=4", *SMALL, "train.steps=0", name="exact")
    assert describe(exact.summary(), exact.path).lstrip().startswith("verdict")


def test_long_reasons_are_wrapped(ran):
    folder = ran("T=4", *SMALL, "train.steps=0", "probe.measure=[]")
    lines = describe(folder.summary(), folder.path).splitlines()
    assert all(len(line) <= PLAIN_WIDTH for line in lines if not line.startswith("records")), lines


def test_a_run_of_version_0_1_without_a_verdict_shows_its_numbers(cli):
    """It recorded no conditions: neither the verdict nor the task's numbers were printed."""
    assert cli(*SMALL, "model=random", "hydra.run.dir=run")[0] == 0
    summary = {name: value for name, value in RunFolder("run").summary().items() if name != "conditions"}
    summary["verdict"] = "no algorithm"
    assert "task metrics" in describe(summary, RunFolder("run").path)
