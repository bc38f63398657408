"""How far have the weights gone from their start, once what no output can see is taken away?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavebase.constructions import symmetry
from wavebase.constructions.construction import Construction
from wavebase.probes.mechanism import outputs
from wavebase.probes.snapshot import Snapshot


def distance(snapshot: Snapshot) -> dict[str, float]:
    """position/distance: of the aligned weights from the start, relative, every weight measured by what it does to its row's
    argument (`alignment.distance`); position/permuted: the share of units that alignment moved or changed the sign or
    the factors of. Empty without a construction, infinite where a weight is not finite."""
    if snapshot.construction is None:
        return {}
    found = snapshot.alignment
    if found is None:
        return {"position/distance": math.inf}
    element = found.element
    same = element.permutation == torch.arange(len(element.permutation))
    same &= ~element.swap & (element.sign_input > 0) & (element.sign_cell > 0)
    return {"position/distance": found.distance, "position/permuted": 1 - same.double().mean().item()}


def drift_split(snapshot: Snapshot, windows: int = 256) -> dict[str, float]:
    """The drift, cut into four orthogonal parts by what each does to the function at first order about the start.

    position/frozen: along parameters whose every derivative is zero (behind saturated gates, in dead units).
    position/visible: within the row space of the Jacobian J of the outputs of `windows` windows of white noise.
    position/gauge: along the continuous symmetry group's directions (`symmetry.tangent`), less what of them is visible.
    position/null: the rest, which the function does not see either, with no symmetry of the linear regime behind it.
    Each is a norm over that of all weights at the start; their squares sum to that of position/drift. Of the whole weight
    space, position/visible_rank and position/live_parameters are J's rank and its number of columns that are not zero.

    J has windows * F rows and its rank is cut at 1e-10 of its largest singular value: about a second at T = 4, half a minute
    at T = 8. Empty without a construction, or if a weight is not finite.
    """
    construction = snapshot.construction
    if construction is None or not all(weight.isfinite().all() for weight in snapshot.weights.values()):
        return {}
    start = {name: weight.double() for name, weight in snapshot.start.items()}
    drift = symmetry.flatten(snapshot.aligned).double() - symmetry.flatten(start)
    jacobian = output_jacobian(construction.replace_weights(start), windows)
    live = jacobian.abs().amax(0) > 0
    moved = drift[live]
    _, sizes, rows = torch.linalg.svd(jacobian[:, live], full_matrices=False)
    rows = rows[sizes > 1e-10 * sizes[0]]
    visible = rows.mT @ (rows @ moved)
    gauge = torch.cat(list(symmetry.tangent(start, construction.blocks).values()))[:, live]
    gauge = gauge / gauge.norm(dim=1, keepdim=True).clamp_min(1e-300)
    gauge = gauge - (gauge @ rows.mT) @ rows
    _, sizes, directions = torch.linalg.svd(gauge, full_matrices=False)
    directions = directions[sizes > 1e-6]
    unseen = moved - visible
    along = directions.mT @ (directions @ unseen)
    parts = {"drift": drift, "frozen": drift[~live], "visible": visible, "gauge": along, "null": unseen - along}
    size = symmetry.flatten(start).norm()
    values = {f"position/{name}": (part.norm() / size).item() for name, part in parts.items()}
    return values | {"position/visible_rank": float(len(rows)), "position/live_parameters": float(live.sum())}


def output_jacobian(net: Construction, windows: int, seed: int = 0) -> Tensor:
    """Derivatives of the outputs by all weights, float64 [windows * F, parameters], on single windows of white noise.

    Parameters in the order of `symmetry.flatten(net.weights)`.
    """
    generator = torch.Generator().manual_seed(seed)
    signal = net.amplitude * (2 * torch.rand(windows, net.T, generator=generator, dtype=torch.float64) - 1)
    weights = {name: weight.detach().double().cpu() for name, weight in net.weights.items()}

    def of_one(weights: dict[str, Tensor], window: Tensor) -> Tensor:
        return outputs(net.replace_weights(weights), window[None]).flatten()

    columns = torch.func.vmap(torch.func.jacrev(of_one), (None, 0))(weights, signal)
    return torch.cat([columns[name].flatten(0, 1).flatten(1) for name in weights], 1)
