"""What the training loop, the probes and the verdict rely on in a model, and what most models share."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from wavebase.constructions.construction import Construction


class Model(Protocol):
    """A torch module with named weights and, where it starts at an exact algorithm, that algorithm.

    Attributes:
        construction: The algorithm that the run is held against, exact whatever the start; None where there is none.

    A model may also have `algorithm` (`constructions.algorithm.ExactAlgorithm`), what its author knows of an exact algorithm
    that is no power spectrum; `trace(input)`, the states and gates of every step (`recurrence.cells.Trace`); buffers that
    carry a state from batch to batch; and `unstackable_reason`, why many copies cannot be trained as one program.
    """

    construction: Construction | None

    def __call__(self, inputs: Any) -> Tensor:
        """Return what the task compares with its target."""

    def named_weights(self) -> dict[str, Tensor]:
        """Return the weights as probes and checkpoints see them, by canonical name (see `Construction`), detached."""

    def named_parameters(self) -> Any:
        """Return what an optimiser trains, as torch.nn.Module does."""


class NamedModel(nn.Module):
    """A model without a construction whose weights are its parameters."""

    construction: Construction | None = None

    def named_weights(self) -> dict[str, Tensor]:
        """Return the parameters by name, detached."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}


def draw_uniform(net: nn.Module, bound: float, generator: torch.Generator) -> None:
    """Set every parameter to uniform numbers in [-bound, bound], drawn in float64: the same for every dtype."""
    for parameter in net.parameters():
        draw = torch.rand(parameter.shape, generator=generator, dtype=torch.float64).mul_(2 * bound).sub_(bound)
        parameter.data.copy_(draw)
