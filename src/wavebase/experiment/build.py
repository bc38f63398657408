"""A checked configuration becomes task, net and optimiser, and what probes may see of them."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from wavebase.constructions.construction import STATE_NAMES
from wavebase.constructions.options import IgnoredOption
from wavebase.experiment import config, validation
from wavebase.experiment.checks import check_algorithm, check_batch, check_closure, check_loss
from wavebase.experiment.config import RunConfig
from wavebase.experiment.restoring import load_net, start_sha256, with_own_start
from wavebase.experiment.start import measure_curvatures, predicted_noise_error
from wavebase.experiment.validation import ConfigError
from wavebase.probes.snapshot import Probe, Snapshot, snapshot_of
from wavebase.records.atomic import RecordsError
from wavebase.records.folder import RunFolder
from wavebase.theory import boundaries
from wavebase.theory.boundaries import Boundary, Curvatures
from wavebase.training.eager import spare_the_compiler


class Components(NamedTuple):
    """What a configuration builds.

    Attributes:
        trained: The trained parameters by name.
        learning_rate: Before any schedule.
        noise_error: The relative error that label noise alone will cause; see `label_noise.stationary_error`. None where
            no law is known.
    """

    task: Any
    net: Any
    trained: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    settings: config.OptimSettings
    learning_rate: float
    boundary: Boundary
    noise_error: float | None = None
    recording: str | None = None
    start: str | None = None


def build_components(
    cfg: RunConfig,
    learning_rate: float | None = None,
    curvatures: Curvatures = Curvatures(),  # noqa: B008  immutable
    measured: dict[str, Any] | None = None,
) -> Components:
    """Build task, net and optimiser. A new run also measures its stability boundary and what label noise will cost.

    Args:
        learning_rate: Of a run that continues; nothing is measured then.
        curvatures: What was measured at that run's start.
        measured: Measurements at other starts, which equal ones reuse; this one's are added.

    Raises:
        ConfigError: If something cannot be built, or the learning rate depends on a boundary that does not exist.
    """
    signal, task, net = _build_task_and_net(cfg)
    check_algorithm(net, task)
    trained = _choose_trained(net, cfg)
    settings, rest = config.optimizer_group(cfg.optim)
    optimizer = _optimizer(rest, settings, list(trained.values()))
    check_closure(optimizer, settings, task, net, cfg)
    rule = boundaries.rule_of(optimizer)
    known = {} if measured is None else measured
    begins = learning_rate is None
    if learning_rate is None:
        check_batch(task, cfg)
        check_loss(task, net, cfg)
        curvatures, learning_rate = _measure_rate(cfg, task, net, trained, settings, optimizer, known)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    plain = settings.schedule == "constant" and settings.warmup == 0 and settings.clip_norm is None
    noise = predicted_noise_error(net, task, cfg, trained, optimizer, known) if begins and plain else None
    boundary, recording = Boundary(rule, curvatures), getattr(signal, "sha256", None)
    return Components(
        task, net, trained, optimizer, settings, learning_rate, boundary, noise, recording, start_sha256(cfg)
    )


def _build_task_and_net(cfg: RunConfig) -> tuple[Any, Any, Any]:
    device, dtype = cfg.torch_device(), getattr(torch, cfg.dtype)
    signal = validation.build(cfg.signal, "signal")
    context = {
        "signal": signal,
        "T": cfg.T,
        "dtype": dtype,
        "device": device,
        "probe_generator": cfg.generator("probe"),
        "lanes": cfg.train.batch,  # of a task that reads streams side by side
    }
    task = validation.build(cfg.task, "task", context)
    context = {
        **task.sizes,
        "dtype": dtype,
        "init": cfg.generator("init"),
        "perturbation_generator": cfg.generator("perturbation"),
    }
    return signal, task, validation.build(cfg.model, "model", context).to(device)


def _measure_rate(
    cfg: RunConfig,
    task: Any,
    net: nn.Module,
    trained: dict[str, nn.Parameter],
    settings: config.OptimSettings,
    optimizer: torch.optim.Optimizer,
    measured: dict[str, Any],
) -> tuple[Curvatures, float]:
    """Return the curvatures at a start, as far as the run asks for them, and the learning rate."""
    rule = boundaries.rule_of(optimizer)
    if settings.lr is None and rule is None:
        raise ConfigError(
            f"the learning rate must be a number for an optimiser whose stability boundary is unknown (known: {boundaries.KNOWN}, without maximize), got {type(optimizer).__name__}; give optim.lr instead"
        )
    curvatures = Curvatures()
    if cfg.probe.curvature or settings.lr is None:
        curvatures = measure_curvatures(net, task, cfg, trained, rule, measured)
    if settings.lr is not None:
        return curvatures, settings.lr
    boundary = Boundary(rule, curvatures)
    if boundary.learning_rate is None:
        got = ", ".join(f"{name} {value:.3g}" for name, value in boundary.values().items())
        raise ConfigError(
            f"optim.lr_over_boundary needs a positive, finite curvature, got {got}; give optim.lr instead"
        )
    return curvatures, (settings.lr_over_boundary or 0.0) * boundary.learning_rate


def load_run(folder: RunFolder, at: int = -1) -> tuple[RunConfig, Components]:
    """Rebuild a stored run.

    Args:
        at: Which of its checkpoints, as an index; the last by default.

    Returns:
        Its configuration, and its components with the net's weights of that checkpoint.

    Raises:
        RecordsError: If the folder holds no checkpoint of a run.
        ConfigError: If its configuration cannot be built here.
    """
    steps = folder.checkpoint_steps()
    if not steps:
        raise RecordsError(f"{folder.path} must hold checkpoints, got none; run it again with the same command")
    state = folder.load_checkpoint(steps[at])
    cfg, rate = config.parse_stored(folder.config()), state.get("learning_rate")
    try:
        curvatures = boundaries.recorded(state)
    except (TypeError, ValueError):
        rate = None
    if not isinstance(rate, float):
        raise RecordsError(
            f"{folder.path} must hold a run's checkpoints, got one without its learning rate; run it again with the same command"
        )
    while True:
        try:
            components = build_components(with_own_start(cfg, folder, steps[0]), rate, curvatures)
            break
        except ConfigError as error:
            if not isinstance(error.__cause__, IgnoredOption):
                raise
            # version 0.1 accepted options without effect
            cfg = dataclasses.replace(cfg, model=_without(cfg.model, error.__cause__.key))
    load_net(components.net, state, folder)
    return cfg, components


def _without(node: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a mapping without a dotted key."""
    first, _, rest = key.partition(".")
    kept = {name: value for name, value in node.items() if name != first}
    return kept | {first: _without(node[first], rest)} if rest else kept


