"""One job of a command line: its configuration, its folder, and what it leaves behind if it fails."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wavebase import console
from wavebase.cli.errors import check_groups, is_expected, one_line
from wavebase.cli.names import trusted_by_person
from wavebase.records.atomic import FolderLocked, RecordsError
from wavebase.report.callback import SweepReport

failures: list[Exception] = []  # of jobs run in this process; other processes of a sweep leave theirs in the folders


@console.ignore_closed_pipes()  # a launcher may run it in another process
def job(cfg: DictConfig) -> float | None:
    """Run one resolved configuration in the folder that Hydra gives it.

    Only an interruption is raised, so that the other jobs of a sweep go on; `main` and the report name the failed ones.

    Returns:
        The final relative error, infinity if the run diverged, None if it failed.
    """
    from wavebase.experiment import runner

    single = HydraConfig.get().mode == RunMode.RUN
    try:
        while True:
            try:
                return runner.run(prepare_job(cfg), single)
            except FolderLocked:
                # two equal trials of a search at one time: the second one returns the value of the first
                if single or "optuna" not in str(HydraConfig.get().sweeper.get("_target_")):
                    raise
                time.sleep(0.5)
    except Exception as error:
        if single:
            failures.append(error)
            SweepReport.remove_new_folders()
        else:
            mark_failed(readable(cfg), error, *current_job_folder())
        return None


def prepare_job(cfg: DictConfig) -> Any:
    """Return the `runner.Job` that Hydra is about to run.

    Raises:
        HydraException: If the option of a group is not a mapping.
        ConfigError: If a learning rate and a fraction of the boundary are both asked for.
    """
    from wavebase.experiment.runner import Job

    check_groups(cfg)
    node: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    _trust(node)
    optim = node.get("optim")
    if isinstance(optim, dict) and optim.get("lr") is not None and optim.get("lr_over_boundary") is not None:
        _choose_rate(optim)
    given = [word.lstrip("+~").partition("=")[0] for word in HydraConfig.get().overrides.task]
    return Job(node, *current_job_folder(), [key for key in given if not key.startswith(("hydra", "trust", "resume"))])


def _choose_rate(optim: dict[str, Any]) -> None:
    """Drop the learning rate if a fraction of the boundary was asked for: a default of conf/optim yields to another
    file, and that to the command line. Only here can they be told apart.

    Raises:
        ConfigError: If both come from equal places.
    """
    overrides = list(HydraConfig.get().overrides.task)
    given = {word.lstrip("+").partition("=")[0] for word in overrides}
    ranks = [2 * (f"optim.{key}" in given) for key in ("lr", "lr_over_boundary")]
    places = ["the command line"] * 2
    if ranks == [0, 0]:
        from wavebase.cli.config_sources import sources

        places = [sources(overrides)[f"optim.{key}"] for key in ("lr", "lr_over_boundary")]
        ranks = [int(not place.startswith("conf/optim/")) for place in places]
    if ranks[0] == ranks[1]:
        from wavebase.experiment.validation import ConfigError

        both = " and ".join(dict.fromkeys(places))
        raise ConfigError(
            f"optim.lr or optim.lr_over_boundary must be given, got {optim['lr']} and {optim['lr_over_boundary']} from {both}; set one of them to null"
        )
    if ranks[1] > ranks[0]:
        optim["lr"] = None


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
        names = ",".join(map(str, wanted)) if isinstance(wanted, list) else wanted
        raise ConfigError(
            f"trust must be given on the command line, got [{names}] from elsewhere; if you trust that code, add trust=[{names}] to the command line"
        )
    try:
        registry.trust(map(str, wanted))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def mark_failed(config_yaml: str, error: Exception, folder: Path, choices: Mapping[str, str]) -> None:
    """Print why a sweep's job failed, and leave the reason in its folder unless another process writes there.

    Args:
        config_yaml: The job's configuration, as far as it can be read.
        choices: The option chosen in each config group.
    """
    expected = is_expected(error)
    line = one_line(error) if expected else f"{type(error).__name__}: {error}"
    details = "".join(traceback.format_exception(error))
    console.print_job_error(f"{folder.name}: {line if expected else details}")
    if isinstance(error, FolderLocked):
        return
    failures.append(error)
    from wavebase.experiment import summary

    try:
        summary.mark_failed(folder, config_yaml, line, details, choices)
    except (RecordsError, OSError) as second:
        console.print_job_error(f"{folder.name}: the reason above could not be left there: {one_line(second)}")


def current_job_folder() -> tuple[Path, dict[str, str]]:
    """Return the folder of the job that Hydra is running, and the option chosen in each config group."""
    runtime = HydraConfig.get().runtime
    return Path(runtime.output_dir), {
        group: str(choice) for group, choice in runtime.choices.items() if "/" not in group
    }


def readable(cfg: DictConfig) -> str:
    """Return a job's configuration as YAML, resolved if it can be."""
    from wavebase.experiment.runner import config_text

    try:
        return config_text(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]
    except OmegaConfBaseException:
        return OmegaConf.to_yaml(cfg)
