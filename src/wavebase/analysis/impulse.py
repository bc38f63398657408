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
    """response[position][unit]: the last hidden state after an input of +1 at one position, zeros elsewhere (first input
    channel), less the state that zeros alone leave. By unit: dominant bin k >= 1 over positions, its share, its phase in radians."""

    response: tuple[tuple[float, ...], ...]
    dominant: tuple[int, ...]
    dominant_share: tuple[float, ...]
    phase: tuple[float, ...]


def responses(cell: Cell, steps: int) -> np.ndarray:
    """[steps, H]: see `Impulse.response`."""
    assert cell.w_ih is not None
    width = next(iter(cell.w_ih.values())).shape[1]
    inputs = np.zeros((steps + 1, steps, width))
    inputs[range(steps), range(steps), 0] = 1
    last = simulate(cell, inputs).hidden[:, -1]
    return last[:-1] - last[-1]


def read(cell: Cell, steps: int) -> Impulse:
    """The responses of all positions of a sequence of `steps`."""
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
    """The quantities of ABOUT."""
    return {"impulse_dominant_share": float(shares(responses(cell, steps))[1:].max())}
