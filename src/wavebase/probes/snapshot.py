"""What a probe may see: weights now and at the start, the blocks of the algorithm, and the net as a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from wavebase.constructions.construction import Construction
from wavebase.recurrence import Trace


@dataclass(frozen=True)
class Snapshot:
    """A net at one training step.

    weights, start: tensors by canonical name (see `Construction`), now and at step 0, detached.
    construction: the algorithm that the run is held against, None if there is none: its weights are the exact ones, and
    `start` may be a perturbed copy.
    held_out: (input, target) by probe signal; predict: input to output, without gradients; trace:
    input to the states and gates of every step, None for a net that has none;
    metrics: (output, target) to named floats, the task's own; baselines: losses of the zero and the mean predictor;
    forward: input to output with its graph; loss: (output, target) to a scalar; trained: the parameters under training;
    learning_rate: of the step about to be taken.
    """

    step: int
    weights: Mapping[str, Tensor]
    start: Mapping[str, Tensor]
    construction: Construction | None
    held_out: Mapping[str, tuple[Tensor, Tensor]]
    predict: Callable[[Tensor], Tensor]
    trace: Callable[[Tensor], Trace | None]
    metrics: Callable[[Tensor, Tensor], Mapping[str, float]]
    baselines: Mapping[str, float]
    forward: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    trained: Mapping[str, Tensor]
    learning_rate: float

    @property
    def blocks(self) -> Mapping[str, slice]:
        """Unit ranges by name; empty without a construction."""
        return self.construction.blocks if self.construction else {}

    @property
    def mask(self) -> Mapping[str, Tensor]:
        """Intended entries of each recurrent matrix; empty without a construction."""
        return self.construction.mask if self.construction else {}

    @cached_property
    def aligned(self) -> Mapping[str, Tensor]:
        """The weights after the unit permutation, swaps and signs that bring them nearest to the start."""
        return self.weights


Probe = Callable[[Snapshot], dict[str, float]]
