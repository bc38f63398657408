"""One visible loop that trains one net on one task, and knows neither by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

Schedule = Literal["constant", "linear", "cosine", "exponential"]
Status = Literal["done", "diverged", "interrupted"]


class Task(Protocol):
    """What the loop asks of a task."""

    def sample_batch(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A fresh (input, target)."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """A scalar."""


@dataclass(frozen=True)
class TrainSettings:
    """steps, batch: of the training. parameters: "all" weights and biases, or a list of names (patterns with * allowed);
    initial_state: train hidden_0 and cell_0 too. log_every: steps between recorded training losses;
    checkpoint_every: steps between checkpoints (the first and last step always have one)."""

    steps: int = 400
    batch: int = 64
    parameters: str | list[str] = "all"
    initial_state: bool = False
    log_every: int = 10
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch", 1), ("log_every", 1), ("checkpoint_every", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"train.{name} must be at least {least}, got {getattr(self, name)}; see conf/train")


def schedule_factor(schedule: Schedule, step: int, steps: int, warmup: float) -> float:
    """What multiplies the learning rate at a step: rises linearly over `warmup` steps (step 0 gets 1/(warmup + 1); below
    1 it is a fraction of `steps`), then stays (constant), falls to 0 at `steps` in a line (linear) or half a cosine
    (cosine), or falls exponentially to a floor of 1 %, reached halfway (exponential; AlgZoo's recipe)."""
    if warmup < 1:
        warmup = round(warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(steps - warmup, 1)
    return {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "exponential": 0.01 ** min(2 * done, 1),
    }[schedule]


class Loop(NamedTuple):
    """Everything one training needs; see `train`."""

    net: nn.Module
    task: Task
    optimizer: torch.optim.Optimizer
    learning_rate: Callable[[int], float]
    settings: TrainSettings
    clip_norm: float | None
    data: torch.Generator
    record: Callable[[int, dict[str, float]], None]
    observe: Callable[[int], None]
    observe_every: int
    save: Callable[[int], None]
    interrupted: Callable[[], bool]


def train(loop: Loop, steps: Iterator[int]) -> tuple[Status, int]:
    """Train until `settings.steps`, a loss that is not finite, or an interruption; returns why and where it ended.

    `steps` counts from where to start (a progress bar may wrap it). At each step, in this order: a checkpoint if due,
    the probes if due (step 0 and the last step are), then one update from a fresh batch, whose loss before the update
    is recorded if due. A checkpoint thus holds the state before anything of its own step has happened.
    """
    net, task, optimizer, settings = loop.net, loop.task, loop.optimizer, loop.settings
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    step = 0
    for step in steps:
        last = step == settings.steps
        if loop.interrupted():
            loop.save(step)
            return "interrupted", step
        if step % settings.checkpoint_every == 0 and not last:
            loop.save(step)
        if step % loop.observe_every == 0 or last:
            loop.observe(step)
        if last:
            break

        for group in optimizer.param_groups:
            group["lr"] = loop.learning_rate(step)
        inputs, target = task.sample_batch(settings.batch, loop.data)
        loss = task.loss(net(inputs), target)
        optimizer.zero_grad()
        loss.backward()
        if loop.clip_norm is not None:
            nn.utils.clip_grad_norm_(trained, loop.clip_norm)
        optimizer.step()

        if step % settings.log_every == 0:
            value = loss.item()
            loop.record(step, {"loss/train": value, "optim/lr": loop.learning_rate(step)})
            if not math.isfinite(value):
                loop.observe(step)
                loop.save(step)
                return "diverged", step
    loop.save(step)
    return "done", step
