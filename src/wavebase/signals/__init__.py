"""Real signals with known components, and recordings from disk. Frequencies are in cycles per sample."""

from typing import Protocol

import torch
from torch import Tensor


class Signal(Protocol):
    """What a task needs of a signal."""

    @property
    def peak(self) -> float:
        """Bound on |x|."""

    def sample(self, batch: int, samples: int, generator: torch.Generator, held_out: bool = False) -> Tensor:
        """Draw signals, float64 [batch, samples], from the generator alone.

        held_out: Draw material that training never sees. Only recordings, whose material is finite, need it.
        """
