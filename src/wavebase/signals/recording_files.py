"""Readers of recordings: .wav of any common sample format, .npy, and .csv."""

from __future__ import annotations

import csv
import hashlib
import logging
import re
import struct
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np

from wavebase.formatting import is_number

log = logging.getLogger("wavebase")
SHIPPED, DATA = "wavebase:", Path(__file__).parent / "data"


def read_recording(path: str, channel: int | str = 0) -> tuple[np.ndarray, int | None]:
    """Read one channel of a file.

    Args:
        path: .wav (8 to 64 bit integers or floats), .npy (one- or two-dimensional), .csv (with or without a header line),
            or `wavebase:NAME` for a recording that ships with the package (see data/README.md).
        channel: Channel or column; a .csv column also by name.

    Returns:
        The samples, float64 [samples], integer formats mapped to [-1, 1); and the sample rate in hertz, None where the
        file does not state it (.npy, .csv).

    Raises:
        ValueError: For what cannot be read.
    """
    file = _locate(path)
    readers = {".wav": _read_wav, ".npy": _read_npy, ".csv": _read_csv}
    kind = file.suffix.lower()
    if kind not in readers:
        raise ValueError(f"signal.path must end in {', '.join(readers)}, got {path!r}; convert the recording")
    if isinstance(channel, str) and kind != ".csv":
        raise ValueError(
            f"signal.channel must be a number for a {kind} file, got {channel!r}; names are a .csv's; use 0"
        )
    try:
        table, rate = readers[kind](file, channel)
    except Exception as error:  # readers raise many kinds of exception for a broken file
        raise ValueError(
            f"signal.path must be a readable {file.suffix} file, got {path!r} ({error}); repair or convert it"
        ) from error
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.shape[0] == 0:
        raise ValueError(
            f"signal.path must hold samples by channels, got shape {list(table.shape)} in {path!r}; reshape it"
        )
    column = 0 if isinstance(channel, str) or kind == ".csv" else channel  # the reader of .csv returns the column alone
    if not -table.shape[1] <= column < table.shape[1]:
        raise ValueError(f"signal.channel must lie in 0..{table.shape[1] - 1} for {path!r}, got {channel}; use 0")
    return table[:, column], rate


