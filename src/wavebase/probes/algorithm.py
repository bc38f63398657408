"""What any exact algorithm's contract allows to measure: distance, blocks, mask, and the author's own questions."""

from __future__ import annotations

import math

import torch

from wavebase.probes.snapshot import Snapshot
from wavebase.registry import registered


@registered
def distance(snapshot: Snapshot) -> dict[str, float]:
    """Measure how far the weights are from the algorithm's, modulo its symmetries, in natural units.

    Returns:
        position/distance of all weights (1 for zero weights), and position/block_<name> of each block. Empty for a net
        without `algorithm`.
    """
    algorithm = snapshot.algorithm
    if algorithm is None:
        return {}
    if not all(weight.isfinite().all() for weight in snapshot.weights.values()):
        return {"position/distance": math.inf}
    aligned, apart = snapshot.nearest
    values = {"position/distance": apart}
    for block, parts in algorithm.blocks.items():
        moved = size = 0.0
        for name, chosen in parts.items():
            unit, exact = algorithm.unit(name), algorithm.weights[name].detach().cpu().double()
            chosen = chosen.cpu()
            moved += (((aligned[name].detach().cpu().double() - exact) / unit)[chosen]).square().sum().item()
            size += ((exact / unit)[chosen]).square().sum().item()
        values[f"position/block_{block}"] = math.sqrt(moved / size) if size > 0 else math.sqrt(moved)
    return values


@registered
def masked_error(snapshot: Snapshot) -> dict[str, float]:
    """Measure the relative error on the training signal without the weights that the algorithm does not use.

    Returns:
        mechanism/masked_error; empty without a mask.
    """
    algorithm = snapshot.algorithm
    if algorithm is None or not algorithm.mask or algorithm.forward is None:
        return {}
    aligned, _ = snapshot.nearest
    kept = {
        name: weight * algorithm.mask[name].to(weight) if name in algorithm.mask else weight
        for name, weight in aligned.items()
    }
    signal, target = snapshot.held_out["training"]
    with torch.no_grad():
        return {"mechanism/masked_error": snapshot.metrics(algorithm.output(kept, signal), target)["relative_error"]}


@registered
def questions(snapshot: Snapshot) -> dict[str, float]:
    """Ask the author's questions about the aligned weights.

    Returns:
        mechanism/question_<name>: 1 for the algorithm. Empty without questions; nan where a weight is not finite.
    """
    algorithm = snapshot.algorithm
    if algorithm is None or not algorithm.questions:
        return {}
    names = [f"mechanism/question_{name}" for name in algorithm.questions]
    if not all(weight.isfinite().all() for weight in snapshot.weights.values()):
        return dict.fromkeys(names, math.nan)
    aligned, _ = snapshot.nearest
    with torch.no_grad():
        return {
            name: float(question(aligned)) for name, question in zip(names, algorithm.questions.values(), strict=True)
        }
