"""How far are the weights from the algorithm, apart from changes that no output can see?"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from wavebase.constructions import symmetry
from wavebase.constructions.alignment import block_distances, changed_units
from wavebase.constructions.construction import Construction
from wavebase.probes.mechanism import outputs
from wavebase.probes.norms import TINY, relative_norm
from wavebase.probes.snapshot import Snapshot
from wavebase.registry import registered

FLAT = 1e-12  # fraction of the largest derivative, in units, up to which one is rounding


@registered
def distance(snapshot: Snapshot) -> dict[str, float]:
    """Measure the distance of the aligned weights from the exact ones.

    Returns:
        position/distance: relative, every weight measured by its effect on its row's argument (`alignment.distance`);
        infinite where a weight is not finite. position/block_<name>: that of the rows and states of each block's units,
        and of the readout, over the block's own size. position/permuted: the fraction of units whose weights the aligning
        element would change in the exact net; a symmetry of that net counts for nothing, because elements that differ by
        one are equally near and rounding chooses. Empty without a construction.
    """
    if snapshot.construction is None:
        return {}
    found = snapshot.alignment
    if found is None:
        return {"position/distance": math.inf}
    changed = changed_units(found.element, snapshot.construction)
    blocks = block_distances(found.weights, snapshot.construction)
    return {
        "position/distance": found.distance,
        "position/permuted": changed.double().mean().item(),
        **{f"position/block_{name}": apart for name, apart in blocks.items()},
    }


class Subspaces(NamedTuple):
    """Weight space at a start, split into orthogonal parts by the first-order effect of a step on the function.

    Attributes:
        live: Booleans [parameters], false for frozen ones.
        visible, gauge: Orthonormal rows [., live parameters].
    """

    live: Tensor
    visible: Tensor
    gauge: Tensor

    def split(self, drift: Tensor) -> dict[str, Tensor]:
        """Split a drift [parameters]: frozen [frozen parameters], visible, gauge and null [live parameters]."""
        moved = drift[self.live]
        visible = self.visible.mT @ (self.visible @ moved)
        gauge = self.gauge.mT @ (self.gauge @ moved)
        return {"frozen": drift[~self.live], "visible": visible, "gauge": gauge, "null": moved - visible - gauge}


@registered
def drift_split(snapshot: Snapshot, windows: int = 256) -> dict[str, float]:
    """Split the drift of the aligned weights into the parts of `subspaces`.

    It takes about a second at T = 4, half a minute at T = 8.

    Returns:
        position/<part>: a part's norm over that of all weights at the start; squares sum to that of position/drift.
        position/visible_rank, position/live_parameters: the Jacobian's rank and its number of columns that are not zero.
        Empty without a construction, or if a weight is not finite.
    """
    construction = snapshot.construction
    if construction is None or not all(weight.isfinite().all() for weight in snapshot.weights.values()):
        return {}
    start = symmetry.flatten(snapshot.start).double()
    parts = subspaces(construction.replace_weights(snapshot.start), windows)
    drift = symmetry.flatten(snapshot.aligned).double() - start
    split = {"drift": drift, **parts.split(drift)}
    values = {f"position/{name}": relative_norm(part, start) for name, part in split.items()}
    return values | {
        "position/visible_rank": float(len(parts.visible)),
        "position/live_parameters": float(parts.live.sum()),
    }


def subspaces(net: Construction, windows: int = 256, unit_scaled: bool = False) -> Subspaces:
    """Split weight space at a net.

    Args:
        net: Where the space is split.
        windows: Windows of white noise whose outputs are differentiated.
        unit_scaled: Split the space of the weights over their natural units.

    Returns:
        frozen: parameters whose every derivative is zero (behind saturated gates, in dead units). visible: the row space
        of the outputs' Jacobian J, its rank cut at 1e-10 of the largest singular value. gauge: the directions of the
        continuous symmetry group (`symmetry.tangent`) that are not visible. The rest, null, leaves the function
        unchanged at first order without a symmetry of the linear regime.
    """
    unit = (
        torch.cat([net.unit_scale[name].flatten() for name in net.weights]).double() if unit_scaled else torch.ones(())
    )
    jacobian = output_jacobian(net, windows) * unit
    size = jacobian.abs().amax(0)
    live = size > (
        FLAT * size.max() if unit_scaled else 0
    )  # in units, derivatives behind a saturated gate are rounding
    _, sizes, rows = torch.linalg.svd(jacobian[:, live], full_matrices=False)
    visible = rows[sizes > 1e-10 * sizes[:1]]  # none where no parameter is live
    gauge = (torch.cat(list(symmetry.tangent(net.weights, net.blocks).values())) / unit)[:, live]
    gauge = gauge / gauge.norm(dim=1, keepdim=True).clamp_min(TINY)
    gauge = gauge - (gauge @ visible.mT) @ visible
    _, sizes, directions = torch.linalg.svd(gauge, full_matrices=False)
    return Subspaces(live, visible, directions[sizes > 1e-6])


def output_jacobian(net: Construction, windows: int, seed: int = 0) -> Tensor:
    """Differentiate the outputs on single windows of white noise by all weights.

    Returns:
        [windows * F, parameters], float64; parameters in the order of `symmetry.flatten(net.weights)`.
    """
    generator = torch.Generator().manual_seed(seed)
    signal = net.amplitude * (2 * torch.rand(windows, net.T, generator=generator, dtype=torch.float64) - 1)
    weights = {name: weight.detach().double().cpu() for name, weight in net.weights.items()}

    def of_one(weights: dict[str, Tensor], window: Tensor) -> Tensor:
        return outputs(net.replace_weights(weights), window[None]).flatten()

    columns = torch.func.vmap(torch.func.jacrev(of_one), (None, 0))(weights, signal)
    return torch.cat([columns[name].flatten(0, 1).flatten(1) for name in weights], 1)
