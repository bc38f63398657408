"""A search with Optuna that was killed and is started again. Light at import, as everything that Hydra loads first."""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

log = logging.getLogger("wavebase")


class ContinueStudy(Callback):
    """Calls `continue_study` before Hydra builds the sweeper."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra calls this once, in the launching process."""
        continue_study(config)


def continue_study(config: DictConfig) -> None:
    """Let `n_trials` count the trials that a stored study already has; Hydra's plugin adds as many every time.

    A trial that a killed process left running fails, and its settings are tried first: the run in its folder continues.
    Running trials are left alone while another process writes a run in the sweep's folder: they may be its own.

    Args:
        config: The sweep's configuration. Its `hydra.sweeper.n_trials` is lowered. Nothing happens for another sweeper,
            or for a study without a name or a storage that outlives the process.
    """
    sweeper: Any = config.hydra.sweeper
    if "optuna" not in str(sweeper.get("_target_")) or not sweeper.get("storage") or not sweeper.get("study_name"):
        return
    from wavebase.records.folder import find_runs

    optuna = import_module("optuna")  # an extra, which type checkers need not have

    try:
        study = optuna.load_study(study_name=sweeper.study_name, storage=sweeper.storage)
    except KeyError:  # a new one
        return
    states = optuna.trial.TrialState
    folder = Path(config.hydra.sweep.dir)
    if not (folder.is_dir() and any(run.writer() for run in find_runs(folder))):
        for trial in study.get_trials(states=(states.RUNNING,)):
            study.tell(trial.number, state=states.FAIL)
            study.enqueue_trial(trial.params)
    done = len(study.get_trials(states=(states.COMPLETE,)))
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.sweeper.n_trials = max(0, sweeper.n_trials - done)
    log.info("study %s continues: %d of %d trials are done", sweeper.study_name, done, done + sweeper.n_trials)
