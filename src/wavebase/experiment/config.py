"""A run's configuration, checked once, at the boundary: every wrong value ends here in one line.

The schema of a group is the signature that its `_target_` has: parameter names are the known keys, annotations their
types, the constructor's own checks their ranges. Parameters that the run itself fills (sizes of the task, generators,
dtype) are no keys.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from wavebase.experiment.validation import ConfigError, call, named
from wavebase.probes.verdict import Thresholds
from wavebase.training.loop import TrainSettings


@dataclasses.dataclass(frozen=True)
class Seeds:
    """One seed a purpose, so that changing one leaves the others' draws alone. null: the run's `seed`."""

    data: int | None = None
    init: int | None = None
    perturbation: int | None = None
    probe: int = 0


@dataclasses.dataclass(frozen=True)
class ProbeSettings:
    """every: steps between probings. measure: the probes, functions of `wavebase.probes` by path. figures: drawn at the
    end, functions of `wavebase.figures` by name. figure_format: svg or pdf, written beside the PNG. curvature: measure lambda_max at the start (always done when the
    learning rate is given by the boundary), on curvature_batch sequences. verdict: thresholds."""

    every: int = 100
    measure: list[str] = dataclasses.field(default_factory=list)
    figures: list[str] = dataclasses.field(default_factory=list)
    figure_format: Literal["png", "svg", "pdf"] = "png"
    curvature: bool = True
    curvature_batch: int = 256
    verdict: Thresholds = dataclasses.field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        for name in ("every", "curvature_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"probe.{name} must be at least 1, got {getattr(self, name)}; see conf/probe")

    def functions(self, key: Literal["measure", "figures"]) -> list[Callable[..., Any]]:
        """The functions that a list names. Raises ConfigError."""
        root = "wavebase.probes." if key == "measure" else "wavebase.figures."
        return [named(f"probe.{key}", f"{root}{name}", f"probe.{key}", root) for name in getattr(self, key)]


@dataclasses.dataclass(frozen=True)
class OptimSettings:
    """The keys of every optimiser; all others go to the torch.optim class.

    lr: a number; or, if that is null, lr_over_boundary: a fraction of the optimiser's stability boundary, measured at the
    start (`wavebase.theory.boundaries`).
    clip_norm: largest norm of the gradient, null for none. schedule, warmup: see `training.schedule_factor`.
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


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The top level. Groups that are built later stay mappings."""

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

    def generator(self, purpose: Literal["data", "init", "perturbation", "probe"]) -> torch.Generator:
        """A fresh generator for one purpose: streams of different purposes are unrelated even for equal seeds."""
        import numpy as np

        seed = getattr(self.seeds, purpose)
        order = ("data", "init", "perturbation", "probe").index(purpose)
        words = np.random.SeedSequence([self.seed if seed is None else seed, order]).generate_state(2, np.uint32)
        return torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)

    def torch_device(self) -> torch.device:
        """The device asked for; auto takes CUDA where there is one."""
        cuda = torch.cuda.is_available()
        if self.device == "auto":
            return torch.device("cuda" if cuda else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError:
            device = None
        if device is None or device.type not in ("cpu", "cuda"):
            raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got {self.device!r}; use device=auto")
        count = torch.cuda.device_count() if cuda else 0
        if device.type == "cuda" and (device.index or 0) >= count:
            raise ConfigError(
                f"device={self.device} must exist, got a machine with {count} CUDA devices; use device=auto"
            )
        return device


def parse(node: Mapping[str, Any]) -> RunConfig:
    """The checked configuration of a run. Raises ConfigError."""
    return call(RunConfig, node, "")


def parse_stored(node: Mapping[str, Any]) -> RunConfig:
    """The configuration of a stored run. Version 0.1 had other bounds for its verdict, relative to each start's own error:
    such a run is judged by the present ones. Raises ConfigError."""
    probe = node.get("probe")
    bounds = probe.get("verdict") if isinstance(probe, Mapping) else None
    if isinstance(bounds, Mapping) and "valid_loss" in bounds:
        kept = {"weight": bounds["weight"]} if "weight" in bounds else {}
        node = {**node, "probe": {**typing.cast(Mapping[str, Any], probe), "verdict": kept}}
    return parse(node)


def optimizer_group(node: Mapping[str, Any]) -> tuple[OptimSettings, dict[str, Any]]:
    """An optim group as the house's own settings and the rest, which belongs to the torch.optim class."""
    own = {field.name for field in dataclasses.fields(OptimSettings)}
    settings = call(OptimSettings, {key: value for key, value in node.items() if key in own}, "optim")
    rest = {key: value for key, value in node.items() if key not in own}
    _check_stable(rest)
    return settings, rest


def _check_stable(settings: Mapping[str, Any]) -> None:
    """Refuse what no learning rate could make stable, and what torch would fail at in its first step. torch checks less."""
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
    for name in ("differentiable", "capturable"):
        if settings.get(name):
            raise ConfigError(f"optim.{name} must be false, got {settings[name]}; leave it out")
