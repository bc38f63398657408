"""Shared ways into the program: a composed configuration, and the command line in this process or in a forked copy of it."""

import os

# before numpy and torch are imported: for matrices this small, threads of their own wait longer than they work, at full speed
os.environ.setdefault("OMP_NUM_THREADS", "1")

import contextlib
import copy
import functools
import gc
import json
import logging
import multiprocessing
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from omegaconf import OmegaConf
from torch import nn

import hydra_once
from wavebase import registry
from wavebase.cli import names, probe, run
from wavebase.experiment import runner, session
from wavebase.theory import gauss_newton

# nearly all that collecting and running tests makes either stays or goes without the collector
gc.set_threshold(100_000, 20, 100)
ROOT = Path(__file__).parents[1]
# Many tests fork, which a process that has started CUDA cannot: all run on the CPU but those of on_device, in a process of
# their own (test_device.py).
DEVICES = torch.cuda.device_count()  # does not start CUDA
VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")
collect_ignore = []
if "WAVEBASE_ON_DEVICE" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    collect_ignore = ["on_device"]
FEW = (
    "probe.curvature_batch=8"  # most of what the smallest run costs is its learning rate's boundary, measured on these
)
SMALL = (
    "T=4",
    "train.steps=2",
    "train.batch=4",
    "task.held_out_count=4",
    "probe.figures=[]",
    "probe.curvature=false",
    FEW,
)
ONE_PROBE = "probe.measure=[function.held_out_error]"  # for tests of other things: the others are half of what a small run costs

# WAVEBASE_FULL=1 tries all of a grid of which a few repetitions or samples show as much, many times slower
FULL = bool(os.environ.get("WAVEBASE_FULL"))
HANG = 600  # seconds after which something is taken to hang; nothing that works is ever judged by its speed


def wait_until(condition, process=None):
    """Wait for condition(); fails where the process that should bring it about has ended, or nothing happens for ever."""
    until = time.monotonic() + HANG
    while not condition():
        if process is not None and process.poll() is not None:
            assert condition(), f"the process ended first, with status {process.returncode}: {process.communicate()}"
            return
        assert time.monotonic() < until, "waited for too long: it hangs"
        time.sleep(0.02)


def run_as_command(main, argv, folder, environment=()):
    """Run a command line in a process that has just been forked, with the file descriptors 1 and 2 as its streams.

    Args:
        main: what the command runs, such as wavebase.cli.run.main.
        argv: the whole command line, program first.
        folder: the working directory.
        environment: variables to set.
    """
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = list(argv)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    GlobalHydra.instance().clear()
    main()


def run_here(target, *args):
    """Stand in for study.run_forked: call the function in this process. Returns its exit status."""
    argv, status = sys.argv, 0
    GlobalHydra.instance().clear()
    try:
        target(*args)
    except SystemExit as stop:
        status = stop.code
    finally:
        sys.argv = argv
    return status


class ForkedProcess:
    """A command line in a forked copy of this process: a real process with real signals that has nothing left to import.

    It has what the tests use of subprocess.Popen, and is used in its place where starting an interpreter is not the point.
    `pipe` holds both ends of a pipe that takes the place of standard output; the caller reads it.
    """

    def __init__(self, main, *words, folder, environment=(), pipe=()):
        self._files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115  # communicate closes them

        def target():
            for number, file in enumerate(self._files, 1):
                os.dup2(file.fileno(), number)
            if pipe:
                os.dup2(pipe[1], 1)
            for end in pipe:  # or it would be its own reader
                with contextlib.suppress(OSError):  # an end that nobody holds
                    os.close(end)
            run_as_command(main, ["wavebase", *words], folder, environment)

        self._process = multiprocessing.get_context("fork").Process(target=target)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        """The exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    poll = returncode.fget

    def send_signal(self, number):
        """Send a signal, if the process still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """Send SIGKILL."""
        self._process.kill()

    def communicate(self, timeout=HANG):
        """Wait for the end; returns all of standard output and standard error.

        Raises:
            TimeoutError: if it does not end; it is killed then.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise TimeoutError(f"process {self.pid} must end within {timeout} s, got none; it hangs")
        written = []
        for file in self._files:
            with file:
                file.seek(0)
                written.append(file.read())
        return tuple(written)


@pytest.fixture(autouse=True, scope="session")
def _signals_are_heard():
    """What a shell starts in the background ignores SIGINT, and under nohup SIGHUP; so would every process that a test
    starts and interrupts.
    """
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _imports_are_not_garbage():
    """What is imported stays: the collector need not look at it again, neither here nor in forked copies."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _working_directory(tmp_path_factory):
    """Tests run in an empty folder, so that a command without one of its own writes nothing into the sources."""
    folder = tmp_path_factory.mktemp("working_directory")
    with contextlib.chdir(folder):
        yield folder


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(_working_directory):
    yield
    left = sorted(os.listdir(_working_directory))
    for name in left:
        path = _working_directory / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not left, f"a test must write below tmp_path, got {left} in the working directory"


@pytest.fixture(autouse=True, scope="session")
def _composed_once():
    with hydra_once.remembering():
        yield


_measured = {}
_modules = functools.cache(registry._modules)


