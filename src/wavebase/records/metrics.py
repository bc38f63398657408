"""metrics.jsonl, the source of a run's numbers: one JSON object a line, with the step, the time and named numbers."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavebase.records import untrusted
from wavebase.records.atomic import RecordsError, open_regular
from wavebase.records.strict_json import dump_json

if TYPE_CHECKING:  # numpy is imported where it is used: it takes a fifth of the time that --cfg job takes
    import numpy as np

NOT_TAGS = ("step", "seconds")


class MetricsWriter:
    """Appends to a metrics.jsonl of which the first bytes are kept.

    Args:
        path: The file; created if it is missing.
        kept: Bytes to keep, those that a checkpoint vouches for.
    """

    def __init__(self, path: Path, kept: int):
        self.path = path
        self._digest = hashlib.sha256(read_prefix(path, kept))
        self._file = open_regular(path, "ab")
        self._file.truncate(kept)
        self._file.seek(kept)  # truncating does not move the position, which `flush` reports

    def write(self, step: int, values: Mapping[str, float]) -> float:
        """Append named numbers of one step; return the time that was recorded, in seconds since 1970."""
        self.check_in_place()
        now = time.time()
        line = dump_json({"step": step, "seconds": round(now, 3), **values})
        self._file.write(line)
        self._digest.update(line)
        return now

    def flush(self) -> tuple[int, str]:
        """Bring everything to disk; return the file's length in bytes and its SHA-256."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell(), self._digest.hexdigest()

    def check_in_place(self) -> None:
        """Raise RecordsError if the file was removed or replaced: what is written would be lost without notice."""
        with suppress(FileNotFoundError, NotADirectoryError):
            if os.path.samestat(os.lstat(self.path), os.fstat(self._file.fileno())):
                return
        raise RecordsError(
            f"{self.path.parent} must stay in place while its run is written, got its metrics.jsonl removed or replaced; "
            "run the same command again"
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_prefix(path: Path, length: int) -> bytes:
    """Return the first `length` bytes of a metrics.jsonl, fewer if it has fewer."""
    try:
        with open_regular(path, "rb") as file:
            return file.read(length)
    except FileNotFoundError:
        return b""


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a metrics.jsonl; none if it is missing. A last line without its end was being written: it is skipped.

    Raises:
        RecordsError: At a line that is not an object of numbers with a step in 0..2^63-1.
    """
    try:
        text = untrusted.read_bytes(path, untrusted.MOST_METRICS)
    except FileNotFoundError:
        return
    lines = text.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            entry = untrusted.parse_json(line.decode())
        except ValueError as error:
            if number == len(lines):
                return
            raise _bad_line(path, number, untrusted.reason(error)) from error
        numbers = isinstance(entry, dict) and all(v is None or isinstance(v, int | float) for v in entry.values())
        if not numbers or type(entry.get("step")) is not int or not 0 <= entry["step"] < 2**63:
            raise _bad_line(path, number, repr(line[:40].decode(errors="replace")))
        yield entry


def read_series(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return every recorded series as (steps, values), both [lines], by tag; values that were not finite are nan.

    Raises:
        RecordsError: As `read_lines` does.
    """
    series: dict[str, tuple[list[int], list[float]]] = {}
    for line in read_lines(path):
        for tag, value in tags(line).items():
            steps, values = series.setdefault(tag, ([], []))
            steps.append(line["step"])
            values.append(math.nan if value is None else float(value))
    import numpy as np

    return {tag: (np.array(steps), np.array(values)) for tag, (steps, values) in series.items()}


def tags(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return the named numbers of a line, without its step and time."""
    return {name: value for name, value in line.items() if name not in NOT_TAGS}


def _bad_line(path: Path, number: int, got: str) -> RecordsError:
    return RecordsError(
        f"{path} must hold one JSON object of numbers a line, its step among them, got {got} in line {number}; remove that line"
    )
