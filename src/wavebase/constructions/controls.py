"""Changes of known meaning to a spectral net: one oscillator retuned, one bin computed another way, entries cut.

They are the controls of the verdict (`experiments/confusion_matrix.py`): their effect on the algorithm is known before
anything is measured. Every function takes a construction (`spectral_construction`, signed input gate) and returns a copy
with other weights and no error bound. A bin is given by its frequency k, which must be one of the construction's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from wavebase.constructions.construction import READOUT_NAMES, Construction, pad
from wavebase.constructions.rivals import RIVALS
from wavebase.constructions.spectral import spectral_construction

Rival = Literal["resonator", "delay_line"]


def bin_units(start: Construction, k: int) -> dict[str, list[int]]:
    """Return the units of bin k by block: pairs in gen, sum and prod, one in spec.

    Raises:
        ValueError: For a bin or a construction without such units.
    """
    if start.input_gate != "tanh" or not {"gen", "sum", "prod", "spec"} <= set(start.blocks):
        raise ValueError("start must be a spectral construction with input_gate=tanh; use spectral_construction(T)")
    if k not in start.bins:
        raise ValueError(f"k must be one of the bins {', '.join(map(str, start.bins))}, got {k}; use {start.bins[0]}")
    n = start.bins.index(k)
    units = {name: [start.blocks[name].start + 2 * n + j for j in (0, 1)] for name in ("gen", "sum", "prod")}
    return {**units, "spec": [start.blocks["spec"].start + n]}


def retune(start: Construction, k: int, angle: float) -> Construction:
    """Turn the oscillator of bin k faster, by `angle` radians per sample."""
    pair = bin_units(start, k)["gen"]
    cos, sin = math.cos(angle), math.sin(angle)
    weight = start.weights["weight_hh_cell"].clone()
    block = weight[pair[0] : pair[1] + 1, pair[0] : pair[1] + 1]
    block.copy_((torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64) @ block.double()).to(weight))
    return start.replace_weights({**start.weights, "weight_hh_cell": weight})


def replace_frequency(start: Construction, k: int, other: int) -> Construction:
    """Give the oscillator of bin k the frequency of the bin `other`."""
    (a, b), (c, d) = bin_units(start, k)["gen"], bin_units(start, other)["gen"]
    weight = start.weights["weight_hh_cell"].clone()
    weight[a : b + 1, a : b + 1] = start.weights["weight_hh_cell"][c : d + 1, c : d + 1]
    return start.replace_weights({**start.weights, "weight_hh_cell": weight})


def scale_output(start: Construction, k: int, factor: float) -> Construction:
    """Multiply the readout of bin k by a factor."""
    row = bin_units(start, k)["spec"][0] - start.blocks["spec"].start
    readout = start.weights["readout.weight"].clone()
    readout[row] *= factor
    return start.replace_weights({**start.weights, "readout.weight": readout})


def replace_bin(start: Construction, k: int, algorithm: Rival) -> tuple[Construction, Construction]:
    """Compute bin k by a rival algorithm and all other bins as before; the function is the same.

    The rival needs more than the bin's seven units, so both results are padded. Its prod and spec units take the places
    of the bin's own, its resonators that of the sum pair; the rest is in the padding.

    Returns:
        The padded start, to compare with, and the net with the rival's part.
    """
    shared: dict[str, Any] = {
        "dtype": start.dtype,
        "margin": start.margin,
        "amplitude": start.amplitude,
        "scale": start.scale,
        "eps": abs(start.gains["a"]),
    }
    own = bin_units(start, k)
    others = spectral_construction(start.T, [b for b in start.bins if b != k], **shared)
    rival = RIVALS[algorithm](start.T, [k], **shared)
    free = own["gen"].copy()  # places for units without a counterpart

    def places(part: Construction, taken: dict[str, list[int]]) -> Tensor:
        for name, block in part.blocks.items():
            while len(taken.setdefault(name, [])) < block.stop - block.start:
                taken[name].append(free.pop(0) if free else next(beyond))
        return torch.tensor([unit for name in part.blocks for unit in taken[name]])

    beyond = iter(range(start.hidden_size, 10**9))
    of_others: dict[str, list[int]] = {name: [] for name in others.blocks}
    for b in others.bins:
        for name, units in bin_units(start, b).items():
            of_others[name] += units
    of_rival = {name: own[name] for name in ("prod", "spec")}
    of_rival |= {"resonator": own["sum"]} if algorithm == "resonator" else {"delay": own["sum"].copy()}
    parts = [(rival, places(rival, of_rival), [k]), (others, places(others, of_others), list(others.bins))]
    padded = pad(start, max(start.hidden_size, int(max(where.max() for _, where, _ in parts)) + 1))
    weights = {name: torch.zeros_like(weight) for name, weight in padded.weights.items()}
    for part, where, bins in parts:
        rows = torch.tensor([start.bins.index(b) for b in bins])
        for name, weight in part.weights.items():
            to = rows if name in READOUT_NAMES else where
            if name.startswith("weight_hh") or name == "readout.weight":
                weights[name][to[:, None], where] = weight
            else:
                weights[name][to] = weight
    return padded, padded.replace_weights(weights)


def prune(net: Construction, below: float) -> Construction:
    """Set to zero every entry below the fraction `below` of its natural unit; initial states stay."""
    weights = {
        name: torch.where((weight / net.unit_scale[name]).abs() < below, torch.zeros_like(weight), weight)
        if name not in ("hidden_0", "cell_0")
        else weight
        for name, weight in net.weights.items()
    }
    return net.replace_weights(weights)


def prune_half(start: Construction, generator: torch.Generator) -> Construction:
    """Set a random half of the non-zero weights to zero, but no biases and no initial states."""
    weights = dict(start.weights)
    for name, weight in start.weights.items():
        if name.startswith("weight") or name == "readout.weight":
            used = weight.nonzero()
            cut = used[torch.randperm(len(used), generator=generator)[: len(used) // 2]]
            weights[name] = weight.clone()
            weights[name][tuple(cut.mT)] = 0
    return start.replace_weights(weights)


def randomise_bins(
    start: Construction, bins: Iterable[int], generator: torch.Generator
) -> tuple[Construction, dict[str, Tensor]]:
    """Draw the rows of the bins' sum, prod and spec units at random.

    A row gets a random direction in natural units and keeps its length there. Gates that stay open or closed, and the
    reset, do not change.

    Returns:
        The construction with these rows, and a mask of the drawn entries by the names of the weights.
    """
    rows = [unit for k in bins for name, units in bin_units(start, k).items() if name != "gen" for unit in units]
    weights, drawn = dict(start.weights), {}
    for name in ("weight_hh_input", "weight_hh_cell", "weight_ih_cell"):
        unit = start.unit_scale[name][rows].double()
        size = (start.weights[name][rows].double() / unit).norm(dim=1, keepdim=True)
        draw = torch.randn(unit.shape, generator=generator, dtype=torch.float64)
        weights[name] = start.weights[name].clone()
        weights[name][rows] = (unit * draw * size / draw.norm(dim=1, keepdim=True)).to(start.dtype)
        drawn[name] = torch.zeros_like(weights[name], dtype=torch.bool)
        drawn[name][rows] = True
    return start.replace_weights(weights), drawn
