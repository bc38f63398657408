"""From a configuration to a finished folder: one run, or many as stacks; new, continued or already done."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf

from wavebase.experiment import config, summary
from wavebase.experiment.build import build_components
from wavebase.experiment.session import Session
from wavebase.records.folder import RunFolder
from wavebase.recurrence.native import build
from wavebase.theory import boundaries
from wavebase.training.interruption import Interrupted, Interruption
from wavebase.training.loop import Status, train
from wavebase.training.stacking import activation_bytes
from wavebase.training.workers import run_in_processes

log = logging.getLogger("wavebase")


class Job(NamedTuple):
    """A resolved configuration, the folder for its records, and the option chosen in each config group."""

    node: dict[str, Any]
    path: Path
    choices: Mapping[str, str]


def run(job: Job, single: bool = True) -> float | None:
    """Run one job; returns the final relative error. single: show progress and a full report on the console.

    A folder with a finished run of the same configuration is left as it is; with an unfinished one, continued from its
    newest readable checkpoint. `resume: false` takes a new folder beside an old one. Raises ConfigError, RecordsError
    (its kind Busy where another process writes the folder), or Interrupted.
    """
    with Interruption() as interruption:
        session = _prepare(job, single)
        if isinstance(session, dict):
            return session["relative_error"]["final"]
        session.open()
        return _train_and_finish([session], interruption)[0]


def run_stacked(
    jobs: list[Job], max_stack: int, failed: Callable[[Job, Exception], None], processes: int = 1
) -> list[float | None]:
    """Run jobs, those that agree in all but numbers together as one program; each leaves what it would have left alone.

    Stacks hold at most `max_stack` members, and at most as many as fit into half of the free memory by the measured
    size of one. A job that cannot run, or whose folder another process writes (Busy), is handed to `failed`, and the
    others go on. processes: forked ones that the jobs are dealt to; `failed` is called in them. Raises Interrupted.
    """
    with Interruption() as interruption:
        processes = min(processes, len(jobs))
        if processes < 2:
            return _run_stacked(jobs, max_stack, failed, interruption)

        build.prepare()

        def part(n: int) -> list[float | None]:
            return _run_stacked(jobs[n::processes], max_stack, failed, interruption, processes)

        errors: list[float | None] = [None] * len(jobs)
        for n, finals in enumerate(run_in_processes(part, processes, interruption)):
            errors[n::processes] = finals
        return errors


def usable_processes(jobs: list[Job]) -> int:
    """How many processes keep the machine busy with these jobs: a core for each of their threads. One where they train on
    CUDA, leave the number of threads to torch, or the system is no Linux (where a process with torch in it may be forked)."""
    threads = [job.node["threads"] for job in jobs]
    on_cuda = torch.cuda.is_available() and any(job.node["device"] != "cpu" for job in jobs)
    if sys.platform != "linux" or on_cuda or not all(isinstance(count, int) for count in threads):
        return 1
    return max(1, len(os.sched_getaffinity(0)) // max([1, *threads]))


def _run_stacked(
    jobs: list[Job],
    max_stack: int,
    failed: Callable[[Job, Exception], None],
    interruption: Interruption,
    sharing: int = 1,
) -> list[float | None]:
    """sharing: the processes that the memory is for."""
    errors: dict[int, float | None] = {}
    stacks: dict[Any, list[tuple[int, Session]]] = {}
    measured: dict[str, Any] = {}
    for n, job in enumerate(jobs):
        try:
            session = _prepare(job, single=False, measured=measured)
        except Exception as error:
            failed(job, error)
            continue
        if isinstance(session, dict):
            errors[n] = session["relative_error"]["final"]
        else:
            stacks.setdefault(session.stack_key(n), []).append((n, session))
    for stack in (part for together in stacks.values() for part in _in_step(together, jobs)):
        size = min(max_stack, _members_that_fit(stack[0][1], sharing))
        for first in range(0, len(stack), size):
            part = []
            for n, session in stack[first : first + size]:
                try:
                    session.open()
                    part.append((n, session))
                except Exception as error:
                    failed(jobs[n], error)
            if not part:
                continue
            log.info("training %d of %d jobs as one program", len(part), len(jobs))
            try:
                finals = _train_and_finish([session for _, session in part], interruption)
                errors |= {n: final for (n, _), final in zip(part, finals, strict=True)}
            except Exception as error:
                for n, _ in part:
                    failed(jobs[n], error)
    return [errors.get(n) for n in range(len(jobs))]


def _in_step(stack: list[tuple[int, Session]], jobs: list[Job]) -> list[list[tuple[int, Session]]]:
    """The stack in parts that go on from the same step. A kill between the checkpoints of one step leaves members one
    checkpoint apart: the later ones go back to it, so that they are trained together as they would have been."""
    lowest = min(session.first_step for _, session in stack)
    parts: dict[Any, list[tuple[int, Session]]] = {}
    for n, session in stack:
        if 0 < session.first_step - lowest <= session.cfg.train.checkpoint_every:
            earlier = _prepare(jobs[n], False, lowest)
            session = earlier if isinstance(earlier, Session) else session
        parts.setdefault((session.first_step, session.ended), []).append((n, session))
    return list(parts.values())


def _prepare(
    job: Job, single: bool, until: int | None = None, measured: dict[str, Any] | None = None
) -> Session | dict[str, Any]:
    """Everything up to the first step; or the summary of a finished run. Nothing is written before all is checked.

    until: continue from no later step. measured: at other jobs' starts, see `build_components`."""
    cfg = config.parse(job.node)
    text = config_text(job.node)
    folder = RunFolder(job.path if cfg.resume else _unused(job.path))
    finished = folder.finished(text)
    if finished is not None:
        log.info("%s", summary.describe(finished, folder.path, short=not single))
        log.info("%s was finished before; resume=false runs it anew", folder.path.name)
        return finished
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = (
        False  # its rounding rivals what we measure
    )
    state = folder.newest_checkpoint(until)
    if state is not None:
        components = build_components(cfg, state["learning_rate"], boundaries.recorded(state))
    else:
        components = build_components(cfg, measured=measured)
    return Session(cfg, components, folder, state, text, job.choices, single)


