"""Recordings from disk: .wav of any common sample format, .npy, or a column of a .csv file."""

from __future__ import annotations

import csv
import hashlib
import logging
import math
import re
import struct
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wavebase.registry import registered

log = logging.getLogger("wavebase")


@registered
class Recording:
    """Stretches of one recording, scaled so that its largest |x| is `amplitude`.

    path: .wav (8 to 64 bit integers or floats), .npy (one- or two-dimensional) or .csv (with or without a header line).
    channel: the channel of a .wav, the column of an .npy (if two-dimensional) or .csv; a .csv column also by name.
    The last `held_out_fraction` of the recording is never sampled in training, and nothing else is when held out.
    Raises ValueError, in one line, for a file that is missing, unreadable, too short for a window of T samples in
    either part, silent, or holds NaN or infinite samples.
    """

    def __init__(
        self, path: str, T: int, channel: int | str = 0, amplitude: float = 1.0, held_out_fraction: float = 0.2
    ):
        if not (math.isfinite(amplitude) and amplitude > 0):
            raise ValueError(f"signal.amplitude must be positive and finite, got {amplitude}; use 1.0")
        if not 0 < held_out_fraction < 1:
            raise ValueError(f"signal.held_out_fraction must lie between 0 and 1, got {held_out_fraction}; use 0.2")
        samples, self.sample_rate = read_recording(path, channel)
        self.sha256 = content_sha256(path)
        if not np.isfinite(samples).all():
            bad = int(np.flatnonzero(~np.isfinite(samples))[0])
            raise ValueError(
                f"signal.path must hold finite samples, got {samples[bad]} at sample {bad} of {path}; clean the file"
            )
        peak = float(np.abs(samples).max(initial=0.0))
        if peak == 0:
            raise ValueError(
                f"signal.path must hold a signal, got only zeros in {path}; choose another channel or file"
            )
        split = int(len(samples) * (1 - held_out_fraction))
        shortest = min(split, len(samples) - split)
        if shortest < T:
            raise ValueError(
                f"T must fit both parts of the recording, got T={T} for {split} training and {len(samples) - split} "
                f"held-out samples of {path}; use T={shortest} or less, or a longer recording"
            )
        if not samples[:split].any():
            raise ValueError(
                f"signal.path must not be silent where it is trained on, got only zeros in the first {split} samples of {path}; cut them off"
            )
        scaled = torch.from_numpy(np.ascontiguousarray(samples)) * (amplitude / peak)
        self._training, self._held_out = scaled[:split], scaled[split:]
        self.peak = amplitude

    def sample(self, batch: int, samples: int, generator: torch.Generator, held_out: bool = False) -> Tensor:
        """float64 [batch, samples]: stretches that start anywhere in the training or the held-out part."""
        part = self._held_out if held_out else self._training
        if samples > len(part):
            raise ValueError(
                f"samples must fit the recording's part of {len(part)}, got {samples}; use fewer task.windows"
            )
        starts = torch.randint(len(part) - samples + 1, (batch, 1), generator=generator)
        return part[starts + torch.arange(samples)]


def content_sha256(path: str) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal. Raises OSError."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_recording(path: str, channel: int | str = 0) -> tuple[np.ndarray, int | None]:
    """One channel of a file as float64 [samples], and its sample rate in hertz where the file knows it (.wav).

    Integer formats are mapped to [-1, 1). Raises ValueError, in one line, for what cannot be read.
    """
    file = Path(path)
    if not file.is_file():
        where = "" if file.is_absolute() else f" in {Path.cwd()}"
        raise ValueError(
            f"signal.path must name a recording, got {path!r}, which is no file{where}; give signal.path=FILE.wav, .npy or .csv"
        )
    readers = {".wav": _read_wav, ".npy": _read_npy, ".csv": _read_csv}
    kind = file.suffix.lower()
    if kind not in readers:
        raise ValueError(f"signal.path must end in {', '.join(readers)}, got {path!r}; convert the recording")
    if isinstance(channel, str) and kind != ".csv":
        raise ValueError(
            f"signal.channel must be a number for a {kind} file, got {channel!r}; names are a .csv's; use 0"
        )
    try:
        table, rate = readers[file.suffix.lower()](file, channel)
    except Exception as error:  # a broken file can fail in any way inside its reader; each becomes one line
        raise ValueError(
            f"signal.path must be a readable {file.suffix} file, got {path!r} ({error}); repair or convert it"
        ) from error
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.shape[0] == 0:
        raise ValueError(
            f"signal.path must hold samples by channels, got shape {list(table.shape)} in {path!r}; reshape it"
        )
    column = 0 if kind == ".csv" or isinstance(channel, str) else channel  # a csv's column comes alone
    if not -table.shape[1] <= column < table.shape[1]:
        raise ValueError(f"signal.channel must lie in 0..{table.shape[1] - 1} for {path!r}, got {channel}; use 0")
    return table[:, column], rate


def _read_wav(file: Path, channel: int | str) -> tuple[np.ndarray, int | None]:
    from scipy.io import wavfile

    _check_wav(file)
    with warnings.catch_warnings():  # chunks that hold no samples are nothing to the user
        warnings.simplefilter("ignore", wavfile.WavFileWarning)
        rate, samples = wavfile.read(file)
    if samples.dtype == np.uint8:  # the one unsigned format: silence is 128
        return (samples.astype(np.float64) - 128) / 128, rate
    if np.issubdtype(samples.dtype, np.integer):
        return samples.astype(np.float64) / -float(np.iinfo(samples.dtype).min), rate
    return samples.astype(np.float64), rate


def _check_wav(file: Path) -> None:
    """Raise ValueError if a chunk of the file announces more bytes than follow: scipy reads such a file without a word."""
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
    """One column, as spreadsheets write it: with or without a header, quotes or a byte order mark, cells parted by commas,
    semicolons or tabs; decimal commas where commas do not part cells."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        text = lines.read()
    first = re.sub('"[^"]*"', "", text.partition("\n")[0])  # what is quoted parts no cells
    delimiter = next((mark for mark in ";\t" if mark in first), ",")
    rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if row]
    if not rows:
        raise ValueError("no rows")
    head = [cell.strip() for cell in rows[0]]
    if isinstance(channel, str) and head.count(channel) > 1:
        raise ValueError(f"{head.count(channel)} columns named {channel!r}; give the number of one")
    column = channel if isinstance(channel, int) else head.index(channel) if channel in head else None
    if column is None:
        raise ValueError(f"no column {channel!r}; the file has {', '.join(head)}")
    if not -len(head) <= column < len(head):
        raise ValueError(f"column {channel} of {len(head)}")
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
        _report_column(str(file), column % len(head), name, len(head), float(samples.min()), float(samples.max()))
    return samples, None


@lru_cache(maxsize=64)
def _report_column(file: str, column: int, name: str, columns: int, low: float, high: float) -> None:
    """Log which column is read, once for each: the first one may be the time."""
    log.info("%s: column %d%s of %d, from %g to %g", file, column, name, columns, low, high)


def _is_header(rows: list[list[str]], column: int) -> bool:
    """Whether the first row names the columns: there is text over the column read, or over any other of numbers."""
    if not _is_number(rows[0][column]):
        return True
    below = rows[1] if len(rows) > 1 else []
    return any(cell.strip() and not _is_number(cell) and _is_number(under) for cell, under in zip(rows[0], below))  # noqa: B905


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
