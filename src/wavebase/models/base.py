"""What the training loop, the probes and the verdict rely on in a model, and what most models share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from wavebase.constructions.construction import Construction
from wavebase.limits import check_memory

TRAINING_COPIES = 4  # of the weights: themselves, their gradients, and two numbers for each that an optimiser keeps
Net = TypeVar("Net", bound=nn.Module)


class Model(Protocol):
    """A torch module with named weights and, where it starts at an exact algorithm, that algorithm.

    Attributes:
        construction: The algorithm that the run is held against, exact whatever the start; None where there is none.

    A model may also have `algorithm` (`constructions.algorithm.ExactAlgorithm`), what its author knows of an exact algorithm
    that is no power spectrum; `trace(input)`, the states and gates of every step (`recurrence.cells.Trace`); buffers that
    carry a state from batch to batch; `unstackable_reason`, why many copies cannot be trained as one program; and
    `returns_reading`, True where it returns what `recurrence.lstm.read_sequence` does, so that many are trained fastest one by one.
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


def build_within_memory(make: Callable[[], Net], remedy: str) -> Net:
    """Return `make()`, after a sketch of it without storage has shown that there is memory to train it.

    Args:
        make: Builds the net. It is called twice, so it must not draw random numbers.
        remedy: How to make the net smaller, for the message.

    Raises:
        ValueError: If its weights, gradients and optimiser state need more memory than is free.
    """
    with torch.device("meta"):
        sketch = make()
    needed = TRAINING_COPIES * sum(tensor.nbytes for tensor in (*sketch.parameters(), *sketch.buffers()))
    check_memory(needed, f"model of {sum(p.numel() for p in sketch.parameters())} weights", remedy)
    return make()


def split_gates(packed: Iterable[tuple[str, Tensor]], gates: Sequence[str]) -> dict[str, Tensor]:
    """Return one matrix per gate, named `<name>_<gate>` and detached, of matrices that hold all gates' rows in order."""
    return {
        f"{name}_{gate}": part.detach()
        for name, matrix in packed
        for gate, part in zip(gates, matrix.chunk(len(gates)), strict=True)
    }


def uniform(shape: Sequence[int], bound: float, generator: torch.Generator) -> Tensor:
    """Return uniform numbers in [-bound, bound] in float64, so that nets of every dtype start alike."""
    return torch.rand(shape, generator=generator, dtype=torch.float64).mul_(2 * bound).sub_(bound)


def draw_uniform(net: nn.Module, bound: float, generator: torch.Generator) -> None:
    """Set every parameter of the net to numbers of `uniform`, in order."""
    for parameter in net.parameters():
        parameter.data.copy_(uniform(parameter.shape, bound, generator))