def content_sha256(path: str) -> str:
    """Return the SHA-256 of a recording's file, in hexadecimal. Raises OSError, or ValueError for one that is not there."""
    with _locate(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_there(path: str) -> bool:
    """Return whether a path, or the name of a recording that ships, leads to a file."""
    return path.startswith(SHIPPED) or Path(path).is_file()


def _locate(path: str) -> Path:
    shipped = path.startswith(SHIPPED)
    file = DATA / path.removeprefix(SHIPPED) if shipped else Path(path)
    if shipped and (file.parent != DATA or file.suffix != ".csv" or not file.is_file()):
        names = ", ".join(sorted(SHIPPED + found.name for found in DATA.glob("*.csv")))
        raise ValueError(f"signal.path must name a recording that ships, got {path!r}; use {names}")
    if not file.is_file():
        where = "" if file.is_absolute() else f" in {Path.cwd()}"
        raise ValueError(
            f"signal.path must name a recording, got {path!r}, which is no file{where}; give signal.path=FILE.wav, .npy or .csv"
        )
    return file


def _read_wav(file: Path, channel: int | str) -> tuple[np.ndarray, int | None]:
    from scipy.io import wavfile

    _check_wav(file)
    with warnings.catch_warnings():  # chunks without samples do not concern the user
        warnings.simplefilter("ignore", wavfile.WavFileWarning)
        rate, samples = wavfile.read(file)
    if samples.dtype == np.uint8:  # the only unsigned format; silence is 128
        return (samples.astype(np.float64) - 128) / 128, rate
    if np.issubdtype(samples.dtype, np.integer):
        return samples.astype(np.float64) / -float(np.iinfo(samples.dtype).min), rate
    return samples.astype(np.float64), rate


def _check_wav(file: Path) -> None:
    """Raise ValueError if a chunk of the file announces more bytes than follow: scipy reads such a file silently."""
    with file.open("rb") as opened:
        size, kind = file.stat().st_size, opened.read(4)
        order = ">" if kind == b"RIFX" else "<"
        at = 12 if kind != b"RF64" else size  # after RIFF, its size, WAVE; RF64 keeps its sizes elsewhere
        while at + 8 <= size:
            opened.seek(at)
            name, length = struct.unpack(f"{order}4sI", opened.read(8))
            if name == b"data" and at + 8 + length > size:
                raise ValueError(f"{length} bytes of samples announced, {size - at - 8} there")
            at += 8 + length + length % 2


def _read_npy(file: Path, channel: int | str) -> tuple[np.ndarray, int | None]:
    table = np.load(file, allow_pickle=False)
    if not np.issubdtype(table.dtype, np.number) or np.iscomplexobj(table):
        raise ValueError(f"real numbers wanted, got {table.dtype}")
    return table.astype(np.float64), None


def _read_csv(file: Path, channel: int | str) -> tuple[np.ndarray, int | None]:
    """Read one column as spreadsheets write it: with or without a header, quotes or a byte order mark, cells separated by
    commas, semicolons or tabs, and decimal commas where commas do not separate cells."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        text = lines.read()
    first = re.sub('"[^"]*"', "", text.partition("\n")[0])  # a quoted mark separates no cells
    delimiter = next((mark for mark in ";\t" if mark in first), ",")
    rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if row]
    if not rows:
        raise ValueError("no rows")
    head = [cell.strip() for cell in rows[0]]
    column = _column(head, channel)
    if delimiter != ",":
        rows = [[cell.replace(",", ".") for cell in row] for row in rows]
    has_header = isinstance(channel, str) or _is_header(rows, column)
    body = rows[1:] if has_header else rows
    uneven = next((n for n, row in enumerate(body, 1 + has_header) if len(row) != len(head)), None)
    if uneven is not None:
        raise ValueError(
            f"{len(head)} cells in the first row and {len(rows[uneven - 1])} in row {uneven}; part cells by ; where commas are decimal"
        )
    samples = np.array([float(row[column]) for row in body])
    if len(head) > 1:
        name = f" ({head[column]})" if has_header else ""
        time = isinstance(channel, int) and len(samples) > 2 and bool((np.diff(samples) > 0).all())
        doubt = "rises" if time else "decimal" if not has_header and _may_be_decimal(rows, delimiter) else ""
        _report_column(
            str(file), column % len(head), name, len(head), float(samples.min()), float(samples.max()), doubt
        )
    return samples, None


def _column(head: list[str], channel: int | str) -> int:
    if isinstance(channel, str):
        if head.count(channel) > 1:
            raise ValueError(f"{head.count(channel)} columns named {channel!r}; give the number of one")
        if channel not in head:
            raise ValueError(f"no column {channel!r}; the file has {', '.join(head)}")
        return head.index(channel)
    if not -len(head) <= channel < len(head):
        raise ValueError(f"column {channel} of {len(head)}")
    return channel


def _may_be_decimal(rows: list[list[str]], delimiter: str) -> bool:
    """Return whether all rows are one number with a decimal comma, or two whole numbers."""
    return delimiter == "," and all(
        len(row) == 2 and re.fullmatch(r"\s*[-+]?\d+", row[0]) and re.fullmatch(r"\d+\s*", row[1]) for row in rows
    )


@lru_cache(maxsize=64)
def _report_column(file: str, column: int, name: str, columns: int, low: float, high: float, doubt: str) -> None:
    """Log once which column is read. Warn if it always rises, as a time does, or if its commas may be decimal ones."""
    read = f"{file}: column {column}{name} of {columns}, from {low:g} to {high:g}"
    if doubt == "decimal":
        log.warning("%s, is read; part cells by ; if the commas are decimal", read)
    elif doubt == "rises":
        other = (column + 1) % columns
        log.warning("%s, is read; it rises at every row, as a time does; signal.channel=%d reads another", read, other)
    else:
        log.info("%s", read)


def _is_header(rows: list[list[str]], column: int) -> bool:
    """Whether the first row names the columns: it has text in the column read, or above numbers in another one."""
    if not is_number(rows[0][column]):
        return True
    below = rows[1] if len(rows) > 1 else []
    return any(cell.strip() and not is_number(cell) and is_number(under) for cell, under in zip(rows[0], below))  # noqa: B905
