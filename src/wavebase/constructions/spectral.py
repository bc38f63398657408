"""An LSTM cell with a signed input gate whose weights, written by hand, compute the power spectrum of each window.

Blocks (F bins, 7F units, two more where the clock needs an oscillator of its own):

    gen   2F  a (cos, -sin)(theta_k t), theta_k = 2 pi k / T    planar rotations from the state a (1, 0); no input
    sum   2F  running Re, Im of the Fourier coefficient         i = tanh(s1 gen), g = tanh(s2 x), f = 0 at a window's start
    prod  2F  their squares                                     i = tanh(s3 sum), g = tanh(s4 sum)
    spec   F  re^2 + im^2                                       g = tanh(s5 (prod_re + prod_im))

Each tanh multiplies by 1 up to u^2/3 of its argument u, so P_k = h_spec / kappa with kappa = (a s1 s2)^2 s3 s4 s5, to
rounding once every argument is small enough. Window reset: the cosine of a bin coprime with T passes the threshold
(1 + gamma)/2, gamma = cos(2 pi / T), only at a window's first sample; with K = 2 margin / (1 - gamma) the forget gate's
argument K ((1 + gamma)/2 - cos) is -margin there and at least +margin elsewhere. Idea: the wavebase poster (2018);
the scales, the reset, the clock and the stabilised oscillators are this project's own.

The same function in a stock cell (sigmoid input gate): every product becomes a differential pair of units,
sigma(u) g - sigma(-u) g = tanh(u/2) g, so that sum and prod take 4F units each and H = 11F.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Literal

import torch

from wavebase.constructions.construction import Construction, ConstructionBuilder
from wavebase.recurrence.cells import InputGate
from wavebase.spectrum import resolve_bins, root_of_unity, rotation_blocks

Preset = Literal["exact", "trainable"]


def linearity_bound(dtype: torch.dtype) -> float:
    """Largest power of two eps for which tanh(u) rounds to u for |u| <= eps: u^2/3 is under a quarter of the dtype's eps.

    2^-27 in float64, 2^-12 in float32. Raises ValueError for a dtype of another kind.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating torch.dtype, got {dtype!r}; use torch.float64")
    return 2.0 ** math.floor(math.log2(math.sqrt(0.75 * torch.finfo(dtype).eps)))


def preset_gains(
    T: int,
    preset: Preset,
    amplitude: float,
    dtype: torch.dtype,
    eps: float | None = None,
    input_gate: InputGate = "tanh",
) -> dict[str, float]:
    """The gains (a, s1..s5) of a preset, for inputs within `amplitude`.

    exact: every argument of a tanh stays within eps (default: the dtype's linearity bound). trainable: gains near 1,
    found by search at T=8 for low error times curvature; about 3 % error, whatever T, with a largest Hessian
    eigenvalue fifteen orders under the exact preset's. For the sigmoid cell there is one choice: the differential pair
    loses digits as u falls (roundoff / u) and gains linearity (u^2 / 12); the sum is least near u = (6 roundoff)^(1/3).
    """
    if input_gate == "sigmoid":
        if preset != "exact":
            raise ValueError(f"model.preset must be exact with input_gate=sigmoid, got {preset}; use input_gate=tanh")
        u = eps or 2.0 ** round(math.log2((3 * torch.finfo(dtype).eps) ** (1 / 3)))
        small = linearity_bound(dtype)
        g = small / T  # keeps the pair's common mode T*g/2 and the squares linear; costs no digits
        peak = T * (u / 2) * g  # largest difference of a sum pair
        return {"a": small, "s1": u / small, "s2": g / amplitude, "s3": u / peak, "s4": small / peak, "s5": 2 / u}
    if preset == "trainable":
        return {
            "a": 1 / 8,
            "s1": 1.0,
            "s2": 1 / (8 * amplitude),
            "s3": 8 / math.sqrt(T),
            "s4": 8 / math.sqrt(T),
            "s5": 4.0,
        }
    eps = eps or linearity_bound(dtype)
    return {"a": eps, "s1": 1.0, "s2": eps / amplitude, "s3": 1 / (T * eps), "s4": 1 / (T * eps), "s5": 1 / eps}


