"""A stock GRU with a linear readout, read one step after each window."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavebase.constructions.algorithm import Weights
from wavebase.constructions.handwritten import Handwritten
from wavebase.constructions.spectral_gru import spectral_gru_construction
from wavebase.models.handwritten import HandwrittenModel, Start, start_weights
from wavebase.models.state_space import in_windows
from wavebase.models.unit_scaled import Parametrization
from wavebase.recurrence.cells import GRU_GATES, gru_step
from wavebase.registry import registered


class SpectralGRU(HandwrittenModel):
    """torch.nn.GRU's cell from h = 0 at each window's first sample, and the readout V h one step after its last.

    Maps [batch, samples] to [batch, windows, F], windows of T samples. The cell's two biases are one, b_ih, since r multiplies the
    other: that one is zero. The arguments are those of `HandwrittenModel`, and T.
    """

    def __init__(self, algorithm: Handwritten, T: int, weights: Weights | None = None, unit_scaled: bool = False):
        super().__init__(algorithm, weights, unit_scaled)
        self.T = T

    def forward(self, signal: Tensor) -> Tensor:
        """Power spectra: [batch, samples] to [batch, windows, F]."""
        windows = in_windows(signal, self.T).to(self.dtype)
        samples = nn.functional.pad(windows.flatten(0, 1), (0, 1)).unsqueeze(-1).unbind(1)  # T + 1 of [B, 1]
        w_ih, w_hh, bias = (
            torch.cat([self.weight(f"{kind}_{gate}") for gate in GRU_GATES])
            for kind in ("weight_ih", "weight_hh", "bias")
        )
        state, none = bias.new_zeros(len(samples[0]), w_hh.shape[1]), torch.zeros_like(bias)
        for x in samples:
            state = gru_step(x, state, w_ih, w_hh, bias, none)
        return nn.functional.linear(state, self.weight("readout_weight")).unflatten(0, windows.shape[:2])


@registered
def build(
    T: int,
    scale: float,
    signal_amplitude: float,
    dtype: torch.dtype,
    init: torch.Generator,
    perturbation_generator: torch.Generator,
    *,
    bins: str | list[int] = "full",
    gain: float | None = None,
    orders: int = 4,
    start: Start = "exact",
    perturbation_scale: float = 1e-5,
    parametrization: Parametrization = "auto",
) -> SpectralGRU:
    """The net of a run. gain, orders: see `constructions.spectral_gru`; parametrization: see `models.unit_scaled`."""
    algorithm = spectral_gru_construction(
        T, bins, scale=scale, gain=gain, orders=orders, amplitude=signal_amplitude, dtype=dtype
    )
    weights = start_weights(algorithm, start, parametrization, init, perturbation_generator, perturbation_scale)
    return SpectralGRU(algorithm, T, *weights)
