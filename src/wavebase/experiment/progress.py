"""How far a run is: a bar on a terminal, a log line every few seconds elsewhere."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from wavebase import console
from wavebase.formatting import number

log = logging.getLogger("wavebase")
EVERY = 5.0  # seconds between log lines


class Pace:
    """Tells when the next log line is due, and how fast the work is.

    Args:
        total: Units of the whole work.
    """

    def __init__(self, total: int):
        self.total, self.done = total, 0
        self.began = self.last = time.monotonic()

    def due(self) -> bool:
        """Return whether `EVERY` seconds have passed since the last line, and start to count anew if so."""
        if time.monotonic() - self.last <= EVERY:
            return False
        self.last = time.monotonic()
        return True

    def text(self, unit: str) -> str:
        """Return the rate so far and the time left: "12.5 steps/s, 2:05 left"."""
        rate = self.done / max(time.monotonic() - self.began, 1e-9)
        if rate == 0:
            return f"0 {unit}/s"
        seconds = round((self.total - self.done) / rate)
        hours, minutes = divmod(seconds // 60, 60)
        left = f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"
        return f"{rate:.3g} {unit}/s, {left} left"


@contextmanager
def steps_shown(
    steps: range, name: str, single: bool, values: Callable[[], Mapping[str, float]]
) -> Iterator[Iterator[int] | Any]:
    """Yield an iterator over the steps that shows how far it is.

    Args:
        steps: The steps to take.
        name: What log lines call the run or the stack.
        single: Whether a bar may be drawn; the runs of a sweep write lines.
        values: Returns the newest values of the probes.
    """
    if single and sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(steps, unit="step", leave=False, ncols=min(79, console.width(sys.stderr) - 1)) as bar:
            yield bar
    else:
        yield _logged(steps, name, values)


def _logged(steps: range, name: str, values: Callable[[], Mapping[str, float]]) -> Iterator[int]:
    pace = Pace(len(steps))
    for pace.done, step in enumerate(steps):
        if pace.due():
            error = values().get("error/training", math.nan)
            rate = pace.text("steps")
            log.info("%s step %d of %d, %s, relative error %s", name, step, steps.stop - 1, rate, number(error))
        yield step
