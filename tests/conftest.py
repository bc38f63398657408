"""Shared ways into the program: a composed configuration, and the command line in this process."""

import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from torch import nn

from wavebase.cli import names, probe, run
from wavebase.experiment import runner

ROOT = Path(__file__).parents[1]
SMALL = ("T=4", "train.steps=2", "train.batch=4", "task.held_out_count=4", "probe.figures=[]", "probe.curvature=false")

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


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_logging():
    """Hydra points the root logger at the standard output of the moment, which is that of one test."""
    yield
    for handler in logging.root.handlers[:]:
        if type(handler) is logging.StreamHandler:
            logging.root.removeHandler(handler)


@pytest.fixture
def composed():
    """composed("model=random", "T=5") -> the resolved configuration as plain containers."""

    def resolve(*overrides):
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(names.conf_folder()), version_base="1.3"):
            return OmegaConf.to_container(compose("config", list(overrides)), resolve=True)

    return resolve


@pytest.fixture
def ran(composed, tmp_path):
    """ran("T=5") -> the finished folder of a run of a few seconds at most."""
    from wavebase.records.folder import RunFolder

    def go(*overrides, name="run"):
        runner.run(runner.Job(composed(*overrides), tmp_path / name, {"model": "test"}), single=False)
        return RunFolder(tmp_path / name)

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
