"""Two other exact algorithms for the same function in the same cell: a driven resonator, and a delay line with a DFT.

Both share the last two steps of `spectral` (prod: i = tanh(s3 S), g = tanh(s4 S); spec: re^2 + im^2), its readout, its
latency of two samples, and the origin of its error: tanh is the identity up to u^2/3, and to rounding within the
linearity bound. They differ in how they compute the Fourier coefficients S.

    driven resonator (5F + 3 units)
        clock      2   an oscillator of bin 1
        late       1   s2 x of a window's first sample, at that step only: its output gate opens there
        resonator 2F   z' = R_k z + s2 (x, 0), R_k turning by theta_k = 2 pi k / T; output gate closed at a window's start
    delay line (T + 3F units)
        delay      T   s2 times the last T samples, a shift register
        prod           reads the DFT's rows: S_k = sum_n exp(-i theta_k (T-1-n)) d_n, d_n the sample n steps ago

A closed output gate clears the resonators, and the sample of that step with them. So `late` holds that sample and adds it
one step later, turned once: z' = R_k z + s2 (x, 0) + R_k (late, 0). A window then ends with
z = s2 sum_n R_k^(T-1-n) (x_n, 0), s2 times the coefficient times exp(-i theta_k (T-1)), a factor that |S_k|^2 loses.
Roundings of a rotation add up within a window only, where those of `spectral` add up over the stream. The delay line
needs no clock: it slides, and is read at window ends. Either way P_k = h_spec / kappa with kappa = s2^2 s3 s4 s5.

preset=exact keeps every argument of a tanh within eps, by default the dtype's linearity bound. preset=trainable has
gains near 1 and 2 to 5 % error at any T. Its largest Hessian eigenvalue is 11 to 16 times that of `spectral` at T = 8,
because the sample passes through T steps of two tanh, and only a small s2 keeps them linear; the cell of a sum unit is
linear by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from wavebase.constructions.builder import ConstructionBuilder
from wavebase.constructions.construction import Construction
from wavebase.constructions.error_bounds import clock_error, power_error, tanh_error
from wavebase.constructions.gains import Preset, check_arguments, linearity_bound, override_gains
from wavebase.constructions.spectral import connect_clock, rotation_pattern, stabilised_root
from wavebase.spectrum import resolve_bins, root_of_unity, rotation_blocks


def resonator_construction(
    T: int,
    bins: str | Iterable[int] = "full",
    *,
    dtype: torch.dtype = torch.float64,
    preset: Preset = "exact",
    eps: float | None = None,
    gains: Mapping[str, float] | None = None,
    margin: float = 40.0,
    amplitude: float = 1.0,
    scale: float = 1.0,
    bound_windows: int = 1,
) -> Construction:
    """Build the driven resonator. Arguments, readout and errors: `spectral_construction`; gains a (clock), s2 to s5."""
    chosen = resolve_bins(T, bins)
    check_arguments(preset, eps, amplitude, margin, scale, bound_windows)
    small = eps or linearity_bound(dtype)
    if preset == "exact":
        preset_gains = {"a": small, "s2": small / (T * amplitude), "s3": 1.0, "s4": 1.0, "s5": 1 / small}
    else:
        preset_gains = {
            "a": 1 / 8,
            "s2": 1 / (5 * T * amplitude),
            "s3": math.sqrt(T) / 2,
            "s4": math.sqrt(T) / 2,
            "s5": 4.0,
        }
    k = override_gains(preset_gains, gains or {})

    F = len(chosen)
    builder = ConstructionBuilder({"clock": 2, "late": 1, "resonator": 2 * F, "prod": 2 * F, "spec": F})
    builder.bias("output", slice(0, builder.H), margin)
    _connect_resonators(builder, chosen, k, T, dtype, margin)
    resonator = builder.blocks["resonator"]
    _connect_power(builder, resonator, torch.eye(2 * F, dtype=torch.float64), k, margin)
    u, peak = torch.finfo(dtype).eps / 2, abs(k["s2"]) * amplitude * T
    eta = T * (5 * u + 2 * tanh_error(peak, u) + 2 * math.exp(-margin)) + 2 * tanh_error(peak, u)
    missed = math.isinf(clock_error(T, k["a"], margin, dtype, bound_windows))  # the clock's own error is harmless
    return builder.finish(
        {"clock": k["a"], "late": peak / T, "resonator": peak, **_power_peaks(k, peak)},
        k["s2"] ** 2 * k["s3"] * k["s4"] * k["s5"],
        scale, dtype, gains=k, T=T, bins=chosen, input_gate="tanh", margin=margin, amplitude=amplitude,
        error_bound=math.inf if missed else power_error(eta, k, peak, margin, dtype), bound_windows=bound_windows,
    )  # fmt: skip


def _connect_resonators(
    builder: ConstructionBuilder,
    chosen: tuple[int, ...],
    k: Mapping[str, float],
    T: int,
    dtype: torch.dtype,
    margin: float,
) -> None:
    """Write clock, late and resonator; every output gate is open already."""
    F = len(chosen)
    clock, late, resonator, *_ = builder.blocks.values()
    builder.connect("cell", clock, clock, rotation_blocks([stabilised_root(1, T, k["a"], dtype)]))
    builder.mask["weight_hh_cell"][clock, clock] = True
    builder.weights["hidden_0"][clock.start] = k["a"]
    builder.weights["weight_ih_cell"][late] = k["s2"]
    connect_clock(builder, "output", late, clock.start, k["a"], T, margin, opens=True)

    turn = rotation_blocks([stabilised_root(b, T, 0.0, dtype) for b in chosen])
    first = torch.tensor([1.0, 0.0], dtype=torch.float64).repeat(F)[:, None]
    builder.connect("cell", resonator, resonator, turn, rotation_pattern(F))
    builder.connect("cell", resonator, late, turn @ first, torch.ones(2 * F, 1, dtype=torch.bool))
    builder.weights["weight_ih_cell"][resonator] = k["s2"] * first
    connect_clock(builder, "output", resonator, clock.start, k["a"], T, margin)
    for units in (clock, late, resonator):
        builder.linear(units, margin)


def delay_line_construction(
    T: int,
    bins: str | Iterable[int] = "full",
    *,
    dtype: torch.dtype = torch.float64,
    preset: Preset = "exact",
    eps: float | None = None,
    gains: Mapping[str, float] | None = None,
    margin: float = 40.0,
    amplitude: float = 1.0,
    scale: float = 1.0,
    bound_windows: int = 1,
) -> Construction:
    """Build the delay line. Arguments, readout and errors: `spectral_construction`; gains s2 to s5.

    Its error bound holds for any number of windows, because it keeps nothing from one to the next.
    """
    chosen = resolve_bins(T, bins)
    check_arguments(preset, eps, amplitude, margin, scale, bound_windows)
    small = eps or linearity_bound(dtype)
    if preset == "exact":
        preset_gains = {"s2": small / amplitude, "s3": 1 / T, "s4": 1 / T, "s5": 1 / small}
    else:
        preset_gains = {"s2": 1 / (8 * math.sqrt(T) * amplitude), "s3": 1.0, "s4": 1.0, "s5": 4.0}
    k = override_gains(preset_gains, gains or {})

    F = len(chosen)
    builder = ConstructionBuilder({"delay": T, "prod": 2 * F, "spec": F})
    delay = builder.blocks["delay"]
    builder.bias("output", slice(0, builder.H), margin)
    builder.linear(delay, margin)
    builder.weights["weight_ih_cell"][0] = k["s2"]
    builder.connect("cell", delay, delay, torch.eye(T, dtype=torch.float64).roll(1, 0).tril())
    roots = [[root_of_unity(b * (T - 1 - n), T) for n in range(T)] for b in chosen]
    rows = torch.tensor(roots, dtype=torch.float64).mT.flatten(0, 1)  # [2F, T], cos and sin alternate
    rows[1::2] *= -1
    _connect_power(builder, delay, rows, k, margin, torch.ones_like(rows).bool())

    u, peak = torch.finfo(dtype).eps / 2, abs(k["s2"]) * amplitude * T
    eta = T * (2 * tanh_error(peak / T, u) + math.exp(-margin)) + (T + 4) * u
    return builder.finish(
        {"delay": peak / T, **_power_peaks(k, peak)},
        k["s2"] ** 2 * k["s3"] * k["s4"] * k["s5"],
        scale, dtype, gains=k, T=T, bins=chosen, input_gate="tanh", margin=margin, amplitude=amplitude,
        error_bound=power_error(eta, k, peak, margin, dtype), bound_windows=bound_windows,
    )  # fmt: skip


def _connect_power(
    builder: ConstructionBuilder,
    source: slice,
    rows: Tensor,
    k: Mapping[str, float],
    margin: float,
    pattern: Tensor | None = None,
) -> None:
    """Write prod, the squares of the coefficients rows @ h[source], rows [2F, source], and spec, their sums by pairs."""
    prod, spec = builder.blocks["prod"], builder.blocks["spec"]
    for gate, gain in (("input", k["s3"]), ("cell", k["s4"])):
        builder.connect(gate, prod, source, gain * rows, pattern)
    builder.bias("forget", prod, -margin)
    F = spec.stop - spec.start
    builder.connect("cell", spec, prod, k["s5"] * torch.eye(F, dtype=torch.float64).repeat_interleave(2, 1))
    builder.linear(spec, margin)


def _power_peaks(k: Mapping[str, float], peak: float) -> dict[str, float]:
    square = peak**2 * k["s3"] * k["s4"]
    return {"prod": square, "spec": k["s5"] * square}


RIVALS = {"resonator": resonator_construction, "delay_line": delay_line_construction}
