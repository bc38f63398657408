"""torch.nn.LSTM, unmodified, with a linear readout: the baseline, and a host for the stock-cell construction."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from wavebase.constructions.construction import Construction, packed
from wavebase.constructions.spectral import spectral_construction
from wavebase.models.base import build_within_memory, draw_uniform, split_gates
from wavebase.models.windows import flushed, warn_beyond_amplitude, window_ends
from wavebase.recurrence.cells import GATES, Trace, lstm_trace
from wavebase.registry import registered


class StockLSTM(nn.Module):
    """torch.nn.LSTM over a signal with a linear readout once per window; shapes and timing as `SpectralLSTM`.

    Attributes:
        initial_state: The state that every sequence starts from, [2, H] (hidden, cell), not trained.
    """

    initial_state: Tensor
    unstackable_reason = "torch.nn.LSTM has no batching rule"

    def __init__(self, hidden_size: int, outputs: int, T: int, latency: int = 2, dtype: torch.dtype = torch.float64):
        super().__init__()
        self.T, self.latency = T, latency
        self.lstm = nn.LSTM(1, hidden_size, batch_first=True, dtype=dtype)
        self.readout = nn.Linear(hidden_size, outputs, dtype=dtype)
        self.register_buffer("initial_state", torch.zeros(2, hidden_size, dtype=dtype))
        self.construction: Construction | None = None
        self._amplitude_checked = False

    def load(self, construction: Construction) -> None:
        """Take over the weights and state of a construction for the sigmoid input gate.

        Raises:
            ValueError: For a construction with another input gate.
        """
        if construction.input_gate != "sigmoid":
            raise ValueError(
                f"torch.nn.LSTM needs input_gate=sigmoid, got {construction.input_gate}; build one with it"
            )
        weights = {
            name if name.startswith("readout") else f"lstm.{name}": w
            for name, w in packed(construction.weights).items()
        }
        self.load_state_dict(weights, strict=False)
        self.initial_state.copy_(torch.stack([construction.weights[name] for name in ("hidden_0", "cell_0")]))
        self.construction = construction

    def forward(self, signal: Tensor) -> Tensor:
        """Return the readout of every window: [batch, samples] to [batch, windows, outputs]."""
        inputs = flushed(signal, self.T, self.latency, self.initial_state.dtype)
        if self.construction is not None and not self._amplitude_checked:
            self._amplitude_checked = warn_beyond_amplitude(signal, self.construction.amplitude)
        state = self.initial_state[:, None, None].expand(-1, 1, len(inputs), -1).contiguous()
        hidden, _ = self.lstm(inputs, (state[0], state[1]))
        return self.readout(hidden[:, window_ends(self.T, self.latency)])

    def trace(self, signal: Tensor) -> Trace:
        """Return states and gates of every step, each [batch, samples + latency, H], by wavebase's own recurrence."""
        inputs = flushed(signal, self.T, self.latency, self.initial_state.dtype)
        hidden, cell = (state.expand(len(inputs), -1) for state in self.initial_state)
        weights = dict(self.lstm.named_parameters())
        bias = weights["bias_ih_l0"] + weights["bias_hh_l0"]
        return lstm_trace(inputs, hidden, cell, weights["weight_ih_l0"], weights["weight_hh_l0"], bias, "sigmoid")

    def named_weights(self) -> dict[str, Tensor]:
        """Return the weights by canonical name, one matrix per gate, detached."""
        weights = {f"readout.{name}": value.detach() for name, value in self.readout.named_parameters()}
        return weights | split_gates(
            ((name.removesuffix("_l0"), parameter) for name, parameter in self.lstm.named_parameters()), GATES
        )


@registered
def build(
    T: int,
    scale: float,
    signal_amplitude: float,
    windows: int,
    dtype: torch.dtype,
    init: torch.Generator,
    *,
    bins: str | list[int] = "full",
    start: Literal["random", "exact"] = "random",
    hidden_size: int | None = None,
) -> StockLSTM:
    """Build the stock net of a run: torch's own random start, or the exact stock-cell construction.

    Args:
        bins: "full" (0..T-1), "half" (0..T//2) or a list of F bins.
        start: random, or exact with 11F units.
        hidden_size: Units of a random start; None for 7F, the size of the spectral net with the same bins.
    """
    if start not in ("random", "exact"):
        raise ValueError(f"model.start must be random or exact, got {start!r}; use random")
    if hidden_size is not None and (hidden_size < 1 or start == "exact"):
        raise ValueError(f"model.hidden_size must be positive, and null with start=exact, got {hidden_size}; use null")
    construction = spectral_construction(
        T, bins, dtype=dtype, input_gate="sigmoid", amplitude=signal_amplitude, scale=scale, bound_windows=windows
    )
    outputs = len(construction.bins)
    units = construction.hidden_size if start == "exact" else hidden_size or 7 * outputs
    net = build_within_memory(
        lambda: StockLSTM(units, outputs, T, construction.latency, dtype), "use a smaller T or model.hidden_size"
    )
    if start == "exact":
        net.load(construction)
        net._amplitude_checked = True  # a run measures louder signals too, on purpose
    else:
        draw_uniform(net, units**-0.5, init)
    return net
