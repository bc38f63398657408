"""The training loop, for one net or a stack of nets, on any task."""

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
    """What a run trains, and how long.

    Attributes:
        steps: Updates.
        batch: Sequences of an update.
        parameters: "all" weights and biases, or a list of names, in which * stands for any characters.
        initial_state: Whether hidden_0 and cell_0 are trained too.
        log_every: Steps between recorded training losses.
        checkpoint_every: Steps between checkpoints; the first and the last step always have one.
        keep_checkpoints: How many of the last ones stay beside the first and that of the end; None for all.
        cuda_graphs: Whether a CUDA device replays the kernels of a step instead of launching them anew.
    """

    steps: int = 500
    batch: int = 64
    parameters: str | list[str] = "all"
    initial_state: bool = False
    log_every: int = 10
    checkpoint_every: int = 100
    keep_checkpoints: int | None = None
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch", 1), ("log_every", 1), ("checkpoint_every", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"train.{name} must be at least {least}, got {getattr(self, name)}; see conf/train")
        if self.keep_checkpoints is not None and self.keep_checkpoints < 1:
            raise ValueError(
                f"train.keep_checkpoints must be at least 1, got {self.keep_checkpoints}; use null to keep all"
            )


# long: the training loop, readable from top to bottom
def train(
    members: Sequence[TrainState],
    settings: TrainSettings,
    observe_every: int,
    steps: Iterable[int],
    interrupted: Callable[[], bool] = lambda: False,
) -> list[tuple[Status, int]]:
    """Train all members until `settings.steps`, a loss that is not finite, or an interruption.

    At each step, in this order: a checkpoint if due; the probes if due (they are at step 0 and at the last step); one
    update from a fresh batch, whose loss before the update is recorded if due. A checkpoint thus holds the state before
    its own step. The caller saves the final checkpoint. A member whose loss is not finite stops alone.

    Args:
        members: Nets with equal `stack_key`.
        settings: Shared by all.
        observe_every: Steps between probes.
        steps: Counts from the first step to `settings.steps`; a progress bar may wrap it.
        interrupted: Whether to stop before the next update.

    Returns:
        For each member why and at which step it ended.
    """
    outcome: dict[int, tuple[Status, int]] = {}
    running = list(range(len(members)))
    trainer = make_trainer(members, settings.cuda_graphs)
    for step in steps:
        last = step == settings.steps
        stop = interrupted()
        saving = stop or (step % settings.checkpoint_every == 0 and not last)
        if saving or last:
            trainer.sync_optimizer_state()
        for n in running:
            if saving:
                members[n].save(step)
            if not stop and (step % observe_every == 0 or last):
                members[n].observe(step)
        if last or stop:
            outcome |= dict.fromkeys(running, ("interrupted" if stop else "done", step))
            break

        batches = [members[n].task.sample_batch(settings.batch, members[n].data, step) for n in running]
        losses = trainer.losses(batches)
        trainer.update(step)

        if step % settings.log_every == 0:
            values = losses.tolist()
            finite = all(map(math.isfinite, values))
            if not finite:
                trainer.sync_optimizer_state()
            for n, value in zip(running, values, strict=True):
                members[n].record(step, {"loss/train": value, "optim/lr": members[n].learning_rate(step)})
                if not math.isfinite(value):
                    members[n].observe(step + 1)  # its update has been taken
                    outcome[n] = "diverged", step + 1
            if not finite:
                running = [n for n in running if n not in outcome]
                if not running:
                    break
                trainer = make_trainer([members[n] for n in running], settings.cuda_graphs)
    return [outcome[n] for n in range(len(members))]
