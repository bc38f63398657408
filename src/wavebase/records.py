"""The only reader and writer of run folders.

A run's folder holds config.yaml, metrics.jsonl (one line a step: the truth), TensorBoard events (a view of it),
checkpoints/step_<step>.pt, figures/, examples.npz, summary.json (written last: a run without it is not finished).
Every file but metrics.jsonl is written whole to a temporary name, flushed to disk and renamed.
"""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch


class RecordsError(ValueError):
    """A run folder that cannot be read or written, in one line."""


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that it is either complete or not there: temporary name, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """The value as strict JSON can hold it: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


class RunFolder:
    """One run's files. Opening it writes nothing."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self._metrics: BinaryIO | None = None
        self._events: _Events | None = None

    # reading

    def summary(self) -> dict[str, Any] | None:
        """summary.json, or None if the run is not finished."""
        try:
            return json.loads((self.path / "summary.json").read_text())
        except FileNotFoundError:
            return None
        except (json.JSONDecodeError, OSError) as error:
            raise RecordsError(
                f"{self.path}/summary.json must be readable JSON, got {error}; delete it to run again"
            ) from error

    def metrics(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Every recorded series as (steps, values), by tag; values that were not finite are nan."""
        series: dict[str, tuple[list[int], list[float]]] = {}
        for line in self._lines():
            for tag, value in line.items():
                if tag not in ("step", "seconds"):
                    steps, values = series.setdefault(tag, ([], []))
                    steps.append(line["step"])
                    values.append(math.nan if value is None else value)
        return {tag: (np.array(steps), np.array(values)) for tag, (steps, values) in series.items()}

    def checkpoint_steps(self) -> list[int]:
        """Steps of which a checkpoint exists, in order."""
        return sorted(int(file.stem.removeprefix("step_")) for file in (self.path / "checkpoints").glob("step_*.pt"))

    def load_checkpoint(self, step: int) -> dict[str, Any]:
        """A checkpoint's contents: only tensors, numbers, text and containers are ever loaded."""
        file = self.path / "checkpoints" / f"step_{step:08d}.pt"
        try:
            return torch.load(file, weights_only=True, map_location="cpu")
        except Exception as error:  # torch raises many kinds for a broken file; all mean the same to the user
            reason = str(error).splitlines()[0]
            raise RecordsError(
                f"{file} must be a readable checkpoint, got {reason}; delete it to use an older one"
            ) from error

    def examples(self) -> dict[str, np.ndarray]:
        """Arrays of examples.npz: signal, target, before, after."""
        with np.load(self.path / "examples.npz", allow_pickle=False) as file:
            return dict(file)

    # writing

    def start(self, config_yaml: str, bytes_kept: int = 0) -> None:
        """Open for writing; of metrics.jsonl keep the first `bytes_kept` bytes (those that a checkpoint vouches for).

        The events are written anew from the metrics kept, so that no step can appear twice.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / "config.yaml", lambda file: file.write(config_yaml.encode()))
        for old in self.path.glob("events.out.tfevents.*"):
            old.unlink()
        self._metrics = (self.path / "metrics.jsonl").open("ab")
        self._metrics.truncate(bytes_kept)
        self._events = _Events(self.path)
        for line in self._lines():
            self._events.scalars(
                line["step"], {k: v for k, v in line.items() if k not in ("step", "seconds")}, line["seconds"]
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record named numbers of one step."""
        assert self._metrics is not None and self._events is not None
        now = time.time()
        line = {"step": step, "seconds": round(now, 3), **plain(dict(values))}
        self._metrics.write(json.dumps(line, allow_nan=False).encode() + b"\n")
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

    def log_hparams(self, hparams: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Put the run's settings and results into the hparams table, in the same events file."""
        assert self._events is not None
        self._events.hparams(hparams, metrics)

    def save_checkpoint(self, step: int, state: Mapping[str, Any]) -> None:
        """Write checkpoints/step_<step>.pt, after everything logged so far has reached the disk."""
        state = _own_storage({**state, "step": step, "metrics_bytes": self.flush()}, {})
        write_whole(self.path / "checkpoints" / f"step_{step:08d}.pt", lambda file: torch.save(state, file))

    def save_examples(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write examples.npz."""
        write_whole(self.path / "examples.npz", lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]

    def save_figure(self, name: str, png: bytes) -> None:
        """Write figures/<name>.png."""
        write_whole(self.path / "figures" / f"{name}.png", lambda file: file.write(png))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json and close: the last act of a run."""
        self.close()
        text = json.dumps(plain(summary), indent=2, allow_nan=False)
        write_whole(self.path / "summary.json", lambda file: file.write(text.encode() + b"\n"))

    def fail(self, config_yaml: str, summary: Mapping[str, Any]) -> None:
        """Write summary.json for a run that could not go on, beside whatever it had recorded: it can be continued."""
        if not (self.path / "config.yaml").exists():
            write_whole(self.path / "config.yaml", lambda file: file.write(config_yaml.encode()))
        self.finish(summary)

    def close(self) -> None:
        """Flush and close what is open."""
        if self._metrics is not None and self._events is not None:
            self.flush()
            self._metrics.close()
            self._events.close()
        self._metrics = self._events = None

    def _lines(self) -> Iterator[dict[str, Any]]:
        try:
            text = (self.path / "metrics.jsonl").read_bytes()
        except FileNotFoundError:
            return
        lines = text.split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                if number == len(lines):  # no newline follows: a process was killed while writing it
                    return
                raise RecordsError(
                    f"{self.path}/metrics.jsonl must hold one JSON object a line, got {error} in line {number}; "
                    "remove that line"
                ) from error


def load_weights(file: Path) -> dict[str, torch.Tensor]:
    """The weights by canonical name in a checkpoint, or in a file that holds nothing else. Raises ValueError."""
    try:
        found = torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises many kinds for a broken file; all mean the same to the user
        raise ValueError(
            f"{file} must be readable weights, got {str(error).splitlines()[0]}; give a checkpoint"
        ) from error
    return found.get("weights", found)


def find_runs(root: Path) -> list[RunFolder]:
    """Every run folder at or below `root`, in the order of their paths."""
    if not Path(root).is_dir():
        raise RecordsError(
            f"the folder of runs must exist, got {str(root)!r}; give a run's or a sweep's folder under outputs/"
        )
    return [RunFolder(file.parent) for file in sorted(Path(root).rglob("config.yaml"))]


def _own_storage(value: Any, copies: dict[tuple[Any, ...], torch.Tensor]) -> Any:
    """The value with views copied out of larger storage, each view once: torch.save would write the storage whole."""
    if isinstance(value, torch.Tensor):
        if value.untyped_storage().nbytes() == value.nbytes:
            return value
        view = (value.data_ptr(), value.shape, value.stride())
        if view not in copies:
            copies[view] = value.detach().clone()
        return copies[view]
    if isinstance(value, Mapping):
        return {key: _own_storage(item, copies) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_own_storage(item, copies) for item in value)
    return value


class _Events:
    """A TensorBoard events file, written directly: one summary a step instead of one a number."""

    def __init__(self, folder: Path):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._Event, self._Summary = Event, Summary
        self._writer = EventFileWriter(str(folder), max_queue_size=1000, flush_secs=30)

    def scalars(self, step: int, values: Mapping[str, float | None], seconds: float) -> None:
        numbers = [
            self._Summary.Value(tag=tag, simple_value=math.nan if value is None else value)
            for tag, value in values.items()
        ]
        self._add(step, self._Summary(value=numbers), seconds)

    def image(self, tag: str, step: int, png: bytes) -> None:
        from PIL import Image

        width, height = Image.open(io.BytesIO(png)).size
        picture = self._Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=4)
        self._add(step, self._Summary(value=[self._Summary.Value(tag=tag, image=picture)]), time.time())

    def text(self, tag: str, step: int, markdown: str) -> None:
        from torch.utils.tensorboard.summary import text

        self._add(step, text(tag, markdown), time.time())

    def hparams(self, hparams: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        from torch.utils.tensorboard.summary import hparams as hparams_summary

        settings = {
            key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in hparams.items()
        }
        for summary in hparams_summary(settings, dict(metrics)):
            self._add(None, summary, time.time())
        self.scalars(0, metrics, time.time())

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _add(self, step: int | None, summary: Any, seconds: float) -> None:
        event = self._Event(wall_time=seconds, summary=summary)
        if step is not None:
            event.step = step
        self._writer.add_event(event)
