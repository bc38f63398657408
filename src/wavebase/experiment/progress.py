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


@contextmanager
def steps_shown(
    steps: range, name: str, single: bool, values: Callable[[], Mapping[str, float]]
) -> Iterator[Iterator[int] | Any]:
    """Yield an iterator over the steps that shows how far it is.

    Args:
        steps: The steps to take.
        name: The run's name in log lines.
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
    last = time.monotonic()
    for step in steps:
        if time.monotonic() - last > EVERY:
            last = time.monotonic()
            error = values().get("error/training", math.nan)
            log.info("%s step %d of %d, relative error %s", name, step, steps.stop - 1, number(error))
        yield step
