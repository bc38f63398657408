"""`analyze`: every quantity of a recurrent net, each beside its nulls."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from wavebase.analysis import effective, impulse, modes, nonnormality, nulls, readout, rotations, trajectory
from wavebase.analysis.cell import Array, Cell, check_inputs, make_cell
from wavebase.analysis.effective import Effective
from wavebase.analysis.impulse import Impulse
from wavebase.analysis.nulls import NULLS, Alternative, Quantity
from wavebase.analysis.readout import Readout
from wavebase.analysis.simulation import null_cells, simulate
from wavebase.analysis.spectrum_report import Gate, Report
from wavebase.analysis.trajectory import RoleThresholds, Trajectory

STATES = 4_000_000  # samples x steps x units of a trajectory: 32 MB an array
RUN_DRAWS = 4  # a null of trajectories gets a quarter of the draws of one of matrices
KREISS_DRAWS = 39  # the fewest that can reject on two sides; each takes as long as fifty matrices without it
ROUNDING = float(np.finfo(float).eps)
Rows = list[dict[str, float]]  # quantities by name, one row a draw

__all__ = ["Gate", "Report", "analyze", "draws_checked"]


# long: half of it documents the arguments; the rest is one call for each kind of quantity
def analyze(
    w_hh: Array | Mapping[str, Array],
    w_ih: Array | Mapping[str, Array] | None = None,
    w_out: Array | None = None,
    inputs: Array | None = None,
    activation: str | None = None,
    *,
    bias_ih: Array | Mapping[str, Array] | None = None,
    bias_hh: Array | Mapping[str, Array] | None = None,
    hidden_0: Array | None = None,
    cell_0: Array | None = None,
    roles: RoleThresholds | None = None,
    draws: int | None = None,
    generator: torch.Generator | None = None,
) -> Report:
    """Read the spectrum of a recurrent layer. Every number comes with its distribution under two nulls.

    The null `random` has Gaussian weights of equal Frobenius norm, the null `shuffled` the same entries elsewhere. In a null
    of readouts every column keeps its mean and norm. Numbers of a ReLU net that rescaling its units would move are measured
    after balancing, and so are the nulls'. Definitions: docs/reading_spectra.md.

    Args:
        w_hh: Recurrent weights of H units and g gates (relu, tanh 1; gru 3; lstm 4; torch's order): [g H, H], or gate to
            [H, H].
        w_ih: Input weights [g H, I]. Without them nothing is run.
        w_out: The readout's weight, [outputs, H].
        inputs: Signals that the net is run on, [samples, steps] or [samples, steps, I]. Without them trajectories are left
            out.
        activation: relu, tanh, gru, lstm or lstm_signed (tanh input gate); None: relu, gru or lstm by the number of gates.
        bias_ih, bias_hh: [g H], zero if left out.
        hidden_0, cell_0: States before the first step, [H], zero if left out.
        roles: Thresholds of the units' roles.
        draws: Draws of each null of matrices and readouts (None: 199 up to 32 units, 159 up to 64, 49 up to 256, then 9 and fewer);
            nulls of trajectories get a quarter.
        generator: Source of the nulls (None: one with seed 0).

    Raises:
        ValueError: For weights that are not a layer's, inputs that do not fit, and inputs that let the states overflow.

    >>> import math, wavebase
    >>> c, s = math.cos(2 * math.pi / 5), math.sin(2 * math.pi / 5)
    >>> w_hh = [[c, -s, 0], [s, c, 0], [0, 0, 0.5]]  # a rotation of period 5, and a decay
    >>> report = wavebase.analyze(w_hh, activation="tanh", draws=19)
    >>> round(report.quantities["spectral_radius"].value, 6)
    1.0
    >>> [(round(mode.modulus, 6), round(mode.period, 6)) for mode in report.gates["recurrent"].modes if mode.rotating]
    [(1.0, 5.0), (1.0, 5.0)]
    """
    cell = make_cell(w_hh, w_ih, w_out, activation, bias_ih, bias_hh, hidden_0, cell_0)
    x = None if inputs is None else check_inputs(inputs, cell)
    count = draws_checked(draws, cell)
    relu = cell.activation == "relu"
    scale = nonnormality.balancing_scale(cell.w_hh["recurrent"]) if relu else np.ones(cell.hidden_size)
    cell = cell.rescaled(scale) if relu else cell
    measured = _Measurements(cell, count, generator or torch.Generator().manual_seed(0))
    gates = measured.gates()
    spectrum = measured.readout()
    answer = measured.impulse(x)
    path, jacobians = measured.trajectories(x, roles or RoleThresholds())
    return Report(
        activation=cell.activation,
        hidden_size=cell.hidden_size,
        balanced=relu,
        scale=tuple(scale.tolist()),
        gates=gates,
        readout=spectrum,
        trajectory=path,
        effective=jacobians,
        impulse=answer,
        quantities=measured.quantities,
        notes=(*measured.notes, *_too_few(measured.quantities)),
        cell=cell,
    )


class _Measurements:
    """The quantities of one cell beside their nulls. The order of calls is that of the generator's draws."""

    def __init__(self, cell: Cell, draws: int, generator: torch.Generator):
        self.cell, self.draws, self.generator = cell, draws, generator
        self.run_draws = max(draws // RUN_DRAWS, min(draws, 4))
        self.relu = cell.activation == "relu"
        self.quantities: dict[str, Quantity] = {}
        self.notes: list[str] = []

    def gates(self) -> dict[str, Gate]:
        """Read every recurrent matrix."""
        found = {}
        for gate, weight in self.cell.w_hh.items():
            # states are at most 1: such a matrix adds less than rounding to the sum in a gate
            idle = not self.relu and np.abs(weight).sum(1).max() < ROUNDING
            drawn: dict[str, Rows] = {}
            if idle:
                size = f"{np.abs(weight).max():.1e}"
                self.notes.append(
                    f"the recurrent matrix of {gate} has no effect (largest entry {size}), so it is not judged"
                )
            else:
                for kind, redraw in NULLS.items():
                    drawn[kind] = _matrix_null(weight, redraw(weight, self.draws, self.generator), self.relu)
            about = modes.ABOUT | rotations.ABOUT
            self._add(_rows(_matrix_statistics(weight[None]))[0], drawn, about, f"{gate}." if self.cell.gated else "")
            found[gate] = Gate(modes.modes(weight), rotations.rotation_pairs(weight), modes.self_recurrence(weight))
        return found

    def readout(self) -> Readout | None:
        """Read the readout, if it has four outputs or more."""
        columns = self.cell.w_out
        if columns is None or len(columns) < 4:
            self.notes.append("no readout of 4 outputs or more: its spectrum is left out")
            return None
        drawn = {kind: readout.null_readouts(columns, kind, self.draws, self.generator) for kind in NULLS}
        rows = {kind: _rows(readout.statistics(values)) for kind, values in drawn.items()}
        self._add(_rows(readout.statistics(columns[None]))[0], rows, readout.ABOUT)
        return readout.read(columns)

    def impulse(self, x: np.ndarray | None) -> Impulse | None:
        """Read the impulse response over as many steps as the inputs have, or as the readout has outputs."""
        cell = self.cell
        steps = x.shape[1] if x is not None else len(cell.w_out) if cell.w_out is not None else 0
        if cell.w_ih is None or steps < 4:
            return None
        if steps**2 * cell.hidden_size > 4 * STATES:
            self.notes.append(
                f"the impulse response over {steps} steps is left out: it has {steps**2 * cell.hidden_size:.2g} states"
            )
            return None
        drawn = self._run_nulls(lambda c: impulse.statistics(c, steps))
        self._add(impulse.statistics(cell, steps), drawn, impulse.ABOUT)
        return impulse.read(cell, steps)

    def trajectories(
        self, x: np.ndarray | None, thresholds: RoleThresholds
    ) -> tuple[Trajectory | None, Effective | None]:
        """Run the cell on inputs [samples, steps, I], as many as `STATES` allows."""
        if x is None:
            self.notes.append("no inputs: trajectories and effective dynamics are left out")
            return None, None
        most = max(2, STATES // (x.shape[1] * self.cell.hidden_size))
        if len(x) > most:
            self.notes.append(f"of {len(x)} inputs the first {most} are run, {STATES:g} states in all")
            x = x[:most]
        run = simulate(self.cell, x)
        if not np.isfinite(run.hidden).all():
            raise ValueError("inputs must leave the states finite, got an overflow; give fewer steps")

        # the quantities of a gated cell are those of its Jacobians, which a few samples tell
        few = x[: effective.MOST_SAMPLES] if self.cell.gated else x

        def measure(c: Cell) -> dict[str, float]:
            r = simulate(c, few)
            plain = {} if c.gated else trajectory.statistics(c, r, thresholds)
            return plain | effective.statistics(c, r)

        about = trajectory.ABOUT | trajectory.MARGIN_ABOUT | effective.ABOUT
        self._add(measure(self.cell), self._run_nulls(measure), about)
        path = None if self.cell.gated else trajectory.read(self.cell, run, thresholds)
        return path, effective.read(self.cell, run)[0]

    def _add(
        self,
        measured: Mapping[str, float],
        drawn: Mapping[str, Rows],
        about: Mapping[str, tuple[Alternative, bool, str]],
        prefix: str = "",
    ) -> None:
        stacked = {
            kind: {n: np.array([row[n] for row in rows if n in row]) for n in measured} for kind, rows in drawn.items()
        }
        found = nulls.compare(measured, stacked, about, self.relu, prefix)
        self.quantities.update({quantity.name: quantity for quantity in found})

    def _run_nulls(self, measure: Callable[[Cell], dict[str, float]]) -> dict[str, Rows]:
        rows = {}
        for kind in NULLS:
            cells = null_cells(self.cell, kind, self.run_draws, self.generator)
            if self.relu:
                scales = nonnormality.balancing_scale(np.stack([null.w_hh["recurrent"] for null in cells]))
                cells = [
                    null.rescaled(scale).with_norms_of(self.cell) for null, scale in zip(cells, scales, strict=True)
                ]
            with np.errstate(all="ignore"):  # a random net may explode; what is not finite counts as missing
                rows[kind] = [measure(null) for null in cells]
        return rows


def _too_few(quantities: Mapping[str, Quantity]) -> list[str]:
    """Return a note for each number of draws that is too small for some quantities to be starred at any value."""
    names: dict[int, list[str]] = {}
    for quantity in quantities.values():
        if quantity.undecidable:
            names.setdefault(quantity.nulls[0].draws, []).append(quantity.name.rpartition(".")[2])
    return [
        f"{draws} draws a null cannot reject at 5 % for {_some(list(dict.fromkeys(few)))}; use more draws"
        for draws, few in names.items()
    ]


def _some(names: list[str], most: int = 4) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def draws_checked(draws: int | None, cell: Cell) -> int:
    """Return the number of draws asked for, or the default for the cell's size.

    Raises:
        ValueError: For fewer than 4.
    """
    if draws is not None and draws < 4:
        raise ValueError(f"draws must be at least 4, got {draws}; use 199")
    return nulls.draws_for(cell.hidden_size, len(cell.w_hh)) if draws is None else draws


def _matrix_statistics(weights: np.ndarray, with_kreiss: bool = True) -> dict[str, np.ndarray]:
    return modes.statistics(weights, with_kreiss) | rotations.statistics(weights)


def _matrix_null(weight: np.ndarray, drawn: np.ndarray, relu: bool) -> Rows:
    """Return statistics of null matrices, balanced if the measured one was, each at its norm; small ones in batches."""
    rows = []
    batch = max(1, 200_000 // weight.size)
    for start in range(0, len(drawn), batch):
        part = drawn[start : start + batch]
        part = nulls.of_norm(nonnormality.balanced(part), float(np.linalg.norm(weight))) if relu else part
        first = min(max(KREISS_DRAWS - start, 0), len(part))
        for some, with_kreiss in ((part[:first], True), (part[first:], False)):
            rows += _rows(_matrix_statistics(some, with_kreiss)) if len(some) else []
    return rows


def _rows(statistics: Mapping[str, np.ndarray]) -> Rows:
    return [dict(zip(statistics, map(float, row), strict=True)) for row in zip(*statistics.values(), strict=True)]
