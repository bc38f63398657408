"""Matching at the least cost. scipy is imported when there is a choice."""

from __future__ import annotations

import numpy as np


def assign(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match rows with columns at the least sum of costs [n, m], none of them negative. Returns the rows and their columns."""
    if cost.shape[0] == cost.shape[1] and not cost.diagonal().any():
        return np.arange(len(cost)), np.arange(len(cost))
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(cost)
