"""A question that takes many runs: sweep through the command line, then read the records back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from wavebase import assembly, config, records
from wavebase.config import RunConfig
from wavebase.report import Run

FOLDER = Path("outputs/studies")
# what a study of many short runs needs no more of
BRIEF = ("probe.figures=[]", "probe.every=1000000", "train.checkpoint_every=1000000", "threads=1")


def sweep(name: str, *overrides: str) -> list[Run]:
    """Run `python -m wavebase.run -m hydra/launcher=stacked` with the overrides, in outputs/studies/<name>; every run found there afterwards.

    Finished runs are not run again. Raises subprocess.CalledProcessError if one failed.
    """
    folder = FOLDER / name
    command = [
        sys.executable,
        "-m",
        "wavebase.run",
        "-m",
        "hydra/launcher=stacked",
        f"hydra.sweep.dir={folder}",
        *overrides,
    ]
    subprocess.run(command, check=True)
    return [Run(found) for found in records.find_runs(folder)]


def trained(folder: records.RunFolder, at: int = -1) -> tuple[RunConfig, assembly.Pieces]:
    """A run's configuration and pieces again, the net with the weights of its last checkpoint, or of the `at`-th."""
    node: Any = OmegaConf.to_container(OmegaConf.load(folder.path / "config.yaml"))
    cfg = config.parse(node)
    pieces = assembly.assemble(cfg, learning_rate=1.0)  # of no use here, but otherwise it might have to be measured
    pieces.net.load_state_dict(folder.load_checkpoint(folder.checkpoint_steps()[at])["net"])
    return cfg, pieces


def grouped(runs: Iterable[Run], *keys: str) -> dict[tuple[Any, ...], list[Run]]:
    """Runs by their configuration's values at dotted keys, in the order of those values."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.config[key] for key in keys), []).append(run)
    return dict(sorted(groups.items()))


def final_errors(runs: Iterable[Run]) -> np.ndarray:
    """relative_error at the end of each run; infinite where a run diverged."""
    errors = [run.value("relative_error", "final") for run in runs]
    return np.array([np.inf if error is None else error for error in errors])
