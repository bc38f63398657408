"""Norms and their ratios over the whole range of floating-point numbers."""

from __future__ import annotations

import torch
from torch import Tensor

TINY = torch.finfo(torch.float64).tiny  # least denominator, so that 0/0 is 0
SAFE = 1e-140, 1e140  # norms of which no square that counts underflows or overflows in float64


def norm(values: Tensor) -> Tensor:
    """Return the Frobenius norm in float64, also where squares would underflow or overflow."""
    values = values.double()
    plain = values.norm()
    if SAFE[0] < plain.item() < SAFE[1] or not values.numel():
        return plain
    largest = values.abs().max()
    return plain if largest == 0 or not largest.isfinite() else largest * (values / largest).norm()


def relative_norm(part: Tensor, whole: Tensor) -> float:
    """Return ||part|| / ||whole||; ||part|| itself where the whole is zero."""
    above, below = norm(part), norm(whole)
    return (above / below if below > 0 else above).item()


def relative_distance(values: Tensor, reference: Tensor) -> float:
    """Return ||values - reference|| / ||reference||; the distance itself where the reference is zero."""
    return relative_norm(values.double() - reference.double(), reference)
