"""The command `wavebase`: it answers at once, fits the terminal, colours it only, and its exit statuses are those it documents."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from conftest import FEW, ForkedProcess, run_as_command, wait_until
from wavebase import __main__ as entry
from wavebase import __version__, console
from wavebase.cli import names, probe, run
from wavebase.experiment import progress
from wavebase.report import __main__ as report_command

RUN = ("T=4", "train.steps=2", "train.batch=4", "task.held_out_count=4", "probe.figures=[]", "hydra.run.dir=one", FEW)


def on_terminal(columns, *words, folder=".", fresh=False, **environment):
    """(exit status, what a terminal of so many columns showed) of `python -m wavebase <words>`: in a copy of this process
    that finds everything imported, or in a fresh interpreter."""
    sys.stdout.flush()
    pid, terminal_end = pty.fork()
    if pid == 0:
        status = 99
        try:
            for name in ("COLUMNS", "NO_COLOR"):
                os.environ.pop(name, None)
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            if fresh:
                command = [sys.executable, "-m", "wavebase", *words]
                os.execve(command[0], command, {**os.environ, "TERM": "xterm", **environment})
            run_as_command(entry.main, ["wavebase", *words], folder, {"TERM": "xterm", **environment})
            status = 0
        except SystemExit as stop:
            status = stop.code
        finally:
            sys.stdout.flush()
            os._exit(status)
    shown = b""
    while True:
        try:
            part = os.read(terminal_end, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        shown += part
    status = os.waitpid(pid, 0)[1]
    os.close(terminal_end)
    return os.waitstatus_to_exitcode(status), shown.decode().replace("\r\n", "\n")


def lines(shown):
    """What stays visible of each line: without colours, and of a progress bar its last state."""
    return [re.sub(r"\x1b\[\d*m", "", line.rsplit("\r", 1)[-1]).rstrip() for line in shown.split("\n")]


def overlong(shown, columns):
    """Lines of ours that do not fit though they could be broken: matplotlib complains of fonts in lines of its own."""
    ours = [line for line in lines(shown) if len(line.split()) > 1 and "/" not in line and "findfont" not in line]
    return [line for line in ours if len(line) > columns]


CLONE = (Path(entry.__file__).parents[2] / "experiments").is_dir()  # and not a wheel that is installed


@pytest.mark.parametrize("columns", [40, 80])
def test_help_fits(columns):
    status, shown = on_terminal(columns, "--help", fresh=True)
    assert status == 0 and not overlong(shown, columns)
    assert all(f"\n{command} " in shown for command in entry.COMMANDS)
    assert re.search(r"exit status\s+0 done; 1 not done", shown) and "130" in shown


def test_help_is_light():
    script = "import sys; sys.argv[1:] = ['--help']\nfrom wavebase.__main__ import main\ntry: main()\nfinally: assert not {'torch', 'numpy', 'hydra'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


@pytest.mark.parametrize("command", list(entry.COMMANDS))
def test_every_command_documents_itself(command, monkeypatch, capsys):
    if command == "findings" and not CLONE:
        pytest.skip("the studies are not installed")
    monkeypatch.setattr(sys, "argv", ["wavebase", command, "--help"])
    with pytest.raises(SystemExit) as stop:
        entry.main()
    out = capsys.readouterr().out
    assert stop.value.code == 0 and max(map(len, out.splitlines())) <= 80
    assert command == "findings" or "exit status" in out


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which a terminal of 40 columns saw a run, and what it saw."""
    folder = tmp_path_factory.mktemp("console")
    return folder, *on_terminal(40, "run", *RUN, folder=folder)


def test_a_run_on_a_narrow_terminal(finished):
    folder, status, shown = finished
    assert status == 0 and (folder / "one" / "summary.json").is_file()
    assert not overlong(shown, 40) and "verdict         \x1b[33munmoved\x1b[0m" in shown, shown


@pytest.mark.parametrize("columns", [40, 80])
def test_a_report_fits(finished, columns):
    status, shown = on_terminal(columns, "report", "one", folder=finished[0])
    assert status == 0 and not overlong(shown, columns) and "\x1b[33munmoved" in shown
    status, shown = on_terminal(columns, "report", "one", folder=finished[0], NO_COLOR="1")
    assert status == 0 and "unmoved" in shown and "\x1b[" not in shown


def test_probe_judges_and_analyze_does_not(finished, monkeypatch, capsys, tmp_path):
    for command in ("analyze", "probe"):
        monkeypatch.setattr(
            sys,
            "argv",
            [
                "wavebase",
                command,
                str(finished[0] / "one"),
                "draws=4",
                "samples=16",
                "panels=eigenvalues",
                f"out={tmp_path}",
            ],
        )
        entry.main()
        out = capsys.readouterr().out
        assert ("verdict at step" in out) == (tmp_path / "verdict.json").is_file() == (command == "probe")
        assert "spectral_radius (random 5..95 %) input" in " ".join(out.split()) and "\x1b" not in out, (
            "no colour where there is no terminal"
        )
        narrow = console.wrap(out, 40)
        assert not overlong(narrow, 40) and narrow.split() == out.split(), "the same words, in narrower lines"


WRONG = {
    ("rum",): "did you mean run?",
    ("run", "--nope"): "--nope",
    ("run", "modle=spectral"): "did you mean model",
    ("report", "nowhere"): "must exist",
    ("probe", "nothing.pt"): "must exist",
    ("analyze", "nothing.pt"): "must exist",
    ("findings", "--bogus"): "--bogus" if CLONE else "use a clone",
}


