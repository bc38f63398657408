"""Signals that ask a run to stop, acted upon between two steps."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and has saved a checkpoint to continue from."""


class Interruption:
    """Calling it returns whether SIGINT, SIGTERM, SIGUSR2 or SIGHUP has arrived. Use as a context manager.

    On exit the previous handlers are restored, and SIGUSR2's is called if that signal arrived. A second SIGINT raises
    KeyboardInterrupt at once. So does entering, if a previous handler has a `pending` exception that Python ignored.
    """

    SIGNALS = tuple(
        getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR2", "SIGHUP") if hasattr(signal, name)
    )

    def __init__(self) -> None:
        self.received: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        for number in self.SIGNALS:
            if (pending := getattr(signal.getsignal(number), "pending", None)) is not None:
                raise pending
        try:
            for number in self.SIGNALS:
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
                    self.previous[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread: whoever owns the signals stops us
            self.previous = {}
        return self

    def __call__(self) -> bool:
        return self.received is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == self.received == signal.SIGINT:
            raise KeyboardInterrupt("stopped at once; the same command continues from the newest checkpoint")
        self.received = number

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        handler = self.previous.get(self.received or 0)
        if self.received == getattr(signal, "SIGUSR2", None) and callable(handler):
            handler(self.received, None)
