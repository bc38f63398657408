"""From a configuration to a finished folder: new, continued, or already done."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf

from wavebase.experiment import config
from wavebase.experiment.build import build_components
from wavebase.experiment.restoring import check_content, check_fields, with_own_start
from wavebase.experiment.session import Session
from wavebase.experiment.summary import describe, objective
from wavebase.records.folder import RunFolder
from wavebase.theory import boundaries
from wavebase.training.interruption import Interrupted, Interruption
from wavebase.training.loop import Status, train

log = logging.getLogger("wavebase")


class Job(NamedTuple):
    """One run to do.

    Attributes:
        node: The resolved configuration.
        path: The folder for its records.
        choices: The option chosen in each config group.
        given: The groups and keys that the command line or a sweep sets.
    """

    node: dict[str, Any]
    path: Path
    choices: Mapping[str, str]
    given: Sequence[str] = ()


def run(job: Job, single: bool = True) -> float | None:
    """Run one job.

    A folder with a finished run of the same configuration is left as it is; an unfinished run is continued from its
    newest readable checkpoint. `resume: false` takes a new folder beside an old one.

    Args:
        single: Show progress and a full summary on the console.

    Returns:
        The final relative error, infinity if the run diverged.

    Raises:
        ConfigError: For a configuration that cannot run; nothing has been written then.
        RecordsError: For a folder that cannot be used; FolderLocked where another process writes it.
        Interrupted: After a signal, when a checkpoint has been saved.
    """
    with Interruption() as interruption:
        session = prepare(job, single)
        if isinstance(session, dict):
            return objective(session)
        session.open()
        return train_and_finish([session], interruption)[0]


def prepare(
    job: Job, single: bool = False, until: int | None = None, measured: dict[str, Any] | None = None
) -> Session | dict[str, Any]:
    """Do everything that precedes the first step. Nothing is written.

    Args:
        until: Continue from no later step.
        measured: What was measured at other jobs' starts; see `build_components`.

    Returns:
        The session, or the summary of a finished run.
    """
    cfg = config.parse(job.node)
    text = config_text(job.node)
    folder = RunFolder(job.path if cfg.resume else _unused(job.path), config.identity)
    finished = folder.finished(text)
    if finished is not None:
        check_content(cfg, finished, folder)
        log.info("%s", describe(finished, folder.path, short=not single))
        log.info("%s was finished before; resume=false runs it anew", folder.path.name)
        return finished
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    # TF32's rounding rivals what we measure
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    state = folder.newest_checkpoint(until)
    if state is not None:
        check_fields(state, folder, cfg.train.steps)
        own = with_own_start(cfg, folder, 0)
        components = build_components(own, state["learning_rate"], boundaries.recorded(state))
        if own is not cfg:
            components = components._replace(start=state.get("start_sha256"))
    else:
        components = build_components(cfg, measured=measured)
    return Session(cfg, components, folder, state, text, job.choices, single, given(job))


def train_and_finish(
    sessions: list[Session], interruption: Interruption, name: str | None = None
) -> list[float | None]:
    """Train opened sessions, which agree in their settings, together; write their results; close their folders.

    Args:
        name: What progress lines call them; by default the first one's folder.

    Returns:
        Each session's final relative error, infinity where it diverged.

    Raises:
        Interrupted: If a signal came. Sessions that it stopped have saved a checkpoint.
    """
    first = sessions[0]
    began = time.monotonic()
    try:
        outcomes: list[tuple[Status, int]]
        if first.ended is not None:
            outcomes = [(first.ended, session.first_step) for session in sessions]
        else:
            with first.progress(len(sessions), name) as steps:
                states = [session.train_state() for session in sessions]
                outcomes = train(states, first.cfg.train, first.cfg.probe.every, steps, interruption)
        seconds = time.monotonic() - began
        pairs = list(zip(sessions, outcomes, strict=True))
        stopped = [(session, step) for session, (status, step) in pairs if status == "interrupted"]
        ended = [(session, outcome) for session, outcome in pairs if outcome[0] != "interrupted"]
        for session, step in stopped:
            session.interrupt(step)
        for session, outcome in ended:
            session.end(*outcome)
        finals = [session.finish(*outcome, seconds) for session, outcome in ended]
        if stopped:
            session, step = stopped[0]
            raise Interrupted(f"{session.folder.path} was interrupted at step {step}; the same command continues it")
    finally:
        for session in sessions:
            session.folder.abandon()
    if interruption():
        raise Interrupted(f"interrupted after {first.folder.path}; run the same command again for the rest")
    return finals


def config_text(node: Mapping[str, Any]) -> str:
    """Return what config.yaml holds: the resolved configuration without `resume`, which is about the folder, and without an empty `trust`."""
    kept = {key: value for key, value in node.items() if key != "resume" and (key != "trust" or value)}
    return OmegaConf.to_yaml(OmegaConf.create(kept))


def given(job: Job) -> dict[str, Any]:
    """Return what the command line or a sweep sets: the option of a group, or the value at a key; and always the model."""
    values: dict[str, Any] = {"model": job.choices.get("model", "")}
    for key in job.given:
        node: Any = job.node
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        values[key] = job.choices.get(key, node)
    return {key: value for key, value in values.items() if value is not None}


def _unused(path: Path) -> Path:
    """Return the path, or the first of path-2, path-3, ... that holds no run."""
    candidate, number = path, 1
    while (candidate / "config.yaml").exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
