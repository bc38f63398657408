"""The learning rate of each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Schedule = Literal["constant", "linear", "cosine", "exponential"]


def schedule_factor(schedule: Schedule, step: int, steps: int, warmup: float) -> float:
    """Return what multiplies the learning rate at a step.

    Args:
        schedule: After the warmup: constant; linear, to 0 at `steps`; cosine, half a period to 0 at `steps`;
            exponential, to a floor of 1 % reached halfway (AlgZoo's recipe).
        step: From 0.
        steps: Of the run.
        warmup: Steps of linear rise, below 1 a fraction of `steps`. Step 0 gets 1/(warmup + 1).
    """
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


@dataclass(frozen=True)
class LearningRate:
    """The learning rate of each step; equal where its settings are."""

    base: float
    schedule: Schedule
    steps: int
    warmup: float

    def __call__(self, step: int) -> float:
        """Return the rate at a step."""
        return self.base * schedule_factor(self.schedule, step, self.steps, self.warmup)
