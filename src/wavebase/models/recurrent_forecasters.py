"""Recurrent forecasters in the sizes of the public project (`signals.harmonics`): an LSTM and two GRU decoders.

Letters: B signals, N lookback, H horizon. All map the past [B, N] to the forecast [B, H] and read their own outputs;
with a pair (past, future [B, H]) they read the true sample before each one that they predict (teacher forcing).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from wavebase.models.base import Net, build_within_memory, draw_uniform, split_gates
from wavebase.recurrence.cells import GATES, GRU_GATES, gru_step
from wavebase.recurrence.lstm import lstm_sequence
from wavebase.registry import registered

Inputs = Tensor | tuple[Tensor, Tensor]


class _Cell(nn.Module):
    """The parameters of torch.nn.LSTMCell or GRUCell for a scalar input, under the same names."""

    def __init__(self, gates: int, hidden_size: int, dtype: torch.dtype):
        super().__init__()
        self.hidden_size = hidden_size
        rows = gates * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, 1, dtype=dtype))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size, dtype=dtype))
        self.bias_ih = nn.Parameter(torch.empty(rows, dtype=dtype))
        self.bias_hh = nn.Parameter(torch.empty(rows, dtype=dtype))

    def gru(self, x: Tensor, state: Tensor) -> Tensor:
        """Return the state after one step of torch.nn.GRUCell: [B], [B, units] to [B, units]."""
        return gru_step(x[..., None], state, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)

    def named_weights(self, gates: tuple[str, ...], prefix: str = "") -> dict[str, Tensor]:
        """Return the weights, one matrix per gate, detached."""
        return split_gates(((prefix + name, packed) for name, packed in self.named_parameters()), gates)


class LSTMForecaster(nn.Module):
    """LSTM(1 -> 100) and a linear readout: every output predicts the sample after the one just read.

    With teacher forcing it returns all predictions, [B, N + H - 1], the first after the first sample. 41,301 parameters.
    """

    construction = None

    def __init__(self, lookback: int, horizon: int, hidden_size: int, dtype: torch.dtype):
        super().__init__()
        self.horizon = horizon
        self.cell = _Cell(4, hidden_size, dtype)
        self.readout = nn.Linear(hidden_size, 1, dtype=dtype)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the forecast [B, H] of a past, or all predictions [B, N + H - 1] of (past, future)."""
        past, future = (inputs, None) if isinstance(inputs, Tensor) else inputs
        past = past.to(self.readout.weight.dtype)
        if future is not None:
            shown = torch.cat([past, future[..., :-1].to(past.dtype)], -1)
            state = past.new_zeros(*past.shape[:-1], self.cell.hidden_size)
            return self.readout(self._run(shown, state, state)[0])[..., 0]
        state, forecast = self.state_after(past), []
        for h in range(self.horizon):
            state = self.free_step(state) if h else state
            forecast.append(self.readout(state[..., : self.cell.hidden_size]))
        return torch.cat(forecast, -1)

    def state_after(self, past: Tensor) -> Tensor:
        """Return hidden and cell state after the past, [B, 2 units], from which the first forecast is read."""
        state = past.new_zeros(*past.shape[:-1], self.cell.hidden_size)
        return torch.cat(self._run(past, state, state)[1:], -1)

    def free_step(self, state: Tensor) -> Tensor:
        """Return the state one sample later, when the net reads its own forecast."""
        hidden, memory = state.chunk(2, -1)
        return torch.cat(self._run(self.readout(hidden), hidden, memory)[1:], -1)

    def _run(self, samples: Tensor, hidden: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cell = self.cell
        bias = cell.bias_ih + cell.bias_hh
        return lstm_sequence(samples[..., None], hidden, memory, cell.weight_ih, cell.weight_hh, bias, "sigmoid")

    def named_weights(self) -> dict[str, Tensor]:
        """Return the weights by canonical name, one matrix per gate, detached."""
        return self.cell.named_weights(GATES) | _detached(self, "readout")


class _Decoder(nn.Module):
    """A GRU that starts from an encoder's state and reads the sample before each step of the horizon."""

    construction = None
    cell: _Cell
    head: nn.Sequential
    horizon: int
    feedback_gradient: bool

    def encode(self, past: Tensor) -> Tensor:
        """Return the decoder's first state [B, units] for a past [B, N]."""
        raise NotImplementedError

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the forecast [B, H] of a past or of (past, future)."""
        past, future = (inputs, None) if isinstance(inputs, Tensor) else inputs
        past = past.to(self.cell.weight_hh.dtype)
        state, sample, forecast = self.encode(past), past[..., -1], []
        for h in range(self.horizon):
            state = self.cell.gru(sample, state)
            forecast.append(self.head(state)[..., 0])
            sample = forecast[-1] if self.feedback_gradient else forecast[-1].detach()
            if future is not None:
                sample = future[..., h].to(past.dtype)
        return torch.stack(forecast, -1)

    def state_after(self, past: Tensor) -> Tensor:
        """Return the state [B, units] from which the first forecast is read."""
        return self.cell.gru(past[..., -1], self.encode(past))

    def free_step(self, state: Tensor) -> Tensor:
        """Return the state one sample later, when the net reads its own forecast."""
        return self.cell.gru(self.head(state)[..., 0], state)


class Seq2SeqGRU(_Decoder):
    """GRU(1 -> 10) over the past, GRUCell(1, 112) over the horizon, head 112-56-1.

    The decoder starts from the encoder's last state beside |X| and angle X of the past's DFT. 45,415 parameters for a
    lookback of 100.
    """

    feedback_gradient = True

    def __init__(self, lookback: int, horizon: int, encoder_size: int, dtype: torch.dtype):
        super().__init__()
        self.horizon = horizon
        units = encoder_size + 2 * (lookback // 2 + 1)
        self.encoder = _Cell(3, encoder_size, dtype)
        self.cell = _Cell(3, units, dtype)
        self.head = _leaky_mlp((units, units // 2, 1), dtype)

    def encode(self, past: Tensor) -> Tensor:
        """Return the decoder's first state [B, units] for a past [B, N]."""
        state = past.new_zeros(*past.shape[:-1], self.encoder.hidden_size)
        for sample in past.unbind(-1):
            state = self.encoder.gru(sample, state)
        return torch.cat([state, *_polar_dft(past)], -1)

    def named_weights(self) -> dict[str, Tensor]:
        """Return the weights by canonical name, one matrix per gate, detached."""
        encoder = self.encoder.named_weights(GRU_GATES, "encoder.")
        return encoder | self.cell.named_weights(GRU_GATES) | _detached(self, "head")


class MLPGRU(_Decoder):
    """An MLP 202-100-202-140 with LeakyReLU gives the state of GRUCell(1, 140); head 140-70-35-1.

    The MLP reads the past, |X| and angle X of its DFT. No gradient passes through outputs that are fed back. 141,573
    parameters for a lookback of 100.
    """

    feedback_gradient = False

    def __init__(self, lookback: int, horizon: int, bottleneck: int, units: int, dtype: torch.dtype):
        super().__init__()
        self.horizon = horizon
        features = lookback + 2 * (lookback // 2 + 1)
        self.mlp = _leaky_mlp((features, bottleneck, features, units), dtype)
        self.cell = _Cell(3, units, dtype)
        self.head = _leaky_mlp((units, units // 2, units // 4, 1), dtype)

    def encode(self, past: Tensor) -> Tensor:
        """Return the decoder's first state [B, units] for a past [B, N]."""
        return self.mlp(torch.cat([past, *_polar_dft(past)], -1))

    def named_weights(self) -> dict[str, Tensor]:
        """Return the weights by canonical name, one matrix per gate, detached."""
        return self.cell.named_weights(GRU_GATES) | _detached(self, "mlp") | _detached(self, "head")


def _polar_dft(past: Tensor) -> tuple[Tensor, Tensor]:
    """Return |X| / sqrt N, of the size of the samples, and the angle of X, both [B, N//2 + 1]."""
    spectrum = torch.fft.rfft(past, norm="ortho")
    # the bins that are real: an imaginary part of -0 or -1e-18 would make an angle of pi one of -pi
    real = torch.arange(spectrum.shape[-1], device=past.device) * 2 % past.shape[-1] == 0
    return spectrum.abs(), torch.atan2(torch.where(real, 0.0, spectrum.imag), spectrum.real)


def _leaky_mlp(sizes: tuple[int, ...], dtype: torch.dtype) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs, dtype=dtype), nn.LeakyReLU()]
    return nn.Sequential(*layers[:-1])


def _detached(net: nn.Module, part: str) -> dict[str, Tensor]:
    return {f"{part}.{name}": value.detach() for name, value in net.get_submodule(part).named_parameters()}


def _build(make: Callable[[], Net], init: torch.Generator) -> Net:
    """Build a net at torch's own random start, uniform in +-1/sqrt(units or inputs), drawn in float64."""
    net = build_within_memory(make, "use a smaller T or fewer units")
    for module in net.modules():
        if isinstance(module, nn.Linear | _Cell):
            bound = (module.in_features if isinstance(module, nn.Linear) else module.hidden_size) ** -0.5
            draw_uniform(module, bound, init)
    return net


@registered
def lstm(
    lookback: int, horizon: int, dtype: torch.dtype, init: torch.Generator, *, hidden_size: int = 100
) -> LSTMForecaster:
    """Build the LSTM of a run."""
    _check("hidden_size", hidden_size, 100)
    return _build(lambda: LSTMForecaster(lookback, horizon, hidden_size, dtype), init)


@registered
def seq2seq_gru(
    lookback: int, horizon: int, dtype: torch.dtype, init: torch.Generator, *, encoder_size: int = 10
) -> Seq2SeqGRU:
    """Build the encoder and decoder of a run; encoder_size: units of the encoder."""
    _check("encoder_size", encoder_size, 10)
    return _build(lambda: Seq2SeqGRU(lookback, horizon, encoder_size, dtype), init)


@registered
def mlp_gru(
    lookback: int,
    horizon: int,
    dtype: torch.dtype,
    init: torch.Generator,
    *,
    bottleneck: int = 100,
    units: int = 140,
) -> MLPGRU:
    """Build the MLP and GRU of a run; bottleneck: units of the MLP's narrow layer; units: of the decoder."""
    _check("bottleneck", bottleneck, 100)
    if units < 4:
        raise ValueError(f"model.units must be at least 4, got {units}; use 140")
    return _build(lambda: MLPGRU(lookback, horizon, bottleneck, units, dtype), init)


def _check(name: str, value: int, usual: int) -> None:
    if value < 1:
        raise ValueError(f"model.{name} must be at least 1, got {value}; use {usual}")
