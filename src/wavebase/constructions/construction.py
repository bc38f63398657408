"""The value that a construction is: named weights, named blocks, what each unit computes, and how exact it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wavebase.recurrence import GATES, InputGate

WEIGHT_KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
WEIGHT_NAMES = tuple(f"{kind}_{gate}" for kind in WEIGHT_KINDS for gate in GATES)
STATE_NAMES = ("hidden_0", "cell_0")
READOUT_NAMES = ("readout.weight", "readout.bias")


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

    def packed(self) -> dict[str, Tensor]:
        """The weights under torch.nn.LSTM's names: weight_ih_l0 [4H, 1], weight_hh_l0 [4H, H], bias_ih_l0, bias_hh_l0."""
        return {f"{kind}_l0": torch.cat([self.weights[f"{kind}_{gate}"] for gate in GATES]) for kind in WEIGHT_KINDS}

    def replace_weights(self, weights: Mapping[str, Tensor]) -> Construction:
        """The same construction with other weights: no longer exact, so its error bound is infinite."""
        return replace(self, weights=dict(weights), error_bound=float("inf"))


class Draft:
    """Zero weights to write an algorithm into, block by block, keeping the mask of intended entries."""

    def __init__(self, blocks: Mapping[str, int], inputs: int = 1):
        ends = torch.tensor(list(blocks.values())).cumsum(0).tolist()
        self.blocks = {name: slice(end - size, end) for (name, size), end in zip(blocks.items(), ends, strict=True)}
        self.H = H = ends[-1]
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
        return Construction(
            weights=self.in_dtype(dtype, readout),
            blocks=self.blocks,
            mask=self.mask,
            level=level,
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

    def grown(name: str, weight: Tensor) -> Tensor:
        columns = more if name.startswith("weight_hh") or name == "readout.weight" else 0
        rows = 0 if name.startswith("readout") else more
        return torch.nn.functional.pad(weight, (0, columns, 0, rows) if weight.ndim == 2 else (0, rows))

    return replace(
        construction,
        weights={name: grown(name, weight) for name, weight in construction.weights.items()},
        mask={name: grown(name, mask) for name, mask in construction.mask.items()},
        level=torch.nn.functional.pad(construction.level, (0, more), value=1.0),
        blocks={**construction.blocks, "dead": slice(H, hidden_size)},
    )
