"""What a single input leaves behind at the end, position by position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wavebase.analysis.cell import Cell
from wavebase.analysis.nulls import Alternative
from wavebase.analysis.readout import shares
from wavebase.analysis.simulation import simulate
from wavebase.analysis.ties import first_largest

ABOUT: dict[str, tuple[Alternative, bool, str]] = {
    "impulse_dominant_share": ("greater", False, "largest share of one frequency in an impulse response"),
}


@dataclass(frozen=True)
class Impulse:
    """What an impulse leaves in the last hidden state.

    Attributes:
        response: By position and unit: the last state after +1 at one position of the first input channel and zeros
            elsewhere, minus the state after zeros alone.
        dominant: By unit, the bin k >= 1 of most energy in the transform over positions.
        dominant_share: Its proportion of the energy.
        phase: Its phase, in radians.
    """

    response: tuple[tuple[float, ...], ...]
    dominant: tuple[int, ...]
    dominant_share: tuple[float, ...]
    phase: tuple[float, ...]


def responses(cell: Cell, steps: int) -> np.ndarray:
    """Return `Impulse.response` as [steps, H]."""
    assert cell.w_ih is not None
    width = next(iter(cell.w_ih.values())).shape[1]
    inputs = np.zeros((steps + 1, steps, width))
    inputs[range(steps), range(steps), 0] = 1
    last = simulate(cell, inputs).hidden[:, -1]
    return last[:-1] - last[-1]


def read(cell: Cell, steps: int) -> Impulse:
    """Measure the responses to an impulse at each position of a sequence of `steps`."""
    response = responses(cell, steps)
    share = shares(response)
    dominant = first_largest(share[1:]) + 1
    transform = np.fft.rfft(response, axis=0)
    units = range(response.shape[1])
    return Impulse(
        response=tuple(map(tuple, response.tolist())),
        dominant=tuple(dominant.tolist()),
        dominant_share=tuple(share[dominant, units].tolist()),
        phase=tuple(np.angle(transform[dominant, units]).tolist()),
    )


def statistics(cell: Cell, steps: int) -> dict[str, float]:
    """Return the quantities of ABOUT."""
    return {"impulse_dominant_share": float(shares(responses(cell, steps))[1:].max())}
