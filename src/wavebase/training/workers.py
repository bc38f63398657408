"""Work in forked processes, which share what this one has loaded, receive its interruption, and die with it."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

from wavebase.training.interruption import Interrupted, Interruption

PR_SET_PDEATHSIG = 1  # of prctl(2): the signal that a process gets when its parent dies


def run_in_processes(work: Callable[[int], Any], count: int, interruption: Interruption) -> list[Any]:
    """Run work(0), ..., work(count - 1), each in a process of its own, and wait for all. Linux only.

    The processes see no CUDA device: what is forked cannot use one, and torch's optimisers ask for it even on the CPU.

    Args:
        work: Its result and its exception must be picklable.
        count: Number of processes.
        interruption: Passed on to the processes as SIGTERM.

    Returns:
        The results in order.

    Raises:
        Interrupted: If a process raised it.
        MemoryError: If a process was killed, as the kernel does when memory runs out.
        Exception: Whatever else the work raised.
    """
    context = multiprocessing.get_context("fork")
    processes = []
    waiting: dict[Any, int] = {}
    outcomes: list[Any] = [None] * count
    terminated = False
    try:
        for n in range(count):
            receiver, sender = context.Pipe(duplex=False)
            processes.append(context.Process(target=_child, args=(work, n, sender), daemon=True))
            processes[n].start()
            sender.close()  # so that a dead child yields EOF
            waiting[receiver] = n
        while waiting:
            if interruption() and not terminated:
                terminated = True
                for process in processes:
                    process.terminate()
            for ready in connection.wait(list(waiting), timeout=0.2):
                n = waiting.pop(ready)
                with contextlib.suppress(EOFError):  # the process died
                    outcomes[n] = ready.recv()  # type: ignore[call-arg, union-attr]  # ours are connections
        for process in processes:
            process.join()
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
    errors = []
    for process, outcome in zip(processes, outcomes, strict=True):
        if outcome is None:
            kind = MemoryError if process.exitcode == -signal.SIGKILL else RuntimeError
            errors.append(kind(f"a process of the sweep that ended with status {process.exitcode}"))
        elif outcome[1] is not None:
            errors.append(outcome[1])
    if errors:
        raise next((error for error in errors if isinstance(error, Interrupted)), errors[0])
    return [result for result, _ in outcomes]


def _child(work: Callable[[int], Any], n: int, end: Any) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        end.send((work(n), None))
    except BaseException as error:
        end.send((None, error))
