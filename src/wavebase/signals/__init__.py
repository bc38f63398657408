"""Real signals with known components, and recordings from disk.

Every signal has `peak`, a bound on |x|, and
`sample(batch, samples, generator, held_out=False)`, which returns float64 [batch, samples] drawn from `generator` alone.
`held_out` asks for material that training never sees; it matters to recordings only, whose material is finite.
Frequencies are in cycles per sample.
"""

from typing import Protocol

import torch
from torch import Tensor


class Signal(Protocol):
    """What a task asks of a signal."""

    @property
    def peak(self) -> float:
        """Bound on |x|."""

    def sample(self, batch: int, samples: int, generator: torch.Generator, held_out: bool = False) -> Tensor:
        """float64 [batch, samples]."""
