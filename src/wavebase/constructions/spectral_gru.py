"""The power spectrum in the stock GRU cell: as exact as gates that are always positive allow.

    r, z = sigmoid(..);   n = tanh(W x + b + r (U h + c));   h' = (1 - z) n + z h

z is shut for all units, so h' = n, and every tanh acts on small arguments, where it is the identity. For F bins, units

    sum   2F    h' = turn(h) + s x: the two parts of h = s sum_t exp(2 pi i k (T-1-t)/T) x_t, by planar rotations;  r = 1
    prod  4Fm   n = r (+-u), r = sigmoid(+-g u) for each part u of sum: two units, whose sum is u tanh(g u/2)

and, one step after the window's last sample, the readout (2/(g s^2)) times the sum of a bin's units is |X_k|^2.

The LSTM here multiplies by a gate tanh(u) that may be negative and is small with u, so its products keep all their digits. A
gate of a GRU is a sigmoid, which lies between 0 and 1: a product of signed numbers is the difference of two terms, and r keeps u
only to an absolute eps/4 beside 1/2. With G = g max|u| the error is, relative to the largest power,

    rounding: about eps/G,    truncation: G^2/12  (tanh(v) = v - v^3/3 ...)

whose best sum is of the order eps^(2/3), 1e-11 in float64. `orders` = m takes gains g, 2g, .., 2^(m-1) g and extrapolates to g = 0
(Richardson), for an error of the order eps^(2m/(2m+1)): 1e-13 for m = 2. No choice of gains is exact to rounding.

Source of the cell: Cho et al., "Learning phrase representations using RNN encoder-decoder for statistical machine
translation" (2014, arXiv 1406.1078), in the variant of torch.nn.GRU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from wavebase.constructions.algorithm import Weights
from wavebase.constructions.handwritten import Handwritten, flip_signs, power_of_two, row_units
from wavebase.recurrence.cells import GRU_GATES
from wavebase.spectrum import resolve_bins, root_of_unity, rotation_blocks

MARGIN = 40.0  # argument of shut and open gates: a sigmoid of it is 0 or 1 to rounding


# long: the weights of the whole algorithm, written out in one place
def spectral_gru_construction(
    T: int,
    bins: str | Iterable[int] = "full",
    *,
    scale: float = 1.0,
    gain: float | None = None,
    orders: int = 4,
    amplitude: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Handwritten:
    """Return weights for the power spectrum of a window in a GRU.

    Args:
        T: Samples in a window.
        bins: See `spectrum.resolve_bins`; F of them.
        scale: Of the outputs, times the unnormalised power.
        gain: G, the largest argument of a reset gate; None for the one with the least error bound.
        orders: m, gains to extrapolate from.
        amplitude: Bound on |x|.

    Returns:
        weight_ih_<gate> [H, 1], weight_hh_<gate> [H, H], bias_<gate> [H] of the gates reset, update, new, readout_weight [F, H],
        with H = 2F + 4Fm; blocks sum and prod. `error_bound` bounds |P_hat[k] - P[k]| over (T amplitude)^2, the largest power there is,
        times scale.

    Raises:
        ValueError: If gain or amplitude is not positive and finite, or orders is not 1..4.
    """
    k = resolve_bins(T, bins)
    if orders not in range(1, 5):
        raise ValueError(f"model.orders must be 1..4, got {orders}; use 1")
    for name, value in (("gain", gain), ("amplitude", amplitude)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"model.{name} must be positive and finite, got {value}; use null")
    u = torch.finfo(dtype).eps / 2
    truncation, rounding = _errors_of_unit_gain(orders, u)
    best = (rounding / (2 * orders * truncation)) ** (1 / (2 * orders + 1))
    G = best if gain is None else gain
    # tanh's series alternates with falling terms for arguments up to 1
    bound = 2 * (truncation * G ** (2 * orders) + rounding / G) + 20 * T * u if G <= 2 else math.inf
    peak = 2.0 ** math.floor(math.log2(u) / 2)  # of a sum: tanh's cubic term is then below one rounding
    s = peak / (T * amplitude)
    F = len(k)
    H = 2 * F + 4 * F * orders
    sums, prods = slice(0, 2 * F), slice(2 * F, H)
    w: dict[str, Tensor] = {}
    for gate in GRU_GATES:
        w[f"weight_ih_{gate}"] = torch.zeros(H, 1, dtype=torch.float64)
        w[f"weight_hh_{gate}"] = torch.zeros(H, H, dtype=torch.float64)
        w[f"bias_{gate}"] = torch.zeros(H, dtype=torch.float64)
    w["bias_update"][:] = -MARGIN

    w["bias_reset"][sums] = MARGIN
    w["weight_hh_new"][sums, sums] = rotation_blocks(root_of_unity(n, T) for n in k)
    w["weight_ih_new"][0 : 2 * F : 2] = s  # into the cosine's part

    w["readout_weight"] = torch.zeros(F, H, dtype=torch.float64)
    one = torch.eye(2 * F, dtype=torch.float64)
    for order, share in enumerate(extrapolation(orders)):
        g = G / peak / 2 ** (orders - 1 - order)  # the largest gain has the argument G
        for half, sign in enumerate((1, -1)):
            rows = slice(prods.start + 2 * F * (2 * order + half), prods.start + 2 * F * (2 * order + half + 1))
            w["weight_hh_new"][rows, sums] = sign * one
            w["weight_hh_reset"][rows, sums] = sign * g * one
            w["readout_weight"][:, rows] = scale * share * 2 / (g * s**2) * one.unflatten(0, (F, 2)).sum(1)
    return Handwritten(
        weights={name: weight.to(dtype) for name, weight in w.items()},
        unit_scale=_units(w, peak, amplitude),
        blocks={"sum": sums, "prod": prods},
        error_bound=bound,
        tolerance=100 * T * bound
        if math.isfinite(bound)
        else None,  # the largest power is at most 100 T times a bin's rms
        reflections={"sign": _flip_first_sum, "exchange": _exchange_last_two},
    )


def extrapolation(orders: int) -> list[float]:
    """Return the weights with which estimates at g, 2g, 4g, .., even in g, give the one at g = 0: they add up to 1."""
    nodes = [4.0**n for n in range(orders)]
    return [math.prod(other / (other - node) for other in nodes if other != node) for node in nodes]


def _errors_of_unit_gain(orders: int, u: float) -> tuple[float, float]:
    """A and B of a relative error A G^(2m) + B/G of each part's square.

    The sum of a pair is proportional to tanh(y)/y, y = g u/2 at most G/2: of its even series in G extrapolation leaves the power 2m. A
    sigmoid near 1/2, its argument and its product with u lose up to 8 roundings in all, and a pair's difference is G/2 of its members.
    """
    shares, sizes = extrapolation(orders), [2.0 ** -(orders - 1 - n) for n in range(orders)]
    taylor = (1 / 3, 2 / 15, 17 / 315, 62 / 2835)[orders - 1]
    truncation = taylor / 4**orders * sum(abs(a) * size ** (2 * orders) for a, size in zip(shares, sizes, strict=True))
    rounding = 8 * u * sum(abs(a) / size for a, size in zip(shares, sizes, strict=True))
    return truncation, rounding


def _units(w: Weights, peak: float, amplitude: float) -> dict[str, Tensor]:
    """Drive over level; every unit reaches `peak` at most."""
    units: dict[str, Tensor] = {}
    for gate in GRU_GATES:
        drive = w[f"weight_hh_{gate}"].abs().sum(1) * peak + w[f"weight_ih_{gate}"].abs()[:, 0] * amplitude
        drive = drive + w[f"bias_{gate}"].abs()
        units |= {
            f"weight_ih_{gate}": row_units(drive, amplitude),
            f"weight_hh_{gate}": row_units(drive, peak),
            f"bias_{gate}": power_of_two(drive),
        }
    return units | {"readout_weight": row_units(w["readout_weight"].abs().sum(1) * peak, peak)}


def _flip_first_sum(weights: Weights) -> dict[str, Tensor]:
    """The first unit of sum with the opposite sign: everything into its candidate and out of it."""
    out_of = {f"weight_hh_{gate}": 0 for gate in GRU_GATES} | {"readout_weight": 0}
    return flip_signs(weights, {"weight_ih_new": 0, "weight_hh_new": 0, "bias_new": 0}, out_of)


def _exchange_last_two(weights: Weights) -> dict[str, Tensor]:
    """The last two units exchanged; any permutation would do."""
    order = torch.arange(len(weights["bias_new"]))
    order[-2:] = order[-2:].flip(0)
    moved = {name: weight[order] for name, weight in weights.items() if not name.startswith("readout")}
    moved["readout_weight"] = weights["readout_weight"]
    recurrent = {name: weight[:, order] for name, weight in moved.items() if "_hh_" in name or name == "readout_weight"}
    return {name: (moved | recurrent)[name] for name in weights}
