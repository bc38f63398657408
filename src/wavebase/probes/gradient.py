"""Which parameters can gradient descent move at all?"""

from __future__ import annotations

import torch

from wavebase.probes.snapshot import Snapshot
from wavebase.recurrence import GATES


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


def movable(snapshot: Snapshot) -> dict[str, float]:
    """gradient/movable_fraction: the share of trained numbers that one plain gradient step would change at all.

    A step of the present learning rate on the loss of 16 held-out signals; a change under half a unit in the last place of a weight
    is lost in rounding ("rounding freeze"). Empty if a weight is not finite.
    """
    trained = list(snapshot.trained.values())
    if not all(weight.isfinite().all() for weight in trained):
        return {}
    signal, target = (part[:16] for part in snapshot.held_out["training"])
    loss = snapshot.loss(snapshot.forward(signal), target)
    gradients = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
    moved = sum(
        int((w.detach() - snapshot.learning_rate * g != w.detach()).sum())
        for w, g in zip(trained, gradients, strict=True)
    )
    return {"gradient/movable_fraction": moved / sum(weight.numel() for weight in trained)}
