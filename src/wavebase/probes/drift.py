"""How far have the weights moved, where, and how much of them lies outside the algorithm's mask?"""

from __future__ import annotations

from torch import Tensor

from wavebase.probes.norms import relative_distance, relative_norm
from wavebase.probes.snapshot import Snapshot
from wavebase.registry import registered


def relative_drift(weight: Tensor, start: Tensor) -> float:
    """Return ||weight - start||_F / ||start||_F; for a weight that starts at zero the norm of the change itself."""
    return relative_distance(weight, start)


@registered
def weight_drift(snapshot: Snapshot) -> dict[str, float]:
    """Measure drift/<weight> for every weight, and drift/weight_hh_cell/<to>_from_<from> for its blocks.

    A block's change is relative to the whole matrix, so that blocks that start at zero have a scale and the squares of
    all blocks sum to the square of drift/weight_hh_cell.
    """
    values = {
        f"drift/{name}": relative_drift(weight, snapshot.start[name]) for name, weight in snapshot.weights.items()
    }
    if snapshot.blocks:
        start = snapshot.start["weight_hh_cell"]
        change = snapshot.weights["weight_hh_cell"].double() - start.double()
        for to, rows in snapshot.blocks.items():
            for source, columns in snapshot.blocks.items():
                values[f"drift/weight_hh_cell/{to}_from_{source}"] = relative_norm(change[rows, columns], start)
    return values


@registered
def leakage(snapshot: Snapshot) -> dict[str, float]:
    """Measure leakage/<weight>: the norm of the entries outside the mask over that of the whole recurrent matrix."""
    values = {}
    for name, mask in snapshot.mask.items():
        weight = snapshot.weights[name]
        values[f"leakage/{name}"] = relative_norm(weight.masked_fill(mask, 0), weight)
    return values
