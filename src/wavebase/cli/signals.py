"""What a signal does while nothing is being trained: one line and exit status 130. Light to import."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Any

STATUS = 130
NAMES = ("SIGINT", "SIGTERM", "SIGUSR2", "SIGHUP")


@contextmanager
def exit_on_signal() -> Iterator[None]:
    """End the process at once, in one line, if a signal comes.

    For imports: an exception raised in the middle of one may be swallowed or turned into another.
    """

    def end(number: int, frame: FrameType | None) -> None:
        os.write(2, f"wavebase: {message(number)}\n".encode())
        os._exit(STATUS)

    with _handled_by(end):
        yield


class StopOnSignal:
    """A handler that raises KeyboardInterrupt, with a message.

    Python ignores an exception that is raised in a weakref callback, in `__del__` or in a callback of C code. So the
    handler keeps it, and `Interruption` raises it again before the next training.

    Attributes:
        pending: What was raised, None before a signal.
    """

    pending: KeyboardInterrupt | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if frame is not None:  # without one, `Interruption` passes on a SIGUSR2 that has ended a training
            self.pending = KeyboardInterrupt(message(number))
            raise self.pending

    def report_unraisable(self, unraisable: Any) -> None:
        """Replace `sys.unraisablehook`, which prints a traceback of what is ignored: this one is not lost."""
        if self.pending is None or unraisable.exc_value is not self.pending:
            sys.__unraisablehook__(unraisable)


@contextmanager
def raise_on_signal() -> Iterator[StopOnSignal]:
    """Raise KeyboardInterrupt, with a message, if a signal comes. Training has its own handlers (`Interruption`).

    Yields:
        The handler. The caller must look at its `pending` at the end.
    """
    stop, hook = StopOnSignal(), sys.unraisablehook
    sys.unraisablehook = stop.report_unraisable
    try:
        with _handled_by(stop):
            yield stop
    finally:
        sys.unraisablehook = hook


def message(number: int) -> str:
    """Return the line for a signal that came outside training."""
    return f"interrupted by {signal.Signals(number).name} outside training; run the same command again"


@contextmanager
def _handled_by(handler: Any) -> Iterator[None]:
    previous = {}
    try:
        for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
            # a handler of the caller's stays, and so does nohup's "ignore"
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                previous[number] = signal.signal(number, handler)
    except ValueError:  # not the main thread
        previous.clear()
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def run_main(module: str, **arguments: bool) -> None:
    """Import a module and call its `main`; a signal during the import ends the process in one line."""
    with exit_on_signal():
        main = import_module(module).main
    main(**arguments)
