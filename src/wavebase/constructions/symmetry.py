"""Changes of an LSTM's weights, with a linear readout, that leave its function unchanged.

The discrete group B2 wr S_n, exact for any weights. With a signed input gate, a unit's c' = f c + i g does not change if
its input and cell rows are swapped or both negated. If one of them is negated, it changes sign with everything else that
holds or reads it (hidden_0, cell_0, its columns in the four recurrent matrices and the readout). These are the 8 signed
permutations of the pair (i, g). Units may be permuted. With a sigmoid input gate only the negation of g remains: Z2 wr S_n.

A continuous group in the linear regime (every tanh the identity), for nets of the spectral kind. Its moves by name:

    gen, clock, late, resonator, delay   GL(n) on a block that is linear through its cell rows: h -> S h, readers times S^-1
    sum       GL(n) through the input rows; the cell rows differ by a factor only, so D^-1 S D with D the input weights
    balance   per sum unit, input row times e^s, cell row times e^-s
    pair      GL(2) per quadrature pair of prod: input rows times M, cell rows times M^-T. spec reads a sum of products,
              a bilinear form of the two, so the O(2) of re^2 + im^2 is only a part of it
    prod, spec    per unit, cell row times e^s, readers times e^-s
    bias      b_ih + d, b_hh - d: exact in every regime

tanh breaks all but the last, relative to the function at the order of the square of its largest argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from wavebase.constructions.construction import STATE_NAMES, Construction
from wavebase.recurrence.cells import GATES, InputGate

CELL_LINEAR = ("gen", "clock", "late", "resonator", "delay")
KINDS = (*CELL_LINEAR, "sum", "balance", "pair", "prod", "spec", "bias")


@dataclass(frozen=True)
class Element:
    """An element of B2 wr S_n: unit n of the result is unit permutation[n], changed.

    Attributes:
        permutation: Integers [H].
        swap: Whether input and cell rows are exchanged, booleans [H].
        sign_input: +1 or -1 [H], multiplies the input row after the swap.
        sign_cell: The same for the cell row. The state is multiplied by sign_input * sign_cell.
    """

    permutation: Tensor
    swap: Tensor
    sign_input: Tensor
    sign_cell: Tensor

    @property
    def sign_state(self) -> Tensor:
        """The factor of each unit's state, +1 or -1 [H]."""
        return self.sign_input * self.sign_cell

    def then(self, second: Element) -> Element:
        """Return the element that acts like this one and then `second`."""
        p, swap = second.permutation, second.swap
        return Element(
            self.permutation[p],
            swap ^ self.swap[p],
            second.sign_input * torch.where(swap, self.sign_cell[p], self.sign_input[p]),
            second.sign_cell * torch.where(swap, self.sign_input[p], self.sign_cell[p]),
        )

    def inverse(self) -> Element:
        """Return the element that undoes this one."""
        p = self.permutation.argsort()
        swap, sign_input, sign_cell = self.swap[p], self.sign_input[p], self.sign_cell[p]
        return Element(p, swap, torch.where(swap, sign_cell, sign_input), torch.where(swap, sign_input, sign_cell))


def identity_element(H: int) -> Element:
    """Return the element of H units that changes nothing."""
    sign_input, sign_cell = torch.ones(2, H, dtype=torch.float64)
    return Element(torch.arange(H), torch.zeros(H, dtype=torch.bool), sign_input, sign_cell)


def random_element(H: int, generator: torch.Generator, input_gate: InputGate = "tanh") -> Element:
    """Draw a uniformly random element for H units, of Z2 wr S_n with input_gate=sigmoid."""
    permutation = torch.randperm(H, generator=generator)
    bits = torch.randint(2, (3, H), generator=generator)
    if input_gate == "sigmoid":
        bits[:2] = 0
    sign = (1 - 2 * bits).to(torch.float64)
    return Element(permutation, bits[0].bool(), sign[1], sign[2])