def check_arguments(
    preset: Preset, eps: float | None, amplitude: float, margin: float, scale: float, bound_windows: int
) -> None:
    """Raise ValueError, in one line, for values that no construction takes."""
    numbers = {"eps": eps, "amplitude": amplitude, "margin": margin, "scale": scale, "bound_windows": bound_windows}
    for name, value in numbers.items():
        if isinstance(value, bool) or not (isinstance(value, int | float) or (name == "eps" and value is None)):
            raise ValueError(f"{name} must be a number, got {value!r}; use {'1' if name != 'margin' else '40'}")
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}; use 1")
    if bound_windows < 1:
        raise ValueError(f"bound_windows must be at least 1, got {bound_windows}; use 1")
    if preset not in ("exact", "trainable"):
        raise ValueError(f"model.preset must be exact or trainable, got {preset!r}; use exact")
    if eps is not None and not 0 < eps < 1:
        raise ValueError(f"model.eps must lie between 0 and 1, got {eps}; use null for the dtype's own bound")
    if eps is not None and preset == "trainable":
        raise ValueError("model.eps belongs to preset=exact, got preset=trainable; set model.gains instead")
    if not (math.isfinite(amplitude) and amplitude > 0):
        raise ValueError(
            f"amplitude must be a positive finite bound on |x|, got {amplitude}; use the signal's largest |x|"
        )
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"model.margin must be positive and finite, got {margin}; use 40")


def override_gains(preset: Mapping[str, float], gains: Mapping[str, float]) -> dict[str, float]:
    """The preset's gains with single ones replaced. Raises ValueError for a name it lacks, or a value of no use."""
    for name, value in gains.items():
        if name not in preset:
            raise ValueError(
                f"model.gains must name gains among {', '.join(preset)}, got {name!r}; use {[*preset][-1]}"
            )
        if not isinstance(value, int | float) or not (math.isfinite(value) and value != 0):
            raise ValueError(
                f"model.gains.{name} must be finite and not zero, got {value}; use null for the preset's {preset[name]:.3g}"
            )
    return {**preset, **{name: float(value) for name, value in gains.items()}}


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
    """Weights whose readout gives scale * |X_k|^2 for each window of T samples, read two steps after the window.

    bins: as in `resolve_bins`. gains: overrides of single preset gains, by name. margin: argument at which a saturated
    gate rests (sigmoid(40) rounds to 1 in float64). amplitude: bound on |x| (a larger input costs accuracy, not
    function). Raises ValueError, in one line, for whatever cannot be built.
    """
    chosen = resolve_bins(T, bins)
    if input_gate not in ("tanh", "sigmoid"):
        raise ValueError(f"input_gate must be tanh or sigmoid, got {input_gate!r}; use tanh")
    check_arguments(preset, eps, amplitude, margin, scale, bound_windows)
    k = override_gains(preset_gains(T, preset, amplitude, dtype, eps, input_gate), gains or {})

    F, pairs = len(chosen), 2 if input_gate == "sigmoid" else 1
    clock_bin = next((n for n, b in enumerate(chosen) if math.gcd(b, T) == 1), None)
    oscillators = [*chosen, *([1] if clock_bin is None else [])]
    clock = 2 * (F if clock_bin is None else clock_bin)  # its cosine's unit within gen
    draft = ConstructionBuilder({"gen": 2 * len(oscillators), "sum": 2 * F * pairs, "prod": 2 * F * pairs, "spec": F})
    gen, sum_, prod, spec = draft.blocks.values()
    coefficients = slice(gen.start, gen.start + 2 * F)

    # gen: rotations. Two tanh a turn would shrink a circle of radius a; the exact inverse of that makes it a limit cycle.
    roots = [stabilised_root(b, T, k["a"], dtype) for b in oscillators]
    draft.connect("cell", gen, gen, rotation_blocks(roots), torch.block_diag(*[torch.ones(2, 2)] * len(roots)).bool())
    draft.weights["hidden_0"][gen][::2] = k["a"]
    draft.bias("input", gen, margin)
    draft.bias("forget", gen, -margin)

    # sum: products with the input, held over a window, forgotten at its first sample.
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64)[:pairs, None, None]
    identity = torch.eye(2 * F, dtype=torch.float64)
    draft.connect("input", sum_, coefficients, k["s1"] * (sign * identity).flatten(0, 1))
    draft.weights["weight_ih_cell"][sum_] = k["s2"]
    connect_clock(draft, "forget", sum_, clock, k["a"], T, margin)

    # prod: squares; spec: re^2 + im^2. Of a differential pair the consumer reads the difference.
    difference = torch.cat([s * identity for s in sign.flatten()], 1)
    draft.connect("input", prod, sum_, k["s3"] * torch.cat([s * difference for s in sign.flatten()]))
    draft.connect("cell", prod, sum_, k["s4"] * torch.cat([difference] * pairs))
    draft.bias("forget", prod, -margin)
    add = torch.kron(torch.eye(F, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64))
    draft.connect("cell", spec, prod, k["s5"] * torch.cat([s * add for s in sign.flatten()], 1))
    draft.bias("input", spec, margin)
    draft.bias("forget", spec, -margin)
    draft.bias("output", slice(0, draft.H), margin)

    kappa = (k["a"] * k["s1"] / pairs * k["s2"]) ** 2 * k["s3"] / pairs * k["s4"] * k["s5"]
    half = k["a"] * k["s1"] / pairs * k["s2"] * amplitude * T
    square = half**2 * k["s3"] / pairs * k["s4"]
    tops = {
        "gen": k["a"],
        "sum": half if pairs == 1 else k["s2"] * amplitude * T / 2,
        "prod": square if pairs == 1 else k["s4"] * half / 2,
        "spec": k["s5"] * square,
    }
    return draft.finish(
        tops,
        kappa,
        scale,
        dtype,
        gains=k,
        T=T,
        bins=chosen,
        input_gate=input_gate,
        margin=margin,
        amplitude=amplitude,
        error_bound=_error_bound(T, k, margin, amplitude, dtype, pairs, bound_windows),
        bound_windows=bound_windows,
    )


