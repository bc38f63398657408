"""The value that every measurement reads: one recurrent layer's weights, one matrix a gate, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike

from wavebase.recurrence.cells import GATES, GRU_GATES

Array = ArrayLike | torch.Tensor
Activation = Literal["relu", "tanh", "gru", "lstm", "lstm_signed"]
GATES_OF: dict[str, tuple[str, ...]] = {
    "relu": ("recurrent",),
    "tanh": ("recurrent",),
    "gru": GRU_GATES,
    "lstm": GATES,
    "lstm_signed": GATES,
}
SMALLEST = 1e-100  # of entries whose squares, and their sums, a double holds


@dataclass(frozen=True)
class Cell:
    """One layer of H units with I inputs, float64. A part that was not given is None or zero.

    Attributes:
        activation: relu or tanh (a plain recurrent net), gru, lstm (torch's cells), or lstm_signed (tanh input gate).
        w_hh: Gate to [H, H].
        w_ih: Gate to [H, I], or None.
        bias_ih, bias_hh: Gate to [H].
        hidden_0, cell_0: The state before the first step, [H].
        w_out: The readout, [outputs, H], or None.
    """

    activation: Activation
    w_hh: dict[str, np.ndarray]
    w_ih: dict[str, np.ndarray] | None
    bias_ih: dict[str, np.ndarray]
    bias_hh: dict[str, np.ndarray]
    hidden_0: np.ndarray
    cell_0: np.ndarray
    w_out: np.ndarray | None

    @property
    def hidden_size(self) -> int:
        """Number of hidden units H."""
        return len(self.hidden_0)

    @property
    def gated(self) -> bool:
        """Whether the cell has gates (GRU, LSTM)."""
        return len(self.w_hh) > 1

    def rescaled(self, scale: np.ndarray) -> Cell:
        """Return the same ReLU net in the coordinates h / scale, scale [H] > 0: W_ij scale_j / scale_i, w / scale, V scale.

        Raises:
            ValueError: For another cell, whose function rescaling would change.
        """
        if self.activation != "relu":
            raise ValueError(f"only a relu unit may be rescaled, got activation={self.activation}; leave it as it is")
        column = scale[:, None]
        return replace(
            self,
            w_hh={gate: w * scale / column for gate, w in self.w_hh.items()},
            w_ih=None if self.w_ih is None else {gate: w / column for gate, w in self.w_ih.items()},
            bias_ih={gate: b / scale for gate, b in self.bias_ih.items()},
            bias_hh={gate: b / scale for gate, b in self.bias_hh.items()},
            hidden_0=self.hidden_0 / scale,
            w_out=None if self.w_out is None else self.w_out * scale,
        )

    def with_norms_of(self, other: Cell) -> Cell:
        """Return this cell with each matrix scaled to the Frobenius norm of the other's."""

        def scaled(weight: np.ndarray, wanted: np.ndarray) -> np.ndarray:
            size = np.linalg.norm(weight)
            return weight * (np.linalg.norm(wanted) / size) if size else weight

        return replace(
            self,
            w_hh={gate: scaled(w, other.w_hh[gate]) for gate, w in self.w_hh.items()},
            w_ih=None
            if self.w_ih is None
            else {gate: scaled(w, (other.w_ih or {})[gate]) for gate, w in self.w_ih.items()},
            w_out=None if self.w_out is None or other.w_out is None else scaled(self.w_out, other.w_out),
        )


# long: half of it documents the arguments
def make_cell(
    w_hh: Array | Mapping[str, Array],
    w_ih: Array | Mapping[str, Array] | None = None,
    w_out: Array | None = None,
    activation: str | None = None,
    bias_ih: Array | Mapping[str, Array] | None = None,
    bias_hh: Array | Mapping[str, Array] | None = None,
    hidden_0: Array | None = None,
    cell_0: Array | None = None,
) -> Cell:
    """Check a layer's weights. Gates are stacked in torch's order or a mapping by name.

    Args:
        w_hh: [g H, H], with g gates (relu, tanh 1; gru 3; lstm 4).
        w_ih: [g H, I] or [g H].
        w_out: [n, H].
        activation: None: relu for one gate, gru for three, lstm for four.
        bias_ih, bias_hh: [g H], zero if left out.
        hidden_0, cell_0: [H], zero if left out.

    Raises:
        ValueError: For a matrix that is not square per gate, a number that is not finite, a wrong number of gates, or sizes
            that do not fit together.
    """
    if activation is not None and activation not in get_args(Activation):
        raise ValueError(f"activation must be one of {', '.join(get_args(Activation))}, got {activation!r}; use relu")
    matrix = as_array(w_hh, "w_hh")
    chosen, gates = _gates(matrix, activation)
    H, rows = matrix.shape[1], matrix.shape[0]

    def split(value: Array | Mapping[str, Array] | None, name: str) -> dict[str, np.ndarray]:
        stacked = np.zeros(rows) if value is None else as_array(value, name)
        if name == "w_ih" and stacked.ndim == 1:
            stacked = stacked[:, None]
        if stacked.ndim != (1 if name.startswith("bias") else 2) or stacked.shape[0] != rows:
            raise ValueError(
                f"{name} must have {rows} rows ({len(gates)} gates of {H} units), got {list(stacked.shape)}; give the same layer's"
            )
        return dict(zip(gates, np.split(stacked, len(gates)), strict=True))

    def vector(value: Array | None, name: str) -> np.ndarray:
        found = np.zeros(H) if value is None else as_array(value, name).ravel()
        if found.shape != (H,):
            raise ValueError(
                f"{name} must be [{H}], one number a unit, got {list(found.shape)}; leave it out for zeros"
            )
        return found

    readout = None if w_out is None else as_array(w_out, "w_out")
    if readout is not None and (readout.ndim != 2 or readout.shape[1] != H or not readout.shape[0]):
        raise ValueError(f"w_out must be [outputs, {H}], got {list(readout.shape)}; give the readout's weight")
    return Cell(
        activation=chosen,  # type: ignore[arg-type]
        w_hh=split(matrix, "w_hh"),
        w_ih=None if w_ih is None else split(w_ih, "w_ih"),
        bias_ih=split(bias_ih, "bias_ih"),
        bias_hh=split(bias_hh, "bias_hh"),
        hidden_0=vector(hidden_0, "hidden_0"),
        cell_0=vector(cell_0, "cell_0"),
        w_out=readout,
    )


def _gates(matrix: np.ndarray, activation: str | None) -> tuple[str, tuple[str, ...]]:
    """Return the kind of cell that w_hh belongs to, and its gates. Raises ValueError for a matrix of no cell."""
    if matrix.ndim != 2 or 0 in matrix.shape or matrix.shape[0] % matrix.shape[1]:
        raise ValueError(
            f"w_hh must be square, [H, H] a gate stacked to [gates*H, H], got {list(matrix.shape)}; give the recurrent matrix"
        )
    H, count = matrix.shape[1], matrix.shape[0] // matrix.shape[1]
    largest = float(np.abs(matrix).max())
    if largest and not SMALLEST < largest < 1 / SMALLEST:
        raise OutOfRangeError(
            f"w_hh must have a largest entry between {SMALLEST} and {1 / SMALLEST:g}, got {largest:.3g}; scale the net"
        )
    chosen: str = activation or {1: "relu", 3: "gru", 4: "lstm"}.get(count, "")
    gates = GATES_OF.get(chosen, ())
    if len(gates) != count:
        wanted = f"{len(gates)} for {chosen}" if chosen else "1 (relu, tanh), 3 (gru) or 4 (lstm)"
        raise ValueError(f"w_hh must hold {wanted} gates, got {count} of {H} units; choose the activation= that fits")
    return chosen, gates


def check_inputs(inputs: Array, cell: Cell) -> np.ndarray:
    """Return inputs as float64 [samples, steps, I]; [samples, steps] means I = 1.

    Raises:
        ValueError: For inputs that do not fit the cell, and for a cell without input weights.
    """
    x = as_array(inputs, "inputs")
    x = x[..., None] if x.ndim == 2 else x
    width = 0 if cell.w_ih is None else next(iter(cell.w_ih.values())).shape[1]
    if cell.w_ih is None or x.ndim != 3 or x.shape[2] != width or x.shape[0] < 2 or x.shape[1] < 2:
        wanted = f"[samples >= 2, steps >= 2, {width}]" if width else "given together with w_ih"
        raise ValueError(f"inputs must be {wanted}, got {list(x.shape)}; give signals of the net's own input size")
    return x


class OutOfRangeError(ValueError):
    """Weights hold a number that is nan, infinite, or of no usable size."""


def as_array(value: Array | Mapping[str, Array], name: str) -> np.ndarray:
    """Convert an array, a tensor (also a sparse one) or a mapping from gate to one to a float64 array.

    Raises:
        ValueError: With this name in it, for what is not real.
        OutOfRangeError: The same, for what is not finite.
    """
    if isinstance(value, Mapping):
        parts = [as_array(part, f"{name}[{gate}]") for gate, part in value.items()]
        if len({part.shape for part in parts}) != 1:
            raise ValueError(f"{name} must map every gate to an array of one shape, got {', '.join(value)}; give the recurrent matrix alone")  # fmt: skip
        return np.concatenate(parts)
    if isinstance(value, torch.Tensor):
        dense = value.detach().cpu() if value.layout == torch.strided else value.detach().cpu().to_dense()
        value = (dense if dense.is_complex() else dense.double()).numpy()
    try:
        array = np.array(value)
        array = array if array.dtype.kind == "c" else array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be an array of real numbers, got {type(value).__name__}; give a matrix"
        ) from error
    if array.dtype.kind == "c":  # numpy would drop the imaginary part
        raise ValueError(f"{name} must be an array of real numbers, got {array.dtype}; give a real matrix")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise OutOfRangeError(
            f"{name} must be finite, got {bad} entries that are nan or infinite; take an earlier checkpoint"
        )
    return array
