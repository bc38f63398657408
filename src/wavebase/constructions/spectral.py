"""An LSTM cell with a signed input gate whose weights, written by hand, compute the power spectrum of each window.

Blocks (F bins, 7F units, two more where the clock needs an oscillator of its own):

    gen   2F  a (cos, -sin)(theta_k t), theta_k = 2 pi k / T    planar rotations from the state a (1, 0); no input
    sum   2F  running Re, Im of the Fourier coefficient         i = tanh(s1 gen), g = tanh(s2 x), f = 0 at a window's start
    prod  2F  their squares                                     i = tanh(s3 sum), g = tanh(s4 sum)
    spec   F  re^2 + im^2                                       g = tanh(s5 (prod_re + prod_im))

A tanh of argument u is u up to a relative u^2/3, so P_k = h_spec / kappa with kappa = (a s1 s2)^2 s3 s4 s5, exact to
rounding once every argument is small enough. Window reset: the cosine of a bin coprime with T passes the threshold
(1 + gamma)/2, gamma = cos(2 pi / T), only at a window's first sample. With K = 2 margin / (1 - gamma) the forget gate's
argument K ((1 + gamma)/2 - cos) is -margin there and at least +margin elsewhere. Idea: the wavebase poster (2018);
the scales, the reset, the clock and the stabilised oscillators are this project's own.

The same function in a stock cell (sigmoid input gate): every product becomes a differential pair of units,
sigma(u) g - sigma(-u) g = tanh(u/2) g, so that sum and prod take 4F units each and H = 11F.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction

import torch
from torch import Tensor

from wavebase.constructions.builder import ConstructionBuilder
from wavebase.constructions.construction import Construction
from wavebase.constructions.error_bounds import clock_error, power_error, tanh_error
from wavebase.constructions.gains import Preset, check_arguments, override_gains
from wavebase.constructions.gains import linearity_bound as linearity_bound  # the documentation imports both from here
from wavebase.constructions.gains import preset_gains as preset_gains
from wavebase.recurrence.cells import InputGate
from wavebase.spectrum import resolve_bins, root_of_unity, rotation_blocks


def spectral_construction(
    T: int,
    bins: str | Iterable[int] = "full",
    *,
    dtype: torch.dtype = torch.float64,
    input_gate: InputGate = "tanh",
    preset: Preset = "exact",
    eps: float | None = None,
    gains: Mapping[str, float] | None = None,
    margin: float = 40.0,
    amplitude: float = 1.0,
    scale: float = 1.0,
    bound_windows: int = 1,
) -> Construction:
    """Build weights whose readout gives scale * |X_k|^2 for each window of T samples, two steps after the window.

    Args:
        T: Window, samples.
        bins: See `resolve_bins`.
        dtype: Of the weights.
        input_gate: tanh (7F units), or sigmoid for the stock cell (11F units).
        preset: exact to rounding, or trainable with 3 % error and low curvature (`preset_gains`).
        eps: Of preset=exact: largest argument of any tanh; None for the dtype's linearity bound.
        gains: Replace single gains of the preset, by name.
        margin: Argument at which a saturated gate rests; sigmoid(40) rounds to 1 in float64.
        amplitude: Bound on |x|. A larger input costs accuracy, not function.
        scale: Factor of the power.
        bound_windows: Windows of a stream for which `error_bound` shall hold.

    Raises:
        ValueError: In one line, for whatever cannot be built.
    """
    chosen = resolve_bins(T, bins)
    if input_gate not in ("tanh", "sigmoid"):
        raise ValueError(f"input_gate must be tanh or sigmoid, got {input_gate!r}; use tanh")
    check_arguments(preset, eps, amplitude, margin, scale, bound_windows)
    k = override_gains(preset_gains(T, preset, amplitude, dtype, eps, input_gate), gains or {})

    F, pairs = len(chosen), 2 if input_gate == "sigmoid" else 1
    clock_bin = next((n for n, b in enumerate(chosen) if math.gcd(b, T) == 1), None)
    oscillators = [*chosen, *([1] if clock_bin is None else [])]
    builder = ConstructionBuilder({"gen": 2 * len(oscillators), "sum": 2 * F * pairs, "prod": 2 * F * pairs, "spec": F})
    _connect_oscillators(builder, [stabilised_root(b, T, k["a"], dtype) for b in oscillators], k["a"], margin)
    _connect_products(builder, F, pairs, k, margin)
    # sum forgets at a window's first sample; the clock is the cosine's unit within gen
    connect_clock(
        builder, "forget", builder.blocks["sum"], 2 * (F if clock_bin is None else clock_bin), k["a"], T, margin
    )
    builder.bias("output", slice(0, builder.H), margin)

    kappa, peaks = _sizes(k, pairs, amplitude, T)
    bound = _error_bound(T, k, margin, amplitude, dtype, pairs, bound_windows)
    return builder.finish(
        peaks, kappa, scale, dtype, gains=k, T=T, bins=chosen, input_gate=input_gate, margin=margin,
        amplitude=amplitude, error_bound=bound, bound_windows=bound_windows,
    )  # fmt: skip


def _sizes(k: Mapping[str, float], pairs: int, amplitude: float, T: int) -> tuple[float, dict[str, float]]:
    """Return kappa and the largest |h| of each block, before tanh."""
    kappa = (k["a"] * k["s1"] / pairs * k["s2"]) ** 2 * k["s3"] / pairs * k["s4"] * k["s5"]
    half = k["a"] * k["s1"] / pairs * k["s2"] * amplitude * T
    square = half**2 * k["s3"] / pairs * k["s4"]
    peaks = {
        "gen": k["a"],
        "sum": half if pairs == 1 else k["s2"] * amplitude * T / 2,
        "prod": square if pairs == 1 else k["s4"] * half / 2,
        "spec": k["s5"] * square,
    }
    return kappa, peaks


def _connect_oscillators(
    builder: ConstructionBuilder, roots: list[tuple[float, float]], a: float, margin: float
) -> None:
    """Write gen: rotations whose radius a is a limit cycle, because the roots undo the shrinkage of two tanh a turn."""
    gen = builder.blocks["gen"]
    builder.connect("cell", gen, gen, rotation_blocks(roots), rotation_pattern(len(roots)))
    builder.weights["hidden_0"][gen][::2] = a
    builder.linear(gen, margin)


def _connect_products(builder: ConstructionBuilder, F: int, pairs: int, k: Mapping[str, float], margin: float) -> None:
    """Write sum, prod and spec. The consumer of a differential pair (pairs=2) reads the difference of its units."""
    gen, sum_, prod, spec = builder.blocks.values()
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64)[:pairs, None, None]
    identity = torch.eye(2 * F, dtype=torch.float64)
    coefficients = slice(gen.start, gen.start + 2 * F)
    builder.connect("input", sum_, coefficients, k["s1"] * (sign * identity).flatten(0, 1))
    builder.weights["weight_ih_cell"][sum_] = k["s2"]
    difference = torch.cat([s * identity for s in sign.flatten()], 1)
    builder.connect("input", prod, sum_, k["s3"] * torch.cat([s * difference for s in sign.flatten()]))
    builder.connect("cell", prod, sum_, k["s4"] * torch.cat([difference] * pairs))
    builder.bias("forget", prod, -margin)
    add = torch.kron(torch.eye(F, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64))
    builder.connect("cell", spec, prod, k["s5"] * torch.cat([s * add for s in sign.flatten()], 1))
    builder.linear(spec, margin)


def rotation_pattern(n: int) -> Tensor:
    """Return the entries of n planar rotations, which may be zero, as booleans [2n, 2n]."""
    return torch.block_diag(*[torch.ones(2, 2)] * n).bool()


def connect_clock(
    builder: ConstructionBuilder, gate: str, to: slice, clock: int, a: float, T: int, margin: float, opens: bool = False
) -> None:
    """Close a gate at a window's first sample only, or open it there only.

    The gate's argument K ((1 + gamma)/2 - cos) is -margin at that sample and at least +margin elsewhere.

    Args:
        builder: Is written into.
        gate: The gate of the block `to`.
        to: Units whose gate it is.
        clock: Unit that holds the clock's cosine.
        a: Radius of the clock's oscillation.
        T: Window, samples.
        margin: Argument of the saturated gate.
        opens: Reverse the sign.
    """
    gamma = root_of_unity(1, T)[0]
    K = 2 * margin / (1 - gamma) * (-1 if opens else 1)
    builder.connect(gate, to, slice(clock, clock + 1), torch.full((to.stop - to.start, 1), -K / a, dtype=torch.float64))
    builder.bias(gate, to, K * (1 + gamma) / 2)


def stabilised_root(k: int, T: int, a: float, dtype: torch.dtype) -> tuple[float, float]:
    """Return exp(i theta_k) divided by the factor with which tanh(tanh(.)) shrinks an oscillation of amplitude a.

    Each component loses u^3 * 2/3 a step; over the orbit a cosine keeps 1 - (2/3) a^2 <cos^4>/<cos^2> of its amplitude
    (the describing function). After the division, radius a is a stable limit cycle, so errors do not grow with time.

    An error of the rounded modulus would grow with every sample; an error of the angle hardly changes the power. So of
    all pairs within one unit in the last place of `dtype`, the one with the nearest modulus, computed exactly, is used.
    """
    cos2 = [root_of_unity(k * t, T)[0] ** 2 for t in range(T)]
    quality = sum(c * c for c in cos2) / sum(cos2)
    cos, sin = root_of_unity(k, T)
    keep = 1 - 2 / 3 * quality * min(a * a, 1.0) if abs(a) > linearity_bound(dtype) else 1.0  # else tanh rounds to u
    radius, ulp = 1 / Fraction(keep), torch.finfo(dtype).eps / 2

    def near(x: float) -> list[float]:
        x = torch.tensor(x / keep, dtype=dtype).item()
        size = ulp * 2.0 ** math.frexp(x)[1]  # one unit in the last place of x
        return [x - size, x, x + size] if x else [x]

    pairs = [(c, s) for c in near(cos) for s in near(sin)]
    return min(pairs, key=lambda pair: abs(Fraction(pair[0]) ** 2 + Fraction(pair[1]) ** 2 - radius**2))


def _error_bound(
    T: int, k: Mapping[str, float], margin: float, amplitude: float, dtype: torch.dtype, pairs: int, windows: int
) -> float:
    """Return the worst case of |P_hat - P| / (T sum x^2), infinite where the clock may miss a window's start.

    A coefficient's error is at most eta * sum|x|, with eta the relative error of a product's factors: roundings u, and
    per tanh u^2/3 and 4 roundings. A stock cell's pairs cancel to a fixed absolute error, so its bound holds for windows
    of rms >= amplitude / 4.
    """
    u = torch.finfo(dtype).eps / 2
    leak = math.exp(-margin)
    arg_i, arg_g = abs(k["a"] * k["s1"]), abs(k["s2"]) * amplitude
    peak = T * arg_i / pairs * arg_g  # of the sum block
    common = T * arg_g / 2 if pairs == 2 else peak  # what the sum block's own tanh sees
    radius = clock_error(T, k["a"], margin, dtype, windows)
    # a pair's difference is arg_i / 2 of its members, which carry the roundings of T sums, a sigmoid and a tanh
    lost = (T + 8) * u / arg_i if pairs == 2 else 0.0
    eta = radius + tanh_error(arg_i, u) + tanh_error(arg_g, u) + tanh_error(common, u) + lost + (T + 4) * u + T * leak
    return power_error(eta, k, peak, margin, dtype, pairs)