def snapshot(components: Components, start: Mapping[str, Tensor], step: int) -> Snapshot:
    """Return what probes see: the run's net as it is, and the weights it started with."""
    rate = components.optimizer.param_groups[0]["lr"]
    return snapshot_of(
        components.net, components.task, start, components.net.construction, components.trained, rate, step
    )


def measure(probes: Iterable[Probe], seen: Snapshot) -> dict[str, float]:
    """Return the probes' values for a snapshot, by name. Those of a net that diverged overflow, without a warning."""
    with np.errstate(all="ignore"):
        return {name: value for probe in probes for name, value in probe(seen).items()}


def _choose_trained(net: nn.Module, cfg: RunConfig) -> dict[str, nn.Parameter]:
    """Freeze all but the chosen parameters; patterns are matched against the net's own names."""
    everything = dict(net.named_parameters())
    wanted = cfg.train.parameters
    patterns = ["*"] if wanted == "all" else [wanted] if isinstance(wanted, str) else wanted
    for pattern in patterns:
        if not fnmatch.filter(everything, pattern):
            raise ConfigError(validation.unknown_key(f"train.parameters={pattern}", pattern, everything))
    for name, parameter in everything.items():
        chosen = any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        state = name in STATE_NAMES
        parameter.requires_grad_(cfg.train.initial_state or name in patterns if state else chosen)
    trained = {name: parameter for name, parameter in everything.items() if parameter.requires_grad}
    if not trained:
        raise ConfigError(f"train.parameters must leave something to train, got {wanted!r}; use all")
    return trained


def _optimizer(node: Mapping[str, Any], settings: config.OptimSettings, trained: list[nn.Parameter]) -> Any:
    """Return the optimiser, with learning rate 1 if none is given: the boundary needs the optimiser first."""
    spare_the_compiler()
    made = validation.build(node, "optim", {"params": trained, "lr": settings.lr or 1.0})
    if isinstance(made, torch.optim.SparseAdam):
        raise ConfigError("optim._target_ must take dense gradients, got torch.optim.SparseAdam; use torch.optim.Adam")
    return made
