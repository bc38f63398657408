"""Pairs of units whose 2x2 block is nearly a scaled rotation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wavebase.analysis.nulls import Alternative
from wavebase.analysis.ties import TIE, in_order

NEAR = 0.1  # relative error under which a pair counts as a rotation
# of the largest |z| of either unit's pairs: the angle of a weaker pair would be the ratio of two small numbers
STRONG = 0.1

ABOUT: dict[str, tuple[Alternative, bool, str]] = {
    "best_pair_error": ("less", True, "least relative error of a strong 2x2 block from a rotation"),
    "rotation_pairs": ("greater", True, "strong 2x2 blocks within 10 % of a rotation"),
}


@dataclass(frozen=True)
class RotationPair:
    """The block [[a, b], [c, d]] of units (i, j), whose nearest scaled rotation is z = (a+d)/2 + i(c-b)/2.

    Attributes:
        units: (i, j).
        scale: |z|.
        angle: arg z, radians a step.
        period: 2 pi / |angle|, steps.
        error: |(a-d)/2 + i(b+c)/2| / |z|.
        plain_error: |a-d| + |b+c|.
    """

    units: tuple[int, int]
    scale: float
    angle: float
    period: float
    error: float
    plain_error: float


def rotation_of_block(block: np.ndarray, units: tuple[int, int] = (0, 1)) -> RotationPair:
    """Find the rotation nearest to a 2x2 block."""
    (a, b), (c, d) = np.asarray(block, dtype=float)
    z, rest = (a + d) / 2 + 1j * (c - b) / 2, abs((a - d) / 2 + 1j * (b + c) / 2)
    angle = float(np.angle(z))
    return RotationPair(
        units=units,
        scale=float(abs(z)),
        angle=angle,
        period=2 * np.pi / abs(angle) if angle else float("inf"),
        error=float(rest / abs(z)) if z else float("inf"),
        plain_error=float(abs(a - d) + abs(b + c)),
    )


def rotation_pairs(weight: np.ndarray, most: int = 20) -> tuple[RotationPair, ...]:
    """Return the `most` strong pairs of [H, H] nearest to a rotation, nearest first."""
    if len(weight) < 2:
        return ()
    i, j, error = _pairs(weight)
    order = in_order(np.log(np.maximum(error, TIE)))[
        :most
    ]  # equal relative to their size, or both rotations to rounding
    order = order[np.isfinite(error[order])]
    return tuple(rotation_of_block(weight[np.ix_([i[n], j[n]], [i[n], j[n]])], (int(i[n]), int(j[n]))) for n in order)


def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the quantities of ABOUT for matrices [draws, H, H] in balanced coordinates, each [draws]."""
    if weights.shape[-1] < 2:
        return {name: np.full(len(weights), np.nan) for name in ABOUT}
    best, near = [], []
    for weight in weights:  # one at a time: half a million pairs each at H = 1024
        error = _pairs(weight)[2]
        best.append(error.min())
        near.append(float((error < NEAR).sum()))
    return {"best_pair_error": np.array(best), "rotation_pairs": np.array(near)}


def _pairs(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return indices i < j of all pairs of [H, H], and the relative error of each, [pairs]; inf where |z| is small."""
    diagonal = np.diagonal(weight)
    size = np.hypot((diagonal[:, None] + diagonal) / 2, (weight.T - weight) / 2)
    rest = np.hypot((diagonal[:, None] - diagonal) / 2, (weight + weight.T) / 2)
    np.fill_diagonal(size, 0)
    largest = size.max(-1)
    i, j = np.triu_indices(len(weight), 1)
    size, rest = size[i, j], rest[i, j]
    strong = size > STRONG * np.maximum(largest[i], largest[j])
    return i, j, np.where(strong, rest / np.where(strong, size, 1.0), np.inf)
