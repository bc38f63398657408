"""Module and function names of version 0.1: they still work, with a DeprecationWarning. Light at import."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

# Old module: the new one, and the new places of names that are elsewhere or called otherwise ("name" or "module.name").
MODULES: dict[str, tuple[str, dict[str, str]]] = {
    "analysis.report": ("analysis.analyze", {}),
    "assembly": ("experiment.build", {"Pieces": "Components", "assemble": "build_components", "restored": "load_run"}),
    "boundaries": ("theory.boundaries", {}),
    "checkpoints": ("records.checkpoints", {}),
    "config": (
        "experiment.config",
        {
            name: f"experiment.validation.{name}"
            for name in ("ConfigError", "build", "named", "call", "unknown_key", "fit")
        },
    ),
    "durable": ("records.atomic", {"Busy": "FolderLocked", "write_whole": "atomic_write", "holder": "lock_owner"}),
    "events": ("records.events", {}),
    "forking": ("training.workers", {"forked": "run_in_processes"}),
    "interruption": ("training.interruption", {}),
    "intervals": ("statistics", {}),
    "jobs": ("experiment.runner", {"run_stacked": "experiment.stacked.run_stacked"}),
    "judgement": ("experiment.judge", {"Judgement": "VerdictHistory", "judge_run": "judge_folder"}),
    "label_noise": (
        "theory.label_noise",
        {name: f"theory.gauss_newton.{name}" for name in ("GaussNewton", "gauss_newton", "enough")},
    ),
    "models.harmonic_forecasters": (
        "models.harmonics",
        {
            "linear_prediction": "models.linear_prediction.build",
            "omp": "models.matching_pursuit.build",
            "sparse_bayes": "models.sparse_bayes.build",
            "esprit": "models.esprit.build",
            "LinearPrediction": "models.linear_prediction.LinearPrediction",
            "OrthogonalMatchingPursuit": "models.matching_pursuit.OrthogonalMatchingPursuit",
            "SparseBayes": "models.sparse_bayes.SparseBayes",
            "Esprit": "models.esprit.Esprit",
        },
    ),
    "native": ("recurrence.native", {}),
    "native.build": ("recurrence.native.build", {}),
    "native.lstm": ("recurrence.native.lstm", {}),
    "optimizers": ("training.optimizers", {}),
    "origins": ("cli.config_sources", {}),
    "provenance": ("records.provenance", {}),
    "session": ("experiment.session", {}),
    "slow_drift": ("theory.slow_drift", {}),
    "spectrum_sheet": (
        "figures.spectrum_sheet",
        {"movement": "figures.movement.movement", "movement_table": "figures.movement.movement_table"},
    ),
    "stacks": (
        "training.stacks",
        {
            "Member": "training.trainer.TrainState",
            "Program": "training.trainer.Trainer",
            "Alone": "training.trainer.SingleTrainer",
            "Stack": "StackedTrainer",
            "program": "make_trainer",
            "stack_key": "training.stacking.stack_key",
            "stacks_not_because": "training.stacking.unstackable_reason",
            "saved_bytes": "training.stacking.activation_bytes",
        },
    ),
    "stationary": ("models.toeplitz", {}),
    "stored": ("records.untrusted", {}),
    "terminal": (
        "console",
        {
            "say": "print_styled",
            "explain": "print_help",
            "complain": "print_error",
            "shown": "render",
            "fitted": "wrap",
        },
    ),
}
# Modules that are packages now, and names of modules that stayed.
NAMES: dict[str, dict[str, str]] = {
    "figures": {
        **{name: f"figures.style.{name}" for name in ("COLOURS", "STYLES", "GREY", "png", "literal")},
        **{name: f"figures.curves.{name}" for name in ("loss_curves", "error_curves", "median_and_range")},
        **{name: f"figures.weights.{name}" for name in ("weight_hh_init", "weight_image", "gen_eigenvalues")},
        **{name: f"figures.run.{name}" for name in ("train_loss", "spectrum")},
    },
    "records": {
        **{name: f"records.folder.{name}" for name in ("RunFolder", "find_runs", "load_weights")},
        "RecordsError": "records.atomic.RecordsError",
        "Busy": "records.atomic.FolderLocked",
        "write_whole": "records.atomic.atomic_write",
        "plain": "records.strict_json.to_json",
    },
    "recurrence": {
        **{name: f"recurrence.lstm.{name}" for name in ("lstm_sequence", "plain", "join_gates")},
        **{
            name: f"recurrence.cells.{name}"
            for name in (
                "GATES",
                "GRU_GATES",
                "InputGate",
                "Trace",
                "lstm_step",
                "lstm_trace",
                "gru_step",
                "relu_states",
            )
        },
    },
    "report": {
        "Options": "report.write.Options",
        **{name: f"report.runs.{name}" for name in ("Run", "grouped")},
        "SweepReport": "report.callback.SweepReport",
        "main": "report.__main__.main",
        "describe": "experiment.summary.describe",
        "mark_failed": "experiment.summary.mark_failed",
    },
    "training": {
        **{name: f"training.loop.{name}" for name in ("TrainSettings", "Status", "train")},
        **{name: f"training.schedule.{name}" for name in ("Schedule", "schedule_factor", "LearningRate")},
    },
    "run": {
        **{name: f"cli.names.{name}" for name in ("conf_folder", "run_name", "sweep_name")},
        **{name: f"cli.jobs.{name}" for name in ("failures", "job", "mark_failed")},
        "session_job": "cli.jobs.prepare_job",
        "whereabouts": "cli.jobs.current_job_folder",
    },
    "probe": {name: f"cli.probe.{name}" for name in ("Options", "Source", "probe")},
    "study": {
        "share": "statistics.proportion",
        "median": "statistics.median",
        "exponent": "statistics.power_law",
        "cell": "formatting.short_cell",
        "brief": "formatting.brief",
        "table": "formatting.text_table",
    },
}


def old_names(module: str, home: str = "") -> Callable[[str], Any]:
    """Return a module's `__getattr__` that finds the old names in their new places.

    Args:
        module: Without "wavebase.", a key of MODULES or NAMES.
        home: The module in which names are sought that the table does not list; none: they do not exist.
    """
    places = NAMES.get(module) or MODULES[module][1]

    def find(name: str) -> Any:
        place = places.get(name, name)
        if name.startswith("__") or (place == name and not home):
            raise AttributeError(f"module 'wavebase.{module}' has no attribute {name!r}")
        where, _, new = place.rpartition(".")
        where = where or home
        warnings.warn(f"wavebase.{module}.{name} is wavebase.{where}.{new} now", DeprecationWarning, stacklevel=2)
        return getattr(import_module(f"wavebase.{where}"), new)

    return find


class OldModules(MetaPathFinder, Loader):
    """Imports a module that has moved as an empty one whose names are found in their new places, and gives the old names
    to modules that are packages now."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        """Return the spec of an old module, or of one that has old names; None for any other."""
        old = name.removeprefix("wavebase.")
        if name == old:
            return None
        if old in MODULES:
            return ModuleSpec(name, self, is_package=old == "native")
        spec = PathFinder.find_spec(name, path) if old in NAMES else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _WithOldNames(spec.loader.name, spec.loader.path)
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the empty module."""
        old = spec.name.removeprefix("wavebase.")
        new, _ = MODULES[old]
        warnings.warn(f"wavebase.{old} is wavebase.{new} now", DeprecationWarning, stacklevel=2)
        module = ModuleType(spec.name)
        module.__getattr__ = old_names(old, new)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing more."""


class _WithOldNames(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        module.__getattr__ = old_names(module.__name__.removeprefix("wavebase."))  # type: ignore[method-assign]


def install() -> None:
    """Let old modules and names be imported."""
    if not any(isinstance(finder, OldModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, OldModules())
