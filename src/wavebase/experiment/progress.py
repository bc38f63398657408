"""How far a run is: a bar on a terminal, a log line every few seconds elsewhere."""

from __future__ import annotations

import logging
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
    """Yield an iterator over the steps that shows how far it is, with the loss and the error of the last probing.

    Args:
        steps: The steps to take.
        name: What log lines call the run or the stack; "" for a run on its own.
        single: Whether a bar may be drawn; the runs of a sweep write lines.
        values: Returns the newest values of the probes.
    """
    if single and sys.stderr.isatty():
        from tqdm import tqdm

        columns = min(79, console.width(sys.stderr) - 1)
        # without nrows, tqdm shows nothing on a terminal that does not know its size, as in containers
        counts = {"initial": steps.start, "total": steps.stop - 1, "desc": numbers(values())}
        with tqdm(steps, leave=False, ncols=columns, nrows=20, bar_format=BAR, **counts) as bar:
            yield _with_numbers(bar, values)
    else:
        yield _logged(steps, name, values)


# as tqdm's own, but with the numbers before the rate, which a narrow terminal loses first
BAR = "{n_fmt}/{total_fmt} |{bar}| {desc}, {remaining} left"


def _with_numbers(bar: Any, values: Callable[[], Mapping[str, float]]) -> Iterator[int]:
    for step in bar:
        bar.set_description_str(numbers(values()), refresh=False)
        yield step


def numbers(values: Mapping[str, float]) -> str:
    """Return the held-out loss and error of the last probing, dashes before the first: "loss 1.8e-32, error 2.8e-16"."""
    loss, error = (values.get(name) for name in ("loss/held_out", "error/training"))
    return f"loss {number(loss)}, error {number(error)}"


def line(name: str, step: int, last: int, values: Mapping[str, float], pace: Pace) -> str:
    """Return a log line of at most 79 columns: without the rate and with a part of the name where it is too long."""
    head, time_left = f"step {step} of {last}, {numbers(values)}", pace.text("steps")
    rest = f"{head}, {time_left}"
    if len(rest) > 79 - min(len(name), 10) - 2:
        rest = f"{head}, {time_left.rpartition(', ')[2]}"
    room = 79 - len(rest) - 2
    if not name or room < 4:
        return rest[:79]
    return f"{name if len(name) <= room else name[: room - 1] + '…'}: {rest}"


def _logged(steps: range, name: str, values: Callable[[], Mapping[str, float]]) -> Iterator[int]:
    pace = Pace(len(steps))
    for pace.done, step in enumerate(steps):
        if pace.due():
            log.info("%s", line(name, step, steps.stop - 1, values(), pace))
        yield step
