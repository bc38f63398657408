"""The Hydra callback that remembers a sweep's folder and names the columns of its table in TensorBoard.

Light to import: Hydra loads it first.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from wavebase.formatting import is_number

COLUMNS = "events.out.tfevents.*.columns"  # in a sweep's folder: not the events of a run
# Scalars that the HParams tab shows, in order: what became of the algorithm first.
RESULTS = ("drift/{weight}", "error/training", "position/distance", "moved/changed", "loss/train")


class SweepReport(Callback):
    """Remembers the current sweep's folder, so that the command reports on it even if a job failed."""

    folder: Path | None = None
    new_folders: tuple[Path, ...] = ()  # that Hydra makes for a run or a sweep, the innermost first

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note which folders Hydra is about to make: a run that cannot start removes these and no other."""
        SweepReport.new_folders = _missing(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember the folder, and name the columns of its table. Hydra calls this once, in the launching process."""
        SweepReport.folder = folder = Path(config.hydra.sweep.dir)
        SweepReport.new_folders = _missing(folder)
        if columns := swept(config):
            weight = OmegaConf.select(config, "probe.verdict.weight") or "weight_hh_cell"
            _name_columns(folder, columns, [result.replace("{weight}", str(weight)) for result in RESULTS])

    @staticmethod
    def remove_new_folders() -> None:
        """Remove the folders that this command made, unless something was recorded in them."""
        if SweepReport.folder is not None and SweepReport.folder.absolute() in SweepReport.new_folders:
            for file in (SweepReport.folder / "multirun.yaml", *SweepReport.folder.glob(COLUMNS)):
                file.unlink(missing_ok=True)
        with suppress(OSError):  # the first that is not empty
            for folder in SweepReport.new_folders:
                folder.rmdir()


def _missing(folder: Path) -> tuple[Path, ...]:
    return tuple(path for path in (folder.absolute(), *folder.absolute().parents) if not path.exists())


def swept(config: DictConfig) -> dict[str, bool]:
    """Return the keys that a sweep gives several values, by its command line and its sweeper, and whether all are numbers."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    words = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    columns: dict[str, bool] = {}
    for override in OverridesParser.create().parse_overrides(words):
        key = override.get_key_element().lstrip("+~")
        columns.pop(key, None)  # the command line's word counts, which is the later one
        if override.is_discrete_sweep():
            values = set(override.sweep_string_iterator())
            if len(values) > 1:
                columns[key] = all(map(is_number, values))
        elif override.is_sweep_override():
            columns[key] = True  # an interval
    return columns


def _name_columns(folder: Path, columns: dict[str, bool], results: list[str]) -> None:
    """Write the table's columns into the sweep's folder, instead of those that an earlier command left."""
    from wavebase.records.events import Events

    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(COLUMNS):
        old.unlink(missing_ok=True)  # another process may have started the same sweep
    events = Events(folder, suffix=COLUMNS.rpartition(".")[2])
    events.columns(columns, results)
    events.close()
