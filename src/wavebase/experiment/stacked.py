"""A sweep's jobs, trained in stacks: jobs whose tensors have equal shapes are trained together."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import torch

from wavebase.experiment.progress import Pace
from wavebase.experiment.runner import Job, prepare, train_and_finish
from wavebase.experiment.session import Session
from wavebase.experiment.summary import objective
from wavebase.formatting import counted
from wavebase.limits import available_memory, raise_descriptor_limit, spare_descriptors
from wavebase.recurrence.native import build
from wavebase.training.interruption import Interruption
from wavebase.training.stacking import activation_bytes
from wavebase.training.workers import run_in_processes

log = logging.getLogger("wavebase")
MOST_WAITING = 4  # stacks' worth of jobs that may be built and not yet trained
DESCRIPTORS = 4  # that an open run holds

Failed = Callable[[Job, Exception], None]
Stack = list[tuple[int, Session]]


def run_stacked(jobs: list[Job], max_stack: int, failed: Failed, processes: int = 1) -> list[float | None]:
    """Run jobs; each leaves the records that it would have left alone.

    Jobs are built as they are trained, so that memory does not grow with their number.

    Args:
        max_stack: Most members of a stack; fewer where the process's memory or file descriptors do not hold so many.
        failed: Is called with every job that cannot run, or whose folder another process writes; the others go on.
        processes: Forked processes that the jobs are dealt to. `failed` is called in them.

    Returns:
        Final relative errors in the order of the jobs, infinity for a diverged one, None for a failed one.

    Raises:
        Interrupted: After a signal.
    """
    first: dict[tuple[Any, str], int] = {}  # equal jobs are one run with one result
    for n, job in enumerate(jobs):
        first.setdefault((job.path, repr(job.node)), n)
    if len(first) < len(jobs):
        results = run_stacked([jobs[n] for n in first.values()], max_stack, failed, processes)
        by_job = dict(zip(first, results, strict=True))
        return [by_job[job.path, repr(job.node)] for job in jobs]
    with Interruption() as interruption:
        processes = min(processes, len(jobs))
        raise_descriptor_limit()
        if processes < 2:
            return _Part(jobs, max_stack, failed, interruption).run()
        build.prepare()

        def part(n: int) -> list[float | None]:
            return _Part(jobs[n::processes], max_stack, failed, interruption, processes).run()

        errors: list[float | None] = [None] * len(jobs)
        for n, finals in enumerate(run_in_processes(part, processes, interruption)):
            errors[n::processes] = finals
        return errors


def usable_processes(jobs: list[Job]) -> int:
    """Return how many processes keep the machine busy with these jobs: one for every core that their threads leave.

    One where they train on CUDA, leave the number of threads to torch, or the system is not Linux, where a process that
    has loaded torch may be forked.
    """
    threads = [job.node["threads"] for job in jobs]
    on_cuda = any(job.node["device"] != "cpu" for job in jobs) and torch.cuda.is_available()
    if sys.platform != "linux" or on_cuda or not all(isinstance(count, int) for count in threads):
        return 1
    return max(1, len(os.sched_getaffinity(0)) // max([1, *threads]))


class _Part:
    """The jobs of one process.

    Args:
        sharing: Processes that share the machine's memory.
    """

    def __init__(self, jobs: list[Job], max_stack: int, failed: Failed, interruption: Interruption, sharing: int = 1):
        self.jobs, self.max_stack, self.failed = jobs, max_stack, failed
        self.interruption, self.sharing = interruption, sharing
        self.errors: list[float | None] = [None] * len(jobs)
        self.measured: dict[str, Any] = {}  # at the jobs' starts
        self.waiting: dict[Any, Stack] = {}  # by what the members of a stack share
        self.sizes: dict[Any, int] = {}
        self.done = 0
        self.pace = Pace(len(jobs))

    def run(self) -> list[float | None]:
        """Build the jobs in order, and train a stack as soon as it is full, or too many jobs wait."""
        for n, job in enumerate(self.jobs):
            self.pace.done = n
            if self.pace.due():
                log.info("%d of %d jobs prepared, %d done, %s", n, len(self.jobs), self.done, self.pace.text("jobs"))
            try:
                session = prepare(job, measured=self.measured)
                if isinstance(session, dict):
                    self.errors[n] = objective(session)
                    self.done += 1
                    continue
                key = session.stack_key(n)
                if key not in self.sizes:
                    self.sizes[key] = self._members_that_fit(session)
            except Exception as error:
                self._fail(n, error)
                continue
            self.waiting.setdefault(key, []).append((n, session))
            if len(self.waiting[key]) == self.sizes[key]:
                self._train(self.waiting.pop(key))
            elif sum(map(len, self.waiting.values())) >= MOST_WAITING * self.max_stack:
                fullest = max(self.waiting, key=lambda key: len(self.waiting[key]))
                self._train(self.waiting.pop(fullest))
        for key in list(self.waiting):
            self._train(self.waiting.pop(key))
        return self.errors

    def _train(self, stack: Stack) -> None:
        for part in self._in_step(stack):
            opened = []
            for n, session in part:
                try:
                    session.open()
                    opened.append((n, session))
                except Exception as error:
                    self._fail(n, error)
            if opened:
                self._train_opened(opened)

    def _train_opened(self, stack: Stack) -> None:
        """Train a stack. If one member raises, all have stopped: each goes on alone, and only those that raise again fail."""
        mine = "this process's " * (self.sharing > 1) + counted(len(self.jobs), "job")
        together = counted(len(stack), "job") + (" together" if len(stack) > 1 else "")
        log.info("training %s, %d of %s done", together, self.done, mine)
        name = f"{self.done}/{len(self.jobs)} jobs"
        try:
            finals = train_and_finish([session for _, session in stack], self.interruption, name)
        except Exception as error:
            if len(stack) == 1:
                self._fail(stack[0][0], error)
                return
            log.warning("a stack of %d jobs stopped (%s); each goes on alone", len(stack), type(error).__name__)
            for n, _ in stack:
                self._run_alone(n)
            return
        for (n, _), final in zip(stack, finals, strict=True):
            self.errors[n] = final
        self.done += len(stack)

    def _run_alone(self, n: int) -> None:
        try:
            session = prepare(self.jobs[n])
            if isinstance(session, dict):
                self.errors[n] = objective(session)
            else:
                session.open()
                self.errors[n] = train_and_finish([session], self.interruption)[0]
            self.done += 1
        except Exception as error:
            self._fail(n, error)

    def _fail(self, n: int, error: Exception) -> None:
        self.done += 1
        self.failed(self.jobs[n], error)

    def _in_step(self, stack: Stack) -> list[Stack]:
        """Part a stack by the step to go on from.

        A kill between the checkpoints of one step leaves members one checkpoint apart: the later ones go back to the
        earlier step, so that they are trained together as they would have been.
        """
        lowest = min(session.first_step for _, session in stack)
        parts: dict[Any, Stack] = {}
        for n, session in stack:
            if 0 < session.first_step - lowest <= session.cfg.train.checkpoint_every:
                earlier = prepare(self.jobs[n], until=lowest)
                session = earlier if isinstance(earlier, Session) else session
            parts.setdefault((session.first_step, session.ended), []).append((n, session))
        return list(parts.values())

    def _members_that_fit(self, session: Session) -> int:
        """Return how many members like this one a stack may have: half of the free memory, by the measured size of one."""
        device = next(session.components.net.parameters()).device
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
        one = 1 + 2 * activation_bytes(session.train_state(), session.cfg.train.batch)
        return max(1, min(self.max_stack, int(free / self.sharing / 2 / one), spare_descriptors() // DESCRIPTORS))
