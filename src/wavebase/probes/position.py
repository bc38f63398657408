"""How far are the weights from the algorithm, once what no output can see is taken away?"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from wavebase.constructions import symmetry
from wavebase.constructions.alignment import changed_units
from wavebase.constructions.construction import Construction
from wavebase.probes.mechanism import outputs
from wavebase.probes.snapshot import Snapshot
from wavebase.registry import registered

FLAT = 1e-12  # share of the largest derivative up to which one is none, where all are in units


@registered
def distance(snapshot: Snapshot) -> dict[str, float]:
    """position/distance: of the aligned weights from the exact ones, relative, every weight measured by what it does to its row's
    argument (`alignment.distance`); position/permuted: the share of units whose weights the aligning element would change
    in the exact net. So a symmetry of that net itself counts for nothing: elements that differ by one are equally near, and
    rounding chooses. Empty without a construction, infinite where a weight is not finite."""
    if snapshot.construction is None:
        return {}
    found = snapshot.alignment
    if found is None:
        return {"position/distance": math.inf}
    changed = changed_units(found.element, snapshot.construction)
    return {"position/distance": found.distance, "position/permuted": changed.double().mean().item()}


class Subspaces(NamedTuple):
    """Weight space about a start, cut into orthogonal parts by what a step does to the function at first order.

    live: booleans [parameters], false along the frozen ones. visible, gauge: orthonormal rows [., live parameters].
    """

    live: Tensor
    visible: Tensor
    gauge: Tensor

    def split(self, drift: Tensor) -> dict[str, Tensor]:
        """A drift [parameters] as its parts: frozen [frozen parameters], visible, gauge and null [live parameters]."""
        moved = drift[self.live]
        visible = self.visible.mT @ (self.visible @ moved)
        gauge = self.gauge.mT @ (self.gauge @ moved)
        return {"frozen": drift[~self.live], "visible": visible, "gauge": gauge, "null": moved - visible - gauge}


@registered
def drift_split(snapshot: Snapshot, windows: int = 256) -> dict[str, float]:
    """The drift of the aligned weights in the parts of `subspaces`.

    position/<part>: a part's norm over that of all weights at the start; their squares sum to that of position/drift. Of the
    whole weight space, position/visible_rank and position/live_parameters are J's rank and its number of columns that are not
    zero. About a second at T = 4, half a minute at T = 8. Empty without a construction, or if a weight is not finite.
    """
    construction = snapshot.construction
    if construction is None or not all(weight.isfinite().all() for weight in snapshot.weights.values()):
        return {}
    start = symmetry.flatten(snapshot.start).double()
    parts = subspaces(construction.replace_weights(snapshot.start), windows)
    drift = symmetry.flatten(snapshot.aligned).double() - start
    split = {"drift": drift, **parts.split(drift)}
    values = {f"position/{name}": (part.norm() / start.norm()).item() for name, part in split.items()}
    return values | {
        "position/visible_rank": float(len(parts.visible)),
        "position/live_parameters": float(parts.live.sum()),
    }


def subspaces(net: Construction, windows: int = 256, unit_scaled: bool = False) -> Subspaces:
    """The parts of weight space about a net; with `unit_scaled` of the space of its weights over their natural units.

    frozen: parameters whose every derivative is zero (behind saturated gates, in dead units). visible: the row space of the
    Jacobian J of the outputs of `windows` windows of white noise, its rank cut at 1e-10 of the largest singular value. gauge:
    the continuous symmetry group's directions (`symmetry.tangent`), less what of them is visible. What is left, null, the
    function does not see either, with no symmetry of the linear regime behind it.
    """
    unit = (
        torch.cat([net.unit_scale[name].flatten() for name in net.weights]).double() if unit_scaled else torch.ones(())
    )
    jacobian = output_jacobian(net, windows) * unit
    size = jacobian.abs().amax(0)
    live = size > (FLAT * size.max() if unit_scaled else 0)  # in units, what a saturated gate lets through is rounding
    _, sizes, rows = torch.linalg.svd(jacobian[:, live], full_matrices=False)
    visible = rows[sizes > 1e-10 * sizes[0]]
    gauge = (torch.cat(list(symmetry.tangent(net.weights, net.blocks).values())) / unit)[:, live]
    gauge = gauge / gauge.norm(dim=1, keepdim=True).clamp_min(1e-300)
    gauge = gauge - (gauge @ visible.mT) @ visible
    _, sizes, directions = torch.linalg.svd(gauge, full_matrices=False)
    return Subspaces(live, visible, directions[sizes > 1e-6])


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
