"""A lock-in amplifier in the LSTM cell with a signed input gate: the tone that a selector names, out of a mix.

Units (F tones at angles w_i per sample, window of T samples, 8F + 4 units; input x = [S, one-hot selector]):

    gen   2F + 2  a (cos, -sin)(w_i t), and the clock's pair at 2 pi/T     planar rotations; no input
    clock 2       high, 1 while the clock's sine is positive; pulse, 1 at the sample where it becomes so:
                  a constant cell behind an output gate of argument K sine, or K sine - 2 K high
    sum   2F      running sums of S cos, S sin                             i = tanh(gen), g = tanh(s2 S), f = 0 at a pulse
    hold  2F      the sums of the last whole window                        i = 1 and f = 0 at a pulse, else 0 and 1; g = tanh(s3 sum)
    prod  2F      hold times the oscillator, turned back by the jitter's   i = tanh(turned gen), g = tanh(hold), f = 0;
                  mean phase                                               o = 1 where the selector is on, else 0

and the readout 2F/(T |m|) (1 / gains) times the sum of all prod, m the jitter's mean. Sums over whole periods of all
tones are orthogonal, so that window after window each tone comes out alone. Every tanh acts on arguments of at most `eps`,
but for those that saturate.

System 0's reset, a threshold on a cosine, leaves room for errors of the amplitude of (1 - cos(2 pi/T))/2, 1e-5 at
T = 1000; the sign of a sine asks only that the clock be right within half a sample, whatever its amplitude.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from wavebase.constructions.construction import Construction, ConstructionBuilder, unit_scales
from wavebase.spectrum import rotation_blocks

PERIOD_TOLERANCE = 0.01  # how far from whole a tone's periods in a window may be


def lock_in_construction(
    signal: Any, T: int, *, dtype: torch.dtype = torch.float64, eps: float = 2.0**-7, margin: float = 40.0
) -> Construction:
    """Weights whose readout is, at every sample, the clean tone selected, by the last whole window of T samples.

    signal: a `JitteredMix` (frequencies in hertz, step in seconds, mean_jitter, peak). Zero until the first window is
    complete, at sample T. eps: largest argument of a tanh that is to be linear; errors are of the order eps^2/3 of the
    amplitude. Raises ValueError where T does not hold whole periods, different and not 0, of all tones.
    """
    F = len(signal.frequencies)
    periods = [frequency * signal.step * T for frequency in signal.frequencies]
    bins = tuple(round(p) for p in periods)
    if any(abs(p - k) > PERIOD_TOLERANCE or k < 1 for p, k in zip(periods, bins, strict=True)) or len(set(bins)) < F:
        raise ValueError(
            f"T must be a window of whole periods of every tone, got T={T}, {', '.join(f'{p:.3f}' for p in periods)} periods; use one second's samples for whole hertz"
        )
    angles = [2 * math.pi * f * signal.step for f in signal.frequencies] + [2 * math.pi / T]
    # beyond this tanh stops the slowest oscillator instead of shrinking its circle
    if not 0 < eps**2 < min(angles) / 20:
        raise ValueError(
            f"model.eps must lie between 0 and {math.sqrt(min(angles) / 20):.2g}, so that the slowest oscillator turns, got {eps}; use 0.0078125"
        )
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"model.margin must be positive and finite, got {margin}; use 40")
    mean = complex(signal.mean_jitter)
    if abs(mean) < 1e-6:
        raise ValueError(
            "signal.phase_jitter must leave a tone to lock to, got a jitter whose mean is 0; use less than 1 turn"
        )
    draft = ConstructionBuilder(
        {"gen": 2 * F + 2, "clock": 2, "sum": 2 * F, "hold": 2 * F, "prod": 2 * F}, inputs=1 + F
    )
    gen, clock, sum_, hold, prod = draft.blocks.values()
    tones, sine = slice(gen.start, gen.start + 2 * F), slice(gen.stop - 1, gen.stop)
    high, pulse = slice(clock.start, clock.start + 1), slice(clock.start + 1, clock.stop)
    identity = torch.eye(2 * F, dtype=torch.float64)

    # gen: of a cosine two tanh a step keep 1 - (2/3) a^2 <cos^4>/<cos^2> = 1 - a^2/2; the inverse makes a a limit cycle
    growth = 1 / (1 - eps**2 / 2)
    turns = rotation_blocks((growth * math.cos(angle), growth * math.sin(angle)) for angle in angles)
    draft.connect("cell", gen, gen, turns, torch.block_diag(*[torch.ones(2, 2)] * (F + 1)).bool())
    ahead = 2.5 * angles[-1]  # so that sums restart one sample, held ones are used two samples, after a pulse
    start = [0.0] * F + [ahead]
    draft.weights["hidden_0"][gen] = eps * torch.tensor(
        [part for phase in start for part in (math.cos(phase), -math.sin(phase))], dtype=torch.float64
    )
    draft.bias("input", gen, margin)
    draft.bias("forget", gen, -margin)

    # clock: at the sample where the sine turns positive it is at least sin(pi/T), half a sample from zero
    level = math.tanh(1.0)
    K = margin / math.sin(math.pi / T)
    for unit in (high, pulse):
        draft.bias("input", unit, margin)
        draft.bias("cell", unit, margin)
        draft.bias("forget", unit, -margin)
        draft.connect("output", unit, sine, torch.full((1, 1), -K / eps, dtype=torch.float64))  # gen holds -sin
    draft.connect("output", pulse, high, torch.full((1, 1), -2 * K / level, dtype=torch.float64))
    draft.weights["hidden_0"][high] = level  # the sine is positive before the first sample, so it does not turn there

    # sum, hold: both act on a pulse
    s2, s3 = eps / signal.peak, 2 * F / (eps * T)  # the loudest tone alone fills a sum to 1/s3 of eps
    draft.connect("input", sum_, tones, identity)
    draft.weights["weight_ih_cell"][sum_, 0] = s2
    draft.connect("cell", hold, sum_, s3 * identity)
    draft.connect("input", hold, pulse, torch.full((2 * F, 1), margin / level, dtype=torch.float64))
    for block in (sum_, hold):
        draft.connect("forget", block, pulse, torch.full((2 * F, 1), -2 * margin / level, dtype=torch.float64))
        draft.bias("forget", block, margin)

    # prod: cos(w t - d) and -sin(w t - d) of the pair (cos, -sin)(w t), d the angle of the jitter's mean
    cos, sin = mean.real / abs(mean), mean.imag / abs(mean)
    back = rotation_blocks([(cos, -sin)] * F)
    draft.connect("input", prod, tones, back, torch.block_diag(*[torch.ones(2, 2)] * F).bool())
    draft.connect("cell", prod, hold, identity)
    draft.bias("forget", prod, -margin)
    for i in range(F):
        draft.weights["weight_ih_output"][prod.start + 2 * i : prod.start + 2 * i + 2, 1 + i] = 2 * margin
    draft.bias("output", slice(0, draft.H), margin)
    draft.bias("output", clock, 0.0)
    draft.bias("output", prod, -margin)

    gain = T * abs(mean) * s2 * s3 * eps**2 / (2 * F)
    readout = torch.zeros(1, draft.H, dtype=torch.float64)
    readout[0, prod] = 1 / gain
    levels = {"gen": eps, "clock": level, "sum": eps / s3, "hold": eps, "prod": eps**2}
    weights = draft.in_dtype(dtype, readout)
    each = torch.cat([torch.full((u.stop - u.start,), levels[n], dtype=torch.float64) for n, u in draft.blocks.items()])
    return Construction(
        weights=weights,
        blocks=draft.blocks,
        mask=draft.mask,
        level=each,
        unit_scale=unit_scales(weights, each, signal.peak, draft.blocks),
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
