"""What is measured at a run's start: the curvatures of its stability boundary, and the error that label noise will cause."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from wavebase.experiment.config import RunConfig
from wavebase.experiment.validation import ConfigError
from wavebase.theory import boundaries, gauss_newton, label_noise
from wavebase.theory.boundaries import Curvatures

FITS = 1e-3  # a start whose loss is under this share of the mean predictor's fits its targets


MOST_DERIVATIVES = 5e7  # of outputs by parameters: beyond, in 400 MB, what label noise costs is not worked out


def measure_curvatures(
    net: nn.Module,
    task: Any,
    cfg: RunConfig,
    trained: Mapping[str, nn.Parameter],
    rule: boundaries.Rule | None,
    measured: dict[str, Any],
) -> Curvatures:
    """Curvatures at the start: the Hessian's on a batch of the probes' generator, gradients on the run's own first batches."""
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    data = cfg.generator("data")

    def rested() -> None:  # a net that carries a state has moved on
        for buffer, value in buffers:
            buffer.copy_(value)

    def training(step: int) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            signal, target = task.sample_batch(cfg.train.batch, data, step)
            rested()
            return task.loss(net(signal), target)

        return loss

    try:
        signal, target = task.sample_batch(cfg.probe.curvature_batch, cfg.generator("probe"))
        key = f"lambda_max {type(task).__name__} {_digest(net, trained, signal, target)}"
        # of an adaptive optimiser also what its own gradients depend on
        own = repr(
            (key, cfg.optim | {"lr": None, "lr_over_boundary": None}, cfg.task, cfg.train.batch, data.initial_seed())
        )
        if rule is not None and rule.preconditioner is not None and own in measured:
            return measured[own]
        found = boundaries.measure(
            rule,
            lambda: task.loss(net(signal), target),
            trained.values(),
            (training(step) for step in range(boundaries.BATCHES)),
            Curvatures(measured.get(key)),
        )
        measured[key], measured[own] = found.lambda_max, found
        return found
    except ValueError as error:  # a task of lanes takes no other number
        raise ConfigError(str(error)) from error
    finally:
        rested()


def predicted_noise_error(
    net: nn.Module,
    task: Any,
    cfg: RunConfig,
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    measured: dict[str, Any],
) -> float | None:
    """The relative error that label noise will cause by itself, for a start that fits its targets; None where no law is known."""
    sigma, shown = getattr(task, "label_noise", 0.0), task.held_out.get("training")
    mixed = getattr(task, "shuffle_targets", False) or getattr(task, "off_task_steps", None) is not None
    if not sigma or mixed or net.construction is None:
        return None
    try:
        rule = label_noise.UpdateRule.of(optimizer)
    except ValueError:
        return None
    signal, target = shown[0][: gauss_newton.enough(shown[1][0].numel())], shown[1]
    numbers = sum(parameter.numel() for parameter in trained.values())
    with torch.no_grad():
        fits = task.loss(net(signal), target[: len(signal)]) <= FITS * task.baselines["mean"]
    if rule.adaptive or not fits or numbers * signal.shape[0] * target[0].numel() > MOST_DERIVATIVES:
        return None
    key = "noise " + _digest(net, trained, signal)
    if key not in measured:
        measured[key] = gauss_newton.gauss_newton(net, trained, signal).eigenvalues
    return label_noise.stationary_error(measured[key], rule, sigma, cfg.train.batch * target[0].numel())


def _digest(net: nn.Module, trained: Iterable[str], *tensors: Any) -> str:
    """What a measurement at a start depends on: the net's numbers, which of them are trained, and the data."""
    digest = hashlib.sha256(repr((type(net), net.__dict__.get("input_gate"), sorted(trained))).encode())
    for tensor in (*net.parameters(), *net.buffers(), *tree_leaves(tensors)):
        digest.update(repr((tensor.dtype, tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