@pytest.fixture(autouse=True)
def _equal_starts_are_measured_once(request, monkeypatch):
    """Runs of equal model, task and signal share what was measured at their start, as the jobs of a stacked sweep do: the
    curvature is half of what a run of two steps costs. Not in tests marked `measures_starts`."""
    plain = runner.build_components

    def build_components(cfg, *given, **named):
        start = repr((cfg.T, cfg.dtype, cfg.signal, cfg.task, cfg.model))
        return plain(cfg, *given, **{**named, "measured": _measured.setdefault(start, {})})

    if not FULL and request.node.get_closest_marker("measures_starts") is None:
        monkeypatch.setattr(runner, "build_components", build_components)


def _text_by_parts(whole):
    """runner.config_text of each part of a configuration once: most parts of most configurations are alike."""
    known = {}

    @functools.wraps(whole)
    def config_text(node):
        texts = []
        for part in node.items():
            key = repr(part)
            if key not in known:
                known[key] = whole(dict([part]))
            texts.append(known[key])
        return "".join(text for text in texts if text != "{}\n") or "{}\n"

    return config_text


@pytest.fixture(autouse=True, scope="session")
def _texts_are_written_once():
    with mock.patch.object(runner, "config_text", _text_by_parts(runner.config_text)):
        yield


@pytest.fixture(autouse=True)
def _no_power_fails(request, monkeypatch):
    """Waiting for the disk is for a failure of power alone: what a killed process wrote is in the system's memory."""
    if request.module.__name__ != "test_survival":
        monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture(autouse=True)
def _sources_stay(request, monkeypatch):
    """Only the registry's tests and those of commands put modules into the packages: else their folders are listed once."""
    if request.module.__name__ not in ("test_registry", "test_commands"):
        monkeypatch.setattr(registry, "_modules", _modules)


@pytest.fixture
def small_samples(monkeypatch):
    """For tests whose runs are there to be run: intervals and curvatures of a start are estimated from few signals."""
    if not FULL:
        monkeypatch.setattr(session, "FRESH", 16)
        monkeypatch.setattr(gauss_newton, "ROWS", 64)


LAID_OUT = {"test_figures", "test_report", "test_dashboard", "test_gallery"}  # tests that look at pictures
# every kind of picture is drawn of what commands record; so it is in tests marked `draws`
DRAWN = {"test_commands", "test_experiments", "test_docs", "test_types"}


@pytest.fixture(autouse=True)
def _pictures_are_drawn_where_they_lie(request, monkeypatch):
    """Elsewhere the layout of a picture, half of its cost, is left to chance, and it has few points; or it stays white: its
    parts are made, and its file is written."""
    module = request.module.__name__
    if not FULL and module not in LAID_OUT:
        monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda engine, figure: None)
        monkeypatch.setattr(Figure, "set_dpi", lambda figure, dpi: setattr(figure, "dpi", 30))
        if module not in DRAWN and request.node.get_closest_marker("draws") is None:
            monkeypatch.setattr(Figure, "draw", lambda figure, renderer: None)


@pytest.fixture(autouse=True)
def _own_logging():
    """Hydra points the root logger at the standard output of the moment, which is that of one test."""
    yield
    for handler in logging.root.handlers[:]:
        if type(handler) is logging.StreamHandler:
            logging.root.removeHandler(handler)


@functools.cache
def _composed(folder, overrides):
    GlobalHydra.instance().clear()
    with initialize_config_dir(folder, version_base="1.3"):
        return OmegaConf.to_container(compose("config", list(overrides)), resolve=True)


@pytest.fixture(scope="session")
def composed():
    """composed("model=random", "T=5") -> the resolved configuration as plain containers."""

    def resolve(*overrides):
        return copy.deepcopy(_composed(str(names.conf_folder()), overrides))

    return resolve


@pytest.fixture(scope="session")
def run_once(composed):
    """run_once(folder, "T=5") -> the finished folder of a run of a few seconds at most, for fixtures that several tests read.
    Its curvatures are those of a few signals where the test does not say otherwise."""
    from wavebase.records.folder import RunFolder

    def go(folder, *overrides):
        runner.run(runner.Job(composed(FEW, *overrides), folder, {"model": "test"}), single=False)
        return RunFolder(folder)

    return go


@pytest.fixture
def ran(run_once, tmp_path):
    """ran("T=5") -> the same in a folder of the test's own."""

    def go(*overrides, name="run"):
        return run_once(tmp_path / name, *overrides)

    return go


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    """cli("T=1") -> (exit status, standard output, standard error) of `python -m wavebase.run T=1` in an empty folder."""

    def call(*words):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["wavebase.run", *words])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as stop:
            run.main()
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


@pytest.fixture
def analyzed(tmp_path, monkeypatch, capsys):
    """analyzed(content, *words) -> (spectrum.json, standard output) of `wavebase analyze FILE`."""

    def call(content, *words, name="net.pt"):
        status, out, err = commanded(content, *words, name=name)
        assert (status, err) == (0, ""), err
        return json.loads((tmp_path / "out" / "spectrum.json").read_text()), " ".join(out.split())

    def commanded(content, *words, name="net.pt"):
        file = tmp_path / name
        np.savez(file, **content) if name.endswith(".npz") else torch.save(content, file)
        monkeypatch.setattr("sys.argv", ["wavebase analyze", str(file), f"out={tmp_path / 'out'}", *words])
        try:
            probe.main(judge=False)
            status = 0
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    call.refused = lambda *args, **kwargs: commanded(*args, **kwargs)
    return call


def states(**modules):
    """The state_dict of a module with these parts, each made by a function."""
    torch.manual_seed(0)
    net = nn.Module()
    for name, make in modules.items():
        net.add_module(name, make())
    return net.state_dict()
