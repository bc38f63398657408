"""Effective dynamics: Jacobians of single steps along trajectories, and their products over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wavebase.analysis.cell import Cell
from wavebase.analysis.nulls import Alternative
from wavebase.analysis.simulation import Run, jacobian

ABOUT: dict[str, tuple[Alternative, bool, str]] = {
    "step_radius": ("two-sided", False, "spectral radius of one step's Jacobian, mean"),
    "product_radius": ("two-sided", False, "spectral radius of the product over time, a step"),
    "product_rank": ("two-sided", False, "directions that survive the whole trajectory, share"),
    "leading_exponent": ("two-sided", True, "log of the largest stretch over time, a step"),
}
RANK = 1e-8  # of the largest singular value
WORK = 3e5  # samples x S^3 that a net may cost
MOST_SAMPLES = 8


@dataclass(frozen=True)
class Effective:
    """Jacobians along trajectories. The first step, which has no earlier state, is left out.

    Attributes:
        samples, steps: Number of trajectories and of their steps.
        state_size: S, which is H, or 2H of an LSTM (h, c).
        last_step: Eigenvalues of the last step's Jacobian of the first sample.
        product: Eigenvalues of the first sample's product over all steps.
        step_radius: Mean spectral radius by step, nan where not computed.
        singular_values, rank: Of the first sample's product.
    """

    samples: int
    steps: int
    state_size: int
    last_step: tuple[complex, ...]
    product: tuple[complex, ...]
    step_radius: tuple[float, ...]
    singular_values: tuple[float, ...]
    rank: int


def read(cell: Cell, run: Run) -> tuple[Effective, dict[str, float]]:
    """Measure the first sample in detail, and the quantities of ABOUT as means over samples.

    Small nets get 8 samples and every step, larger ones fewer samples. A state of more than 64 numbers gets the radius of its
    last step alone. A state of more than 512 numbers gets the leading exponent alone, from one vector pushed along; its
    other quantities are nan.
    """
    steps, H = run.hidden.shape[1], cell.hidden_size
    size = 2 * H if run.cell is not None else H
    samples = int(np.clip(WORK / size**3, 1, min(MOST_SAMPLES, len(run.hidden))))
    shown = range(1, steps) if size <= 64 else range(max(steps - 1, 1), steps)
    whole = size <= 512
    radius = np.full((samples, steps), np.nan)
    rows, kept = [], None
    for sample in range(samples):
        product = np.eye(size) if whole else np.cos(np.arange(size))[:, None] / np.sqrt(size / 2)
        log_scale, single = 0.0, np.zeros(0)
        for step in range(1, steps):
            J = jacobian(cell, run, sample, step)
            if whole and step in shown:
                single = np.linalg.eigvals(J)
                radius[sample, step] = np.abs(single).max()
            product = J @ product
            norm = float(np.linalg.norm(product))
            if norm == 0:
                log_scale = -np.inf
                break
            product, log_scale = product / norm, log_scale + np.log(norm)
        whole_values = np.linalg.eigvals(product) if whole else np.full(1, np.nan)
        singular = np.linalg.svd(product, compute_uv=False)
        rank = int((singular > RANK * singular[0]).sum()) if singular[0] > 0 else 0
        # per step, so that trajectories of different lengths compare
        with np.errstate(divide="ignore"):
            growth = np.log(np.abs(whole_values).max()) + log_scale
            stretch = np.log(singular[0]) + log_scale
        rows.append((np.exp(growth / (steps - 1)), rank / size if whole else np.nan, stretch / (steps - 1)))
        if kept is None:
            scale = np.exp(np.clip(log_scale, -600, 600))
            kept = single, whole_values * scale, singular * scale, rank
    assert kept is not None
    mean = np.array(rows).mean(0)
    seen = radius[np.isfinite(radius)]
    by_step = [float(np.nanmean(r)) if np.isfinite(r).any() else np.nan for r in radius.T]
    report = Effective(
        samples=samples,
        steps=steps - 1,
        state_size=size,
        last_step=tuple(kept[0].tolist()),
        product=tuple(kept[1].tolist()) if whole else (),
        step_radius=tuple(by_step),
        singular_values=tuple(kept[2].tolist()) if whole else (),
        rank=kept[3],
    )
    names = dict(zip(("product_radius", "product_rank", "leading_exponent"), mean.tolist(), strict=True))
    return report, {"step_radius": float(seen.mean()) if seen.size else np.nan, **names}


def statistics(cell: Cell, run: Run) -> dict[str, float]:
    """Return the quantities of ABOUT."""
    return read(cell, run)[1]
