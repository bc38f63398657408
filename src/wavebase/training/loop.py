"""One visible loop that trains a net, or a stack of nets, on a task, and knows neither by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from wavebase.training.stacks import make_trainer
from wavebase.training.trainer import TrainState

Status = Literal["done", "diverged", "interrupted"]


@dataclass(frozen=True)
class TrainSettings:
    """steps, batch: of the training. parameters: "all" weights and biases, or a list of names (patterns with * allowed);
    initial_state: train hidden_0 and cell_0 too. log_every: steps between recorded training losses;
    checkpoint_every: steps between checkpoints (a run's first and last step always have one); keep_checkpoints: how many
    of the last ones stay beside the first and that of the end, None for all of them."""

    steps: int = 500
    batch: int = 64
    parameters: str | list[str] = "all"
    initial_state: bool = False
    log_every: int = 10
    checkpoint_every: int = 100
    keep_checkpoints: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch", 1), ("log_every", 1), ("checkpoint_every", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"train.{name} must be at least {least}, got {getattr(self, name)}; see conf/train")
        if self.keep_checkpoints is not None and self.keep_checkpoints < 1:
            raise ValueError(
                f"train.keep_checkpoints must be at least 1, got {self.keep_checkpoints}; use null to keep all"
            )


def train(
    members: Sequence[TrainState],
    settings: TrainSettings,
    observe_every: int,
    steps: Iterable[int],
    interrupted: Callable[[], bool] = lambda: False,
) -> list[tuple[Status, int]]:
    """Train all members until `settings.steps`, a loss that is not finite, or an interruption: why and where each ended.

    `steps` counts from where to start (a progress bar may wrap it). At each step, in this order: a checkpoint if due,
    the probes if due (step 0 and the last step are), then one update from a fresh batch, whose loss before the update
    is recorded if due. A checkpoint thus holds the state before anything of its own step has happened; that of the end is
    the caller's. A member whose loss is not finite stops alone.
    """
    outcome: dict[int, tuple[Status, int]] = {}
    running = list(range(len(members)))
    together = make_trainer(members)
    for step in steps:
        last = step == settings.steps
        stop = interrupted()
        saving = stop or (step % settings.checkpoint_every == 0 and not last)
        if saving or last:
            together.sync_optimizer_state()
        for n in running:
            if saving:
                members[n].save(step)
            if not stop and (step % observe_every == 0 or last):
                members[n].observe(step)
        if last or stop:
            outcome |= dict.fromkeys(running, ("interrupted" if stop else "done", step))
            break

        batches = [members[n].task.sample_batch(settings.batch, members[n].data, step) for n in running]
        losses = together.losses(batches)
        together.update(step)

        if step % settings.log_every == 0:
            values = losses.tolist()
            finite = all(map(math.isfinite, values))
            if not finite:
                together.sync_optimizer_state()
            for n, value in zip(running, values, strict=True):
                members[n].record(step, {"loss/train": value, "optim/lr": members[n].learning_rate(step)})
                if not math.isfinite(value):
                    members[n].observe(step + 1)  # its update has been taken
                    outcome[n] = "diverged", step + 1
            if not finite:
                running = [n for n in running if n not in outcome]
                if not running:
                    break
                together = make_trainer([members[n] for n in running])
    return [outcome[n] for n in range(len(members))]
