"""How far is a trained cosine transform from the DCT in frequencies, orthogonality, product and leakage?

Each probe is empty for a net without a cosine transform. N samples, M coefficients. A bin is pi/N radians per sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from wavebase.probes.norms import TINY, relative_distance, relative_norm
from wavebase.probes.snapshot import Snapshot
from wavebase.registry import registered
from wavebase.spectrum import cosine_basis, dct_frequencies, sample_amplitudes

PARTS = ("analysis", "synthesis")


def operators(weights: Mapping[str, Tensor], N: int) -> tuple[Tensor, Tensor]:
    """Return both transforms as matrices in float64: X = analysis x, y = synthesis X.

    Args:
        weights: By the names of `models.cosine`. Tied transforms have one vector of frequencies.
        N: Samples.

    Returns:
        analysis [M, N] and synthesis [N, M].
    """
    rows = []
    for part in PARTS:
        offset = weights.get(f"offset_{part}", weights["offset_analysis"]).double()
        rows.append(cosine_basis(offset, N) * sample_amplitudes(weights[f"amplitude_{part}"].double(), N))
    return rows[0], rows[1].mT


@registered
def frequency_drift(snapshot: Snapshot) -> dict[str, float]:
    """Measure how far frequencies and amplitudes are from their start, and frequencies from the exact ones.

    Returns:
        frequency/<part>_drift_{max,rms,median}: |w - w_start| in bins, over the frequencies w.
        frequency/<part>_from_exact_{max,rms}: distances in bins from the DCT's frequencies, after folding into [0, pi]
        and sorting: cos(w n) = cos((2 pi - w) n), and the order of the coefficients is no error.
        drift/frequency_<part>, drift/amplitude_<part>: ||w - w_start|| / ||w_start||, and the same of amplitudes.
    """
    if "offset_analysis" not in snapshot.weights:
        return {}
    bins = snapshot.held_out["training"][0].shape[-1] / math.pi
    values = {}
    for part in PARTS:
        name = f"amplitude_{part}"
        values[f"drift/{name}"] = relative_distance(snapshot.weights[name], snapshot.start[name])
        name = f"offset_{part}"
        if name not in snapshot.weights:
            continue
        offset, start = snapshot.weights[name].double(), snapshot.start[name].double()
        exact = dct_frequencies(len(offset)).to(offset.device)
        drift = (offset - start).abs() * bins
        values[f"drift/frequency_{part}"] = relative_norm(offset - start, exact + start)
        values |= {f"frequency/{part}_drift_{key}": value for key, value in _summary(drift).items()}
        values[f"frequency/{part}_drift_median"] = drift.median().item()
        distance = _distance_from_exact(offset) * bins
        values |= {f"frequency/{part}_from_exact_{key}": value for key, value in _summary(distance).items()}
    return values


@registered
def orthogonality(snapshot: Snapshot) -> dict[str, float]:
    """Measure orthogonality/<part>: ||A A^T - I||_F / ||I||_F of A = analysis and A = synthesis^T, both [M, N]."""
    if "offset_analysis" not in snapshot.weights:
        return {}
    analysis, synthesis = operators(snapshot.weights, snapshot.held_out["training"][0].shape[-1])
    return {
        f"orthogonality/{part}": _distance_from_identity(rows @ rows.mT)
        for part, rows in zip(PARTS, (analysis, synthesis.mT), strict=True)
    }


@registered
def product(snapshot: Snapshot) -> dict[str, float]:
    """Measure product/identity_distance: ||A2 A1 - I||_F / ||I||_F of the whole net A2 A1, [N, N].

    It is the relative error on white noise.
    """
    if "offset_analysis" not in snapshot.weights:
        return {}
    analysis, synthesis = operators(snapshot.weights, snapshot.held_out["training"][0].shape[-1])
    return {"product/identity_distance": _distance_from_identity(synthesis @ analysis)}


@registered
def bin_leakage(snapshot: Snapshot) -> dict[str, float]:
    """Measure leakage/{rms,max}: how much of a coefficient, resynthesised and analysed again, arrives in other bins.

    With R = A1 A2, [M, M], it is the norm of column m off the diagonal over the norm of the whole column.
    """
    if "offset_analysis" not in snapshot.weights:
        return {}
    analysis, synthesis = operators(snapshot.weights, snapshot.held_out["training"][0].shape[-1])
    response = analysis @ synthesis
    away = response - torch.diag(response.diagonal())
    leaked = away.norm(dim=0) / response.norm(dim=0).clamp_min(TINY)
    return {f"leakage/{key}": value for key, value in _summary(leaked).items()}


def _summary(values: Tensor) -> dict[str, float]:
    return {"max": values.max().item(), "rms": values.square().mean().sqrt().item()}


def _distance_from_identity(matrix: Tensor) -> float:
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return relative_distance(matrix, identity)


def _distance_from_exact(offset: Tensor) -> Tensor:
    exact = dct_frequencies(len(offset)).to(offset.device)
    frequency = (exact + offset).remainder(2 * math.pi)
    folded = torch.minimum(frequency, 2 * math.pi - frequency)
    return (folded.sort().values - exact).abs()
