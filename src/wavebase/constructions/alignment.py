"""Find the symmetry that brings a net's weights closest to a construction: an element of B2 wr S_n.

The search has four steps. (1) Match units by what they do: a unit's attribution is h_u(t) dy_k/dh_u(t) on a few signals,
for every step t and output k, which no sign or swap changes; an assignment with least squared difference matches them.
(2) Take the signs of states from the matched traces, and swaps and signs of rows from the weights. (3) Match silent
units, whose attributions are zero, by their weights to matched units, from the readout back: dead ones (the sines of bins
0 and T/2) and those that only move saturated gates (a clock). (4) Descend on the distance itself, accepting improvements
only: assign one block's units with all others fixed, and flip signs of silent units. The descent also starts from the
weights as they are, and the nearer result wins. Planted elements are found exactly, also under small noise. Beyond a
distance of about 0.3 the result is good but need not be the nearest.

The distance is relative and in unit-scaled coordinates: an entry counts as W_ij / unit_ij (`construction.unit_scales`), by
its effect on the argument of its row, so that each row of each gate weighs the same, whatever the gains. A raw norm would
only see the largest gains, which are 1e10 times the smallest. Biases count by their sum, which is all that the cell sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wavebase.constructions.assignment import assign
from wavebase.constructions.construction import STATE_NAMES, Construction
from wavebase.constructions.rows import Rows, act_on_rows, rows_of
from wavebase.constructions.symmetry import Element, act, identity_element
from wavebase.recurrence.cells import GATES, lstm_step

ROUNDS = 8
ROUNDING = 1e-9  # in natural units
TINY = torch.finfo(torch.float64).tiny
SILENT = 1e-2  # attributions below this fraction of the net's root mean square do not identify a unit


class Alignment(NamedTuple):
    """The element found, `act(element, weights)`, and their distance from the start (see `distance`)."""

    element: Element
    weights: dict[str, Tensor]
    distance: float


def align(weights: Mapping[str, Tensor], start: Construction, signal: Tensor) -> Alignment:
    """Find the element of the discrete group that brings weights nearest to a construction's, on the CPU.

    The distance never exceeds that of the weights as they are.

    Args:
        weights: With the start's names and shapes.
        start: The construction. For input_gate=sigmoid only Z2 wr S_n is searched.
        signal: A few random signals of whole windows, [B, samples], on which units are compared.

    Raises:
        ValueError: For weights that are not finite.
    """
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise ValueError("weights must be finite to be aligned, got inf or nan; align an earlier checkpoint")
    search = _Search(weights, start, signal)
    known, identity = search.by_behaviour(), identity_element(start.hidden_size)
    same = all(map(torch.equal, vars(known).values(), vars(identity).values()))
    element = min(map(search.descend, [known] if same else [known, identity]), key=search.reached)
    aligned = act(element, weights)
    return Alignment(element, aligned, distance(aligned, start))


def distance(weights: Mapping[str, Tensor], start: Construction) -> float:
    """Return ||weights - start|| / ||start|| in unit-scaled coordinates: 1 for zero weights, 1 or more for unrelated ones."""
    units, origin = natural_units(start), rows_of(start.weights)
    return (_norm(rows_of(weights), units, origin) / _norm(origin, units)).item()


def least_size(weights: Mapping[str, Tensor], start: Construction) -> float:
    """Bound from below ||act(g, weights)|| / ||start|| over all elements g, in unit-scaled coordinates.

    Above 2, no element brings the weights nearer than zero weights are (triangle inequality): no search is needed. Rows
    are assigned by least sum of what their entries in any order (rearrangement inequality) add up to.
    """
    units, now, origin = natural_units(start), rows_of(weights), rows_of(start.weights)
    unit, entry, H = units.gates.square(), now.gates.square(), start.hidden_size
    i, f, g, o = range(4)

    def least(gate: int, other: int) -> Tensor:
        recurrent = unit[gate, :, :H].sort().values @ entry[other, :, :H].sort(descending=True).values.mT
        return recurrent + unit[gate, :, H:] @ entry[other, :, H:].mT

    rows = least(f, f) + least(o, o) + torch.minimum(least(i, i) + least(g, g), least(i, g) + least(g, i))
    column, read = (torch.cat([part.readout[:, :H], part.state]).square().mT for part in (units, now))
    cost = rows + column @ read.mT
    return cost[assign(cost.numpy())].sum().sqrt().item() / _norm(origin, units).item()


def block_distances(weights: Mapping[str, Tensor], start: Construction) -> dict[str, float]:
    """Return `distance` for the rows and states of each block's units, over that block's own size, and for the readout."""
    units, now, origin = natural_units(start), rows_of(weights), rows_of(start.weights)
    apart, size = ([(a * unit).square() for a, unit in zip(part, units, strict=True)] for part in (
        [new - old for new, old in zip(now, origin, strict=True)], origin))  # fmt: skip

    def of(part: list[Tensor], block: slice) -> Tensor:
        return part[0][:, block].sum() + part[1][:, block].sum()

    found = {name: (of(apart, block), of(size, block)) for name, block in start.blocks.items()}
    found["readout"] = apart[2].sum(), size[2].sum()
    return {
        name: ((moved / whole).sqrt() if whole > 0 else moved.sqrt()).item() for name, (moved, whole) in found.items()
    }


def changed_units(element: Element, start: Construction) -> Tensor:
    """Return which units' weights (rows, state, readout column) the element changes in the start: booleans [H]."""
    origin, moved, units = rows_of(start.weights), rows_of(act(element, start.weights)), natural_units(start)
    apart = (((a - b) * unit).abs() for a, b, unit in zip(origin, moved, units, strict=True))
    gates, state, readout = (difference > ROUNDING for difference in apart)
    return gates.any(-1).any(0) | state.any(0) | readout[:, :-1].any(0)


