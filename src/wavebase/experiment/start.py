"""What is measured at a run's start: the curvatures of its stability boundary, and the error that label noise will cause."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from wavebase.experiment.config import RunConfig
from wavebase.experiment.validation import ConfigError
from wavebase.probes.curvature import loss_terms
from wavebase.tasks.base import SquaredErrorTask
from wavebase.theory import boundaries, gauss_newton, label_noise
from wavebase.theory.boundaries import Curvatures

FITS = 1e-3  # a start fits its targets if its loss is below this fraction of the mean predictor's
MOST_DERIVATIVES = 5e7  # of outputs by parameters, 400 MB: no prediction of label noise beyond


def measure_curvatures(
    net: nn.Module,
    task: Any,
    cfg: RunConfig,
    trained: Mapping[str, nn.Parameter],
    rule: boundaries.Rule | None,
    measured: dict[str, Any],
) -> Curvatures:
    """Measure the curvatures at a start: the Hessian's on a batch of the probes' generator, an adaptive optimiser's on the
    gradients of the run's own first batches.

    Args:
        rule: The optimiser's stability rule, None if unknown.
        measured: What other starts have measured; this start's values are added.

    Raises:
        ConfigError: If the task cannot draw such batches.
    """
    data = cfg.generator("data")
    try:
        with buffers_restored(net) as restore:
            signal, target = task.sample_batch(cfg.probe.curvature_batch, cfg.generator("probe"))
            key = f"lambda_max {type(task).__name__} {_digest(net, trained, signal, target)}"
            # gradients also depend on the optimiser's settings and on the run's own data
            optim = cfg.optim | {"lr": None, "lr_over_boundary": None}
            own = repr((key, optim, cfg.task, cfg.train.batch, data.initial_seed()))
            if rule is not None and rule.preconditioner is not None and own in measured:
                return measured[own]

            def training_loss(step: int) -> Callable[[], Tensor]:
                def loss() -> Tensor:
                    signal, target = task.sample_batch(cfg.train.batch, data, step)
                    restore()
                    return task.loss(net(signal), target)

                return loss

            found = boundaries.measure(
                rule,
                loss_terms(
                    net, task.loss, signal, target, trained.values(), getattr(task, "mean_over_sequences", False)
                ),
                trained.values(),
                (training_loss(step) for step in range(boundaries.BATCHES)),
                Curvatures(measured.get(key)),
            )
            measured[key], measured[own] = found.lambda_max, found
            return found
    except ValueError as error:  # a task of lanes takes no other number of rows
        raise ConfigError(str(error)) from error


@contextmanager
def buffers_restored(net: nn.Module) -> Iterator[Callable[[], None]]:
    """Undo at the end what forward passes do to a net that carries a state. Yields a function that does so at once."""
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]

    def restore() -> None:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)

    try:
        yield restore
    finally:
        restore()


def predicted_noise_error(
    net: nn.Module,
    task: Any,
    cfg: RunConfig,
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    measured: dict[str, Any],
) -> float | None:
    """Return the relative error that label noise alone will cause, for a start that fits its targets.

    None where no law is known, or it would cost too much (`MOST_DERIVATIVES`).
    """
    sigma, shown = getattr(task, "label_noise", 0.0), task.held_out.get("training")
    mixed = getattr(task, "shuffle_targets", False) or getattr(task, "off_task_steps", None) is not None
    squared = isinstance(task, SquaredErrorTask)
    if not sigma or mixed or not squared:
        return None
    try:
        rule = label_noise.UpdateRule.of(optimizer)
    except ValueError:
        return None
    target, wanted = shown[1], gauss_newton.enough(shown[1][0].numel())
    # part of a set in order, such as all pairs of numbers, is no sample of it
    signal = shown[0] if len(target) < 2 * wanted else shown[0][:wanted]
    numbers = sum(parameter.numel() for parameter in trained.values())
    with torch.no_grad():
        fits = task.loss(net(signal), target[: len(signal)]) <= FITS * task.baselines["mean"]
    if rule.adaptive or not fits or numbers * signal.shape[0] * target[0].numel() > MOST_DERIVATIVES:
        return None
    key = "noise " + _digest(net, trained, signal)
    if key not in measured:
        measured[key] = gauss_newton.gauss_newton(net, trained, signal).eigenvalues
    # the noise is in units of the targets' rms, the error in those of the task: a zero output has 1, or a little more
    unit = task.metrics(torch.zeros_like(target), target)["relative_error"]
    return unit * label_noise.stationary_error(measured[key], rule, sigma, cfg.train.batch * target[0].numel())


def _digest(net: nn.Module, trained: Iterable[str], *tensors: Any) -> str:
    """Hash what a measurement at a start depends on: the net's numbers, which of them are trained, and the data."""
    digest = hashlib.sha256(repr((type(net), net.__dict__.get("input_gate"), sorted(trained))).encode())
    for tensor in (*net.parameters(), *net.buffers(), *tree_leaves(tensors)):
        digest.update(repr((tensor.dtype, tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
