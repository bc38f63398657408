"""A lock-in amplifier in the LSTM cell with a signed input gate: it recovers the selected tone of a mix.

Units (F tones at angles w_i per sample, window of T samples, 8F + 4 units; input x = [S, one-hot selector]):

    gen   2F + 2  a (cos, -sin)(w_i t), and the clock's pair at 2 pi/T     planar rotations; no input
    clock 2       high, 1 while the clock's sine is positive; pulse, 1 at the sample where it becomes so:
                  a constant cell behind an output gate of argument K sine, or K sine - 2 K high
    sum   2F      running sums of S cos, S sin                             i = tanh(gen), g = tanh(s2 S), f = 0 at a pulse
    hold  2F      the sums of the last whole window                        i = 1 and f = 0 at a pulse, else 0 and 1; g = tanh(s3 sum)
    prod  2F      hold times the oscillator, turned back by the jitter's   i = tanh(turned gen), g = tanh(hold), f = 0;
                  mean phase                                               o = 1 where the selector is on, else 0

The readout is 2F/(T |m|) (1 / gains) times the sum of all prod, with m the jitter's mean. Sums over whole periods of all
tones are orthogonal, so that window after window each tone comes out alone. Every tanh that does not saturate acts on
arguments of at most `eps`.

The spectral net's reset, a threshold on a cosine, tolerates errors of (1 - cos(2 pi/T))/2 of the amplitude, 1e-5 at
T = 1000. The sign of a sine needs only a clock that is right within half a sample, whatever its amplitude.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from wavebase.constructions.builder import ConstructionBuilder
from wavebase.constructions.construction import Construction, unit_scales
from wavebase.constructions.spectral import rotation_pattern
from wavebase.spectrum import rotation_blocks

PERIOD_TOLERANCE = 0.01  # how far from whole a tone's periods in a window may be


def lock_in_construction(
    signal: Any, T: int, *, dtype: torch.dtype = torch.float64, eps: float = 2.0**-7, margin: float = 40.0
) -> Construction:
    """Build weights whose readout is, at every sample, the selected tone, estimated from the last whole window.

    The readout is zero until the first window is complete, at sample T.

    Args:
        signal: A `JitteredMix` (frequencies in hertz, step in seconds, mean_jitter, peak).
        T: Window, samples, which must hold whole periods of all tones.
        dtype: Of the weights.
        eps: Largest argument of a tanh that is to be linear; errors are of the order eps^2/3 of the amplitude.
        margin: Argument of the saturated gates.

    Raises:
        ValueError: If T does not hold whole periods of all tones, different and not 0, or another argument does not fit.
    """
    F = len(signal.frequencies)
    bins = _whole_periods(signal, T)
    angles = [2 * math.pi * f * signal.step for f in signal.frequencies] + [2 * math.pi / T]
    mean = complex(signal.mean_jitter)
    _check(angles, eps, margin, mean)
    builder = ConstructionBuilder(
        {"gen": 2 * F + 2, "clock": 2, "sum": 2 * F, "hold": 2 * F, "prod": 2 * F}, inputs=1 + F
    )
    high = math.tanh(1.0)  # the state of an open clock unit
    s2, s3 = eps / signal.peak, 2 * F / (eps * T)  # the loudest tone alone fills a sum to 1/s3 of eps
    _connect_oscillators(builder, angles, eps, margin)
    _connect_clock(builder, T, eps, margin, high)
    _connect_sums(builder, F, s2, s3, margin, high)
    _connect_products(builder, F, mean, margin)

    gain = T * abs(mean) * s2 * s3 * eps**2 / (2 * F)
    readout = torch.zeros(1, builder.H, dtype=torch.float64)
    readout[0, builder.blocks["prod"]] = 1 / gain
    peaks = {"gen": eps, "clock": high, "sum": eps / s3, "hold": eps, "prod": eps**2}
    weights = builder.in_dtype(dtype, readout)
    each = torch.cat(
        [torch.full((u.stop - u.start,), peaks[n], dtype=torch.float64) for n, u in builder.blocks.items()]
    )
    return Construction(
        weights=weights,
        blocks=builder.blocks,
        mask=builder.mask,
        max_activation=each,
        unit_scale=unit_scales(weights, each, signal.peak, builder.blocks),
        gains={"a": eps, "s2": s2, "s3": s3},
        T=T,
        bins=bins,
        input_gate="tanh",
        margin=margin,
        amplitude=signal.peak,
        output_gain=gain,
        scale=1.0,
        error_bound=math.inf,  # the jitter's noise has none
        bound_windows=1,
        latency=0,
    )


def _whole_periods(signal: Any, T: int) -> tuple[int, ...]:
    """Return each tone's periods in a window. Raise ValueError unless they are whole, different and not 0."""
    periods = [frequency * signal.step * T for frequency in signal.frequencies]
    bins = tuple(round(p) for p in periods)
    whole = all(abs(p - k) <= PERIOD_TOLERANCE and k >= 1 for p, k in zip(periods, bins, strict=True))
    if not whole or len(set(bins)) < len(periods):
        raise ValueError(
            f"T must be a window of whole periods of every tone, got T={T}, {', '.join(f'{p:.3f}' for p in periods)} periods; use one second's samples for whole hertz"
        )
    return bins


