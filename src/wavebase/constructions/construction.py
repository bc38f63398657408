"""The value that a construction is: named weights, named blocks, what each unit computes, and how exact it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wavebase.limits import check_memory
from wavebase.recurrence.cells import GATES, InputGate

WEIGHT_KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
WEIGHT_NAMES = tuple(f"{kind}_{gate}" for kind in WEIGHT_KINDS for gate in GATES)
STATE_NAMES = ("hidden_0", "cell_0")
READOUT_NAMES = ("readout.weight", "readout.bias")
COPIES = 7  # of the recurrent weights in float64 that are held at once while a net is built from them (measured: 7.1)


def check_size(hidden_size: int) -> None:
    """Raise ValueError if a net of one LSTM layer with this many units, and its construction, do not fit into memory."""
    check_memory(
        COPIES * len(GATES) * 8 * hidden_size**2,
        f"a net of {hidden_size} units",
        "use a smaller T, fewer bins or a smaller hidden_size",
    )


@dataclass(frozen=True)
class Construction:
    """One cell's worth of weights that compute a power spectrum (or a lock-in's tone), as plain tensors.

    Letters: F bins, H hidden units, I inputs (1; a lock-in has its selector too). `weights` holds, by name,
        weight_ih_<gate> [H, I], weight_hh_<gate> [H, H], bias_ih_<gate>, bias_hh_<gate> [H]   (four gates each),
        hidden_0, cell_0 [H], readout.weight [F, H], readout.bias [F].
    `blocks` names the units: gen (oscillators), sum (Fourier coefficients), prod (their squares), spec (power); those of
    the rival algorithms in `rivals`; dead (`pad`).
    `level` [H] is the largest |h| that each unit reaches for inputs within `amplitude`: the scale of its column.
    `mask` marks, for each weight_hh_<gate>, the entries that the algorithm uses; all others are zero by intention.
    `unit_scale` is the natural size of every entry, by the names of `weights` (`unit_scales`); other weights in the place of
    the exact ones keep it.
    `output_gain` is kappa: a window's power is h_spec / kappa, read `latency` steps after its last sample; outputs are `scale`
    times the power.
    `error_bound`, for up to `bound_windows` windows in a stream of inputs within `amplitude`, bounds
    |P_hat[k] - P[k]| / (T * sum_t x_t^2) for every bin: the error in units of the window's whole spectral energy
    (Parseval: sum over all bins of P = T * sum_t x_t^2). It is infinite where nothing can be promised.
    """

    weights: Mapping[str, Tensor]
    blocks: Mapping[str, slice]
    mask: Mapping[str, Tensor]
    level: Tensor
    unit_scale: Mapping[str, Tensor]
    gains: Mapping[str, float]
    T: int
    bins: tuple[int, ...]
    input_gate: InputGate
    margin: float
    amplitude: float
    output_gain: float
    scale: float
    error_bound: float
    bound_windows: int
    latency: int = 2

    @property
    def hidden_size(self) -> int:
        """Number of hidden units H."""
        return self.weights["hidden_0"].numel()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the weights were chosen for."""
        return self.weights["hidden_0"].dtype

    def replace_weights(self, weights: Mapping[str, Tensor]) -> Construction:
        """The same construction with other weights: no longer exact, so its error bound is infinite."""
        return replace(self, weights=dict(weights), error_bound=float("inf"))


