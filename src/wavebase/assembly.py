"""A checked configuration becomes task, net and optimiser, and what probes may see of them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wavebase import config
from wavebase.config import ConfigError, RunConfig
from wavebase.constructions.construction import STATE_NAMES
from wavebase.probes import curvature
from wavebase.probes.snapshot import Probe, Snapshot, snapshot_of
from wavebase.records import RecordsError, RunFolder
from wavebase.stored import reason


class Pieces(NamedTuple):
    """What a configuration builds."""

    task: Any
    net: Any
    trained: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    settings: config.OptimSettings
    learning_rate: float
    lambda_max: float | None


def assemble(cfg: RunConfig, learning_rate: float | None = None, lambda_max: float | None = None) -> Pieces:
    """Build task, net and optimiser; measure lambda_max where it is needed and neither number is given. Raises ConfigError."""
    device, dtype = cfg.torch_device(), getattr(torch, cfg.dtype)
    source = config.build(cfg.signal, "signal")
    context = {"signal": source, "T": cfg.T, "dtype": dtype, "device": device, "probing": cfg.generator("probe")}
    context["lanes"] = cfg.train.batch  # of a task that reads streams side by side
    task = config.build(cfg.task, "task", context)
    context = {**task.sizes, "dtype": dtype, "init": cfg.generator("init"), "perturbing": cfg.generator("perturbation")}
    net = config.build(cfg.model, "model", context).to(device)
    trained = _choose_trained(net, cfg)
    settings, rest = config.optimizer_group(cfg.optim)
    if learning_rate is None:
        if not cfg.probe.curvature and settings.lr is not None:
            lambda_max = None  # a run alone would not know it
        elif lambda_max is None:
            lambda_max = _lambda_max(net, task, cfg, trained)
        learning_rate = settings.lr
        if learning_rate is None:
            if lambda_max is None or not lambda_max > 0:
                raise ConfigError(
                    f"optim.lr_over_boundary needs a positive lambda_max, got {lambda_max}; give optim.lr instead"
                )
            learning_rate = (settings.lr_over_boundary or 0.0) * 2 / lambda_max
    optimizer = config.build(rest, "optim", {"params": list(trained.values()), "lr": learning_rate})
    return Pieces(task, net, trained, optimizer, settings, learning_rate, lambda_max)


def restored(folder: RunFolder, at: int = -1) -> tuple[RunConfig, Pieces]:
    """A run's configuration and pieces again, the net with the weights of its last checkpoint, or of the `at`-th.

    Raises RecordsError if the folder holds no checkpoint, ConfigError if its configuration cannot be built here.
    """
    steps = folder.checkpoint_steps()
    if not steps:
        raise RecordsError(f"{folder.path} must hold checkpoints, got none; run it again with the same command")
    state = folder.load_checkpoint(steps[at])
    cfg = config.parse(folder.config())
    rate, lambda_max = state.get("learning_rate"), state.get("lambda_max")
    if not isinstance(rate, float) or not isinstance(lambda_max, float | None):
        raise RecordsError(
            f"{folder.path} must hold a run's checkpoints, got one without its learning rate; run it again with the same command"
        )
    pieces = assemble(cfg, rate, lambda_max)
    load_net(pieces.net, state, folder)
    return cfg, pieces


def load_net(net: nn.Module, state: Mapping[str, Any], folder: RunFolder) -> None:
    """Give the net a checkpoint's weights. Raises RecordsError for those of another net."""
    try:
        net.load_state_dict(state["net"])
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:  # torch's, for other names, shapes and kinds
        raise RecordsError(
            f"{folder.path} must hold checkpoints of the net in its config.yaml, got others ({reason(error)}); restore config.yaml"
        ) from error


def snapshot(pieces: Pieces, start: Mapping[str, Tensor], step: int) -> Snapshot:
    """The run's net as it now stands, beside the weights that it started with."""
    rate = pieces.optimizer.param_groups[0]["lr"]
    return snapshot_of(pieces.net, pieces.task, start, pieces.net.construction, pieces.trained, rate, step)


def measure(probes: Iterable[Probe], seen: Snapshot) -> dict[str, float]:
    """What the probes say of a snapshot, by name."""
    return {name: value for probe in probes for name, value in probe(seen).items()}


def _choose_trained(net: nn.Module, cfg: RunConfig) -> dict[str, nn.Parameter]:
    """Freeze all but the chosen parameters; patterns are matched against the net's own names."""
    everything = dict(net.named_parameters())
    wanted = cfg.train.parameters
    patterns = ["*"] if wanted == "all" else [wanted] if isinstance(wanted, str) else wanted
    for pattern in patterns:
        if not fnmatch.filter(everything, pattern):
            raise ConfigError(config.unknown_key(f"train.parameters={pattern}", pattern, everything))
    for name, parameter in everything.items():
        chosen = any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        state = name in STATE_NAMES
        parameter.requires_grad_(cfg.train.initial_state or name in patterns if state else chosen)
    trained = {name: parameter for name, parameter in everything.items() if parameter.requires_grad}
    if not trained:
        raise ConfigError(f"train.parameters must leave something to train, got {wanted!r}; use all")
    return trained


def _lambda_max(net: nn.Module, task: Any, cfg: RunConfig, trained: Mapping[str, nn.Parameter]) -> float:
    """Largest Hessian eigenvalue of the training loss at the start, on a batch of its own generator."""
    try:
        signal, target = task.sample_batch(cfg.probe.curvature_batch, cfg.generator("probe"))
    except ValueError as error:  # a task of lanes takes no other number
        raise ConfigError(str(error)) from error
    with torch.backends.cudnn.flags(enabled=False):  # the fused kernel has no second derivative
        return curvature.largest_curvature(lambda: task.loss(net(signal), target), trained.values())