def natural_units(start: Construction) -> Rows:
    """Return 1 / `Construction.unit_scale` for every entry: the factor by which it counts in a distance."""
    unit = {name: scale.to("cpu", torch.float64).reciprocal() for name, scale in start.unit_scale.items()}
    both = 2**-0.5  # each of the two biases has 1/sqrt(2) of the unit of their sum
    gates = [
        torch.cat([unit[f"weight_hh_{g}"], unit[f"weight_ih_{g}"], both * unit[f"bias_ih_{g}"][:, None]], 1)
        for g in GATES
    ]
    return Rows(
        torch.stack(gates),
        torch.stack([unit[name] for name in STATE_NAMES]),
        torch.cat([unit["readout.weight"], unit["readout.bias"][:, None]], 1),
    )


def _norm(rows: Rows, units: Rows, origin: Rows | None = None) -> Tensor:
    apart = rows if origin is None else [a - b for a, b in zip(rows, origin, strict=True)]
    return torch.stack([(part * unit).norm() for part, unit in zip(apart, units, strict=True)]).norm()


def _behaviour(weights: Mapping[str, Tensor], start: Construction, signal: Tensor) -> tuple[Tensor, Tensor]:
    """Return each unit's attributions [H, outputs * steps * B], over the net's root mean square, and states [H, steps * B]."""
    w = {name: weight.detach().to("cpu", torch.float64) for name, weight in weights.items()}
    x = torch.nn.functional.pad(signal.to("cpu", torch.float64), (0, start.latency))
    w_ih, w_hh = (torch.cat([w[f"{kind}_{gate}"] for gate in GATES]) for kind in ("weight_ih", "weight_hh"))
    bias = torch.cat([w[f"bias_ih_{gate}"] + w[f"bias_hh_{gate}"] for gate in GATES])
    hidden, cell = (w[name].expand(len(x), -1) for name in STATE_NAMES)
    states = []
    for t in range(x.shape[1]):
        hidden, cell, _ = lstm_step(x[:, t, None] * w_ih.mT + bias + hidden @ w_hh.mT, cell, start.input_gate)
        states.append(hidden.requires_grad_())
    outputs = torch.cat([h @ w["readout.weight"].mT for h in states[start.T - 1 + start.latency :: start.T]], 1)
    each = torch.eye(outputs.shape[1], dtype=torch.float64)
    gradients = torch.autograd.grad(outputs.sum(0), states, each, is_grads_batched=True, materialize_grads=True)
    attributions = torch.stack([h.detach() * g for h, g in zip(states, gradients, strict=True)], 1)
    features = attributions.movedim(-1, 0).flatten(1)
    size = features.norm() / len(features) ** 0.5
    return features / size.clamp_min(TINY), torch.stack(states).detach().movedim(-1, 0).flatten(1)


