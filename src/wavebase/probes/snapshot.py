"""What a probe may see: weights now and at the start, the blocks of the algorithm, and the net as a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from wavebase.constructions.algorithm import ExactAlgorithm
from wavebase.constructions.alignment import Alignment, align, distance
from wavebase.constructions.construction import Construction
from wavebase.constructions.symmetry import identity_element
from wavebase.recurrence.cells import Trace
from wavebase.signals.generators import WhiteNoise

NEAR = 1e-3  # distance to the algorithm under which weights count as they are
FAR = 1e50  # and from which on squared distances may overflow: a net that diverged has no place in the group


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
    learning_rate: of the step about to be taken; algorithm: what the model's author knows of an exact algorithm that is no
    `Construction`.
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
    algorithm: ExactAlgorithm | None = None

    @property
    def blocks(self) -> Mapping[str, slice]:
        """Unit ranges by name; empty without a construction."""
        return self.construction.blocks if self.construction else {}

    @property
    def mask(self) -> Mapping[str, Tensor]:
        """Intended entries of each recurrent matrix; empty without a construction."""
        mask = self.construction.mask if self.construction else {}
        return {name: wanted.to(self.weights[name].device) for name, wanted in mask.items()}

    @cached_property
    def alignment(self) -> Alignment | None:
        """What brings the weights nearest to the exact ones among all nets that are the same by permuting units, swapping their
        factors or changing signs; None without a construction, or for weights that diverged. Weights that it brings no nearer
        than zero weights are stay as they are: among elements that far away rounding would choose."""
        if self.construction is None or not all(weight.isfinite().all() for weight in self.weights.values()):
            return None
        exact = self.construction
        apart = distance(self.weights, exact)
        if not apart < FAR:
            return None
        if apart < NEAR:  # no other element comes nearer by more than this, and the search costs 0.1 s at T = 8
            return Alignment(identity_element(exact.hidden_size), dict(self.weights), apart)
        signal = WhiteNoise(exact.amplitude).sample(4, 2 * exact.T, torch.Generator().manual_seed(0))
        found, as_they_are = align(self.weights, exact, signal), identity_element(exact.hidden_size)
        return found if found.distance < 1 else Alignment(as_they_are, dict(self.weights), apart)

    @property
    def aligned(self) -> Mapping[str, Tensor]:
        """The weights after `alignment`, or as they are where there is none."""
        return self.weights if self.alignment is None else self.alignment.weights


Probe = Callable[[Snapshot], dict[str, float]]


def snapshot_of(
    net: Any,
    task: Any,
    start: Mapping[str, Tensor],
    construction: Construction | None,
    trained: Mapping[str, Tensor] | None = None,
    learning_rate: float = 0.0,
    step: int = 0,
) -> Snapshot:
    """The net as it now stands on a task, beside the weights that it started with. trained: None for all parameters."""

    @cache  # several probes look at one set
    def predict(signal: Any) -> Tensor:
        with torch.no_grad():
            return net(signal)

    def trace(signal: Any) -> Trace | None:
        with torch.no_grad():
            return net.trace(signal) if hasattr(net, "trace") else None

    return Snapshot(
        step=step,
        weights=net.named_weights(),
        start=start,
        construction=construction,
        held_out=task.held_out,
        predict=predict,
        trace=trace,
        metrics=task.metrics,
        baselines=task.baselines,
        forward=net,
        loss=task.loss,
        trained=dict(net.named_parameters()) if trained is None else trained,
        learning_rate=learning_rate,
        algorithm=getattr(net, "algorithm", None),
    )
