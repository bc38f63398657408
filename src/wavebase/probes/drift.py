"""How far have the weights moved, where, and how much of them lies outside the algorithm's mask?"""

from __future__ import annotations

from torch import Tensor

from wavebase.probes.snapshot import Snapshot
from wavebase.registry import registered


def relative_drift(weight: Tensor, start: Tensor) -> float:
    """||weight - start||_F / ||start||_F; for a weight that starts at zero the norm of the change itself."""
    change, size = (weight - start).double().norm(), start.double().norm()
    return (change / size if size > 0 else change).item()


@registered
def weight_drift(snapshot: Snapshot) -> dict[str, float]:
    """drift/<weight> for every weight, and drift/weight_hh_cell/<to>_from_<from> for its blocks.

    A block's change is relative to the whole matrix, so that blocks that start at zero have a scale and the squares of
    all blocks sum to the square of drift/weight_hh_cell.
    """
    values = {
        f"drift/{name}": relative_drift(weight, snapshot.start[name]) for name, weight in snapshot.weights.items()
    }
    if snapshot.blocks:
        start = snapshot.start["weight_hh_cell"].double()
        change = snapshot.weights["weight_hh_cell"].double() - start
        size = start.norm() if start.norm() > 0 else 1.0
        for to, rows in snapshot.blocks.items():
            for source, columns in snapshot.blocks.items():
                values[f"drift/weight_hh_cell/{to}_from_{source}"] = (change[rows, columns].norm() / size).item()
    return values


@registered
def leakage(snapshot: Snapshot) -> dict[str, float]:
    """leakage/<weight>: norm of the entries outside the mask over the norm of the whole recurrent matrix."""
    values = {}
    for name, mask in snapshot.mask.items():
        weight = snapshot.weights[name].double()
        size = weight.norm()
        values[f"leakage/{name}"] = (weight.masked_fill(mask, 0).norm() / size).item() if size > 0 else 0.0
    return values
