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
from wavebase.constructions.gains import Preset
from wavebase.constructions.options import refuse_ignored
from wavebase.constructions.perturbation import Perturbation, perturb
from wavebase.constructions.rivals import RIVALS
from wavebase.constructions.spectral import spectral_construction
from wavebase.models.base import split_gates
from wavebase.models.starts import load_start, random_weights
from wavebase.models.unit_scaled import Parametrization, UnitScaled, is_unit_scaled, unit_key
from wavebase.models.windows import flushed, warn_beyond_amplitude, window_ends
from wavebase.recurrence.cells import GATES, InputGate, Trace, lstm_trace
from wavebase.recurrence.lstm import join_gates, read_sequence
from wavebase.registry import registered

# keys of the units of all that `join_gates` joins
JOINED_UNITS = tuple(map(unit_key, ("weight_ih", "weight_hh", "bias_ih", *READOUT_NAMES)))


class SpectralLSTM(UnitScaled):
    """A single-layer LSTM over a signal, read once per window by a linear layer.

    Maps [batch, samples] (samples a multiple of T) to [batch, windows, bins]: `latency` zero samples flush the last
    window, and window j is read at step (j + 1) T - 1 + latency. Parameters are named as in `Construction.weights`,
    one matrix per gate, so that each can be trained, frozen and followed on its own. Inputs are cast to its dtype. The
    first signal on the CPU that exceeds the construction's `amplitude` gives a warning.

    Args:
        construction: The algorithm: its units, its timing, and its weights where no others are given.
        weights: To start from instead, by the names and shapes of the construction's; or None.
        unit_scaled: Whether the parameters are the weights over their natural units (`models.unit_scaled`) or the
            weights themselves; `named_weights` gives the weights either way.

    Raises:
        ValueError: For a construction without one input and an output a bin, such as a lock-in, and for other weights.
    """

    hidden_0: nn.Parameter
    cell_0: nn.Parameter
    returns_reading = True

    def __init__(
        self, construction: Construction, weights: Mapping[str, Tensor] | None = None, unit_scaled: bool = False
    ):
        super().__init__()
        weights = construction.weights if weights is None else weights
        _check_weights(construction, weights)
        self.T, self.latency, self.input_gate = construction.T, construction.latency, construction.input_gate
        self.construction, self.unit_scaled = construction, unit_scaled
        self._amplitude_checked = False
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
        """Return the readout of every window: [batch, samples] to [batch, windows, bins].

        Raises:
            ValueError: For anything but a real tensor [batch, samples] of whole windows.
        """
        inputs = flushed(signal, self.T, self.latency, self.hidden_0.dtype)
        if not self._amplitude_checked:
            self._amplitude_checked = warn_beyond_amplitude(signal, self.construction.amplitude)
        h_0, c_0 = self._states(len(inputs))
        at = window_ends(self.T, self.latency)
        return read_sequence(inputs, h_0, c_0, *self._parts(), self.input_gate, at)

    def trace(self, signal: Tensor) -> Trace:
        """Return states and gates of every step, each [batch, samples + latency, H]."""
        inputs = flushed(signal, self.T, self.latency, self.hidden_0.dtype)
        h_0, c_0 = self._states(len(inputs))
        w_ih, w_hh, b, *_ = join_gates(*self._parts())
        return lstm_trace(inputs, h_0, c_0, w_ih, w_hh, b, self.input_gate)

    @torch.no_grad()
    def named_weights(self) -> dict[str, Tensor]:
        """Return the weights by canonical name, one matrix per gate, detached."""
        found: dict[str, Tensor] = {}
        for kind in WEIGHT_KINDS:
            packed = self.in_weights(kind, torch.cat([getattr(self, f"{kind}_{gate}") for gate in GATES]))
            found |= split_gates([(kind, packed)], GATES)
        found |= {name: self.in_weights(name, self.get_parameter(name)) for name in (*STATE_NAMES, *READOUT_NAMES)}
        return {name: found[name].detach() for name, _ in self.named_parameters()}

    def _states(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return both initial states, [batch, H]."""
        hidden, cell = self.in_weights("hidden_0", self.hidden_0), self.in_weights("cell_0", self.cell_0)
        return hidden.expand(batch, -1), cell.expand(batch, -1)

    def _parts(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return the gates, the readout and the units of both, as `join_gates` takes them."""
        held = self._parameters  # sixteen look-ups a step: directly, not through nn.Module's getattr
        units = [self._buffers[key] for key in JOINED_UNITS] if self.unit_scaled else []
        return [held[name] for name in WEIGHT_NAMES], [self.readout.weight, self.readout.bias], units  # type: ignore[misc,return-value]


def _check_weights(construction: Construction, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the net can hold the construction, and the weights fit it."""
    H, F = construction.hidden_size, len(construction.bins)
    for name, wanted in (("weight_ih_cell", [H, 1]), ("readout.weight", [F, H])):
        if (got := list(construction.weights[name].shape)) != wanted:
            raise ValueError(
                f"construction must have one input and an output a bin, {name} {wanted}, got {got}; give one of spectral_construction"
            )
    for name, weight in construction.weights.items():
        found = weights.get(name)
        if found is None or found.shape != weight.shape or found.is_complex():
            there = "nothing" if found is None else f"{list(found.shape)} {found.dtype}"
            raise ValueError(
                f"weights must hold {name} {list(weight.shape)} of real numbers, got {there}; give those of a net with the same construction"
            )


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
    """Build an LSTM that computes the power spectrum |X_k|^2 of each window of T real samples, exact to rounding.

    The net maps [batch, samples] to [batch, windows, bins], unnormalised power, as `wavebase.power_spectrum` does. Its
    `construction` holds blocks, mask, gains and error bound; `wavebase.constructions.spectral` has the derivation.

    Args:
        T: Window, samples.
        bins: "full" (0..T-1), "half" (0..T//2) or a list.
        dtype: Of the parameters and of all arithmetic.
        input_gate: tanh, or sigmoid for the same function in torch.nn.LSTM's own cell.
        preset: See `spectral_construction`, as for `eps`, `gains` and `margin`.
        amplitude: Bound on |x|. Larger inputs lose accuracy gradually; the first one gives a warning.
        parametrization: unit_scaled trains the weights over their natural units, at ordinary rates; raw trains the
            weights themselves. `named_weights` gives the weights either way.

    Raises:
        ValueError: In one line, for whatever cannot be built.

    >>> import torch, wavebase
    >>> net = wavebase.spectral_lstm(8, bins="half", dtype=torch.float64)
    >>> signal = 2 * torch.rand(4, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    >>> net(signal).shape  # 4 signals, 3 windows, bins 0 to 4
    torch.Size([4, 3, 5])
    >>> exact = wavebase.power_spectrum(signal, 8, bins="half")
    >>> bool((net(signal) - exact).norm() < 1e-14 * exact.norm())
    True
    """
    construction = spectral_construction(
        T,
        bins,
        dtype=dtype,
        input_gate=input_gate,
        preset=preset,
        eps=eps,
        gains=gains,
        margin=margin,
        amplitude=amplitude,
    )
    return SpectralLSTM(construction, unit_scaled=is_unit_scaled(parametrization, "exact"))


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
    """Build the net of a run: a construction for the task's sizes, as it is, perturbed, or with random weights.

    Args:
        algorithm: The spectral net or a rival (`constructions.rivals`), which needs input_gate=tanh.
        hidden_size: More units than the algorithm needs, dead at an exact start; None for none.
        start: What the weights are.
        amplitude: Bound on |x|; None for the signal's own.
        perturbation: With start=perturbed only.
        start_from: A run's checkpoint, or any file of such weights by name, to start from instead.
        parametrization: What is trained, see `models.unit_scaled`. Configurations of version 0.1 lack it.

    `bins`, `input_gate`, `preset`, `eps`, `gains` and `margin` are those of `spectral_construction`.

    Raises:
        ValueError: For what cannot be built, and for options that would have no effect.
    """
    if start not in ("exact", "perturbed", "random"):
        raise ValueError(f"model.start must be exact, perturbed or random, got {start!r}; use exact")
    overrides = {name: value for name, value in (gains or {}).items() if value is not None}
    unit_scaled = is_unit_scaled(parametrization, start)
    _refuse_ignored(
        start, unit_scaled, start_from, perturbation, {"preset": preset, "eps": eps, "margin": margin}, overrides
    )
    construction = _construct(
        algorithm, hidden_size, T, bins, input_gate, dtype=dtype, preset=preset, eps=eps, margin=margin, gains=overrides,
        amplitude=signal_amplitude if amplitude is None else amplitude, scale=scale, bound_windows=windows,
    )  # fmt: skip
    weights = construction.weights
    if start == "perturbed":
        weights = perturb(construction, perturbation or Perturbation(), perturbation_generator).weights
    elif start == "random":
        weights = random_weights(construction, init, unit_scaled)
    if start_from is not None:
        weights = load_start(construction, Path(start_from))
    net = SpectralLSTM(construction, weights, unit_scaled)
    net._amplitude_checked = True  # a run measures louder signals too, on purpose
    return net


def _refuse_ignored(
    start: str,
    unit_scaled: bool,
    start_from: str | None,
    perturbation: Perturbation | None,
    design: Mapping[str, Any],
    gains: Mapping[str, float],
) -> None:
    """Raise IgnoredOption for options that this start would not obey."""
    if start_from is not None:
        refuse_ignored("with model.start_from", "use start_from=null", ("start", start, "exact"))
    if start != "perturbed":
        refuse_ignored("unless model.start=perturbed", "use model=perturbed", ("perturbation", perturbation, None))
    if start == "random" and not unit_scaled:
        defaults = {"preset": "exact", "eps": None, "margin": 40.0}
        refuse_ignored(
            "with model.start=random, whose weights do not depend on it",
            "leave it out, or use model=random_scaled",
            *((key, value, defaults[key]) for key, value in design.items()),
            *((f"gains.{name}", value, None) for name, value in gains.items()),
        )


def _construct(
    algorithm: str, hidden_size: int | None, T: int, bins: str | list[int], input_gate: InputGate, **arguments: Any
) -> Construction:
    """Build an algorithm's construction, padded. Raise ValueError for an unknown one, or an input gate that it lacks."""
    if algorithm == "spectral":
        construction = spectral_construction(T, bins, input_gate=input_gate, **arguments)
    elif algorithm not in RIVALS:
        raise ValueError(f"model.algorithm must be spectral, {' or '.join(RIVALS)}, got {algorithm!r}; use spectral")
    elif input_gate != "tanh":
        raise ValueError(f"model.input_gate must be tanh with algorithm={algorithm}, got {input_gate!r}; use tanh")
    else:
        construction = RIVALS[algorithm](T, bins, **arguments)
    return construction if hidden_size is None else pad(construction, hidden_size)
