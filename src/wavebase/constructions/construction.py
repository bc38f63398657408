"""A construction: an algorithm as named weights, with its blocks of units, its mask, and how exact it is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wavebase.limits import check_memory
from wavebase.recurrence.cells import GATES, InputGate

WEIGHT_KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
WEIGHT_NAMES = tuple(f"{kind}_{gate}" for kind in WEIGHT_KINDS for gate in GATES)
STATE_NAMES = ("hidden_0", "cell_0")
READOUT_NAMES = ("readout.weight", "readout.bias")
COPIES = 7  # of the recurrent weights in float64 that are held at once while a net is built from them (measured: 7.1)


@dataclass(frozen=True)
class Construction:
    """The weights of one cell that compute a power spectrum, or a lock-in's tone, as plain tensors.

    Letters: F bins, H hidden units, I inputs (1; a lock-in has its selector too).

    Attributes:
        weights: By name: weight_ih_<gate> [H, I], weight_hh_<gate> [H, H], bias_ih_<gate> and bias_hh_<gate> [H], four
            gates each; hidden_0 and cell_0 [H]; readout.weight [F, H], readout.bias [F].
        blocks: Units by name: gen (oscillators), sum (Fourier coefficients), prod (their squares), spec (power); those
            of the rivals (`constructions.rivals`); dead (`pad`).
        mask: For each weight_hh_<gate>, the entries that the algorithm uses. All others are zero by intention.
        max_activation: Largest |h| of each unit for inputs within `amplitude`, [H]: the scale of its column.
        unit_scale: Natural size of every entry, by the names of `weights` (`unit_scales`). `replace_weights` keeps it.
        gains: The gains that the algorithm was built with, by name.
        T: Window, samples.
        bins: Bin of each output, in order.
        input_gate: tanh or sigmoid.
        margin: Argument at which a saturated gate rests.
        amplitude: Bound on |x|.
        output_gain: kappa. A window's power is h_spec / kappa, read `latency` steps after its last sample.
        scale: Outputs are `scale` times the power.
        error_bound: Bound on |P_hat[k] - P[k]| / (T sum_t x_t^2) for every bin, infinite where nothing can be promised.
            The denominator is the window's whole spectral energy (Parseval: the sum of P over all bins).
        bound_windows: Windows of a stream for which `error_bound` holds.
        latency: Steps between a window's last sample and its output.
    """

    weights: Mapping[str, Tensor]
    blocks: Mapping[str, slice]
    mask: Mapping[str, Tensor]
    max_activation: Tensor
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

    @property
    def level(self) -> Tensor:
        """The old name of `max_activation`."""
        warnings.warn("Construction.level is Construction.max_activation now", DeprecationWarning, stacklevel=2)
        return self.max_activation

    def replace_weights(self, weights: Mapping[str, Tensor]) -> Construction:
        """Return the same construction with other weights. It is no longer exact, so its error bound is infinite."""
        return replace(self, weights=dict(weights), error_bound=float("inf"))


def check_size(hidden_size: int) -> None:
    """Raise ValueError if a net of one LSTM layer with this many units, and its construction, do not fit into memory."""
    check_memory(
        COPIES * len(GATES) * 8 * hidden_size**2,
        f"a net of {hidden_size} units",
        "use a smaller T, fewer bins or a smaller hidden_size",
    )


def unit_scales(
    weights: Mapping[str, Tensor], max_activation: Tensor, amplitude: float, blocks: Mapping[str, slice]
) -> dict[str, Tensor]:
    """Return the natural size of every entry of exact weights: W = unit * theta leaves theta of order one.

    unit_ij = drive_i / peak_j, where peak_j is the largest |value| that column j reads (`max_activation` for a unit,
    `amplitude` for the signal, 1 for other inputs and biases) and drive_i the largest argument that row i can reach, the
    sum of |W| peak over its recurrent, input and bias entries. A change of theta_ij by 1 % thus changes the argument of
    row i by at most 1 % of its drive. A row without drive, such as the sine of bin 0, gets the largest drive of its
    block's rows in that gate, or 1 where they have none either. An initial state has its unit's peak. The two biases of
    a gate are added, so each has 1/sqrt(2) of the unit: a gradient step along both then moves their sum as far as it
    would move a single bias.

    Args:
        weights: Exact weights by the names of `Construction`.
        max_activation: Largest |h| of each unit, [H].
        amplitude: Bound on the signal, the first input.
        blocks: Units by name.

    Returns:
        Tensors by the names, shapes and dtypes of `weights`. Each is moved by a few units in its last place, so that
        unit * (W / unit) is W bit for bit, and an algorithm that is exact to rounding stays exact in these coordinates.
    """
    peak = max_activation.to("cpu", torch.float64)
    w = {name: weight.detach().to("cpu", torch.float64).abs() for name, weight in weights.items()}
    scales = {name: peak.clone() for name in STATE_NAMES}

    def add_rows(recurrent: str, inputs: str | None, biases: tuple[str, ...]) -> None:
        drive = w[recurrent] @ peak + sum(w[bias] for bias in biases)
        if inputs is not None:
            reads = torch.ones(w[inputs].shape[1], dtype=torch.float64)
            reads[0] = amplitude
            drive = drive + w[inputs] @ reads
        for units in blocks.values() if inputs else [slice(0, len(drive))]:
            most = drive[units].max() if drive[units].any() else 1.0
            drive[units] = torch.where(drive[units] > 0, drive[units], most)
        scales[recurrent] = drive[:, None] / peak
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
    """Move the unit until the rounding of W / unit and that of its product with the unit cancel."""
    first, eps = unit, torch.finfo(unit.dtype).eps
    for attempt in range(1, 65):
        missed = weight / unit * unit != weight
        if not missed.any():
            break
        unit = torch.where(missed, first * (1 + attempt**2 * eps), unit)
    return unit


def packed(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by the names of `Construction.weights` under torch.nn.LSTM's names.

    Returns:
        weight_ih_l0 [4H, I], weight_hh_l0 [4H, H], bias_ih_l0 and bias_hh_l0 [4H]; the readout keeps its names.
    """
    joined = {f"{kind}_l0": torch.cat([named[f"{kind}_{gate}"] for gate in GATES]) for kind in WEIGHT_KINDS}
    return joined | {name: named[name] for name in READOUT_NAMES}


def pad(construction: Construction, hidden_size: int) -> Construction:
    """Add dead units, the block `dead`, so that algorithms of different sizes share one weight space.

    Every weight of a dead unit is zero and its state stays zero; no gradient reaches it. Its `max_activation` is 1, the
    bound on any |h|.

    Args:
        construction: The algorithm, whose function does not change.
        hidden_size: Units of the result.

    Raises:
        ValueError: If the construction has more units, or the result does not fit into memory.
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
    peaks = torch.nn.functional.pad(construction.max_activation, (0, more), value=1.0)
    blocks = {**construction.blocks, "dead": slice(H, hidden_size)}
    return replace(
        construction,
        weights=weights,
        mask={name: grown(name, mask) for name, mask in construction.mask.items()},
        max_activation=peaks,
        unit_scale=unit_scales(weights, peaks, construction.amplitude, blocks),
        blocks=blocks,
    )
