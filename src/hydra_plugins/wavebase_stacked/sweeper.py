"""hydra/sweeper=stacks: each job of any launcher, such as a cluster's, trains a whole stack of a sweep's jobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.wavebase_stacked.launcher import StackedLauncher


@dataclass
class StacksSweeperConf:
    """Settings of the sweeper. size: jobs of the sweep that one job of the launcher trains as stacks."""

    _target_: str = "hydra_plugins.wavebase_stacked.sweeper.StacksSweeper"
    size: int = 16
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="stacks", node=StacksSweeperConf, provider="wavebase")


class StackTask:
    """The function that the launcher calls, in whatever process: it runs the part of the sweep with the job's number."""

    def __init__(self, size: int, hydra_context: HydraContext, config: DictConfig):
        self.size, self.hydra_context, self.config = size, hydra_context, config
        self.parts: dict[int, Sequence[Sequence[str]]] = {}

    def __call__(self, cfg: DictConfig) -> list[Any]:
        """Return the final relative errors of the part's jobs."""
        from wavebase.cli import jobs

        stacked = StackedLauncher(self.size, processes=1)  # the launcher of the parts uses the other cores
        stacked.setup(hydra_context=self.hydra_context, task_function=jobs.job, config=self.config)
        try:
            return [done.return_value for done in stacked.launch(self.parts[HydraConfig.get().job.num], 0)]
        finally:  # the launcher of the parts composes the next one by Hydra's own method
            vars(self.hydra_context.config_loader).pop("load_sweep_config", None)


class StacksSweeper(BasicSweeper):
    """Hydra's own sweeper, whose launcher gets parts of `size` neighbouring jobs. The last swept key varies fastest.

    Raises:
        HydraException: If `size` is below 1.
    """

    def __init__(self, size: int, max_batch_size: int | None = None, params: dict[str, str] | None = None):
        super().__init__(max_batch_size, params)
        if size < 1:
            raise HydraException(f"hydra.sweeper.size must be at least 1, got {size}; use 16")
        self.size = size

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Give the chosen launcher the task of a whole part.

        Raises:
            HydraException: For another program's task.
        """
        if getattr(task_function, "__module__", "") != "wavebase.cli.jobs":
            raise HydraException("hydra/sweeper=stacks runs wavebase.run only, got another program; use basic")
        task = StackTask(self.size, hydra_context, config)
        super().setup(hydra_context=hydra_context, task_function=task, config=config)
        assert self.launcher is not None
        self.launcher = _InParts(self.launcher, task)  # type: ignore[assignment]


class _InParts:
    """A launcher of jobs that launches parts. The other launcher knows each part by its first job's overrides."""

    def __init__(self, launcher: Launcher, task: StackTask):
        self.launcher, self.task = launcher, task

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        size = self.task.size
        parts = [job_overrides[first : first + size] for first in range(0, len(job_overrides), size)]
        self.task.parts = dict(enumerate(parts, initial_job_idx))
        return self.launcher.launch([part[0] for part in parts], initial_job_idx)
