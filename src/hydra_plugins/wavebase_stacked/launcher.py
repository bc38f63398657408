"""hydra/launcher=stacked: Hydra's basic launcher prepares every job, then all are trained as stacks."""

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import HydraContext
from omegaconf import DictConfig


@dataclass
class StackedLauncherConf:
    """Settings of the launcher.

    Attributes:
        max_stack: Most members of one stack; fewer where memory does not hold them.
        processes: Processes that the jobs are dealt to, each with stacks of its own; null for as many as the machine
            has cores for (`experiment.stacked.usable_processes`).
    """

    _target_: str = "hydra_plugins.wavebase_stacked.launcher.StackedLauncher"
    max_stack: int = 64
    processes: int | None = None


ConfigStore.instance().store(group="hydra/launcher", name="stacked", node=StackedLauncherConf, provider="wavebase")


class StackedLauncher(BasicLauncher):
    """Collects a sweep's jobs through the basic launcher, which makes their folders, and trains them together.

    Args:
        max_stack, processes: See `StackedLauncherConf`.

    Raises:
        HydraException: If one of them is below 1.
    """

    def __init__(self, max_stack: int, processes: int | None = None):
        super().__init__()
        if max_stack < 1:
            raise HydraException(f"hydra.launcher.max_stack must be at least 1, got {max_stack}; use 64")
        if processes is not None and processes < 1:
            raise HydraException(f"hydra.launcher.processes must be at least 1, got {processes}; use null")
        self.max_stack, self.processes, self.launching = max_stack, processes, False

    def setup(self, **components: Any) -> None:
        """Set up the basic launcher.

        Hydra composes a job's configuration twice, to check it and to run it (0.1 s each).
        """
        super().setup(**components)
        from wavebase.cli.composing import JobComposer

        loader = components["hydra_context"].config_loader
        compose = JobComposer(loader)
        loader.load_sweep_config = lambda master_config, sweep_overrides: compose(
            master_config, sweep_overrides, check=not self.launching
        )

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Train the jobs. Equal jobs are one run, whose value each of them returns.

        Returns:
            What the basic launcher would: each job's final relative error (see `cli.jobs.job`).

        Raises:
            HydraException: For another program, or if different jobs share a folder; nothing is trained then.
        """
        from wavebase.cli import jobs, sweep_folders
        from wavebase.experiment import runner, stacked

        if getattr(self.task_function, "__module__", "") != "wavebase.cli.jobs":
            raise HydraException(
                "hydra/launcher=stacked runs wavebase.run only, got another program; use hydra/launcher=basic"
            )
        assert self.hydra_context is not None
        collected: dict[Path, runner.Job] = {}
        shared: dict[str, Any] = {}  # equal groups of the jobs' configurations
        places: list[Path | None] = []
        named: list[sweep_folders.Named] = []

        def collect(cfg: DictConfig) -> None:
            try:
                job = jobs.prepare_job(cfg)
            except Exception as error:
                jobs.mark_failed(jobs.readable(cfg), error, *jobs.current_job_folder())
                places.append(None)
                return
            job = job._replace(node={key: shared.setdefault(repr(group), group) for key, group in job.node.items()})
            collected.setdefault(job.path, job)
            places.append(job.path)
            named.append((str(job.path), list(HydraConfig.get().overrides.task), job.node))

        task, context = self.task_function, self.hydra_context
        callbacks = _DeferredJobEnds(context.callbacks)
        self.launching, self.task_function = True, collect
        self.hydra_context = HydraContext(config_loader=context.config_loader, callbacks=callbacks)
        try:
            returns = list(super().launch(job_overrides, initial_job_idx))
        finally:
            self.launching, self.task_function, self.hydra_context = False, task, context
        sweep_folders.check_distinct(named)

        failures = multiprocessing.Value("i", 0)  # the jobs may run in forked processes

        def failed(job: Any, error: Exception) -> None:
            jobs.mark_failed(runner.config_text(job.node), error, job.path, job.choices)
            failures.value = len(jobs.failures)

        wanted = list(collected.values())
        processes = self.processes or stacked.usable_processes(wanted)
        finals = dict(zip(collected, stacked.run_stacked(wanted, self.max_stack, failed, processes), strict=True))
        if failures.value and not jobs.failures:
            jobs.failures.append(HydraException("a job of another process failed, and printed why"))
        for done, place in zip(returns, places, strict=True):
            done.return_value = None if place is None else finals[place]
        callbacks.end_jobs()
        return returns


class _DeferredJobEnds(Callbacks):
    """The callbacks of a sweep whose jobs end after all of them have started."""

    def __init__(self, callbacks: Callbacks):
        super().__init__()
        self.callbacks = callbacks.callbacks
        self.ended: list[tuple[DictConfig, JobReturn]] = []
        self.heard = any(type(one).on_job_end is not Callback.on_job_end for one in self.callbacks)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Keep the call: the job has been collected, not trained. Without a callback for it, drop the configurations."""
        if self.heard:
            self.ended.append((config, job_return))
        else:
            job_return.cfg = job_return.hydra_cfg = None

    def end_jobs(self) -> None:
        """Make the calls that were kept, each with its job's configuration as Hydra's current one."""
        hydra_config = HydraConfig.instance()
        before = hydra_config.cfg
        try:
            for config, job_return in self.ended:
                hydra_config.set_config(config)
                super().on_job_end(config=config, job_return=job_return)
        finally:
            hydra_config.cfg = before
