"""The modes of a recurrent matrix: its eigenvalues as moduli, angles and periods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wavebase.analysis.nonnormality import henrici, kreiss
from wavebase.analysis.nulls import Alternative
from wavebase.analysis.ties import SPLIT, in_order, levels

# a mode grows if |eigenvalue| exceeds 1 by more than rounding: the exact rotations of a constructed net do not
GROWING = 1 + 1e-9

ABOUT: dict[str, tuple[Alternative, bool, str]] = {
    "spectral_radius": ("two-sided", False, "largest |eigenvalue|"),
    "growing_modes": ("greater", False, "eigenvalues with |eigenvalue| > 1"),
    "complex_share": ("two-sided", False, "share of modes that rotate"),
    "top_complex_modulus": ("greater", False, "largest |eigenvalue| of a complex pair (0: none)"),
    "diagonal_share": ("two-sided", True, "self-recurrence: norm of the diagonal over that of W"),
    "henrici": ("two-sided", True, "departure from normality, 0 normal, 1 nilpotent"),
    "kreiss": ("two-sided", True, "Kreiss constant of W / spectral radius"),
}


@dataclass(frozen=True)
class Mode:
    """One eigenvalue. omega: |arg|, radians a step; period: 2 pi / omega steps, inf for a positive real eigenvalue."""

    eigenvalue: complex
    modulus: float
    omega: float
    period: float
    rotating: bool
    growing: bool


def mode(eigenvalue: complex) -> Mode:
    """Describe an eigenvalue."""
    modulus, omega = abs(eigenvalue), abs(float(np.angle(eigenvalue)))
    rotating = SPLIT < omega < np.pi - SPLIT and modulus > 0
    period = 2 * np.pi / omega if omega > SPLIT else float("inf")
    return Mode(complex(eigenvalue), float(modulus), omega, period, bool(rotating), bool(modulus > GROWING))


def modes(weight: np.ndarray) -> tuple[Mode, ...]:
    """Return the modes of [H, H], largest modulus first. Eigenvalues that are zero to rounding become zero."""
    values = np.linalg.eigvals(weight)
    values[np.abs(values) <= SPLIT * np.abs(values).max()] = 0
    return tuple(mode(value) for value in values[np.lexsort((np.angle(values), -levels(np.abs(values))))])


def sub_block_modes(weight: np.ndarray, units: Sequence[int]) -> tuple[Mode, ...]:
    """Return the modes of W[S, S] for a set of units S.

    Raises:
        ValueError: For no units, repeated ones, and numbers outside the matrix.
    """
    chosen = [int(unit) for unit in units]
    if not chosen or len(set(chosen)) < len(chosen) or min(chosen) < 0 or max(chosen) >= len(weight):
        raise ValueError(
            f"units must be distinct numbers in 0..{len(weight) - 1}, got {chosen}; give those of the block"
        )
    return modes(weight[np.ix_(chosen, chosen)])


def statistics(weights: np.ndarray, with_kreiss: bool = True) -> dict[str, np.ndarray]:
    """Compute the quantities of ABOUT for matrices [draws, H, H] in balanced coordinates, each [draws].

    Args:
        weights: The matrices.
        with_kreiss: Whether to compute the Kreiss constant, which takes fifty times as long as all the others.
    """
    values = np.linalg.eigvals(weights)
    moduli, angles = np.abs(values), np.abs(np.angle(values))
    # zero to rounding has an arbitrary angle, and an angle that small belongs to a double real eigenvalue
    rotating = (moduli > SPLIT * moduli.max(-1, keepdims=True)) & (angles > SPLIT) & (angles < np.pi - SPLIT)
    size = np.sqrt((weights**2).sum((-2, -1)))
    diagonal = np.sqrt((np.diagonal(weights, axis1=-2, axis2=-1) ** 2).sum(-1))
    return {
        "spectral_radius": moduli.max(-1),
        "growing_modes": (moduli > GROWING).sum(-1).astype(float),
        "complex_share": rotating.mean(-1),
        "top_complex_modulus": np.where(rotating, moduli, 0).max(-1),
        "diagonal_share": diagonal / np.where(size > 0, size, 1.0),
        "henrici": henrici(weights, values),
    } | ({"kreiss": kreiss(weights, values)} if with_kreiss else {})


@dataclass(frozen=True)
class SelfRecurrence:
    """A unit's weight on itself, and the units that feed it most as (unit, weight), strongest first."""

    unit: int
    weight: float
    feeders: tuple[tuple[int, float], ...]


def self_recurrence(weight: np.ndarray, feeders: int = 3) -> tuple[SelfRecurrence, ...]:
    """Return every unit's self-weight in [H, H] and its `feeders` strongest other inputs."""
    rows = []
    for unit, row in enumerate(weight):
        others = [int(j) for j in in_order(-np.abs(row)) if j != unit][:feeders]
        rows.append(SelfRecurrence(unit, float(row[unit]), tuple((j, float(row[j])) for j in others)))
    return tuple(rows)
