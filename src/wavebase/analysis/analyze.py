"""`analyze`: every quantity of a recurrent net, each with its null, as one value with a table and a JSON form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wavebase.analysis import (
    effective,
    impulse,
    modes,
    nonnormality,
    nulls,
    readout,
    report_text,
    rotations,
    trajectory,
)
from wavebase.analysis.cell import Array, Cell, check_inputs, make_cell
from wavebase.analysis.effective import Effective
from wavebase.analysis.impulse import Impulse
from wavebase.analysis.modes import Mode, SelfRecurrence
from wavebase.analysis.nulls import NULLS, Quantity
from wavebase.analysis.readout import Readout
from wavebase.analysis.rotations import RotationPair
from wavebase.analysis.simulation import null_cells, simulate
from wavebase.analysis.trajectory import RoleThresholds, Trajectory

STATES = 4_000_000  # samples x steps x units that a trajectory may hold: 32 MB an array
RUN_DRAWS = 4  # a null of trajectories gets a quarter of the draws that one of matrices gets
KREISS_DRAWS = 39  # the fewest that can reject on two sides; each takes as long as fifty matrices without it
ROUNDING = float(np.finfo(float).eps)


@dataclass(frozen=True)
class Gate:
    """One recurrent matrix: modes, strongest rotation pairs, self-recurrence; of ReLU nets in balanced coordinates."""

    modes: tuple[Mode, ...]
    rotation_pairs: tuple[RotationPair, ...]
    self_recurrence: tuple[SelfRecurrence, ...]


@dataclass(frozen=True)
class Report:
    """What `analyze` found. quantities: name to Quantity, recurrent matrices under "<gate>.<name>" where there are several
    gates. Parts that the inputs do not allow are None (see notes). balanced: gauge-dependent numbers were measured
    after balancing (ReLU), because a rescaling of units moves them; scale: the balancing scale [H], h = scale * h_balanced."""

    activation: str
    hidden_size: int
    balanced: bool
    scale: tuple[float, ...]
    gates: dict[str, Gate]
    readout: Readout | None
    trajectory: Trajectory | None
    effective: Effective | None
    impulse: Impulse | None
    quantities: dict[str, Quantity]
    notes: tuple[str, ...]
    cell: Cell = dataclasses.field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, text, lists and mappings; complex numbers as [real, imaginary]. The weights are left out."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "cell"} | {
            "flagged": [name for name, quantity in self.quantities.items() if quantity.flagged]
        }

    def short(self, name: str) -> str:
        """Return a few lines for a console about a net of this name; see `report_text.short`."""
        return report_text.short(self, name)

    def table(self) -> str:
        """Return the quantities as a table of at most 80 columns; see `report_text.table`."""
        return report_text.table(self)


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
    """Read the spectrum of a recurrent layer; every number comes with its distribution under two nulls.

    Letters: H hidden units, g gates (relu, tanh 1; gru 3; lstm 4, gate order torch's), I inputs, n outputs.
    w_hh: [g H, H], or gate to [H, H]. w_ih: [g H, I]; without it nothing is run. w_out: [n, H], the readout's weight.
    inputs: [samples, steps] or [samples, steps, I], what the net is read on; without them trajectories are left out.
    activation: relu, tanh, gru, lstm or lstm_signed (tanh input gate); None: relu, gru or lstm by the number of gates.
    bias_ih, bias_hh: [g H]; hidden_0, cell_0: [H]; all zero if left out. roles: thresholds of the units' roles.
    draws: of each null for matrices and readouts (None: 199 up to 64 units, 49 up to 256, then 9), a quarter of it for
    trajectories. generator: of the nulls (None: one of seed 0).

    Nulls: `random`, Gaussian weights of equal Frobenius norm; `shuffled`, the same entries elsewhere. Of a readout every
    column keeps its mean and norm. For ReLU nets numbers that a rescaling of units would move are measured after balancing, and so are
    the nulls'. Definitions: docs/reading_spectra.md. Raises ValueError, in one line, for weights that are not a layer's.

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
    generator = generator or torch.Generator().manual_seed(0)
    H, relu = cell.hidden_size, cell.activation == "relu"
    scale = nonnormality.balancing_scale(cell.w_hh["recurrent"]) if relu else np.ones(H)
    cell = cell.rescaled(scale) if relu else cell
    notes = []

    quantities: dict[str, Quantity] = {}

    def add(
        measured: Mapping[str, float], drawn: Mapping[str, list[dict[str, float]]], about: Any, prefix: str = ""
    ) -> None:
        stacked = {
            kind: {n: np.array([row[n] for row in rows if n in row]) for n in measured} for kind, rows in drawn.items()
        }
        found = nulls.compare(measured, stacked, about, relu, prefix)
        quantities.update({quantity.name: quantity for quantity in found})

    gates = {}
    for gate, weight in cell.w_hh.items():
        prefix = f"{gate}." if cell.gated else ""
        about = modes.ABOUT | rotations.ABOUT
        measured = _rows(_matrix_statistics(weight[None]))[0]
        # states are at most 1, so such a matrix adds less than rounding to what is summed in a gate
        idle = not relu and np.abs(weight).sum(1).max() < ROUNDING
        drawn = (
            {}
            if idle
            else {kind: _matrix_null(weight, redraw(weight, count, generator), relu) for kind, redraw in NULLS.items()}
        )
        if idle:
            size = f"{np.abs(weight).max():.1e}"
            notes.append(f"the recurrent matrix of {gate} has no effect (largest entry {size}), so it is not judged")
        add(measured, drawn, about, prefix)
        gates[gate] = Gate(modes.modes(weight), rotations.rotation_pairs(weight), modes.self_recurrence(weight))

    spectrum = None
    if cell.w_out is not None and len(cell.w_out) >= 4:
        spectrum = readout.read(cell.w_out)
        columns = cell.w_out
        drawn_out = {kind: readout.null_readouts(columns, kind, count, generator) for kind in NULLS}
        rows = {kind: _rows(readout.statistics(values)) for kind, values in drawn_out.items()}
        add(_rows(readout.statistics(columns[None]))[0], rows, readout.ABOUT)
    else:
        notes.append("no readout of 4 outputs or more: its spectrum is left out")

    path = jacobians = answer = None
    thresholds = roles or RoleThresholds()
    run_draws = max(count // RUN_DRAWS, min(count, 4))
    steps = x.shape[1] if x is not None else len(cell.w_out) if cell.w_out is not None else 0
    if cell.w_ih is not None and steps >= 4 and steps**2 * H <= 4 * STATES:
        answer = impulse.read(cell, steps)
        add(
            impulse.statistics(cell, steps),
            _run_nulls(cell, run_draws, generator, lambda c: impulse.statistics(c, steps)),
            impulse.ABOUT,
        )
    if x is not None:
        most = max(2, STATES // (x.shape[1] * H))
        if len(x) > most:
            notes.append(f"of {len(x)} inputs the first {most} are run, {STATES:g} states in all")
        x = x[:most]
        run = simulate(cell, x)
        if not np.isfinite(run.hidden).all():
            raise ValueError("inputs must leave the states finite, got an overflow; give fewer steps")

        def measure(c: Cell) -> dict[str, float]:
            r = simulate(c, x)
            plain = {} if c.gated else trajectory.statistics(c, r, thresholds)
            return plain | effective.statistics(c, r)

        jacobians = effective.read(cell, run)[0]
        path = None if cell.gated else trajectory.read(cell, run, thresholds)
        about = trajectory.ABOUT | trajectory.MARGIN_ABOUT | effective.ABOUT
        add(measure(cell), _run_nulls(cell, run_draws, generator, measure), about)
    else:
        notes.append("no inputs: trajectories and effective dynamics are left out")
    notes += _too_few(quantities)
    return Report(
        activation=cell.activation,
        hidden_size=H,
        balanced=relu,
        scale=tuple(scale.tolist()),
        gates=gates,
        readout=spectrum,
        trajectory=path,
        effective=jacobians,
        impulse=answer,
        quantities=quantities,
        notes=tuple(notes),
        cell=cell,
    )


def _too_few(quantities: Mapping[str, Quantity]) -> list[str]:
    """A note for each number of draws with which no value of some quantities could have been starred."""
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
    """The number of draws asked for, or the size's default. Raises ValueError."""
    if draws is not None and draws < 4:
        raise ValueError(f"draws must be at least 4, got {draws}; use 199")
    return nulls.draws_for(cell.hidden_size, len(cell.w_hh)) if draws is None else draws


def _matrix_statistics(weights: np.ndarray, with_kreiss: bool = True) -> dict[str, np.ndarray]:
    return modes.statistics(weights, with_kreiss) | rotations.statistics(weights)


def _matrix_null(weight: np.ndarray, drawn: np.ndarray, relu: bool) -> list[dict[str, float]]:
    """Statistics of null matrices, balanced where the measured one was, each at its norm; one batch of small ones at a time."""
    rows = []
    batch = max(1, 200_000 // weight.size)
    for start in range(0, len(drawn), batch):
        part = drawn[start : start + batch]
        part = nulls.of_norm(nonnormality.balanced(part), float(np.linalg.norm(weight))) if relu else part
        first = min(max(KREISS_DRAWS - start, 0), len(part))
        for some, with_kreiss in ((part[:first], True), (part[first:], False)):
            rows += _rows(_matrix_statistics(some, with_kreiss)) if len(some) else []
    return rows


def _run_nulls(
    cell: Cell, draws: int, generator: torch.Generator, measure: Callable[[Cell], dict[str, float]]
) -> dict[str, list[dict[str, float]]]:
    rows = {}
    for kind in NULLS:
        cells = null_cells(cell, kind, draws, generator)
        if cell.activation == "relu":
            scales = nonnormality.balancing_scale(np.stack([null.w_hh["recurrent"] for null in cells]))
            cells = [null.rescaled(scale).with_norms_of(cell) for null, scale in zip(cells, scales, strict=True)]
        with np.errstate(all="ignore"):  # a random net may explode; what is not finite counts as missing
            rows[kind] = [measure(null) for null in cells]
    return rows


def _rows(statistics: Mapping[str, np.ndarray]) -> list[dict[str, float]]:
    return [dict(zip(statistics, map(float, row), strict=True)) for row in zip(*statistics.values(), strict=True)]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, complex):
        return [value.real, value.imag]
    return value.item() if isinstance(value, np.generic) else value