def unit_scales(
    weights: Mapping[str, Tensor], level: Tensor, amplitude: float, blocks: Mapping[str, slice]
) -> dict[str, Tensor]:
    """The natural size of every entry of exact weights: W = unit * theta leaves theta of order one, whatever the gains.

    unit_ij = drive_i / level_j: level_j is the largest |value| of what column j reads (`level` for a unit, `amplitude` for
    the signal, 1 for other inputs and for a bias), drive_i the largest argument that row i can reach, the sum of |W| level
    over its recurrent, input and bias entries. A change of theta_ij by 1 % thus changes the argument of row i by at most
    1 % of its own drive. A row without drive (the sine of bin 0, say) has the largest of its block's rows in that gate, or 1
    where they have none either; an initial state has its unit's level. The two
    biases of a gate are added, so each has 1/sqrt(2) of the unit: a step of gradient descent along both moves their sum
    as far as a single bias would move.

    Args:
        weights: Exact weights by the names of `Construction`.
        level: Largest |h| of each unit, [H].
        amplitude: Bound on the signal, the first input.
        blocks: Units by name.

    Returns:
        Tensors by the names, shapes and dtypes of `weights`. Each is moved by a few units in its last place, so that
        unit * (W / unit) is W bit for bit, and an algorithm that is exact to rounding stays so in these coordinates.
    """
    level = level.to("cpu", torch.float64)
    w = {name: weight.detach().to("cpu", torch.float64).abs() for name, weight in weights.items()}
    scales = {name: level.clone() for name in STATE_NAMES}

    def add_rows(recurrent: str, inputs: str | None, biases: tuple[str, ...]) -> None:
        drive = w[recurrent] @ level + sum(w[bias] for bias in biases)
        if inputs is not None:
            reads = torch.ones(w[inputs].shape[1], dtype=torch.float64)
            reads[0] = amplitude
            drive = drive + w[inputs] @ reads
        for units in blocks.values() if inputs else [slice(0, len(drive))]:
            most = drive[units].max() if drive[units].any() else 1.0
            drive[units] = torch.where(drive[units] > 0, drive[units], most)
        scales[recurrent] = drive[:, None] / level
        if inputs is not None:
            scales[inputs] = drive[:, None] / reads
        for bias in biases:
            scales[bias] = drive / len(biases) ** 0.5

    for gate in GATES:
        add_rows(f"weight_hh_{gate}", f"weight_ih_{gate}", (f"bias_ih_{gate}", f"bias_hh_{gate}"))
    add_rows("readout.weight", None, ("readout.bias",))
    units = {name: _without_rounding(weight, scales[name].to(weight)) for name, weight in weights.items()}
    return {name: units[name.replace("bias_hh", "bias_ih")] for name in weights}  # the two are added, so one unit


def _without_rounding(weight: Tensor, unit: Tensor) -> Tensor:
    """The unit moved until rounding of W / unit and of its product with the unit cancel."""
    first, eps = unit, torch.finfo(unit.dtype).eps
    for attempt in range(1, 65):
        missed = weight / unit * unit != weight
        if not missed.any():
            break
        unit = torch.where(missed, first * (1 + attempt**2 * eps), unit)
    return unit


