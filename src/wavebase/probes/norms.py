"""Norms and their ratios over the whole range of floating-point numbers."""

from __future__ import annotations

import torch
from torch import Tensor

TINY = torch.finfo(torch.float64).tiny  # least denominator, so that 0/0 is 0
SAFE = 1e-140, 1e140  # largest entries whose squares neither underflow nor overflow in float64


def norm(values: Tensor) -> Tensor:
    """Return the Frobenius norm in float64, also where squares would underflow or overflow."""
    values = values.double()
    largest = values.abs().max() if values.numel() else values.new_zeros(())
    if largest == 0 or SAFE[0] < largest < SAFE[1] or not largest.isfinite():
        return values.norm()
    return largest * (values / largest).norm()


def relative_norm(part: Tensor, whole: Tensor) -> float:
    """Return ||part|| / ||whole||; ||part|| itself where the whole is zero."""
    above, below = norm(part), norm(whole)
    return (above / below if below > 0 else above).item()


def relative_distance(values: Tensor, reference: Tensor) -> float:
    """Return ||values - reference|| / ||reference||; the distance itself where the reference is zero."""
    return relative_norm(values.double() - reference.double(), reference)
