"""An LSTM that predicts the next symbol of a stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavebase.constructions.counter import counter_construction
from wavebase.models.handwritten import HandwrittenModel, Start, start_weights
from wavebase.models.unit_scaled import Parametrization
from wavebase.recurrence.cells import GATES
from wavebase.recurrence.lstm import lstm_sequence
from wavebase.registry import registered


class CounterLSTM(HandwrittenModel):
    """torch.nn.LSTM's cell from zero states, with one bias, and a linear readout. Maps one-hot symbols [batch, steps, S] to
    logits of the next symbol [batch, steps, S]."""

    def forward(self, symbols: Tensor) -> Tensor:
        """Logits of the next symbol after each: [batch, steps, S] to [batch, steps, S]."""
        w_ih, w_hh, bias = (
            torch.cat([self.weight(f"{kind}_{gate}") for gate in GATES]) for kind in ("weight_ih", "weight_hh", "bias")
        )
        zero = bias.new_zeros(len(symbols), w_hh.shape[1])
        hidden, _, _ = lstm_sequence(symbols.to(self.dtype), zero, zero, w_ih, w_hh, bias, "sigmoid")
        return nn.functional.linear(hidden, self.weight("readout_weight"), self.weight("readout_bias"))


@registered
def build(
    letters: int,
    stop: float,
    dtype: torch.dtype,
    init: torch.Generator,
    perturbation_generator: torch.Generator,
    *,
    start: Start = "exact",
    gain: float = 40.0,
    certainty: float = 40.0,
    perturbation_scale: float = 0.01,
    parametrization: Parametrization = "auto",
) -> CounterLSTM:
    """The net of a run. gain, certainty: see `constructions.counter`; parametrization: see `models.unit_scaled`."""
    algorithm = counter_construction(letters, stop, gain=gain, certainty=certainty, dtype=dtype)
    return CounterLSTM(
        algorithm, *start_weights(algorithm, start, parametrization, init, perturbation_generator, perturbation_scale)
    )
