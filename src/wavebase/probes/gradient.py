"""Which parameters can gradient descent move at all?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wavebase.constructions.construction import STATE_NAMES
from wavebase.probes.norms import TINY, relative_norm
from wavebase.probes.snapshot import Snapshot
from wavebase.recurrence.cells import GATES
from wavebase.registry import registered

SEQUENCES = 16  # of the held-out training signals that these probes read
LIVE = 1e-12  # fraction of the largest derivative up to which one is rounding
KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def gradients(
    value: Tensor,
    parameters: Sequence[Tensor],
    direction: Tensor | None = None,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> Sequence[Tensor]:
    """Differentiate a value by each parameter; zero for those that it does not depend on.

    Args:
        value: A scalar, or a tensor of `direction`'s shape, of which the gradient of <value, direction> is taken.
        parameters: May be none.
        direction, create_graph, retain_graph: See torch.autograd.grad.
    """
    if not parameters or not value.requires_grad:
        return [torch.zeros_like(p) for p in parameters]
    if direction is not None:  # given to torch.autograd.grad, a direction costs an import of sympy
        value = (value * direction).sum()
    return torch.autograd.grad(
        value, parameters, None, retain_graph, create_graph, allow_unused=True, materialize_grads=True
    )


@registered
def live_gradient(snapshot: Snapshot) -> dict[str, float]:
    """Measure gradient/live_fraction: the fraction of the cell's weights and biases whose gate is not saturated.

    A gate's row is live if the derivative of its tanh or sigmoid exceeds the dtype's eps at some step of 16 held-out
    training signals. Behind a dead one every gradient is zero, whatever the loss. Empty for a net without a trace, or
    if a state is not finite.
    """
    trace = snapshot.trace(snapshot.held_out["training"][0][:SEQUENCES])
    if trace is None or not trace.hidden.isfinite().all():
        return {}
    signed = trace.input_gate_activation == "tanh"
    slopes = {
        "input": 1 - trace.input_gate**2 if signed else trace.input_gate * (1 - trace.input_gate),
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
            alive += int(live[gate].sum()) * weight[0].numel()
            total += weight.numel()
    return {"gradient/live_fraction": alive / total} if total else {}


@registered
def movable(snapshot: Snapshot) -> dict[str, float]:
    """Measure gradient/movable_fraction: the fraction of trained numbers that a plain gradient step would change.

    The step has the present learning rate, on the loss of 16 held-out signals. A change is lost in rounding ("rounding
    freeze") if it is under half a unit in the last place of the weight, of its tensor's root mean square or, with an exact
    algorithm, of its natural unit, whichever is most: a zero that becomes 1e-20 has not moved. Empty without trained
    weights, or if a weight or its gradient is not finite.
    """
    trained = list(snapshot.trained.values())
    signal, target = (part[:SEQUENCES] for part in snapshot.held_out["training"])
    slopes = gradients(snapshot.loss(snapshot.forward(signal), target), trained)
    if not trained or not _finite(*trained, *slopes):
        return {}
    moved, units = 0, _units(snapshot)
    for name, weight, slope in zip(snapshot.trained, trained, slopes, strict=True):
        size = weight.detach().abs().clamp_min(weight.detach().square().mean().sqrt())
        size = size.maximum(units[name].to(size)) if name in units else size
        moved += int((snapshot.learning_rate * slope.abs() > torch.finfo(weight.dtype).eps / 2 * size).sum())
    return {"gradient/movable_fraction": moved / sum(weight.numel() for weight in trained)}


@registered
def movement(snapshot: Snapshot) -> dict[str, float]:
    """Count the trained weights that have changed since the start by more than rounding, and those that could.

    Returns:
        moved/trained: their number. moved/changed: those whose change exceeds the dtype's eps times their natural unit, or
        times the largest weight of their matrix at the start where that is less (without an exact algorithm: any change).
        moved/nonzero, moved/nonzero_changed: the same of those that are not zero at the start. moved/live: those that the
        outputs depend on at first order here, by the gradient of a random
        combination of the outputs of 16 held-out signals; the others sit behind saturated gates or at silent units.
        Empty without trained weights, or if a weight or that gradient is not finite.
    """
    trained = snapshot.trained
    output = snapshot.forward(snapshot.held_out["training"][0][:SEQUENCES])
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(output)
    slopes = gradients(output, list(trained.values()), direction)
    if not trained or not _finite(*trained.values(), *slopes):
        return {}
    largest = max(float(g.abs().max()) for g in slopes)
    live = sum(int((g.abs() > LIVE * largest).sum()) for g in slopes)
    counts = {"trained": 0, "changed": 0, "nonzero": 0, "nonzero_changed": 0}
    frozen = {name for name in STATE_NAMES if name not in trained}
    scales = _natural_units(snapshot)
    for name, start in snapshot.start.items():
        if name in frozen or (name not in trained and set(trained) <= set(snapshot.start)):
            continue
        change, least = (snapshot.weights[name] - start).abs(), torch.zeros_like(start)
        if name in scales:
            # the unit of an algorithm that is not there may be far larger than any weight, and its rounding than any change
            bound = start.abs().max() if start.any() else torch.inf
            least = torch.finfo(start.dtype).eps * scales[name].to(change).clamp_max(bound)
        changed = change > least
        used = start != 0
        for key, part in zip(counts, (torch.ones_like(used), changed, used, changed & used), strict=True):
            counts[key] += int(part.sum())
    return {f"moved/{name}": float(count) for name, count in {**counts, "live": live}.items()}


def _natural_units(snapshot: Snapshot) -> Mapping[str, Tensor]:
    """Return the natural unit of every weight of an exact algorithm, by name; empty without one."""
    about = snapshot.algorithm
    known = {} if about is None else {name: about.unit(name) for name in about.weights}
    return snapshot.construction.unit_scale if snapshot.construction else known


def _units(snapshot: Snapshot) -> dict[str, Tensor]:
    """Return the natural units of what is trained: those of the weights, or 1 if the weights over their units are trained."""
    scales = {name: unit for name, unit in _natural_units(snapshot).items() if name in snapshot.trained}
    raw = all(torch.equal(snapshot.trained[name].detach(), snapshot.weights[name]) for name in scales)
    return scales if raw else {name: torch.ones_like(unit) for name, unit in scales.items()}


def _finite(*tensors: Tensor) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


@registered
def swap_tie(snapshot: Snapshot) -> dict[str, float]:
    """Measure gradient/swap_tie_broken: the largest distance, over prod units, between a unit's input and cell rows.

    Both rows are scaled to norm 1. A square is a product of two equal rows. Rows that start proportional get
    proportional gradients, so that they cannot part: at 0, squares that survive training are no evidence. Empty without
    a prod block.
    """
    if "prod" not in snapshot.blocks:
        return {}
    units = snapshot.blocks["prod"]
    rows = [snapshot.weights[f"weight_hh_{gate}"][units].double() for gate in ("input", "cell")]
    first, second = (row / row.norm(dim=1, keepdim=True).clamp_min(TINY) for row in rows)
    apart = torch.minimum((first - second).norm(dim=1), (first + second).norm(dim=1))
    return {"gradient/swap_tie_broken": apart.max().item()}


@registered
def conserved(snapshot: Snapshot) -> dict[str, float]:
    """Measure how far quantities have moved that gradient flow conserves by a symmetry of the function.

    Returns:
        conserved/bias_difference: ||change of b_ih - b_hh|| / ||change of b_ih + b_hh||. Both biases get one gradient,
        so plain and momentum descent keep it at rounding level; weight decay does not.
        conserved/product_balance: the largest change, over sum and prod units, of ||input row||^2 - ||cell row||^2,
        relative to their sum at the start. The product i * g is unchanged if i grows as g shrinks while both are linear
        (the balance of linear nets: Saxe et al. 2014, Du et al. 2018), so this moves at the order of the step size and
        of tanh's curvature. Empty for a net without such biases.
    """
    weights, start = snapshot.weights, snapshot.start
    if "bias_ih_input" not in weights:
        return {}
    change = {
        kind: torch.cat([(weights[f"{kind}_{gate}"] - start[f"{kind}_{gate}"]).double() for gate in GATES])
        for kind in ("bias_ih", "bias_hh")
    }
    apart, together = change["bias_ih"] - change["bias_hh"], change["bias_ih"] + change["bias_hh"]
    values = {"conserved/bias_difference": relative_norm(apart, together)}
    moved = []
    for name in ("sum", "prod"):
        if name in snapshot.blocks:
            units = snapshot.blocks[name]
            (i0, g0), (i1, g1) = ([_row_energy(w, gate, units) for gate in ("input", "cell")] for w in (start, weights))
            moved.append((((i1 - g1) - (i0 - g0)).abs() / (i0 + g0).clamp_min(TINY)).max())
    # torch's maximum keeps a nan, Python's may drop it
    return values | ({"conserved/product_balance": torch.stack(moved).max().item()} if moved else {})


def _row_energy(weights: Mapping[str, Tensor], gate: str, units: slice) -> Tensor:
    """Return the squared norm of each unit's row of a gate, input and recurrent weights and biases together."""
    count = units.stop - units.start
    row = torch.cat([weights[f"{kind}_{gate}"][units].double().reshape(count, -1) for kind in KINDS], 1)
    return row.square().sum(1)
