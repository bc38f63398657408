"""The Hydra callback that remembers a sweep's folder. Light to import: Hydra loads it first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SweepReport(Callback):
    """Remembers the current sweep's folder, so that the command reports on it even if a job failed."""

    folder: Path | None = None
    new_folders: tuple[Path, ...] = ()  # that Hydra makes for a single run, the innermost first

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note which folders Hydra is about to make: a run that cannot start removes these and no other."""
        folder = Path(config.hydra.run.dir).absolute()
        SweepReport.new_folders = tuple(path for path in (folder, *folder.parents) if not path.exists())

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember the folder. Hydra calls this once, in the launching process."""
        SweepReport.folder = Path(config.hydra.sweep.dir)
