"""From a configuration to a finished folder: one run, or many as stacks; new, continued or already done."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf

from wavebase import config, report
from wavebase.assembly import Pieces, assemble
from wavebase.config import RunConfig
from wavebase.interruption import Interrupted, Interruption
from wavebase.records import RecordsError, RunFolder
from wavebase.session import Session
from wavebase.training import saved_bytes, train

log = logging.getLogger("wavebase")


class Job(NamedTuple):
    """A resolved configuration, the folder for its records, and the option chosen in each config group."""

    node: dict[str, Any]
    path: Path
    choices: Mapping[str, str]


def run(job: Job, single: bool = True) -> float | None:
    """Run one job; returns the final relative error. single: show progress and a full report on the console.

    A folder with a finished run of the same configuration is left as it is; with an unfinished one, continued from its
    newest readable checkpoint. `resume: false` takes a new folder beside an old one. Raises ConfigError or RecordsError.
    """
    session = _prepare(job, single)
    if isinstance(session, dict):
        return session["relative_error"]["final"]
    return _train_and_finish([session])[0]


def run_stacked(jobs: list[Job], max_stack: int, failed: Callable[[Job, Exception], None]) -> list[float | None]:
    """Run jobs, those that agree in all but numbers together as one program; each leaves what it would have left alone.

    Stacks hold at most `max_stack` members, and at most as many as fit into half of the free memory by the measured
    size of one. A job that cannot run is handed to `failed`, and the others go on.
    """
    errors: dict[int, float | None] = {}
    stacks: dict[Any, list[tuple[int, Session]]] = {}
    for n, job in enumerate(jobs):
        try:
            session = _prepare(job, single=False)
        except Exception as error:
            failed(job, error)
            continue
        if isinstance(session, dict):
            errors[n] = session["relative_error"]["final"]
        else:
            stacks.setdefault(session.stack_key(n), []).append((n, session))
    for stack in stacks.values():
        size = min(max_stack, _members_that_fit(stack[0][1]))
        for first in range(0, len(stack), size):
            part = stack[first : first + size]
            log.info("training %d of %d jobs as one program", len(part), len(jobs))
            try:
                finals = _train_and_finish([session for _, session in part])
                errors |= {n: final for (n, _), final in zip(part, finals, strict=True)}
            except Exception as error:
                for n, _ in part:
                    failed(jobs[n], error)
    return [errors.get(n) for n in range(len(jobs))]


def _prepare(job: Job, single: bool) -> Session | dict[str, Any]:
    """Everything up to the first step; or the summary of a finished run. Nothing is written before all is checked."""
    cfg = config.parse(job.node)
    text = config_text(job.node)
    folder = RunFolder(job.path if cfg.resume else _unused(job.path))
    finished = _same_run_before(folder, text)
    if finished is not None:
        log.info("%s", report.describe(finished, folder.path, short=not single))
        log.info("%s was finished before; resume=false runs it anew", folder.path.name)
        return finished
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = (
        False  # its rounding rivals what we measure
    )
    pieces, state = _build_or_resume(cfg, folder)
    return Session(cfg, pieces, folder, state, text, job.choices, single)


def _train_and_finish(sessions: list[Session]) -> list[float | None]:
    """Train sessions that agree in their settings as one program, and write each one's results."""
    first = sessions[0]
    for session in sessions:
        session.open()
    began = time.monotonic()
    with Interruption() as interruption, first.progress() as steps:
        members = [session.member() for session in sessions]
        outcomes = train(members, first.cfg.train, first.cfg.probe.every, steps, interruption)
    seconds = time.monotonic() - began
    if outcomes[0][0] == "interrupted":
        for session, (_, step) in zip(sessions, outcomes, strict=True):
            session.interrupt(step)
        raise Interrupted(
            f"{first.folder.path} was interrupted at step {outcomes[0][1]}; the same command continues it"
        )
    return [session.finish(*outcome, seconds) for session, outcome in zip(sessions, outcomes, strict=True)]


def _members_that_fit(session: Session) -> int:
    device = next(session.pieces.net.parameters()).device
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, int(free / 2 / (1 + 2 * saved_bytes(session.member(), session.cfg.train.batch))))


def config_text(node: Mapping[str, Any]) -> str:
    """What config.yaml holds: the resolved configuration without `resume`, which is about the folder, not the run."""
    return OmegaConf.to_yaml(OmegaConf.create({key: value for key, value in node.items() if key != "resume"}))


def _same_run_before(folder: RunFolder, text: str) -> dict[str, Any] | None:
    """The summary of a finished run of this configuration, if that is what the folder holds. Raises RecordsError."""
    file = folder.path / "config.yaml"
    if file.is_file() and file.read_text() != text:
        raise RecordsError(
            f"{folder.path} must be new or hold this very configuration, got another run's; use resume=false or another hydra.run.dir"
        )
    summary = folder.summary()
    return summary if summary is not None and summary["status"] in ("done", "diverged") else None


def _build_or_resume(cfg: RunConfig, folder: RunFolder) -> tuple[Pieces, dict[str, Any] | None]:
    for step in reversed(folder.checkpoint_steps()):
        try:
            state = folder.load_checkpoint(step)
        except RecordsError as error:
            log.warning("%s", error)
            continue
        return assemble(cfg, state["learning_rate"], state["lambda_max"]), state
    return assemble(cfg), None


def _unused(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that holds no run."""
    candidate, number = path, 1
    while (candidate / "config.yaml").exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