@pytest.mark.parametrize("words", list(WRONG), ids=" ".join)
def test_a_wrong_word_is_one_line_and_status_1(words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["wavebase", *words])
    with pytest.raises(SystemExit) as stop:
        entry.main()
    out, err = capsys.readouterr()
    assert stop.value.code == 1 and not out and err.startswith("wavebase: ") and err.count("\n") == 1
    assert WRONG[words] in err and "got" in err


def test_nothing_and_version(monkeypatch, capsys):
    for words, status, said in (((), 1, "usage: wavebase"), (("--version",), 0, f"wavebase {__version__}\n")):
        monkeypatch.setattr(sys, "argv", ["wavebase", *words])
        with pytest.raises(SystemExit) as stop:
            entry.main()
        assert stop.value.code == status and capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize("command,module", [("report", report_command), ("probe", probe)])
def test_interruption_of_a_reader_is_status_130(command, module, monkeypatch, capsys, tmp_path):
    def interrupted(*words):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, {"report": "write", "probe": "probe"}[command], interrupted)
    monkeypatch.setattr(sys, "argv", ["wavebase", command, "."])
    with pytest.raises(SystemExit) as stop:
        entry.main()
    assert stop.value.code == 130 and "interrupted" in capsys.readouterr().err


def test_interruption_of_a_run_is_status_130_and_it_continues(tmp_path):
    words = ("run", *RUN[:1], "train.steps=10000000", "hydra.run.dir=long", "probe.curvature=false", *RUN[2:5],
             "optim=adam", "optim.lr=1e-9", "optim.lr_over_boundary=null")  # fmt: skip
    process = ForkedProcess(entry.main, *words, folder=tmp_path)
    wait_until(lambda: list(tmp_path.glob("long/checkpoints/*.pt")), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130 and "the same command continues" in err.splitlines()[-1]


class TestFitting:
    def test_prose_continues_under_prose(self):
        text = console.wrap("verdict         a sentence that is longer than the line", 40)
        assert text.split("\n") == ["verdict         a sentence that is", " " * 16 + "longer than the line"]

    def test_a_path_stays_whole(self):
        path = "/a/very/long/path/that/no/terminal/of/forty/columns/holds"
        assert path in console.wrap(f"records         {path}", 40)

    def test_what_fits_is_left_alone(self):
        assert console.wrap("  a    b\n\n c", 40) == "  a    b\n\n c"

    def test_only_verdicts_are_coloured(self, monkeypatch):
        monkeypatch.setattr(console, "_is_terminal", lambda stream: True)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        shown = console.render("x: broken in /a/broken/b", sys.stdout)
        assert shown == "x: \x1b[31mbroken\x1b[0m in /a/broken/b"
        for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
            with monkeypatch.context() as patch:
                patch.setenv(name, value)
                assert "\x1b" not in console.render("broken", sys.stdout)


@pytest.mark.parametrize("launcher", ["basic", "stacked"])
def test_a_reader_that_goes_fails_no_sweep(launcher, tmp_path):
    """`wavebase run -m ... | head -1`: each log line left a traceback, and the sweep's status was 1."""
    words = ["run", "-m", *(word for word in RUN if not word.startswith("hydra")), "seed=1,2", f"hydra/launcher={launcher}", "hydra.sweep.dir=s"]  # fmt: skip
    pipe = os.pipe()
    process = ForkedProcess(entry.main, *words, folder=tmp_path, pipe=pipe)
    os.close(pipe[1])
    with open(pipe[0]) as stdout:
        assert stdout.readline()
    _, err = process.communicate()
    assert process.returncode == 0 and "Traceback" not in err and "Broken" not in err, err
    assert len(list(tmp_path.glob("s/*/summary.json"))) == 2 and (tmp_path / "s" / "report.html").exists()


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["run", "--help"], ["run", "--cfg", "job"], ["nonsense"]],
    ids=" ".join,
)
def test_a_reader_that_is_gone_changes_no_status(words, tmp_path):
    """Standard output and error are a pipe that nobody reads; of what Hydra prints, standard output in a forked process."""
    read, write = os.pipe()
    os.close(read)
    if words[0] == "run":
        done = ForkedProcess(entry.main, *words, folder=tmp_path, pipe=(read, write))
        done.communicate()
    else:
        done = subprocess.run([sys.executable, "-m", "wavebase", *words], cwd=tmp_path, stdout=write, stderr=write)
    os.close(write)
    assert done.returncode == (words == ["nonsense"])


def test_output_that_was_closed_before_we_began(tmp_path):
    script = f"exec {sys.executable} -m wavebase --help >&- 2>&-"
    assert subprocess.run(["sh", "-c", script], cwd=tmp_path).returncode == 0


def test_groups_of_the_help_are_those_of_conf():
    assert {line.split("=")[0] for line in run._groups().splitlines()} == {
        f.name for f in names.conf_folder().iterdir() if f.is_dir()
    }


def test_a_line_of_progress_fits_and_tells_how_far_how_good_and_how_long():
    """Also for the longest of names and numbers."""
    pace = progress.Pace(10**6)
    pace.began -= 3600
    pace.done, values = 123_456, {"loss/held_out": 1.2e-132, "error/training": 2.3e-116}
    for name in ("", "0/12 jobs", "a-very-long-name-of-a-run-in-a-sweep-T1024-s123456-0123abcd and 63 more"):
        line = progress.line(name, 123_456, 1_000_000, values, pace)
        assert len(line) <= 79 and "step 123456 of 1000000, loss 1.2e-132, error 2.3e-116" in line
        assert line.startswith(name[:4]) and line.endswith(" left")
    short = progress.line("run", 41, 200, {}, progress.Pace(200))
    assert short.startswith("run: step 41 of 200, loss -, error -, ")
