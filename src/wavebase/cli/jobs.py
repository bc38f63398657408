"""One job of a command line: its configuration, its folder, and what is left where it fails."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wavebase import console
from wavebase.cli.errors import is_expected, one_line
from wavebase.cli.names import trusted_by_person
from wavebase.experiment import summary
from wavebase.records.atomic import FolderLocked, RecordsError

failures: list[Exception] = []  # of jobs run in this process; a sweep's other processes leave theirs in the folders


@console.ignore_closed_pipes()  # a launcher may run it in another process
def job(cfg: DictConfig) -> float | None:
    """One run of a resolved configuration, in the folder that Hydra gives it; returns the final relative error.

    It raises nothing but an interruption, so that the other jobs of a sweep go on: `main` and the report tell of it.
    """
    from wavebase.experiment import runner

    single = HydraConfig.get().mode == RunMode.RUN
    try:
        return runner.run(prepare_job(cfg), single)
    except Exception as error:
        if single:
            failures.append(error)
            _remove_if_empty(current_job_folder()[0])
        else:
            mark_failed(cfg, error, *current_job_folder())
        return None


def prepare_job(cfg: DictConfig) -> Any:
    """The job that Hydra is about to run, as `jobs` wants it. A default learning rate yields to a fraction of the boundary that
    the command line asks for: only here it can be told from the default.

    Raises:
        ConfigError: if the command line gives both.
    """
    from wavebase.experiment.runner import Job
    from wavebase.experiment.validation import ConfigError

    node: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    _trust(node)
    given = {word.lstrip("+").partition("=")[0] for word in HydraConfig.get().overrides.task}
    rate, fraction = (node["optim"].get(name) for name in ("lr", "lr_over_boundary"))
    if "optim.lr_over_boundary" in given and rate is not None and fraction is not None:
        if "optim.lr" in given:
            raise ConfigError(
                f"optim.lr or optim.lr_over_boundary must be given, got {rate} and {fraction}; leave out one of them"
            )
        node["optim"]["lr"] = None
    return Job(node, *current_job_folder())


def _trust(node: dict[str, Any]) -> None:
    """Import the modules that `trust` names, if the person at the command line named them: a file or a sweeper's
    parameters cannot.

    Raises:
        ConfigError: For one that the command line does not name, or that cannot be imported.
    """
    wanted = node.get("trust") or []
    wanted = [wanted] if isinstance(wanted, str) else wanted
    if not wanted:
        return
    from wavebase import registry
    from wavebase.experiment.validation import ConfigError

    if not isinstance(wanted, list) or not set(map(str, wanted)) <= set(trusted_by_person()):
        raise ConfigError(
            f"trust must be given on the command line, got {wanted} from elsewhere; if you trust that code, add trust={wanted} to the command line".replace(
                "'", ""
            )
        )
    try:
        registry.trust(map(str, wanted))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def mark_failed(cfg: DictConfig, error: Exception, folder: Path, choices: Mapping[str, str]) -> None:
    """Leave a sweep's failed job's reason in its own folder, and tell it. One that another process runs is left to it."""
    line = one_line(error) if is_expected(error) else f"{type(error).__name__}: {error}"
    details = "".join(traceback.format_exception(error))
    print(console.visible(f"{folder.name}: {line if is_expected(error) else details}", sys.stderr), file=sys.stderr)
    if isinstance(error, FolderLocked):
        return
    failures.append(error)
    try:
        summary.mark_failed(folder, _readable(cfg), line, details, choices)
    except (RecordsError, OSError) as second:
        told = f"{folder.name}: the reason above could not be left there: {one_line(second)}"
        print(console.visible(told, sys.stderr), file=sys.stderr)


def current_job_folder() -> tuple[Path, dict[str, str]]:
    """The folder of the job that Hydra is running, and the option chosen in each config group."""
    runtime = HydraConfig.get().runtime
    return Path(runtime.output_dir), {
        group: str(choice) for group, choice in runtime.choices.items() if "/" not in group
    }


def _readable(cfg: DictConfig) -> str:
    from wavebase.experiment.runner import config_text

    try:
        return config_text(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]
    except OmegaConfBaseException:
        return OmegaConf.to_yaml(cfg)


def _remove_if_empty(folder: Path) -> None:
    """Take away the folders that Hydra made for a run that wrote nothing."""
    for path in (folder, *folder.parents):
        if path == Path.cwd() or not path.is_dir() or any(path.iterdir()):
            return
        path.rmdir()
