"""The launcher: Hydra's own lets every job announce itself, then all are trained as stacks."""

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from omegaconf import DictConfig


@dataclass
class StackedLauncherConf:
    """max_stack: most members of one stack; fewer where memory does not hold them. processes: that the jobs are dealt to,
    each with stacks of its own; null for as many as the machine has cores for (`stacked.usable_processes`)."""

    _target_: str = "hydra_plugins.wavebase_stacked.launcher.StackedLauncher"
    max_stack: int = 64
    processes: int | None = None


ConfigStore.instance().store(group="hydra/launcher", name="stacked", node=StackedLauncherConf, provider="wavebase")


class StackedLauncher(BasicLauncher):
    """Collects a sweep's jobs through the basic launcher, which makes their folders, and runs them together."""

    def __init__(self, max_stack: int, processes: int | None = None):
        super().__init__()
        if max_stack < 1:
            raise HydraException(f"hydra.launcher.max_stack must be at least 1, got {max_stack}; use 64")
        if processes is not None and processes < 1:
            raise HydraException(f"hydra.launcher.processes must be at least 1, got {processes}; use null")
        self.max_stack, self.processes, self.launching = max_stack, processes, False

    def setup(self, **components: Any) -> None:
        """As ever; but a job's configuration, which Hydra composes once to check it and once to run it (0.1 s each), is
        kept from the first time to the second."""
        super().setup(**components)
        loader = components["hydra_context"].config_loader
        compose = loader.load_sweep_config
        checked: dict[tuple[str, ...], list[DictConfig]] = {}

        def once(master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
            words = tuple(sweep_overrides)
            if self.launching and checked.get(words):
                return checked[words].pop()
            cfg = compose(master_config=master_config, sweep_overrides=sweep_overrides)
            if not self.launching:
                checked.setdefault(words, []).append(cfg)
            return cfg

        loader.load_sweep_config = once

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; their return values are the final relative errors, as those of single runs."""
        from wavebase.cli import jobs
        from wavebase.experiment import runner, stacked

        collected: list[tuple[DictConfig, runner.Job]] = []
        places: list[int | None] = []

        def announce(cfg: DictConfig) -> None:
            try:
                collected.append((cfg, jobs.prepare_job(cfg)))
                places.append(len(collected) - 1)
            except Exception as error:
                jobs.mark_failed(cfg, error, *jobs.current_job_folder())
                places.append(None)

        own, self.task_function = self.task_function, announce
        if getattr(own, "__module__", "") != "wavebase.cli.jobs":
            raise HydraException(
                "hydra/launcher=stacked runs wavebase.run only, got another program; use hydra/launcher=basic"
            )
        self.launching = True
        returns = list(super().launch(job_overrides, initial_job_idx))
        self.launching = False
        self.task_function = own

        configs = {id(job): cfg for cfg, job in collected}
        failures = multiprocessing.Value("i", 0)  # the jobs may run in forked processes

        def failed(job: Any, error: Exception) -> None:
            jobs.mark_failed(configs[id(job)], error, job.path, job.choices)
            failures.value = len(jobs.failures)

        wanted = [job for _, job in collected]
        processes = self.processes or stacked.usable_processes(wanted)
        errors = stacked.run_stacked(wanted, self.max_stack, failed, processes)
        if failures.value and not jobs.failures:
            jobs.failures.append(HydraException("a job of another process failed, and said why"))
        for done, place in zip(returns, places, strict=True):
            done.return_value = None if place is None else errors[place]
        return returns