class _Search:
    """The search for one net's element, in float64."""

    def __init__(self, weights: Mapping[str, Tensor], start: Construction, signal: Tensor):
        self.weights = {name: weight.detach().to("cpu", torch.float64) for name, weight in weights.items()}
        self.start, self.units, self.origin = start, natural_units(start), rows_of(start.weights)
        self.everything = torch.ones(start.hidden_size, dtype=torch.bool)
        self.blocks = [torch.arange(block.start, block.stop) for block in reversed(list(start.blocks.values()))]
        self.signal, self.behaviour = signal, _behaviour(start.weights, start, signal)
        self.active = self.behaviour[0].norm(dim=1) > SILENT
        now = rows_of(self.weights)
        self.rows = lru_cache(4)(lambda element: act_on_rows(element, now))  # a step begins where one arrived
        # a unit's weight on itself is in its row and in its column, so it does not count where both change
        own = torch.eye(*self.units.gates.shape[1:], dtype=torch.bool)
        self.units_of_others = self.units._replace(gates=self.units.gates.masked_fill(own, 0))

    def reached(self, element: Element) -> float:
        """Return the distance to the start under an element, not divided by the start's norm."""
        return _norm(self.rows(element), self.units, self.origin).item()

    def by_behaviour(self) -> Element:
        """Return the element of steps (1) to (3)."""
        (there, states), (here, now) = self.behaviour, _behaviour(self.weights, self.start, self.signal)
        match = torch.from_numpy(assign(torch.cdist(there, here).square().numpy())[1])
        sign = torch.where((states * now[match]).sum(1) < 0, -1.0, 1.0).to(torch.float64)
        identity, known, none = identity_element(len(match)), self.active.clone(), ~self.everything
        element = Element(match, identity.swap, identity.sign_input, sign)
        element = element.then(self.best_step(element, known.nonzero()[:, 0], known, none, stay=True))
        for block in self.blocks:
            if len(silent := block[~known[block]]):
                unknown = ~known
                unknown[silent] = False
                element = element.then(self.best_step(element, silent, known, known, unknown.nonzero()[:, 0]))
                known[silent] = True
        return element

    def descend(self, element: Element) -> Element:
        """Improve an element while the distance falls: block by block, then the signs of the silent units' states."""
        best, all_units = self.reached(element), self.everything.nonzero()[:, 0]

        def assigned(block: Tensor) -> Element:
            return element.then(self.best_step(element, block, self.everything, self.everything))

        def flipped(unit: Tensor) -> Element:
            flip = identity_element(len(all_units))
            flip.sign_cell[unit] = -1
            flip = element.then(flip)
            return flip.then(self.best_step(flip, all_units, self.everything, ~self.everything, stay=True))

        moves = [partial(assigned, block) for block in [*self.blocks, all_units]]
        moves += [partial(flipped, unit) for unit in (~self.active).nonzero()[:, 0]]
        failed = 0  # how many moves in a row did: all of them from where the search is, and it ends
        for move in moves * ROUNDS if best > 0 else []:
            proposed = move()
            if (reached := self.reached(proposed)) < best:
                element, best, failed = proposed, reached, 0
            elif (failed := failed + 1) == len(moves):
                break
        return element

    def best_step(
        self,
        element: Element,
        block: Tensor,
        sources: Tensor,
        readers: Tensor,
        others: Tensor | None = None,
        stay: bool = False,
    ) -> Element:
        """Return the best element for the units of `block` while all others stay as `element` has them.

        Args:
            element: What is applied already.
            block: Numbers of the units.
            sources: Units whose states are known, booleans [H]; the columns of others do not count.
            readers: Units whose rows are known, booleans [H]; the rows of others do not count.
            others: Numbers of units that may change places with the block's.
            stay: Keep permutation and signs of states; choose rows only.
        """
        now, origin, units = self.rows(element), self.origin, self.units if stay else self.units_of_others
        pool = block if others is None else torch.cat([block, others])
        counted = torch.cat([sources, torch.ones(2, dtype=torch.bool)])
        scale, ours, theirs = units.gates[:, block] * counted, origin.gates[:, block], now.gates[:, pool]
        input_, forget, cell, output = range(4)

        def compare(gate: int, with_gate: int) -> tuple[Tensor, Tensor]:
            return _differences(scale[gate], ours[gate], theirs[with_gate])

        def columns(part: Rows, chosen: Tensor) -> Tensor:
            read = part.gates[..., chosen] * readers[:, None]
            return torch.cat([read.flatten(0, 1), part.readout[:, chosen], part.state[:, chosen]]).mT

        column, column_cross = _differences(columns(units, block), columns(origin, block), columns(now, pool))
        common = column + sum(plain - cross for plain, cross in (compare(g, g) for g in (forget, output)))
        signed, costs, choices = self.start.input_gate == "tanh", [], []
        for swap in (False, True) if signed else (False,):
            i, i_cross = compare(input_, cell if swap else input_)
            g, g_cross = compare(cell, input_ if swap else cell)
            for sign_i in (1.0, -1.0) if signed else (1.0,):
                for sign_g in (sign_i,) if stay else (1.0, -1.0):
                    rows = i + g - sign_i * i_cross - sign_g * g_cross
                    costs.append(common + rows - sign_i * sign_g * column_cross)
                    choices.append((swap, sign_i, sign_g))
        least, which = torch.stack(costs).min(0)
        match = np.arange(len(block)) if stay else assign(least.numpy())[1]
        rest = np.setdiff1d(np.arange(len(pool)), match)
        step = identity_element(len(self.everything))
        step.permutation[pool] = pool[torch.from_numpy(np.concatenate([match, rest]))]
        chosen = torch.tensor(choices, dtype=torch.float64)[which[torch.arange(len(block)), torch.from_numpy(match)]]
        step.swap[block], step.sign_input[block], step.sign_cell[block] = chosen[:, 0] > 0, chosen[:, 1], chosen[:, 2]
        return step


def _differences(scale: Tensor, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Return first and second, both [n, n], with |scale_u (ours_u - sign theirs_v)|^2 = first - sign * second, of rows [n, m]."""
    squared = scale.square()
    first = (squared * ours.square()).sum(1, keepdim=True) + squared @ theirs.square().mT
    return first, 2 * (squared * ours) @ theirs.mT
