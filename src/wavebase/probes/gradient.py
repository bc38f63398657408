"""Which parameters can gradient descent move at all?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wavebase.constructions.construction import STATE_NAMES
from wavebase.probes.snapshot import Snapshot
from wavebase.recurrence.cells import GATES
from wavebase.registry import registered


@registered
def live_gradient(snapshot: Snapshot) -> dict[str, float]:
    """gradient/live_fraction: the share of the cell's weights and biases whose gate is not saturated.

    A gate's row is live if the derivative of its tanh or sigmoid exceeds the dtype's eps at some step of 16 held-out
    training signals; behind a dead one every gradient is zero, whatever the loss. Empty if a state is not finite.
    """
    trace = snapshot.trace(snapshot.held_out["training"][0][:16])
    if trace is None or not trace.hidden.isfinite().all():
        return {}
    tanh_input = bool((trace.input_gate < 0).any())
    slopes = {
        "input": 1 - trace.input_gate**2 if tanh_input else trace.input_gate * (1 - trace.input_gate),
        "forget": trace.forget_gate * (1 - trace.forget_gate),
        "cell": 1 - trace.candidate**2,
        "output": trace.output_gate * (1 - trace.output_gate),
    }
    eps = torch.finfo(trace.hidden.dtype).eps
    live = {gate: (slope > eps).flatten(0, -2).any(0) for gate, slope in slopes.items()}
    alive = total = 0
    for name, weight in snapshot.weights.items():
        gate = name.rsplit("_", 1)[-1]
        if gate in GATES:
            alive += int(live[gate].sum()) * (weight[0].numel())
            total += weight.numel()
    return {"gradient/live_fraction": alive / total}


@registered
def movable(snapshot: Snapshot) -> dict[str, float]:
    """gradient/movable_fraction: the share of trained numbers that one plain gradient step would change by more than rounding.

    A step of the present learning rate on the loss of 16 held-out signals; a change under half a unit in the last place of a weight,
    or of its tensor's root mean square where that is more, is lost in rounding ("rounding freeze"): that a zero takes on
    1e-20 is no movement. Empty if a weight is not finite.
    """
    trained = list(snapshot.trained.values())
    if not all(weight.isfinite().all() for weight in trained):
        return {}
    signal, target = (part[:16] for part in snapshot.held_out["training"])
    loss = snapshot.loss(snapshot.forward(signal), target)
    gradients = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
    moved = 0
    for weight, gradient in zip(trained, gradients, strict=True):
        size = weight.detach().abs().clamp_min(weight.detach().square().mean().sqrt())
        moved += int((snapshot.learning_rate * gradient.abs() > torch.finfo(weight.dtype).eps / 2 * size).sum())
    return {"gradient/movable_fraction": moved / sum(weight.numel() for weight in trained)}


@registered
def movement(snapshot: Snapshot) -> dict[str, float]:
    """How many trained weights have changed since the start by more than rounding, and how many could.

    moved/trained: their number; moved/changed: those whose change exceeds eps of the dtype times their natural unit (without a
    construction: any change). moved/nonzero, moved/nonzero_changed: the same of those that are not zero at the start.
    moved/live: those that the outputs depend on at first order here, by the gradient of a random combination of the outputs of
    16 held-out signals; the others sit behind saturated gates or at silent units. Empty if a weight is not finite.
    """
    trained = snapshot.trained
    if not all(weight.isfinite().all() for weight in trained.values()):
        return {}
    output = snapshot.forward(snapshot.held_out["training"][0][:16])
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(output)
    gradients = torch.autograd.grad(
        output, list(trained.values()), direction, allow_unused=True, materialize_grads=True
    )
    largest = max(float(g.abs().max()) for g in gradients)
    counts = {"trained": 0, "changed": 0, "nonzero": 0, "nonzero_changed": 0}
    still = {name for name in STATE_NAMES if name not in trained}
    scales = snapshot.construction.unit_scale if snapshot.construction else {}
    for name, start in snapshot.start.items():
        if name in still or (name not in trained and set(trained) <= set(snapshot.start)):
            continue
        change = (snapshot.weights[name] - start).abs()
        changed = change > torch.finfo(start.dtype).eps * scales[name].to(change) if name in scales else change > 0
        used = start != 0
        for key, part in zip(counts, (torch.ones_like(used), changed, used, changed & used), strict=True):
            counts[key] += int(part.sum())
    counts["live"] = sum(int((g.abs() > 1e-12 * largest).sum()) for g in gradients) if largest > 0 else 0
    return {f"moved/{name}": float(count) for name, count in counts.items()}


@registered
def swap_tie(snapshot: Snapshot) -> dict[str, float]:
    """gradient/swap_tie_broken: largest distance, over prod units, between a unit's input and cell rows, each of norm 1.

    A square is a product of two equal rows. Rows that start proportional get proportional gradients, so that they cannot
    part: at 0 "the squares survive" says nothing about training. Empty without a prod block.
    """
    if "prod" not in snapshot.blocks:
        return {}
    units = snapshot.blocks["prod"]
    rows = [snapshot.weights[f"weight_hh_{gate}"][units].double() for gate in ("input", "cell")]
    first, second = (row / row.norm(dim=1, keepdim=True).clamp_min(1e-300) for row in rows)
    apart = torch.minimum((first - second).norm(dim=1), (first + second).norm(dim=1))
    return {"gradient/swap_tie_broken": apart.max().item()}


@registered
def conserved(snapshot: Snapshot) -> dict[str, float]:
    """How far quantities have moved that gradient flow conserves because a move of the weights leaves the function alone.

    conserved/bias_difference: ||change of b_ih - b_hh|| / ||change of b_ih + b_hh||; both biases get one gradient, so plain
    and momentum descent keep it at rounding level, weight decay does not (exact).
    conserved/product_balance: largest change, over sum and prod units, of ||input row||^2 - ||cell row||^2, relative to their
    sum at the start; the product i * g does not see i grow as g shrinks while both are linear (the balance of linear nets:
    Saxe et al. 2014, Du et al. 2018), so it moves at the order of the step size and of tanh's curvature.
    """
    weights, start = snapshot.weights, snapshot.start
    if "bias_ih_input" not in weights:
        return {}
    change = {
        kind: torch.cat([(weights[f"{kind}_{gate}"] - start[f"{kind}_{gate}"]).double() for gate in GATES])
        for kind in ("bias_ih", "bias_hh")
    }
    total = (change["bias_ih"] + change["bias_hh"]).norm()
    apart = (change["bias_ih"] - change["bias_hh"]).norm()
    values = {"conserved/bias_difference": (apart / total).item() if total > 0 else apart.item()}
    moved = []
    for name in ("sum", "prod"):
        if name in snapshot.blocks:
            units = snapshot.blocks[name]
            (i0, g0), (i1, g1) = ([_row_energy(w, gate, units) for gate in ("input", "cell")] for w in (start, weights))
            moved.append((((i1 - g1) - (i0 - g0)).abs() / (i0 + g0)).max())
    return values | ({"conserved/product_balance": max(moved).item()} if moved else {})


def _row_energy(weights: Mapping[str, Tensor], gate: str, units: slice) -> Tensor:
    """Squared norm of everything that makes a unit's gate."""
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    made_of = torch.cat(
        [weights[f"{kind}_{gate}"][units].double().reshape(units.stop - units.start, -1) for kind in kinds], 1
    )
    return made_of.square().sum(1)
