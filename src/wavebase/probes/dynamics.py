"""How do the oscillators turn? The eigenvalues of the gen block."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from wavebase.constructions.assignment import assign
from wavebase.probes.snapshot import Snapshot
from wavebase.registry import registered


def gen_eigenvalues(weight_hh_cell: Tensor, gen: slice) -> np.ndarray:
    """Compute the complex eigenvalues of the gen block's one-step map, by angle. The exact ones are exp(+-2 pi i k / T)."""
    values = np.linalg.eigvals(weight_hh_cell[gen, gen].double().cpu().numpy())
    return values[np.lexsort((np.abs(values), np.angle(values)))]


@registered
def gen_spectrum(snapshot: Snapshot) -> dict[str, float]:
    """Measure the gen block's eigenvalues and how far they have moved.

    Returns:
        spectrum/gen_radius_max: the largest modulus. spectrum/gen_shift_max, spectrum/gen_shift_rms: distances in the
        complex plane to the start's eigenvalues, matched one to one with the least total distance. Empty without
        blocks, or if a weight is not finite.
    """
    gen = snapshot.blocks.get("gen")
    if gen is None or not snapshot.weights["weight_hh_cell"].isfinite().all():
        return {}
    now = gen_eigenvalues(snapshot.weights["weight_hh_cell"], gen)
    start = gen_eigenvalues(snapshot.start["weight_hh_cell"], gen)
    distance = np.abs(now[:, None] - start[None, :])
    shift = distance[assign(distance)]
    return {
        "spectrum/gen_radius_max": float(np.abs(now).max()),
        "spectrum/gen_shift_max": float(shift.max()),
        "spectrum/gen_shift_rms": float(np.linalg.norm(shift) / len(shift) ** 0.5),
    }
