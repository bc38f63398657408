"""The spectral LSTM: one class and one readout whose start is exact, perturbed or random."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wavebase.constructions.construction import STATE_NAMES, WEIGHT_NAMES, Construction, pad
from wavebase.constructions.perturbation import Perturbation, perturb
from wavebase.constructions.rivals import delay_line_construction, resonator_construction
from wavebase.constructions.spectral import Preset, spectral_construction
from wavebase.records import load_weights
from wavebase.recurrence import GATES, InputGate, Trace, lstm_sequence, lstm_trace
from wavebase.registry import registered

RIVALS = {"resonator": resonator_construction, "delay_line": delay_line_construction}


class SpectralLSTM(nn.Module):
    """A single-layer LSTM over a signal, read once per window by a linear layer.

    Maps [batch, samples] (samples a multiple of T) to [batch, windows, bins]: `latency` zero samples flush the last
    window, and window j is read at step (j + 1) T - 1 + latency. Parameters are named as in `Construction.weights`,
    one matrix per gate, so that each can be trained, frozen and followed on its own. Inputs are cast to its dtype.
    Raises ValueError for inputs of another shape.
    """

    hidden_0: nn.Parameter
    cell_0: nn.Parameter

    def __init__(self, construction: Construction):
        super().__init__()
        self.T, self.latency, self.input_gate = construction.T, construction.latency, construction.input_gate
        self.construction = construction
        for name in (*WEIGHT_NAMES, *STATE_NAMES):
            self.register_parameter(name, nn.Parameter(construction.weights[name].clone()))
        self.readout = nn.Linear(construction.hidden_size, len(construction.bins)).to(construction.dtype)
        self.load_state_dict(dict(construction.weights))

    def forward(self, signal: Tensor) -> Tensor:
        """Readout of every window: [batch, samples] to [batch, windows, bins]."""
        inputs, windows = flushed(signal.to(self.hidden_0.dtype), self.T, self.latency)
        hidden, _, _ = lstm_sequence(inputs, *self._states_and_weights(len(inputs)), input_gate=self.input_gate)
        return self.readout(at_window_ends(hidden, self.T, self.latency, windows))

    def trace(self, signal: Tensor) -> Trace:
        """States and gates of every step, each [batch, samples + latency, H]."""
        inputs, _ = flushed(signal.to(self.hidden_0.dtype), self.T, self.latency)
        return lstm_trace(inputs, *self._states_and_weights(len(inputs)), input_gate=self.input_gate)

    def named_weights(self) -> dict[str, Tensor]:
        """Its weights by canonical name, one matrix per gate, detached."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    def _states_and_weights(self, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        packed = {
            kind: torch.cat([getattr(self, f"{kind}_{gate}") for gate in GATES])
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        bias = packed["bias_ih"] + packed["bias_hh"]
        states = self.hidden_0.expand(batch, -1), self.cell_0.expand(batch, -1)
        return *states, packed["weight_ih"], packed["weight_hh"], bias


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
) -> SpectralLSTM:
    """An LSTM that computes the power spectrum |X_k|^2 of each window of T real samples, exact to rounding.

    Maps [batch, samples] to [batch, windows, bins], unnormalised power (see `wavebase.power_spectrum`, its oracle).
    bins: "full" (0..T-1), "half" (0..T//2) or a list. amplitude: bound on |x|; larger inputs lose accuracy gradually.
    input_gate="sigmoid" builds the same function in torch.nn.LSTM's own cell. Other arguments, errors, and the
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
        )
    )


@registered
def build(
    T: int,
    scale: float,
    signal_amplitude: float,
    windows: int,
    dtype: torch.dtype,
    init: torch.Generator,
    perturbing: torch.Generator,
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
) -> SpectralLSTM:
    """The net of a run: a construction for the task's sizes, as it is, perturbed, or with random weights in its place.

    start_from: a run's checkpoint, or any file of such weights by name, whose weights take the place of all that.

    algorithm: the spectral net or one of its rivals (`constructions.rivals`), which need input_gate=tanh. hidden_size:
    more units than the algorithm needs, dead at an exact start; None for none.
    """
    if start not in ("exact", "perturbed", "random"):
        raise ValueError(f"model.start must be exact, perturbed or random, got {start!r}; use exact")
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
    if start == "perturbed":
        construction = perturb(construction, perturbation or Perturbation(), perturbing)
    elif start == "random":
        construction = construction.replace_weights(random_weights(construction, init))
    if start_from is not None:
        construction = construction.replace_weights(_loaded(construction, start_from))
    return SpectralLSTM(construction)


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


def random_weights(construction: Construction, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights of the construction's shapes as torch.nn.LSTM and torch.nn.Linear draw them: uniform in +-1/sqrt(H).

    The state starts at zero. Drawn in float64, so that float32 and float64 nets start alike.
    """
    bound = construction.hidden_size**-0.5
    weights = {}
    for name, weight in construction.weights.items():
        draw = torch.rand(weight.shape, generator=generator, dtype=torch.float64).mul_(2 * bound).sub_(bound)
        weights[name] = (torch.zeros_like(draw) if name in STATE_NAMES else draw).to(weight.dtype)
    return weights
