"""How far is a trained cosine transform from the DCT: its frequencies, its orthogonality, its product, its leakage?

Each probe is empty for a net without a cosine transform. A bin is pi/N radians per sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from wavebase.probes.snapshot import Snapshot
from wavebase.registry import registered
from wavebase.spectrum import cosine_basis, dct_frequencies, sample_amplitudes

PARTS = ("analysis", "synthesis")


def operators(weights: Mapping[str, Tensor], N: int) -> tuple[Tensor, Tensor]:
    """Analysis [M, N] and synthesis [N, M] as matrices, float64: X = analysis x, y = synthesis X."""
    rows = []
    for part in PARTS:
        offset = weights.get(f"offset_{part}", weights["offset_analysis"]).double()  # tied: one vector for both
        rows.append(cosine_basis(offset, N) * sample_amplitudes(weights[f"amplitude_{part}"].double(), N))
    return rows[0], rows[1].mT


@registered
def frequency_drift(snapshot: Snapshot) -> dict[str, float]:
    """How far frequencies are from their start and from the exact ones.

    frequency/<part>_drift_{max,rms,median}: |w - w_start| N/pi, in bins, over the frequencies.
    frequency/<part>_from_exact_{max,rms}: the same against the DCT's, after folding into [0, pi] (cos(w n) does not tell
    w from 2 pi - w) and sorting, because an order of its own is no error.
    drift/frequency_<part>: ||w - w_start|| / ||w_start||; drift/amplitude_<part> likewise.
    """
    if "offset_analysis" not in snapshot.weights:
        return {}
    N = snapshot.held_out["training"][0].shape[-1]
    values = {}
    for part in PARTS:
        name = f"amplitude_{part}"
        change = (snapshot.weights[name] - snapshot.start[name]).double().norm()
        values[f"drift/{name}"] = (change / snapshot.start[name].double().norm()).item()
        name = f"offset_{part}"
        if name not in snapshot.weights:
            continue
        offset, start = snapshot.weights[name].double(), snapshot.start[name].double()
        exact = dct_frequencies(len(offset)).to(offset.device)
        drift = (offset - start).abs() * (N / math.pi)
        values[f"drift/frequency_{part}"] = ((offset - start).norm() / (exact + start).norm()).item()
        values |= {f"frequency/{part}_drift_{key}": value for key, value in _summary(drift).items()}
        values[f"frequency/{part}_drift_median"] = drift.median().item()
        distance = _distance_from_exact(offset) * (N / math.pi)
        values |= {f"frequency/{part}_from_exact_{key}": value for key, value in _summary(distance).items()}
    return values


@registered
def orthogonality(snapshot: Snapshot) -> dict[str, float]:
    """orthogonality/<part>: ||A A^T - I||_F / ||I||_F of analysis and (transposed) synthesis, rows as M vectors."""
    if "offset_analysis" not in snapshot.weights:
        return {}
    analysis, synthesis = operators(snapshot.weights, snapshot.held_out["training"][0].shape[-1])
    return {
        f"orthogonality/{part}": _distance_from_identity(rows @ rows.mT)
        for part, rows in zip(PARTS, (analysis, synthesis.mT), strict=True)
    }


@registered
def product(snapshot: Snapshot) -> dict[str, float]:
    """product/identity_distance: ||A2 A1 - I||_F / ||I||_F, A2 A1 [N, N] the whole net: white noise's relative error."""
    if "offset_analysis" not in snapshot.weights:
        return {}
    analysis, synthesis = operators(snapshot.weights, snapshot.held_out["training"][0].shape[-1])
    return {"product/identity_distance": _distance_from_identity(synthesis @ analysis)}


@registered
def bin_leakage(snapshot: Snapshot) -> dict[str, float]:
    """leakage/{rms,max}: of one coefficient, resynthesised and analysed again, how much arrives in the other bins.

    With R = A1 A2 [M, M]: the norm of column m off the diagonal over the norm of the whole column.
    """
    if "offset_analysis" not in snapshot.weights:
        return {}
    analysis, synthesis = operators(snapshot.weights, snapshot.held_out["training"][0].shape[-1])
    response = analysis @ synthesis
    away = response - torch.diag(response.diagonal())
    share = away.norm(dim=0) / response.norm(dim=0).clamp_min(torch.finfo(torch.float64).tiny)
    return {f"leakage/{key}": value for key, value in _summary(share).items()}


def _summary(values: Tensor) -> dict[str, float]:
    return {"max": values.max().item(), "rms": values.square().mean().sqrt().item()}


def _distance_from_identity(matrix: Tensor) -> float:
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return ((matrix - identity).norm() / identity.norm()).item()


def _distance_from_exact(offset: Tensor) -> Tensor:
    exact = dct_frequencies(len(offset)).to(offset.device)
    frequency = (exact + offset).remainder(2 * math.pi)
    folded = torch.minimum(frequency, 2 * math.pi - frequency)
    return (folded.sort().values - exact).abs()