def act(element: Element, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights (names as in `Construction`) in the element's coordinates, without rounding."""
    p, changed = element.permutation, {}
    rows = {"input": (element.sign_input, "cell"), "cell": (element.sign_cell, "input")}
    for name, weight in weights.items():
        state = element.sign_state.to(weight)
        kind, _, gate = name.rpartition("_")
        if name in STATE_NAMES:
            changed[name] = weight[p] * state
        elif name == "readout.weight":
            changed[name] = weight[:, p] * state
        elif name == "readout.bias":
            changed[name] = weight
        else:
            new = weight[p]
            if gate in rows:
                sign, other = rows[gate]
                shape = (-1, *[1] * (weight.ndim - 1))
                new = torch.where(element.swap.to(weight.device).view(shape), weights[f"{kind}_{other}"][p], new)
                new = new * sign.to(weight).view(shape)
            changed[name] = new[:, p] * state if kind == "weight_hh" else new
    return changed


def linear_kinds(blocks: Mapping[str, slice]) -> tuple[str, ...]:
    """Return the names of the continuous moves that a net with these blocks has."""
    owner = {"balance": "sum", "pair": "prod"}
    return tuple(kind for kind in KINDS if kind == "bias" or owner.get(kind, kind) in blocks)


def linear_move(construction: Construction, kind: str, size: float, generator: torch.Generator) -> Construction:
    """Move a construction at random and finitely far along one of its `linear_kinds`.

    Args:
        construction: Stays as it is.
        kind: Name of the move.
        size: Of the move's generator. The matrices S and M are exponentials of size * normal / sqrt(n), scalings are
            exponentials of size * normal; bias moves by size * normal.
        generator: Of the numbers, drawn in float64.

    Raises:
        ValueError: For a kind that the construction lacks.
    """
    shape = _parameters(construction.blocks, kind, construction.hidden_size)
    draw = torch.randn(shape, generator=generator, dtype=torch.float64) * size
    if kind in (*CELL_LINEAR, "sum", "pair"):
        draw /= shape[-1] ** 0.5
    moved = _move(_double(construction.weights), construction.blocks, kind, draw)
    return construction.replace_weights({name: weight.to(construction.dtype) for name, weight in moved.items()})


def tangent(
    weights: Mapping[str, Tensor], blocks: Mapping[str, slice], kinds: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """Compute the directions of the continuous moves at some weights.

    At T = 8 there are 808 independent directions of 13,784 parameters, 90 MB. For weights that `act` has moved, take
    those of the aligned weights and move them likewise.

    Args:
        weights: By the names of `Construction`.
        blocks: Units by name.
        kinds: Some of `linear_kinds(blocks)`; None for all.

    Returns:
        By kind, float64 [directions, parameters]: one direction for each entry of a move's generator, not normalised,
        with parameters in the order of `flatten(weights)`.
    """
    start, directions = _double(weights), {}
    H = start["hidden_0"].numel()
    for kind in linear_kinds(blocks) if kinds is None else kinds:
        zero = torch.zeros(_parameters(blocks, kind, H), dtype=torch.float64)

        def moved(parameters: Tensor, kind: str = kind) -> Tensor:
            return flatten(_move(start, blocks, kind, parameters))

        directions[kind] = torch.func.jacfwd(moved)(zero).flatten(1).mT
    return directions


def flatten(weights: Mapping[str, Tensor]) -> Tensor:
    """Return all weights as one vector, in the mapping's order."""
    return torch.cat([weight.flatten() for weight in weights.values()])


def _double(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.detach().to(torch.float64) for name, weight in weights.items()}


def _parameters(blocks: Mapping[str, slice], kind: str, H: int) -> tuple[int, ...]:
    """Return the shape of a move's generator. Raise ValueError for a kind that the blocks do not allow."""
    if kind not in linear_kinds(blocks):
        raise ValueError(f"kind must be a move of these blocks, got {kind!r}; use {', '.join(linear_kinds(blocks))}")
    if kind == "bias":
        return len(GATES), H
    units = blocks[{"balance": "sum", "pair": "prod"}.get(kind, kind)]
    n = units.stop - units.start
    return {"balance": (n,), "prod": (n,), "spec": (n,), "pair": (n // 2, 2, 2)}.get(kind, (n, n))


def _move(
    weights: Mapping[str, Tensor], blocks: Mapping[str, slice], kind: str, parameters: Tensor
) -> dict[str, Tensor]:
    """Map h to E h: input rows times `of_input`, cell rows times `of_cell`, readers times E^-1. Differentiable."""
    if kind == "bias":
        shift = dict(zip(GATES, parameters, strict=True))
        return {
            name: weight + shift[name.rpartition("_")[2]] * (1 if name.startswith("bias_ih") else -1)
            if name.startswith("bias_")
            else weight
            for name, weight in weights.items()
        }
    H = weights["hidden_0"].numel()
    same = torch.eye(H, dtype=torch.float64)
    state, inverse, of_input, of_cell = same, same, same, same
    if kind in (*CELL_LINEAR, "sum"):
        units = blocks[kind]
        state, inverse = (_embed(torch.linalg.matrix_exp(sign * parameters), units, H) for sign in (1, -1))
        if kind == "sum":
            drive = weights["weight_ih_cell"][units, 0]
            of_input = _embed(torch.linalg.matrix_exp(parameters) * drive / drive[:, None], units, H)
        else:
            of_cell = state
    elif kind == "pair":
        units, spec = blocks["prod"], blocks["spec"]
        read = weights["weight_hh_cell"][spec, units].unflatten(1, (-1, 2)).diagonal(dim1=0, dim2=1).mT  # [F, 2]
        M = torch.linalg.matrix_exp(parameters)
        M_inverse = torch.linalg.matrix_exp(-parameters).mT * read[:, None, :] / read[:, :, None]
        of_input, of_cell = (_embed(torch.block_diag(*matrices), units, H) for matrices in (M, M_inverse))
    elif kind == "balance":
        of_input, of_cell = (_embed(torch.diag((sign * parameters).exp()), blocks["sum"], H) for sign in (1, -1))
    else:  # prod, spec
        state, inverse = (_embed(torch.diag((sign * parameters).exp()), blocks[kind], H) for sign in (1, -1))
        of_cell = state
    rows = {"input": of_input, "cell": of_cell}
    moved = {}
    for name, weight in weights.items():
        row_kind, _, gate = name.rpartition("_")
        if name in STATE_NAMES:
            moved[name] = state @ weight
        elif name.startswith("readout"):
            moved[name] = weight @ inverse if name == "readout.weight" else weight
        else:
            new = rows[gate] @ weight if gate in rows else weight
            moved[name] = new @ inverse if row_kind == "weight_hh" else new
    return moved


def _embed(matrix: Tensor, units: slice, H: int) -> Tensor:
    """Return the identity of H units with `matrix` at `units`."""
    inner = matrix - torch.eye(len(matrix), dtype=matrix.dtype)
    return torch.eye(H, dtype=matrix.dtype) + torch.nn.functional.pad(
        inner, (units.start, H - units.stop, units.start, H - units.stop)
    )
