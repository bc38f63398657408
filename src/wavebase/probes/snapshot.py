"""What a probe measures: the weights now and at the start, the algorithm, and the net as a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from wavebase.constructions.algorithm import ExactAlgorithm
from wavebase.constructions.alignment import Alignment, align, distance, least_size
from wavebase.constructions.construction import Construction
from wavebase.constructions.symmetry import identity_element
from wavebase.recurrence.cells import Trace
from wavebase.signals.generators import WhiteNoise

NEAR = 1e-3  # distance to the algorithm below which weights need no alignment
FAR = 1e50  # distance above which squares may overflow: the net has diverged


@dataclass(frozen=True)
class Snapshot:
    """A net at one training step.

    Attributes:
        step: Updates so far.
        weights, start: Detached tensors by canonical name (see `Construction`), now and at step 0.
        construction: The algorithm that the run is compared with, None if there is none. Its weights are the exact ones;
            `start` may be a perturbed copy.
        held_out: (input, target) by probe signal; "training" is always there.
        predict: Maps an input to the output, without a graph.
        trace: Maps an input to the states and gates of every step; None for a net that has none.
        metrics: Maps (output, target) to the task's named numbers.
        baselines: Losses of the "zero" and the "mean" predictor on held_out["training"].
        forward: Maps an input to the output, with its graph.
        loss: Maps (output, target) to a scalar.
        trained: The parameters under training, by name.
        learning_rate: Of the next step.
        algorithm: What the model's author knows of an exact algorithm that is no `Construction`; None without one.
        mean_over_sequences: Whether the loss is a mean over the first axis of a batch.
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
    mean_over_sequences: bool = False

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
        """The permutation of units, swap of factors and change of signs that bring the weights nearest to the exact ones.

        It is the identity where no element brings the weights nearer than zero weights are, since rounding would decide
        among elements so far away. None without a construction, or for weights that diverged.
        """
        if self.construction is None or not all(weight.isfinite().all() for weight in self.weights.values()):
            return None
        exact = self.construction
        apart = distance(self.weights, exact)
        if not apart < FAR:
            return None
        as_they_are = Alignment(identity_element(exact.hidden_size), dict(self.weights), apart)
        # the search costs 0.1 s at T = 8: another element could gain less than NEAR, or none comes near
        if apart < NEAR or least_size(self.weights, exact) > 2:
            return as_they_are
        signal = WhiteNoise(exact.amplitude).sample(4, 2 * exact.T, torch.Generator().manual_seed(0))
        found = align(self.weights, exact, signal)
        return found if found.distance < 1 else as_they_are

    @cached_property
    def nearest(self) -> tuple[dict[str, Tensor], float]:
        """The weights moved by the symmetries of `algorithm` as near to it as they come, and that distance.

        Only for a snapshot with an algorithm and finite weights.
        """
        assert self.algorithm is not None
        return self.algorithm.aligned({name: self.weights[name] for name in self.algorithm.weights})

    @property
    def aligned(self) -> Mapping[str, Tensor]:
        """The weights after `alignment`; unchanged where there is none."""
        return self.weights if self.alignment is None else self.alignment.weights

    @cached_property
    def aligned_net(self) -> Construction | None:
        """The construction with the weights of `aligned`; None without one."""
        return self.construction and self.construction.replace_weights(self.aligned)


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
    """Describe a net as it stands.

    Args:
        net: See `models.base.Model`.
        task: See `tasks.base.Task`.
        start: Its weights at step 0.
        construction: The algorithm that it is compared with, or None.
        trained: Its parameters under training; None for all.
        learning_rate, step: Of the next update.
    """

    @cache  # several probes read one set
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
        mean_over_sequences=getattr(task, "mean_over_sequences", False),
    )
