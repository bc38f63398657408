"""The only reader and writer of run folders.

A run's folder holds:

    config.yaml            the resolved configuration
    metrics.jsonl          one line a step: the source of all numbers
    events.out.tfevents.*  the same numbers for TensorBoard
    checkpoints/step_<step>.pt, figures/, examples.npz
    summary.json           written last, with the hash of config.yaml; a run without it is not finished
    .lock                  locked by the one process that writes the folder

Every file except metrics.jsonl and the events is complete or absent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavebase.records import checkpoints, metrics, untrusted
from wavebase.records.atomic import FolderLocked, Lock, RecordsError, atomic_write, remove_parts
from wavebase.records.events import Events, logarithms
from wavebase.records.reader import RunReader, sha256
from wavebase.records.strict_json import dump_json

if TYPE_CHECKING:  # numpy is imported where it is used: it takes a fifth of the time that --cfg job takes
    import numpy as np


class RunFolder(RunReader):
    """One run's files, to read and to write. Opening it writes nothing; `start` locks it and opens its records."""

    def __init__(self, path: Path | str, identity: Callable[[dict[str, Any]], Any] = lambda node: node):
        super().__init__(path, identity)
        self._metrics: metrics.MetricsWriter | None = None
        self._events: Events | None = None
        self._lock: Lock | None = None
        self.dashboard: Collection[str] | None = ()  # tags of the events beside the main ones; None for all

    def start(self, config_yaml: str, bytes_kept: int = 0) -> None:
        """Lock the folder and open its records for writing.

        The events are written anew from the metrics that are kept, so that no step can appear twice.

        Args:
            config_yaml: The run's configuration.
            bytes_kept: Bytes of metrics.jsonl to keep, those that a checkpoint vouches for.

        Raises:
            FolderLocked: If another process writes here, or has done so since the newest checkpoint was read.
            RecordsError: If the folder holds another run. Nothing has been written in either case.
        """
        if len(config_yaml.encode()) > untrusted.MOST_CONFIG:
            raise RecordsError(
                f"the configuration must fit into {untrusted.MOST_CONFIG} bytes, got {len(config_yaml.encode())}; shorten its lists"
            )
        self._lock = Lock(self.path)
        try:
            if self.finished(config_yaml) is not None or self.checkpoint_steps() != self._seen:
                raise FolderLocked(
                    f"{self.path} was continued by another process in the meantime; run the same command again"
                )
            remove_parts(self.path)
            atomic_write(self.path / "config.yaml", lambda file: file.write(config_yaml.encode()))
            for old in self.path.glob("events.out.tfevents.*"):
                old.unlink()
            self._metrics = metrics.MetricsWriter(self.path / "metrics.jsonl", bytes_kept)
            self._events = Events(self.path, self.dashboard)
            for line in metrics.read_lines(self.path / "metrics.jsonl"):
                self._to_events(line["step"], metrics.tags(line), line.get("seconds") or 0.0)
        except BaseException:
            self.abandon()
            raise

    @property
    def events(self) -> Events:
        """The events file of a folder that is open for writing: pictures, texts, charts and hyper-parameters."""
        assert self._events is not None
        return self._events

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record named numbers of one step. Raises RecordsError if the folder was removed meanwhile."""
        assert self._metrics is not None
        self._to_events(step, values, self._metrics.write(step, values))

    def _to_events(self, step: int, values: Mapping[str, float | None], seconds: float) -> None:
        """Write numbers as events. When one first leaves float32's range, its earlier steps get their logarithms."""
        assert self._metrics is not None
        if new := self.events.scalars(step, values, seconds):
            self._metrics.flush()
            for line in metrics.read_lines(self.path / "metrics.jsonl"):
                if line["step"] >= step:
                    break
                self.events.scalars(line["step"], logarithms(metrics.tags(line), new), line.get("seconds") or 0.0)

    def save_checkpoint(self, step: int, state: Mapping[str, Any], keep: int | None = None) -> None:
        """Write checkpoints/step_<step>.pt, after everything logged so far has reached the disk.

        Args:
            keep: Of the earlier checkpoints keep the first and the last `keep`, and delete the others; None keeps all.
                Those are deleted before this one is written, so that a stack whose members were killed a checkpoint
                apart still finds one of a common step.
        """
        assert self._metrics is not None
        self._metrics.check_in_place()
        length, digest = self._metrics.flush()
        self.events.flush()
        if keep is not None:
            earlier = [known for known in self.checkpoint_steps() if known < step]
            for old in earlier[1:-keep]:
                self.checkpoint_file(old).unlink(missing_ok=True)
        vouched = {"step": step, "metrics_bytes": length, "metrics_sha256": digest}
        checkpoints.save(self.checkpoint_file(step), {**state, **vouched})

    def save_examples(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write examples.npz."""
        import numpy as np

        atomic_write(self.path / "examples.npz", lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]

    def save_figure(self, name: str, content: bytes, suffix: str = "png") -> None:
        """Write figures/<name>.<suffix>."""
        atomic_write(self.inside("figures") / f"{name}.{suffix}", lambda file: file.write(content))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json and release the folder: the last act of a run."""
        self.close()
        marked = {**summary, "config_sha256": sha256(self.config_bytes())}
        atomic_write(self.path / "summary.json", lambda file: file.write(dump_json(marked, indent=2)))
        self.abandon()

    def fail(self, config_yaml: str, summary: Mapping[str, Any]) -> None:
        """Write summary.json for a run that could not go on, beside whatever it had recorded; it can be continued.

        A finished run stays as it is.

        Raises:
            FolderLocked: If another process writes here.
            RecordsError: If the folder holds another configuration's run.
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
        """Flush and close the open files; the folder stays locked."""
        written, events = self._metrics, self._events
        try:
            if written is not None and events is not None:
                written.flush()
                events.flush()
        finally:
            self._metrics = self._events = None
            for file in (written, events):
                if file is not None:
                    with suppress(OSError):  # flush has raised it
                        file.close()

    def abandon(self) -> None:
        """Close the open files, whatever their state, and release the folder."""
        with suppress(OSError):
            self.close()
        if self._lock is not None:
            self._lock.release()
        self._lock = None


def load_weights(file: Path) -> dict[str, Any]:
    """Return the weights by canonical name in a checkpoint, or in a file that holds nothing else. Raises RecordsError."""
    found = checkpoints.load(file.resolve())  # the user may name a file by a link
    weights = found.get("weights", found)
    if not isinstance(weights, dict):
        raise RecordsError(f"{file} must hold weights by name, got {type(weights).__name__}; use another checkpoint")
    return weights


def find_runs(root: Path | str) -> list[RunFolder]:
    """Return every run folder at or below `root`, in the order of their paths, links not followed.

    A folder that cannot be listed is returned as if it were a run: reading it raises the RecordsError that names it.

    Raises:
        RecordsError: If `root` is not a folder.
    """
    if not Path(root).is_dir():
        raise RecordsError(
            f"the folder of runs must exist, got {str(root)!r}; give a run's or a sweep's folder under outputs/"
        )
    unreadable: list[Path] = []
    found = [
        Path(folder)
        for folder, folders, files in os.walk(root, onerror=lambda error: unreadable.append(Path(error.filename)))
        if "config.yaml" in (names := {*folders, *files}) and names & {"metrics.jsonl", "summary.json"}
    ]
    return [RunFolder(path) for path in sorted([*found, *unreadable], key=lambda path: path / "config.yaml")]
