"""The only reader and writer of run folders.

A run's folder holds config.yaml, metrics.jsonl (one line a step: the truth), TensorBoard events (a view of it),
checkpoints/step_<step>.pt, figures/, examples.npz, summary.json (written last: a run without it is not finished; it
holds the hash of config.yaml) and .lock. Every file but metrics.jsonl and the events is whole or not there, and one
process at a time writes the folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from wavebase.records import checkpoints, untrusted
from wavebase.records.atomic import (
    FolderLocked,
    Lock,
    RecordsError,
    atomic_write,
    lock_owner,
    open_regular,
    remove_parts,
)
from wavebase.records.events import Events
from wavebase.records.strict_json import to_json

log = logging.getLogger("wavebase")
CHECKPOINT = re.compile(r"step_([0-9]{8,15})\.pt")


class RunFolder:
    """One run's files. Opening it writes nothing."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._metrics: BinaryIO | None = None
        self._events: Events | None = None
        self._lock: Lock | None = None
        self._digest = hashlib.sha256()  # of metrics.jsonl
        self._seen: list[int] = []  # steps of the checkpoints when the newest was read

    # reading

    def summary(self) -> dict[str, Any] | None:
        """summary.json, or None if the run is not finished."""
        try:
            summary = untrusted.parse_json(untrusted.read_bytes(self.path / "summary.json", untrusted.MOST_SUMMARY))
        except FileNotFoundError:
            return None
        except RecordsError:
            raise
        except (ValueError, OSError) as error:
            raise RecordsError(
                f"{self.path}/summary.json must be readable JSON, got {error}; delete it to run again"
            ) from error
        if not isinstance(summary, dict) or not isinstance(summary.get("status"), str):
            raise RecordsError(
                f"{self.path}/summary.json must be an object with a status, got {str(summary)[:40]!r}; delete it to run again"
            )
        return summary

    def config(self) -> dict[str, Any]:
        """config.yaml as plain containers. Raises RecordsError."""
        return untrusted.read_config(self.path / "config.yaml")

    def config_bytes(self) -> bytes:
        """config.yaml as it is. Raises RecordsError, or OSError where there is none."""
        return untrusted.read_bytes(self.path / "config.yaml", untrusted.MOST_CONFIG)

    def finished(self, config_yaml: str) -> dict[str, Any] | None:
        """The summary of a finished run of this configuration, if that is what the folder holds. Raises RecordsError."""
        if os.path.lexists(self.path / "config.yaml") and self.config_bytes() != config_yaml.encode():
            raise RecordsError(
                f"{self.path} must be new or hold this very configuration, got another run's; use resume=false or another hydra.run.dir"
            )
        summary = self.summary()
        if summary is None or summary["status"] not in ("done", "diverged"):
            return None
        if summary.get("config_sha256") != _sha256(config_yaml):
            raise RecordsError(
                f"{self.path}/config.yaml must be the one that summary.json was written for, got another; restore it, or use resume=false"
            )
        return summary

    def writer(self) -> str | None:
        """The "process 12 on host" that writes this folder now, or None."""
        return lock_owner(self.path)

    def metrics(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Every recorded series as (steps, values), by tag; values that were not finite are nan."""
        series: dict[str, tuple[list[int], list[float]]] = {}
        for line in self._lines():
            for tag, value in line.items():
                if tag not in ("step", "seconds"):
                    steps, values = series.setdefault(tag, ([], []))
                    steps.append(line["step"])
                    values.append(math.nan if value is None else float(value))
        return {tag: (np.array(steps), np.array(values)) for tag, (steps, values) in series.items()}

    def checkpoint_steps(self) -> list[int]:
        """Steps of which a checkpoint exists, in order."""
        names = (CHECKPOINT.fullmatch(file.name) for file in self.inside("checkpoints").glob("step_*.pt"))
        return sorted(int(found[1]) for found in names if found)

    def load_checkpoint(self, step: int) -> dict[str, Any]:
        """A checkpoint's contents: only tensors, numbers, text and containers are ever loaded."""
        return checkpoints.load(self.inside("checkpoints") / f"step_{step:08d}.pt")

    def newest_checkpoint(self, until: int | None = None) -> dict[str, Any] | None:
        """The newest checkpoint that can be read and whose share of metrics.jsonl is still there, or None.

        until: take none of a later step. Says of every newer one why not. What is started afterwards continues from it.
        """
        self._seen = self.checkpoint_steps()
        for step in reversed(self._seen):
            if until is not None and step > until:
                continue
            try:
                state = self.load_checkpoint(step)
            except RecordsError as error:
                log.warning("%s (done: using an older one)", error)
                continue
            length = state.get("metrics_bytes", 0)
            kept = self._metrics_bytes(length)
            if len(kept) == length and _sha256(kept) == state.get("metrics_sha256"):
                return state
            log.warning(
                "%s/metrics.jsonl must begin with the %d bytes that the checkpoint of step %d vouches for, got %s; "
                "nothing to be done: the run goes back to an older checkpoint and records again from there",
                self.path, length, step, f"{len(kept)} bytes" if len(kept) < length else "other bytes",
            )  # fmt: skip
        return None

    def examples(self) -> dict[str, np.ndarray]:
        """Arrays of examples.npz: signal, target, before, after."""
        with open_regular(self.path / "examples.npz", "rb") as file:
            try:
                untrusted.check_archive(file)
                with np.load(file, allow_pickle=False) as arrays:
                    return dict(arrays)
            except Exception as error:  # zipfile and numpy raise many kinds for a broken file
                raise RecordsError(
                    f"{self.path}/examples.npz must be readable arrays, got {untrusted.reason(error)}; remove it, or run again"
                ) from error

    # writing

    def start(self, config_yaml: str, bytes_kept: int = 0) -> None:
        """Open for writing; of metrics.jsonl keep the first `bytes_kept` bytes (those that a checkpoint vouches for).

        The events are written anew from the metrics kept, so that no step can appear twice. Raises Busy, with nothing
        written, if another process writes here or has done so since the newest checkpoint was read.
        """
        if len(config_yaml.encode()) > untrusted.MOST_CONFIG:
            raise RecordsError(
                f"the configuration must fit into {untrusted.MOST_CONFIG} bytes, got {len(config_yaml.encode())}; shorten its lists"
            )
        self._lock = Lock(self.path)
        try:
            if self.finished(config_yaml) is not None or self.checkpoint_steps() != self._seen:
                raise FolderLocked(
                    f"{self.path} was moved on by another process meanwhile; the same command again continues it"
                )
            remove_parts(self.path)
            atomic_write(self.path / "config.yaml", lambda file: file.write(config_yaml.encode()))
            for old in self.path.glob("events.out.tfevents.*"):
                old.unlink()
            self._digest = hashlib.sha256(self._metrics_bytes(bytes_kept))
            self._metrics = open_regular(self.path / "metrics.jsonl", "ab")
            self._metrics.truncate(bytes_kept)
            self._metrics.seek(bytes_kept)  # truncating moves no position, and `flush` tells it
            self._events = Events(self.path)
            for line in self._lines():
                self._events.scalars(
                    line["step"],
                    {k: v for k, v in line.items() if k not in ("step", "seconds")},
                    line.get("seconds") or 0.0,
                )
        except BaseException:
            self.abandon()
            raise

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record named numbers of one step."""
        assert self._metrics is not None and self._events is not None
        now = time.time()
        line = json.dumps({"step": step, "seconds": round(now, 3), **to_json(dict(values))}, allow_nan=False) + "\n"
        self._metrics.write(line.encode())
        self._digest.update(line.encode())
        self._events.scalars(step, values, now)

    def flush(self) -> int:
        """Bring everything logged to disk; returns the length of metrics.jsonl in bytes."""
        assert self._metrics is not None and self._events is not None
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        self._events.flush()
        return self._metrics.tell()

    def log_image(self, tag: str, step: int, png: bytes) -> None:
        """Put a picture on the dashboard."""
        assert self._events is not None
        self._events.image(tag, step, png)

    def log_text(self, tag: str, step: int, markdown: str) -> None:
        """Put a text on the dashboard."""
        assert self._events is not None
        self._events.text(tag, step, markdown)

    def log_charts(self, tags: Collection[str]) -> None:
        """Arrange the scalars that have these tags in charts, on the dashboard's page of custom scalars."""
        assert self._events is not None
        self._events.charts(tags)

    def log_hparams(self, hparams: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Put the run's settings and results into the hparams table, in the same events file."""
        assert self._events is not None
        self._events.hparams(hparams, metrics)

    def save_checkpoint(self, step: int, state: Mapping[str, Any]) -> None:
        """Write checkpoints/step_<step>.pt, after everything logged so far has reached the disk."""
        vouched = {"step": step, "metrics_bytes": self.flush(), "metrics_sha256": self._digest.hexdigest()}
        checkpoints.save(self.inside("checkpoints") / f"step_{step:08d}.pt", {**state, **vouched})

    def save_examples(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write examples.npz."""
        atomic_write(self.path / "examples.npz", lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]

    def save_figure(self, name: str, content: bytes, suffix: str = "png") -> None:
        """Write figures/<name>.<suffix>."""
        atomic_write(self.inside("figures") / f"{name}.{suffix}", lambda file: file.write(content))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json and let go of the folder: the last act of a run."""
        self.close()
        marked = {**summary, "config_sha256": _sha256(self.config_bytes())}
        text = json.dumps(to_json(marked), indent=2, allow_nan=False)
        atomic_write(self.path / "summary.json", lambda file: file.write(text.encode() + b"\n"))
        self.abandon()

    def fail(self, config_yaml: str, summary: Mapping[str, Any]) -> None:
        """Write summary.json for a run that could not go on, beside whatever it had recorded: it can be continued.

        A finished run, or another configuration's, stays as it is. Raises Busy where another process writes.
        """
        self._lock = Lock(self.path)
        try:
            if self.finished(config_yaml) is None:
                if not os.path.lexists(self.path / "config.yaml"):
                    atomic_write(self.path / "config.yaml", lambda file: file.write(config_yaml.encode()))
                self.finish(summary)
        finally:
            self.abandon()

    def close(self) -> None:
        """Flush and close what is open; the folder stays locked."""
        metrics, events = self._metrics, self._events
        try:
            if metrics is not None and events is not None:
                self.flush()
        finally:
            self._metrics = self._events = None
            for file in (metrics, events):
                if file is not None:
                    with suppress(OSError):  # flush has raised it
                        file.close()

    def abandon(self) -> None:
        """Close what is open, whatever state it is in, and let go of the folder."""
        with suppress(OSError):
            self.close()
        if self._lock is not None:
            self._lock.release()
        self._lock = None

    def inside(self, name: str) -> Path:
        """A folder of the run's own. Raises RecordsError for a link, which would lead out of it."""
        folder = self.path / name
        if folder.is_symlink():
            raise RecordsError(f"{folder} must be a folder of its own, got a link; remove it, or use another folder")
        return folder

    def _metrics_bytes(self, length: int) -> bytes:
        """The first bytes of metrics.jsonl, fewer where it has fewer."""
        try:
            with open_regular(self.path / "metrics.jsonl", "rb") as file:
                return file.read(length)
        except FileNotFoundError:
            return b""

    def _lines(self) -> Iterator[dict[str, Any]]:
        try:
            text = untrusted.read_bytes(self.path / "metrics.jsonl", untrusted.MOST_METRICS)
        except FileNotFoundError:
            return
        lines = text.split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                entry = untrusted.parse_json(line.decode())
            except ValueError as error:
                if number == len(lines):  # no newline follows: a process was killed while writing it
                    return
                raise RecordsError(self._bad_line(number, str(error))) from error
            numbers = isinstance(entry, dict) and all(
                value is None or isinstance(value, int | float) for value in entry.values()
            )
            if not numbers or type(entry.get("step")) is not int or not 0 <= entry["step"] < 2**63:
                raise RecordsError(self._bad_line(number, repr(line[:40].decode(errors="replace"))))
            yield entry

    def _bad_line(self, number: int, got: str) -> str:
        return (
            f"{self.path}/metrics.jsonl must hold one JSON object of numbers a line, its step among them, "
            f"got {got} in line {number}; remove that line"
        )


def load_weights(file: Path) -> dict[str, Any]:
    """The weights by canonical name in a checkpoint, or in a file that holds nothing else. Raises RecordsError."""
    found = checkpoints.load(file.resolve())  # whoever names a file may name it by a link
    return found.get("weights", found)


def find_runs(root: Path | str) -> list[RunFolder]:
    """Every run folder at or below `root`, in the order of their paths."""
    if not Path(root).is_dir():
        raise RecordsError(
            f"the folder of runs must exist, got {str(root)!r}; give a run's or a sweep's folder under outputs/"
        )
    return [
        RunFolder(file.parent)
        for file in sorted(Path(root).rglob("config.yaml"))
        if any(os.path.lexists(file.parent / name) for name in ("metrics.jsonl", "summary.json"))
    ]


def _sha256(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()