def _check(angles: list[float], eps: float, margin: float, mean: complex) -> None:
    """Raise ValueError for gains under which the lock-in would not work."""
    # beyond this tanh stops the slowest oscillator instead of shrinking its circle
    if not 0 < eps**2 < min(angles) / 20:
        raise ValueError(
            f"model.eps must lie between 0 and {math.sqrt(min(angles) / 20):.2g}, so that the slowest oscillator turns, got {eps}; use 0.0078125"
        )
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"model.margin must be positive and finite, got {margin}; use 40")
    if abs(mean) < 1e-6:
        raise ValueError(
            "signal.phase_jitter must leave a tone to lock to, got a jitter whose mean is 0; use less than 1 turn"
        )


def _connect_oscillators(builder: ConstructionBuilder, angles: list[float], eps: float, margin: float) -> None:
    """Write gen. Of a cosine two tanh a step keep 1 - (2/3) a^2 <cos^4>/<cos^2> = 1 - a^2/2; its inverse makes a stable."""
    gen = builder.blocks["gen"]
    growth = 1 / (1 - eps**2 / 2)
    turns = rotation_blocks((growth * math.cos(angle), growth * math.sin(angle)) for angle in angles)
    builder.connect("cell", gen, gen, turns, rotation_pattern(len(angles)))
    ahead = 2.5 * angles[-1]  # so that sums restart one sample, held ones are used two samples, after a pulse
    phases = [0.0] * (len(angles) - 1) + [ahead]
    builder.weights["hidden_0"][gen] = eps * torch.tensor(
        [part for phase in phases for part in (math.cos(phase), -math.sin(phase))], dtype=torch.float64
    )
    builder.linear(gen, margin)
    builder.bias("output", gen, margin)


def _connect_clock(builder: ConstructionBuilder, T: int, eps: float, margin: float, state: float) -> None:
    """Write clock. Where the sine turns positive it is at least sin(pi/T), half a sample from zero."""
    gen, clock = builder.blocks["gen"], builder.blocks["clock"]
    sine = slice(gen.stop - 1, gen.stop)
    high, pulse = slice(clock.start, clock.start + 1), slice(clock.start + 1, clock.stop)
    K = margin / math.sin(math.pi / T)
    builder.linear(clock, margin)
    builder.bias("cell", clock, margin)
    for unit in (high, pulse):
        builder.connect("output", unit, sine, torch.full((1, 1), -K / eps, dtype=torch.float64))  # gen holds -sin
    builder.connect("output", pulse, high, torch.full((1, 1), -2 * K / state, dtype=torch.float64))
    builder.weights["hidden_0"][high] = (
        state  # the sine is positive before the first sample, so it gives no pulse there
    )


def _connect_sums(builder: ConstructionBuilder, F: int, s2: float, s3: float, margin: float, state: float) -> None:
    """Write sum and hold, which both act on a pulse."""
    gen, clock, sum_, hold, _ = builder.blocks.values()
    tones, pulse = slice(gen.start, gen.start + 2 * F), slice(clock.start + 1, clock.stop)
    identity = torch.eye(2 * F, dtype=torch.float64)
    builder.connect("input", sum_, tones, identity)
    builder.weights["weight_ih_cell"][sum_, 0] = s2
    builder.connect("cell", hold, sum_, s3 * identity)
    builder.connect("input", hold, pulse, torch.full((2 * F, 1), margin / state, dtype=torch.float64))
    for block in (sum_, hold):
        builder.connect("forget", block, pulse, torch.full((2 * F, 1), -2 * margin / state, dtype=torch.float64))
        builder.bias("forget", block, margin)
        builder.bias("output", block, margin)


def _connect_products(builder: ConstructionBuilder, F: int, mean: complex, margin: float) -> None:
    """Write prod: cos(w t - d) and -sin(w t - d) of the pair (cos, -sin)(w t), d the angle of the jitter's mean."""
    gen, _, _, hold, prod = builder.blocks.values()
    cos, sin = mean.real / abs(mean), mean.imag / abs(mean)
    back = rotation_blocks([(cos, -sin)] * F)
    builder.connect("input", prod, slice(gen.start, gen.start + 2 * F), back, rotation_pattern(F))
    builder.connect("cell", prod, hold, torch.eye(2 * F, dtype=torch.float64))
    builder.bias("forget", prod, -margin)
    for i in range(F):
        builder.weights["weight_ih_output"][prod.start + 2 * i : prod.start + 2 * i + 2, 1 + i] = 2 * margin
    builder.bias("output", prod, -margin)
