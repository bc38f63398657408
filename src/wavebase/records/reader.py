"""Reading a run's folder, whoever wrote it: every fault is one RecordsError."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavebase.records import checkpoints, metrics, untrusted
from wavebase.records.atomic import RecordsError, lock_owner, open_regular

if TYPE_CHECKING:  # numpy is imported where it is used: it takes a fifth of the time that --cfg job takes
    import numpy as np

log = logging.getLogger("wavebase")
CHECKPOINT = re.compile(r"step_([0-9]{8,15})\.pt")
STATUSES = ("done", "diverged", "interrupted", "failed")
FINISHED = ("done", "diverged")


class RunReader:
    """One run's files; see `RunFolder`, which also writes them.

    Args:
        path: The folder, which may not exist yet.
        identity: Maps a configuration to what two configurations of one run share; by default all of it.
    """

    def __init__(self, path: Path | str, identity: Callable[[dict[str, Any]], Any] = lambda node: node):
        self.path, self.identity = Path(path), identity
        self._seen: list[int] = []  # steps of the checkpoints when the newest was read

    def summary(self) -> dict[str, Any] | None:
        """Return summary.json, or None if there is none. Raises RecordsError."""
        try:
            summary = untrusted.parse_json(untrusted.read_bytes(self.path / "summary.json", untrusted.MOST_SUMMARY))
        except FileNotFoundError:
            return None
        except RecordsError:
            raise
        except ValueError as error:
            raise RecordsError(
                f"{self.path}/summary.json must be readable JSON, got {untrusted.reason(error)}; delete it to run again"
            ) from error
        if not isinstance(summary, dict) or summary.get("status") not in STATUSES:
            got = summary.get("status") if isinstance(summary, dict) else summary
            raise RecordsError(
                f"{self.path}/summary.json must be an object with the status {', '.join(STATUSES)}, got {str(got)[:40]!r}; delete it to run again"
            )
        return summary

    def config(self) -> dict[str, Any]:
        """Return config.yaml as plain containers. Raises RecordsError."""
        return untrusted.read_config(self.path / "config.yaml")

    def config_bytes(self) -> bytes:
        """Return config.yaml as it is. Raises RecordsError, or FileNotFoundError if there is none."""
        return untrusted.read_bytes(self.path / "config.yaml", untrusted.MOST_CONFIG)

    def finished(self, config_yaml: str) -> dict[str, Any] | None:
        """Return the summary of a finished run of this configuration, or None if the folder holds none.

        Raises:
            RecordsError: If the folder holds a run of another configuration, or a config.yaml that is not the one of
                its summary.json.
        """
        stored, given = config_yaml.encode(), config_yaml.encode()
        if os.path.lexists(self.path / "config.yaml"):
            stored = self.config_bytes()
        if stored != given:
            theirs, ours = (untrusted.parse_config(text, self.path / "config.yaml") for text in (stored, given))
            if self.identity(theirs) != self.identity(ours):
                raise RecordsError(
                    f"{self.path} must be new or hold this very configuration, got another run's; use resume=false or another hydra.run.dir"
                )
        summary = self.summary()
        if summary is None or summary["status"] not in FINISHED:
            return None
        if summary.get("config_sha256") != sha256(stored):
            raise RecordsError(
                f"{self.path}/config.yaml must be the one that summary.json was written for, got another; restore it, or use resume=false"
            )
        return summary

    def writer(self) -> str | None:
        """Return the process that writes this folder now, as "process 12 on host", or None."""
        return lock_owner(self.path)

    def metrics(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return every recorded series as (steps, values), by tag; values that were not finite are nan."""
        return metrics.read_series(self.path / "metrics.jsonl")

    def checkpoint_steps(self) -> list[int]:
        """Return the steps of the checkpoints, in order. Raises RecordsError if they cannot be listed."""
        try:
            names = os.listdir(self.inside("checkpoints"))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise RecordsError(
                f"{self.path}/checkpoints must be readable, got {error.strerror}; change its permissions"
            ) from error
        return sorted(int(found[1]) for found in map(CHECKPOINT.fullmatch, names) if found)

    def checkpoint_file(self, step: int) -> Path:
        """Return the path of a checkpoint."""
        return self.inside("checkpoints") / f"step_{step:08d}.pt"

    def load_checkpoint(self, step: int) -> dict[str, Any]:
        """Return a checkpoint's contents: tensors, numbers, text and containers. Raises RecordsError."""
        return checkpoints.load(self.checkpoint_file(step))

    def newest_checkpoint(self, until: int | None = None) -> dict[str, Any] | None:
        """Return the newest checkpoint that can be read and whose part of metrics.jsonl is still there, or None.

        A warning says why each newer one is not used. `start` continues from the one returned.

        Args:
            until: Return none of a later step.
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
            if type(length) is not int or not 0 <= length <= untrusted.MOST_METRICS:
                length = 0
            kept = metrics.read_prefix(self.path / "metrics.jsonl", length)
            if len(kept) == length and sha256(kept) == state.get("metrics_sha256"):
                return state
            log.warning(
                "%s/metrics.jsonl must begin with the %d bytes that the checkpoint of step %d vouches for, got %s; "
                "nothing to be done: the run goes back to an older checkpoint and records again from there",
                self.path, length, step, f"{len(kept)} bytes" if len(kept) < length else "other bytes",
            )  # fmt: skip
        return None

    def examples(self) -> dict[str, np.ndarray]:
        """Return the arrays of examples.npz: signal, target, before, after; what else a task or net adds. Raises RecordsError."""
        import numpy as np

        with open_regular(self.path / "examples.npz", "rb") as file:
            try:
                untrusted.check_archive(file)
                with np.load(file, allow_pickle=False) as arrays:
                    return dict(arrays)
            except Exception as error:  # zipfile and numpy raise many kinds for a broken file
                raise RecordsError(
                    f"{self.path}/examples.npz must be readable arrays, got {untrusted.reason(error)}; remove it, or run again"
                ) from error

    def inside(self, name: str) -> Path:
        """Return a folder inside the run's own. Raises RecordsError for a link, which would lead out of it."""
        folder = self.path / name
        if folder.is_symlink():
            raise RecordsError(f"{folder} must be a folder of its own, got a link; remove it, or use another folder")
        return folder


def sha256(content: bytes) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