def connect_clock(
    draft: ConstructionBuilder, gate: str, to: slice, clock: int, a: float, T: int, margin: float, opens: bool = False
) -> None:
    """Let a gate close (`opens`: open) at a window's first sample only, from the clock's cosine, unit `clock`, radius a.

    The gate's argument K ((1 + gamma)/2 - cos) is -margin there and at least +margin elsewhere; `opens` reverses it.
    """
    gamma = root_of_unity(1, T)[0]
    K = 2 * margin / (1 - gamma) * (-1 if opens else 1)
    draft.connect(gate, to, slice(clock, clock + 1), torch.full((to.stop - to.start, 1), -K / a, dtype=torch.float64))
    draft.bias(gate, to, K * (1 + gamma) / 2)


def stabilised_root(k: int, T: int, a: float, dtype: torch.dtype) -> tuple[float, float]:
    """exp(i theta_k) divided by the factor with which tanh(tanh(.)) shrinks an oscillation of amplitude a.

    Each component loses u^3 * 2/3 a step; over the orbit a cosine keeps 1 - (2/3) a^2 <cos^4>/<cos^2> of its amplitude
    (the describing function). Divided by it, the radius a is a stable limit cycle, so errors do not grow with time.

    An error of the rounded modulus would grow with every sample, one of the angle hardly matters to the power: of the
    pairs within a unit in the last place of `dtype` the one is taken whose modulus is nearest, measured exactly.
    """
    cos2 = [root_of_unity(k * t, T)[0] ** 2 for t in range(T)]
    quality = sum(c * c for c in cos2) / sum(cos2)
    cos, sin = root_of_unity(k, T)
    keep = 1 - 2 / 3 * quality * min(a * a, 1.0) if abs(a) > linearity_bound(dtype) else 1.0  # there tanh rounds to u
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
    """Worst case of |P_hat - P| / (T sum x^2); terms of one rounding u, of one tanh (relative u^2/3, and 4 roundings).

    A coefficient's error is at most eta * sum|x|, with eta the relative error of a product's factors. Infinite where the
    clock may miss a window's start.
    A stock cell's pairs cancel to a fixed absolute error, so its bound is for windows of rms >= amplitude / 4.
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


def tanh_error(argument: float, u: float) -> float:
    """Largest relative error of taking tanh for the identity, with 4 roundings u."""
    return min(abs(argument), math.sqrt(3)) ** 2 / 3 + 4 * u


def clock_error(T: int, a: float, margin: float, dtype: torch.dtype, windows: int) -> float:
    """Largest relative error of an oscillator over a stream of windows; infinite where the clock may miss a start.

    A rotation has 5 roundings and two tanh; of their shrinkage the stabiliser removes the mean, not the ripple within
    an orbit.
    """
    u, leak, steps = torch.finfo(dtype).eps / 2, math.exp(-margin), T * windows + 2
    radius = steps * (5 * u + 8 * u + a**4) + T * 2 / 3 * a**2 + steps * 2 * leak
    return radius if radius < (1 - root_of_unity(1, T)[0]) / 4 else math.inf


def power_error(
    eta: float, k: Mapping[str, float], peak: float, margin: float, dtype: torch.dtype, pairs: int = 1
) -> float:
    """Worst case of |P_hat - P| / (T sum x^2) from coefficients, at most `peak`, with an error of eta * sum|x|.

    sum|x| <= sqrt(T sum x^2), so a square is off by 2 eta + eta^2 of T sum x^2; the tanh of prod and spec add theirs.
    """
    if not math.isfinite(eta):
        return math.inf
    u = torch.finfo(dtype).eps / 2
    arguments = abs(k["s3"]) * peak, abs(k["s4"]) * peak
    square = min(arguments[0], 1) / pairs * min(arguments[1], 1)
    power = sum(tanh_error(argument, u) for argument in (*arguments, square))
    power += 4 * 9 * u / arguments[0] if pairs == 2 else 0.0
    power += 2 * tanh_error(2 * abs(k["s5"]) * square, u) + 8 * u + 2 * math.exp(-margin)
    total = 2 * eta + eta**2
    return total + power * (1 + total)