def packed(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names of `Construction.weights` under torch.nn.LSTM's names: weight_ih_l0 [4H, I], weight_hh_l0
    [4H, H], bias_ih_l0, bias_hh_l0; the readout keeps its own."""
    joined = {f"{kind}_l0": torch.cat([named[f"{kind}_{gate}"] for gate in GATES]) for kind in WEIGHT_KINDS}
    return joined | {name: named[name] for name in READOUT_NAMES}


class ConstructionBuilder:
    """Zero weights to write an algorithm into, block by block, keeping the mask of intended entries."""

    def __init__(self, blocks: Mapping[str, int], inputs: int = 1):
        ends = torch.tensor(list(blocks.values())).cumsum(0).tolist()
        self.blocks = {name: slice(end - size, end) for (name, size), end in zip(blocks.items(), ends, strict=True)}
        self.H = H = ends[-1]
        check_size(H)
        shapes = {"weight_ih": (H, inputs), "weight_hh": (H, H), "bias_ih": (H,), "bias_hh": (H,)}
        self.weights = {
            f"{kind}_{gate}": torch.zeros(shapes[kind], dtype=torch.float64) for kind in WEIGHT_KINDS for gate in GATES
        }
        self.weights |= {name: torch.zeros(H, dtype=torch.float64) for name in STATE_NAMES}
        self.mask = {f"weight_hh_{gate}": torch.zeros(H, H, dtype=torch.bool) for gate in GATES}

    def connect(self, gate: str, to: slice, source: slice, weights: Tensor, pattern: Tensor | None = None) -> None:
        """Write weights [to, source] of one gate's recurrent matrix; `pattern` marks intended entries that may be 0."""
        self.weights[f"weight_hh_{gate}"][to, source] = weights
        self.mask[f"weight_hh_{gate}"][to, source] |= weights != 0 if pattern is None else pattern

    def bias(self, gate: str, to: slice, value: float) -> None:
        """Write one gate's bias of a block."""
        self.weights[f"bias_ih_{gate}"][to] = value

    def finish(
        self, peaks: Mapping[str, float], kappa: float, scale: float, dtype: torch.dtype, **fields: Any
    ) -> Construction:
        """The construction whose readout is scale * h_spec / kappa. peaks: the largest |h| of each block, before tanh.

        fields: the others of `Construction`. Raises ValueError if states, weights or readout do not fit the dtype.
        """
        level = torch.ones(self.H, dtype=torch.float64)
        for name, units in self.blocks.items():
            level[units] = min(abs(peaks[name]), 1.0)
        if level.min() * torch.finfo(dtype).eps < torch.finfo(dtype).tiny:
            raise ValueError(
                f"dtype must hold every state with all its digits, but {dtype} underflows at states of {level.min():.2g}; "
                "use dtype=float64 or a larger eps"
            )
        if not (math.isfinite(kappa) and kappa != 0 and math.isfinite(scale / kappa)):
            raise ValueError(
                f"model.gains must give a finite output gain, got kappa={kappa}; use gains nearer to the preset's"
            )
        spec = self.blocks["spec"]
        readout = torch.zeros(spec.stop - spec.start, self.H, dtype=torch.float64)
        readout[:, spec] = scale / kappa * torch.eye(len(readout), dtype=torch.float64)
        weights = self.in_dtype(dtype, readout)
        return Construction(
            weights=weights,
            blocks=self.blocks,
            mask=self.mask,
            level=level,
            unit_scale=unit_scales(weights, level, fields["amplitude"], self.blocks),
            output_gain=kappa,
            scale=scale,
            **fields,
        )

    def in_dtype(self, dtype: torch.dtype, readout: Tensor) -> dict[str, Tensor]:
        """All weights with the readout [F, H], rounded once to `dtype`.

        Raises ValueError if a weight overflows or underflows there: then the gains do not fit the dtype.
        """
        self.weights["readout.weight"] = readout
        self.weights["readout.bias"] = torch.zeros(readout.shape[0], dtype=torch.float64)
        rounded = {name: weight.to(dtype) for name, weight in self.weights.items()}
        tiny = torch.finfo(dtype).tiny
        for name, weight in rounded.items():
            exact = self.weights[name]
            if not weight.isfinite().all() or bool(((exact != 0) & (weight.abs() < tiny)).any()):
                big = exact.abs().max().item()
                raise ValueError(
                    f"dtype must hold every weight, but {name} (up to {big:.3g}) overflows or underflows {dtype}; "
                    "use dtype=float64 or gains nearer to 1"
                )
        return rounded


def pad(construction: Construction, hidden_size: int) -> Construction:
    """The same function with dead units behind the others, block `dead`, so that algorithms share one weight space.

    Every weight of a dead unit is zero, and so is its state, for ever: no gradient reaches it either. Its `level` is 1,
    the bound on any |h|. Raises ValueError if the construction has more than `hidden_size` units.
    """
    H, more = construction.hidden_size, hidden_size - construction.hidden_size
    if more < 0:
        raise ValueError(f"model.hidden_size must be at least the algorithm's own {H}, got {hidden_size}; use {H}")
    if not more:
        return construction
    check_size(hidden_size)

    def grown(name: str, weight: Tensor) -> Tensor:
        columns = more if name.startswith("weight_hh") or name == "readout.weight" else 0
        rows = 0 if name.startswith("readout") else more
        return torch.nn.functional.pad(weight, (0, columns, 0, rows) if weight.ndim == 2 else (0, rows))

    weights = {name: grown(name, weight) for name, weight in construction.weights.items()}
    level = torch.nn.functional.pad(construction.level, (0, more), value=1.0)
    blocks = {**construction.blocks, "dead": slice(H, hidden_size)}
    return replace(
        construction,
        weights=weights,
        mask={name: grown(name, mask) for name, mask in construction.mask.items()},
        level=level,
        unit_scale=unit_scales(weights, level, construction.amplitude, blocks),
        blocks=blocks,
    )
