"""Zero weights to write an algorithm into, block by block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wavebase.constructions.construction import STATE_NAMES, WEIGHT_KINDS, Construction, check_size, unit_scales
from wavebase.recurrence.cells import GATES


class ConstructionBuilder:
    """The weights of a construction in the making, in float64, with the mask of intended entries.

    Args:
        blocks: Number of units of each block, in order.
        inputs: Inputs of the cell, I.

    Raises:
        ValueError: If the net does not fit into memory.
    """

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

    def linear(self, units: slice, margin: float) -> None:
        """Open the input gate of a block and close its forget gate: its cell is the tanh of its cell rows' argument."""
        self.bias("input", units, margin)
        self.bias("forget", units, -margin)

    def finish(
        self, peaks: Mapping[str, float], kappa: float, scale: float, dtype: torch.dtype, **fields: Any
    ) -> Construction:
        """Return the construction whose readout is scale * h_spec / kappa.

        Args:
            peaks: Largest |h| of each block, before tanh.
            kappa: Output gain.
            scale: Factor of the power.
            dtype: Of the weights.
            fields: The other fields of `Construction`.

        Raises:
            ValueError: If states, weights or readout do not fit the dtype.
        """
        max_activation = torch.ones(self.H, dtype=torch.float64)
        for name, units in self.blocks.items():
            max_activation[units] = min(abs(peaks[name]), 1.0)
        least = max_activation.min()
        if least * torch.finfo(dtype).eps < torch.finfo(dtype).tiny:
            raise ValueError(
                f"dtype must hold every state with all its digits, but {dtype} underflows at states of {least:.2g}; "
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
            max_activation=max_activation,
            unit_scale=unit_scales(weights, max_activation, fields["amplitude"], self.blocks),
            output_gain=kappa,
            scale=scale,
            **fields,
        )

    def in_dtype(self, dtype: torch.dtype, readout: Tensor) -> dict[str, Tensor]:
        """Return all weights with the readout [F, H], rounded once to `dtype`.

        Raises:
            ValueError: If a weight overflows or underflows, so that the gains do not fit the dtype.
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
