"""What task, net and optimiser of a run must agree in; every fault is a ConfigError of one line."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from wavebase.constructions.algorithm import ExactAlgorithm
from wavebase.experiment import config
from wavebase.experiment.config import RunConfig
from wavebase.experiment.start import buffers_restored
from wavebase.experiment.validation import ConfigError
from wavebase.limits import check_memory
from wavebase.tasks.base import check_output
from wavebase.training.optimizers import GaussNewton, needs_closure


def check_batch(task: Any, cfg: RunConfig) -> None:
    """Check that a batch fits into memory, by the size of the held-out signals: it is drawn when records are open."""
    held_out = task.held_out["training"]
    one = sum(leaf.nbytes for leaf in tree_leaves(held_out) if isinstance(leaf, Tensor)) / len(held_out[1])
    try:
        check_memory(int(cfg.train.batch * one), f"train.batch={cfg.train.batch}", "use a smaller train.batch")
    except ValueError as error:
        raise ConfigError(str(error)) from error


def check_loss(task: Any, net: nn.Module, cfg: RunConfig) -> None:
    """Check that a model's output is what the task compares with its target, held out and in training, where torch would
    broadcast another shape; and that the loss is one number."""
    try:
        _, drawn = _smallest_batch(task, cfg)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for inputs, target in (task.held_out["training"], drawn):
        with torch.no_grad(), buffers_restored(net):
            output = net(inputs)
            try:
                check_output(task, output, target)
            except ValueError as error:
                raise ConfigError(str(error)) from error
            loss = task.loss(output, target)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ConfigError(f"the task's loss must be a tensor of one number, got {got}; average it over the batch")


def _smallest_batch(task: Any, cfg: RunConfig) -> tuple[int, Any]:
    """Draw the least that a training batch can be. Returns how often it fits into a batch of the run, and the draw."""
    try:
        return cfg.train.batch, task.sample_batch(1, cfg.generator("data"))
    except ValueError:  # a task of lanes takes no other number
        return 1, task.sample_batch(cfg.train.batch, cfg.generator("data"))


def check_closure(
    optimizer: torch.optim.Optimizer, settings: config.OptimSettings, task: Any, net: nn.Module, cfg: RunConfig
) -> None:
    """Refuse what an optimiser that evaluates a batch several times cannot do."""
    name = type(optimizer).__name__
    if needs_closure(optimizer) and settings.clip_norm is not None:
        raise ConfigError(
            f"optim.clip_norm must be null with {name}, got {settings.clip_norm}; add optim.clip_norm=null"
        )
    if not isinstance(optimizer, GaussNewton):
        return
    if not hasattr(task, "residuals"):
        raise ConfigError(
            f"optim=gauss_newton needs a task whose loss is a sum of squares, got {type(task).__name__}; use optim=lbfgs"
        )
    try:
        with torch.no_grad(), buffers_restored(net):
            count, (inputs, target) = _smallest_batch(task, cfg)
            optimizer.check(count * task.residuals(net(inputs), target).numel())
    except ValueError as error:
        raise ConfigError(str(error)) from error


def check_algorithm(net: Any, task: Any) -> None:
    """Check what a model's author claims of its exact algorithm. Raises ConfigError."""
    algorithm: ExactAlgorithm | None = getattr(net, "algorithm", None)
    if algorithm is None:
        return
    own = net.named_weights()
    for name, weight in algorithm.weights.items():
        if name not in own or own[name].shape != weight.shape:
            got = list(own[name].shape) if name in own else "nothing"
            raise ConfigError(
                f"the algorithm's weights must be the model's, got {got} for {name} {list(weight.shape)}; use the names and shapes of named_weights()"
            )
    if algorithm.forward is not None and algorithm.tolerance is not None:
        signal, target = task.held_out["training"]
        with torch.no_grad():
            error = task.metrics(algorithm.output(algorithm.weights, signal), target)["relative_error"]
        if not error <= algorithm.tolerance:
            raise ConfigError(
                f"the algorithm's weights must be exact to its tolerance {algorithm.tolerance:.3g}, got a relative error of {error:.3g}; correct the weights, or the tolerance"
            )