def _train_and_finish(sessions: list[Session], interruption: Interruption) -> list[float | None]:
    """Train opened sessions that agree in their settings as one program, and write each one's results."""
    first = sessions[0]
    began = time.monotonic()
    try:
        outcomes: list[tuple[Status, int]]
        if first.ended is not None:
            outcomes = [(first.ended, session.first_step) for session in sessions]
        else:
            with first.progress() as steps:
                members = [session.member() for session in sessions]
                outcomes = train(members, first.cfg.train, first.cfg.probe.every, steps, interruption)
        seconds = time.monotonic() - began
        stopped = [
            (session, step)
            for session, (status, step) in zip(sessions, outcomes, strict=True)
            if status == "interrupted"
        ]
        ended = [
            (session, outcome)
            for session, outcome in zip(sessions, outcomes, strict=True)
            if outcome[0] != "interrupted"
        ]
        for session, step in stopped:
            session.interrupt(step)
        for session, outcome in ended:
            session.end(*outcome)
        finals = [session.finish(*outcome, seconds) for session, outcome in ended]
        if stopped:
            raise Interrupted(
                f"{stopped[0][0].folder.path} was interrupted at step {stopped[0][1]}; the same command continues it"
            )
    finally:
        for session in sessions:
            session.folder.abandon()
    if interruption():
        raise Interrupted(f"{first.folder.path} was finished, nothing after it; the same command goes on from there")
    return finals


def _members_that_fit(session: Session, sharing: int) -> int:
    device = next(session.components.net.parameters()).device
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, int(free / sharing / 2 / (1 + 2 * activation_bytes(session.member(), session.cfg.train.batch))))


def config_text(node: Mapping[str, Any]) -> str:
    """What config.yaml holds: the resolved configuration without `resume`, which is about the folder, not the run."""
    return OmegaConf.to_yaml(OmegaConf.create({key: value for key, value in node.items() if key != "resume"}))


def _unused(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that holds no run."""
    candidate, number = path, 1
    while (candidate / "config.yaml").exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
