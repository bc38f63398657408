"""The inputs that each layer of a file's nets is run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wavebase.analysis.cell import as_array, make_cell
from wavebase.analysis.simulation import simulate
from wavebase.analysis.state_dicts import Layer


def layer_inputs(
    layers: Sequence[Layer], given: Any, draw: Callable[[int], np.ndarray]
) -> tuple[dict[str, np.ndarray | None], list[str]]:
    """Choose the inputs of every layer.

    A layer of level 0 reads the given inputs, or drawn ones if there are none. A layer above reads the states of both
    directions below it. A reverse layer reads time backwards.

    Args:
        layers: As `state_dicts.find` returns them.
        given: The inputs of the nets, [samples, steps, I] or [samples, steps] for I = 1; None if the file has none.
        draw: Returns inputs [samples, steps, I] for a number of channels I.

    Returns:
        Inputs [samples, steps, I] by layer, None for one that is not run; and notes on those.

    Raises:
        ValueError: For given inputs that fit no layer.
    """
    x = None if given is None else as_array(given, "inputs")
    x = x[..., None] if x is not None and x.ndim == 2 else x
    found: dict[str, np.ndarray | None] = {}
    notes: list[str] = []
    states: dict[tuple[str, int], dict[bool, np.ndarray]] = {}  # of (net, level), by direction, in the order of time
    widths = set()
    for layer in sorted(layers, key=lambda layer: layer.level):
        if layer.w_ih is None:
            found[layer.name] = None
            continue
        width = layer.input_size
        below = states.get((layer.net, layer.level - 1), {})
        if below:
            signal = np.concatenate([below[way] for way in sorted(below)], -1)
        elif any(other.net == layer.net and other.level == layer.level - 1 for other in layers):
            found[layer.name] = None  # the layer below was not run
            continue
        else:
            widths.add(width)
            signal = draw(width) if x is None else x
            if layer.level:
                notes.append(f"{layer.name} is read without the layer below it, which the file lacks")
        if signal.ndim != 3 or signal.shape[2] != width:
            found[layer.name] = None
            notes.append(f"{layer.name} reads {width} channels, which the inputs lack: it is not run")
            continue
        signal = np.ascontiguousarray(signal[:, ::-1]) if layer.reverse else signal  # torch takes no negative strides
        found[layer.name] = signal
        if any(other.net == layer.net and other.level == layer.level + 1 for other in layers):
            hidden = simulate(make_cell(**layer.arguments()), signal).hidden
            hidden = hidden if layer.projection is None else hidden @ layer.projection.T
            states.setdefault((layer.net, layer.level), {})[layer.reverse] = (
                hidden[:, ::-1] if layer.reverse else hidden
            )
    if x is not None and all(signal is None for signal in found.values()):
        wanted = (
            " or ".join(f"[samples >= 2, steps >= 2, {width}]" for width in sorted(widths))
            or "given together with w_ih"
        )
        raise ValueError(f"inputs must be {wanted}, got {list(x.shape)}; give signals of the net's own input size")
    return found, notes
