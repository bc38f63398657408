"""A run's configuration, checked once: every wrong value ends here in one line.

The schema of a group is the signature of its `_target_`: parameter names are the known keys, annotations their types,
and the constructor checks the ranges. Parameters that the run fills (sizes of the task, generators, dtype) are not keys.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from wavebase import registry
from wavebase.experiment.validation import ConfigError, call, named, with_defaults
from wavebase.probes.verdict import Thresholds
from wavebase.records.strict_json import to_json
from wavebase.training.loop import TrainSettings

Purpose = Literal["data", "init", "perturbation", "probe"]


@dataclasses.dataclass(frozen=True)
class Seeds:
    """One seed for each purpose, so that changing one leaves the other draws alone. None stands for the run's `seed`."""

    data: int | None = None
    init: int | None = None
    perturbation: int | None = None
    probe: int = 0


@dataclasses.dataclass(frozen=True)
class ProbeSettings:
    """What is measured and drawn.

    Attributes:
        every: Steps between measurements.
        measure: The probes, functions of `wavebase.probes` by path.
        figures: Functions of `wavebase.figures` by name; each draws one picture at the end.
        draw: Whether to draw them; None: a single run draws, and the runs of a sweep leave it to `wavebase report`.
        dashboard: "main" writes about twenty tags to TensorBoard, "all" every recorded number.
        figure_format: "svg" or "pdf" is written beside the PNG.
        curvature: Whether to measure lambda_max at the start, on `curvature_batch` sequences. It is always measured if
            the learning rate depends on it.
        verdict: Thresholds.
    """

    every: int = 100
    measure: list[str] = dataclasses.field(default_factory=list)
    figures: list[str] = dataclasses.field(default_factory=list)
    draw: bool | None = None
    dashboard: Literal["main", "all"] = "main"
    figure_format: Literal["png", "svg", "pdf"] = "png"
    curvature: bool = True
    curvature_batch: int = 256
    verdict: Thresholds = dataclasses.field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        for name in ("every", "curvature_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"probe.{name} must be at least 1, got {getattr(self, name)}; see conf/probe")

    def functions(self, key: Literal["measure", "figures"]) -> list[Callable[..., Any]]:
        """Return the functions that a list names.

        Raises:
            ConfigError: For a name that is not registered.
        """
        root = "wavebase.probes." if key == "measure" else "wavebase.figures."
        return [named(f"probe.{key}", name, f"probe.{key}", root) for name in self._full_names(key, root)]

    def check_figures(self) -> None:
        """Check the names of the figures, from the sources alone: matplotlib is imported when they are drawn.

        Raises:
            ConfigError: For a name that is not registered.
        """
        if not all(registry.is_in_source(name) for name in self._full_names("figures", "wavebase.figures.")):
            self.functions("figures")

    def _full_names(self, key: str, root: str) -> list[str]:
        return [name if registry.is_trusted(name) else f"{root}{name}" for name in getattr(self, key)]


@dataclasses.dataclass(frozen=True)
class OptimSettings:
    """The keys of every optimiser; all others go to the optimiser's class.

    Attributes:
        lr: The learning rate.
        lr_over_boundary: If `lr` is None: the learning rate as a fraction of the optimiser's stability boundary, measured
            at the start (`wavebase.theory.boundaries`).
        clip_norm: Largest norm of the gradient, None for no limit.
        schedule, warmup: See `training.schedule`.
    """

    lr: float | None = None
    lr_over_boundary: float | None = None
    clip_norm: float | None = None
    schedule: Literal["constant", "linear", "cosine", "exponential"] = "constant"
    warmup: float = 0

    def __post_init__(self) -> None:
        if self.lr is None and self.lr_over_boundary is None:
            raise ValueError(
                "optim.lr or optim.lr_over_boundary must be given, got null for both; use optim.lr_over_boundary=0.5"
            )
        for name in ("lr", "lr_over_boundary", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"optim.{name} must be positive and finite, got {value}; use null to leave it out")
        if not 0 <= self.warmup < float("inf"):
            raise ValueError(f"optim.warmup must be at least 0 steps, got {self.warmup}; use 0")


def seeded_generator(seed: int, purpose: Purpose) -> torch.Generator:
    """Return the generator that a run with this seed uses for this purpose."""
    import numpy as np

    order = ("data", "init", "perturbation", "probe").index(purpose)
    words = np.random.SeedSequence([seed, order]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The top level of a configuration. Groups that are built later stay mappings."""

    model: dict[str, Any]
    signal: dict[str, Any]
    task: dict[str, Any]
    optim: dict[str, Any]
    train: TrainSettings
    probe: ProbeSettings
    seeds: Seeds
    T: int = 8
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float64"
    device: str = "auto"
    threads: int | None = 1
    resume: bool = True
    trust: list[str] | str = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        if self.T < 2:
            raise ValueError(f"T must be a window of at least 2 samples, got {self.T}; use T=8")
        if self.T > 2**20:
            raise ValueError(f"T must be at most 2^20 samples, got {self.T}; use T=8")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}; use null for torch's choice")
        for name, value in (("seed", self.seed), *dataclasses.asdict(self.seeds).items()):
            if value is not None and not 0 <= value < 2**63:
                raise ValueError(f"{name} must lie in 0..2^63-1, got {value}; use 0")

    def generator(self, purpose: Purpose) -> torch.Generator:
        """Return a fresh generator for one purpose. Streams of different purposes are unrelated even for equal seeds."""
        seed = getattr(self.seeds, purpose)
        return seeded_generator(self.seed if seed is None else seed, purpose)

    def torch_device(self) -> torch.device:
        """Return the device; auto takes CUDA where there is one.

        CUDA is started only for a run that uses it: a process that has started it cannot be forked.

        Raises:
            ConfigError: For a device that does not exist.
        """
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError:
            device = None
        if device is None or device.type not in ("cpu", "cuda"):
            raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got {self.device!r}; use device=auto")
        if device.type == "cpu":
            return device
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigError(
                f"device={self.device} must exist, got a machine with {count} CUDA devices; use device=auto"
            )
        return device


def parse(node: Mapping[str, Any]) -> RunConfig:
    """Check a run's configuration.

    Raises:
        ConfigError: For the first wrong value.
    """
    _check_sizes(node, ())
    return call(RunConfig, node, "")


def _check_sizes(node: Any, place: tuple[str, ...]) -> None:
    """Refuse whole numbers that torch cannot hold, wherever they are: it would end in a traceback of its own."""
    if isinstance(node, Mapping | list | tuple):
        for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            _check_sizes(value, (*place, str(key)))
    elif isinstance(node, int) and not -(2**63) <= node < 2**63:
        raise ConfigError(f"{'.'.join(place)} must lie in -2^63..2^63-1, got {str(node)[:40]}; use a smaller number")


def parse_stored(node: Mapping[str, Any]) -> RunConfig:
    """Check the configuration of a stored run.

    Version 0.1 had other bounds for its verdict, relative to the error of each start. Its runs are judged by the present
    bounds.

    Raises:
        ConfigError: For the first wrong value.
    """
    node = {key: value for key, value in node.items() if key != "trust"}  # a file cannot ask to be trusted
    probe = node.get("probe")
    bounds = probe.get("verdict") if isinstance(probe, Mapping) else None
    if isinstance(bounds, Mapping) and "valid_loss" in bounds:
        kept = {"weight": bounds["weight"]} if "weight" in bounds else {}
        node = {**node, "probe": {**typing.cast(Mapping[str, Any], probe), "verdict": kept}}
    return parse(node)


# Settings that decide what a run costs and draws, not its numbers: it may be continued with others.
NOT_IN_IDENTITY = {
    "": ("resume", "threads", "device"),
    "train": ("checkpoint_every", "keep_checkpoints", "cuda_graphs"),
    "probe": ("figures", "draw", "dashboard"),
}


def identity(node: Mapping[str, Any]) -> Any:
    """Return what two configurations of one run share, as plain containers.

    Defaults are filled in as they are today, so that a run whose configuration was stored before a key existed is the
    run with the key's default. A configuration that no longer parses is only itself.
    """
    try:
        cfg = parse_stored(node)
        settings, rest = optimizer_group(cfg.optim)
        whole = dataclasses.asdict(cfg) | {
            **{group: with_defaults(getattr(cfg, group), group) for group in ("model", "signal", "task")},
            "optim": dataclasses.asdict(settings) | with_defaults(rest, "optim"),
        }
    except ConfigError:
        return to_json(node)
    for group, keys in NOT_IN_IDENTITY.items():
        for key in keys:
            (whole[group] if group else whole).pop(key)
    return to_json(whole)


def optimizer_group(node: Mapping[str, Any]) -> tuple[OptimSettings, dict[str, Any]]:
    """Split an optim group into the settings that every optimiser has and those of its class.

    Raises:
        ConfigError: For the first wrong value.
    """
    own = {field.name for field in dataclasses.fields(OptimSettings)}
    settings = call(OptimSettings, {key: value for key, value in node.items() if key in own}, "optim")
    rest = {key: value for key, value in node.items() if key not in own}
    _check_settings(rest)
    return settings, rest


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse what no learning rate makes stable, and what torch accepts but fails at in its first step."""
    below_one = (
        "momentum",
        "dampening",
        "betas",
        "rho",
        *["alpha"] * str(settings.get("_target_")).endswith("RMSprop"),
    )
    for name, value in settings.items():
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            if not math.isfinite(number):
                raise ConfigError(f"optim.{name} must be finite, got {number}; see conf/optim")
            if name in below_one and not 0 <= number < 1:
                raise ConfigError(f"optim.{name} must lie in 0 <= {name} < 1, got {number}; see conf/optim")
            if name in ("weight_decay", "eps", "lambd", "lr_decay") and number < 0:
                raise ConfigError(f"optim.{name} must be at least 0, got {number}; use 0")
            if name in ("max_iter", "max_eval", "history_size") and number < 1:
                raise ConfigError(f"optim.{name} must be at least 1, got {number}; see conf/optim/lbfgs.yaml")
    if settings.get("line_search_fn") not in (None, "strong_wolfe"):
        raise ConfigError(
            f"optim.line_search_fn must be strong_wolfe or null, got {settings['line_search_fn']!r}; use strong_wolfe"
        )
    for name in ("differentiable", "capturable"):
        if settings.get(name):
            raise ConfigError(f"optim.{name} must be false, got {settings[name]}; leave it out")
