"""The Hydra callback that remembers a sweep's folder. Light at import: Hydra loads it before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SweepReport(Callback):
    """Remembers the folder of the sweep under way, so that the entrypoint reports on it even if a job failed."""

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra calls this once, in the launching process."""
        SweepReport.folder = Path(config.hydra.sweep.dir)
