"""The spectral LSTM: one class and one readout whose start is exact, perturbed or random."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wavebase.constructions.construction import (
    READOUT_NAMES,
    STATE_NAMES,
    WEIGHT_KINDS,
    WEIGHT_NAMES,
    Construction,
    pad,
)
from wavebase.constructions.perturbation import Perturbation, perturb
from wavebase.constructions.rivals import delay_line_construction, resonator_construction
from wavebase.constructions.spectral import Preset, spectral_construction
from wavebase.models.unit_scaled import Parametrization, UnitScaled, is_unit_scaled, random_theta, unit_key
from wavebase.records.folder import load_weights
from wavebase.recurrence.cells import GATES, InputGate, Trace, lstm_trace
from wavebase.recurrence.lstm import join_gates, lstm_sequence
from wavebase.registry import registered

RIVALS = {"resonator": resonator_construction, "delay_line": delay_line_construction}


class SpectralLSTM(UnitScaled):
    """A single-layer LSTM over a signal, read once per window by a linear layer.

    Maps [batch, samples] (samples a multiple of T) to [batch, windows, bins]: `latency` zero samples flush the last
    window, and window j is read at step (j + 1) T - 1 + latency. Parameters are named as in `Construction.weights`,
    one matrix per gate, so that each can be trained, frozen and followed on its own. Inputs are cast to its dtype.

    Args:
        construction: The algorithm: its units, its timing, and its weights where no others are given.
        weights: To start from instead, by the names and shapes of the construction's; or None.
        unit_scaled: Whether the parameters are the weights over their natural units (`models.unit_scaled`) or the weights
            themselves; `named_weights` gives the weights either way.

    Raises:
        ValueError: For inputs of another shape.
    """

    hidden_0: nn.Parameter
    cell_0: nn.Parameter

    def __init__(
        self, construction: Construction, weights: Mapping[str, Tensor] | None = None, unit_scaled: bool = False
    ):
        super().__init__()
        weights = construction.weights if weights is None else weights
        self.T, self.latency, self.input_gate = construction.T, construction.latency, construction.input_gate
        self.construction, self.unit_scaled = construction, unit_scaled
        units = construction.unit_scale if unit_scaled else {}
        thetas: dict[str, Tensor] = {}
        for kind in WEIGHT_KINDS:  # the gates of a kind share packed units
            names = [f"{kind}_{gate}" for gate in GATES]
            packed = torch.cat([weights[name] for name in names])
            unit = torch.cat([units[name] for name in names]) if unit_scaled else None
            thetas |= dict(zip(names, self.in_units(kind, packed, unit).chunk(4), strict=True))
        for name in (*STATE_NAMES, *READOUT_NAMES):
            thetas[name] = self.in_units(name, weights[name], units.get(name))
        for name in (*WEIGHT_NAMES, *STATE_NAMES):
            self.register_parameter(name, nn.Parameter(thetas[name].clone()))
        self.readout = nn.Linear(construction.hidden_size, len(construction.bins)).to(construction.dtype)
        self.load_state_dict(thetas)

    def forward(self, signal: Tensor) -> Tensor:
        """Readout of every window: [batch, samples] to [batch, windows, bins]."""
        inputs, windows = flushed(signal.to(self.hidden_0.dtype), self.T, self.latency)
        h_0, c_0, w_ih, w_hh, b, weight, bias = self._states_and_weights(len(inputs))
        hidden, _, _ = lstm_sequence(inputs, h_0, c_0, w_ih, w_hh, b, self.input_gate)
        return nn.functional.linear(at_window_ends(hidden, self.T, self.latency, windows), weight, bias)

    def trace(self, signal: Tensor) -> Trace:
        """States and gates of every step, each [batch, samples + latency, H]."""
        inputs, _ = flushed(signal.to(self.hidden_0.dtype), self.T, self.latency)
        h_0, c_0, w_ih, w_hh, b, *_ = self._states_and_weights(len(inputs))
        return lstm_trace(inputs, h_0, c_0, w_ih, w_hh, b, self.input_gate)

    @torch.no_grad()
    def named_weights(self) -> dict[str, Tensor]:
        """Its weights by canonical name, one matrix per gate, detached."""
        found: dict[str, Tensor] = {}
        for kind in WEIGHT_KINDS:
            packed = self.in_weights(kind, torch.cat([getattr(self, f"{kind}_{gate}") for gate in GATES]))
            found |= {f"{kind}_{gate}": part for gate, part in zip(GATES, packed.chunk(4), strict=True)}
        found |= {name: self.in_weights(name, self.get_parameter(name)) for name in (*STATE_NAMES, *READOUT_NAMES)}
        return {name: found[name].detach() for name, _ in self.named_parameters()}

    def _states_and_weights(self, batch: int) -> tuple[Tensor, ...]:
        """Both initial states [batch, H], the joined weights of the cell, and weight and bias of the readout."""
        names = ("weight_ih", "weight_hh", "bias_ih", *READOUT_NAMES) if self.unit_scaled else ()
        units = [self._buffers[unit_key(name)] for name in names]
        parts = [getattr(self, name) for name in WEIGHT_NAMES]
        joined = join_gates(parts, [self.readout.weight, self.readout.bias], units)  # type: ignore[arg-type]
        return *(self.in_weights(name, getattr(self, name)).expand(batch, -1) for name in STATE_NAMES), *joined


def flushed(signal: Tensor, T: int, latency: int) -> tuple[Tensor, int]:
    """The signal [batch, samples] as inputs [batch, samples + latency, 1], and its number of windows."""
    if signal.ndim != 2 or signal.shape[1] < T or signal.shape[1] % T:
        raise ValueError(
            f"signal must be [batch, samples] with samples a multiple of T={T}, got {list(signal.shape)}; "
            "cut or pad it to whole windows"
        )
    return nn.functional.pad(signal, (0, latency)).unsqueeze(-1), signal.shape[1] // T


def at_window_ends(hidden: Tensor, T: int, latency: int, windows: int) -> Tensor:
    """Hidden states [batch, steps, H] at the steps where windows are read: [batch, windows, H]."""
    return hidden[:, T - 1 + latency :: T][:, :windows]


def spectral_lstm(
    T: int,
    bins: str | Iterable[int] = "full",
    *,
    dtype: torch.dtype = torch.float32,
    input_gate: InputGate = "tanh",
    preset: Preset = "exact",
    eps: float | None = None,
    gains: Mapping[str, float] | None = None,
    margin: float = 40.0,
    amplitude: float = 1.0,
    parametrization: Literal["unit_scaled", "raw"] = "unit_scaled",
) -> SpectralLSTM:
    """An LSTM that computes the power spectrum |X_k|^2 of each window of T real samples, exact to rounding.

    Maps [batch, samples] to [batch, windows, bins], unnormalised power (see `wavebase.power_spectrum`, its oracle).
    bins: "full" (0..T-1), "half" (0..T//2) or a list. amplitude: bound on |x|; larger inputs lose accuracy gradually.
    input_gate="sigmoid" builds the same function in torch.nn.LSTM's own cell. parametrization: what its parameters are,
    the weights over their natural units, which train at ordinary rates, or the weights themselves (raw); `named_weights`
    gives the weights. Other arguments, errors, and the
    derivation: `wavebase.constructions.spectral`. Its `construction` holds blocks, mask, gains and error bound.

    >>> import torch, wavebase
    >>> net = wavebase.spectral_lstm(8, bins="half", dtype=torch.float64)
    >>> signal = 2 * torch.rand(4, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    >>> net(signal).shape  # 4 signals, 3 windows, bins 0 to 4
    torch.Size([4, 3, 5])
    >>> exact = wavebase.power_spectrum(signal, 8, bins="half")
    >>> bool((net(signal) - exact).norm() < 1e-14 * exact.norm())
    True
    """
    return SpectralLSTM(
        spectral_construction(
            T,
            bins,
            dtype=dtype,
            input_gate=input_gate,
            preset=preset,
            eps=eps,
            gains=gains,
            margin=margin,
            amplitude=amplitude,
        ),
        unit_scaled=is_unit_scaled(parametrization, "exact"),
    )


@registered
def build(
    T: int,
    scale: float,
    signal_amplitude: float,
    windows: int,
    dtype: torch.dtype,
    init: torch.Generator,
    perturbation_generator: torch.Generator,
    *,
    bins: str | list[int] = "full",
    algorithm: Literal["spectral", "resonator", "delay_line"] = "spectral",
    hidden_size: int | None = None,
    start: Literal["exact", "perturbed", "random"] = "exact",
    input_gate: Literal["tanh", "sigmoid"] = "tanh",
    preset: Literal["exact", "trainable"] = "exact",
    eps: float | None = None,
    gains: dict[str, float | None] | None = None,
    margin: float = 40.0,
    amplitude: float | None = None,
    perturbation: Perturbation | None = None,
    start_from: str | None = None,
    parametrization: Parametrization = "raw",
) -> SpectralLSTM:
    """The net of a run: a construction for the task's sizes, as it is, perturbed, or with random weights in its place.

    start_from: a run's checkpoint, or any file of such weights by name, whose weights take the place of all that.

    algorithm: the spectral net or one of its rivals (`constructions.rivals`), which need input_gate=tanh. hidden_size:
    more units than the algorithm needs, dead at an exact start; None for none. parametrization: what is trained, see
    `models.unit_scaled`; a configuration of version 0.1 lacks it, and its weights are the parameters.
    """
    if start not in ("exact", "perturbed", "random"):
        raise ValueError(f"model.start must be exact, perturbed or random, got {start!r}; use exact")
    if perturbation is not None and start != "perturbed":
        raise ValueError(
            f"model.perturbation must be null unless model.start=perturbed, got start={start}; use model=perturbed"
        )
    unit_scaled = is_unit_scaled(parametrization, start)
    arguments: dict[str, Any] = {
        "dtype": dtype,
        "preset": preset,
        "eps": eps,
        "margin": margin,
        "gains": {name: value for name, value in (gains or {}).items() if value is not None},
        "amplitude": signal_amplitude if amplitude is None else amplitude,
        "scale": scale,
        "bound_windows": windows,
    }
    if algorithm == "spectral":
        construction = spectral_construction(T, bins, input_gate=input_gate, **arguments)
    elif algorithm not in RIVALS:
        raise ValueError(f"model.algorithm must be spectral, {' or '.join(RIVALS)}, got {algorithm!r}; use spectral")
    elif input_gate != "tanh":
        raise ValueError(f"model.input_gate must be tanh with algorithm={algorithm}, got {input_gate!r}; use tanh")
    else:
        construction = RIVALS[algorithm](T, bins, **arguments)
    if hidden_size is not None:
        construction = pad(construction, hidden_size)
    weights = construction.weights
    if start == "perturbed":
        weights = perturb(construction, perturbation or Perturbation(), perturbation_generator).weights
    elif start == "random":
        weights = random_weights(construction, init, unit_scaled)
    if start_from is not None:
        weights = _loaded(construction, start_from)
    return SpectralLSTM(construction, weights, unit_scaled)


def _loaded(construction: Construction, path: str) -> dict[str, Tensor]:
    """The construction's weights from a file, in its dtype. Raises ValueError for a file that does not hold them."""
    found = load_weights(Path(path))
    weights = {}
    for name, weight in construction.weights.items():
        if name not in found or found[name].shape != weight.shape:
            got = list(found[name].shape) if name in found else "nothing"
            raise ValueError(
                f"model.start_from must hold {name} {list(weight.shape)}, got {got} in {path}; use a checkpoint of a run of these sizes"
            )
        weights[name] = found[name].to(weight.dtype)
    return weights


def random_weights(
    construction: Construction, generator: torch.Generator, unit_scaled: bool = False
) -> dict[str, Tensor]:
    """Weights of the construction's shapes as torch.nn.LSTM and torch.nn.Linear draw them: uniform in +-1/sqrt(H).

    unit_scaled: random in the algorithm's own coordinates instead, each row as long as the algorithm's (`random_theta`).
    The state starts at zero. Drawn in float64, so that float32 and float64 nets start alike.
    """
    bound = construction.hidden_size**-0.5
    weights = {}
    for name, weight in construction.weights.items():
        if name in STATE_NAMES:
            weights[name] = torch.zeros_like(weight)
        elif unit_scaled:
            weights[name] = random_theta(weight, construction.unit_scale[name], generator)
        else:
            draw = torch.rand(weight.shape, generator=generator, dtype=torch.float64).mul_(2 * bound).sub_(bound)
            weights[name] = draw.to(weight.dtype)
    return weights
