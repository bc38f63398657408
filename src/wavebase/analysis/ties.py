"""Numbers that only rounding tells apart count as equal, so that no choice among them depends on the processor."""

from __future__ import annotations

import numpy as np
from scipy.sparse.csgraph import connected_components

TIE = 1e-9  # of the largest number: what rounding may make of equal ones
# of the largest modulus: rounding splits a double eigenvalue by about sqrt(eps)
SPLIT = 1e-7


def levels(values: np.ndarray) -> np.ndarray:
    """Ranks 0, 1, ... of [n] from the smallest, the same for neighbours that are equal to rounding; inf is one level."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    with np.errstate(invalid="ignore"):  # inf - inf
        apart = np.diff(ordered) > TIE * np.abs(ordered[np.isfinite(ordered)]).max(initial=0.0)
    found = np.empty(len(values), dtype=int)
    found[order] = np.concatenate([[0], np.cumsum(apart)])[: len(values)]
    return found


def in_order(values: np.ndarray) -> np.ndarray:
    """Indices of [n] from the smallest; of numbers that are equal to rounding the first comes first."""
    return np.argsort(levels(values), kind="stable")


def first_largest(values: np.ndarray) -> np.ndarray:
    """Index over the first axis of the largest of values >= 0; of those that are equal to rounding the first."""
    return (values >= (1 - TIE) * values.max(0)).argmax(0)


def clusters(eigenvalues: np.ndarray) -> np.ndarray:
    """Labels 0, 1, ... of [n] complex numbers: equal for those that are one multiple eigenvalue, split by rounding."""
    distance = np.abs(eigenvalues[:, None] - eigenvalues)
    return connected_components(distance <= SPLIT * np.abs(eigenvalues).max(initial=0.0), directed=False)[1]
