"""Numbers that differ by rounding count as equal, so that no choice among them depends on the processor."""

from __future__ import annotations

import numpy as np

TIE = 1e-9  # of the largest number: how far rounding may move equal ones apart
SPLIT = 1e-7  # of the largest modulus: rounding splits a double eigenvalue by about sqrt(eps)


def levels(values: np.ndarray) -> np.ndarray:
    """Return ranks 0, 1, ... of [n] from the smallest. Neighbours that are equal to rounding share one; so do all inf."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    with np.errstate(invalid="ignore"):  # inf - inf
        apart = np.diff(ordered) > TIE * np.abs(ordered[np.isfinite(ordered)]).max(initial=0.0)
    found = np.empty(len(values), dtype=int)
    found[order] = np.concatenate([[0], np.cumsum(apart)])[: len(values)]
    return found


def in_order(values: np.ndarray) -> np.ndarray:
    """Return indices of [n] from the smallest. Numbers that are equal to rounding keep their order."""
    return np.argsort(levels(values), kind="stable")


def first_largest(values: np.ndarray) -> np.ndarray:
    """Return the index over the first axis of the largest of values >= 0, the first of those equal to rounding."""
    return (values >= (1 - TIE) * values.max(0)).argmax(0)


def clusters(eigenvalues: np.ndarray) -> np.ndarray:
    """Return labels 0, 1, ... of [n] complex numbers, equal for those that rounding split from one multiple eigenvalue."""
    from scipy.sparse.csgraph import connected_components  # scipy.sparse takes a fifth of a second to import

    distance = np.abs(eigenvalues[:, None] - eigenvalues)
    return connected_components(distance <= SPLIT * np.abs(eigenvalues).max(initial=0.0), directed=False)[1]
