"""The power spectrum in a diagonal complex state space: each mode runs a Fourier sum by turning its state once a sample.

For bin k and a window of T samples, from h = 0,

    h_t = lambda_k h_(t-1) + b_k x_t,   lambda_k = exp(2 pi i k/T),  b_k = 1;       P_k = |h_(T-1)|^2

because h_(T-1) = sum_t lambda_k^(T-1-t) x_t is the Fourier sum but for its phase. Three ways to store lambda:

    complex   lambda = eigenvalue_real + i eigenvalue_imag
    lru       lambda = exp(-exp(nu) + i theta)
    s4d       lambda = exp(step (-exp(log_decay) + i omega)),  step = exp(log_step)

In the last two |lambda| < 1, so the algorithm is exact only as nu, log_decay go to -infinity: at nu the sum loses a relative T
exp(nu) or so of its power, and d|lambda|/d nu is exp(nu) too. In s4d the step is 2/T and omega_k = pi k, S4D-Lin's own
frequencies: its modes are the bins of a Fourier transform.

Sources: Orvieto et al., "Resurrecting recurrent neural networks for long sequences" (2023, arXiv 2303.06349), LRU; Gu, Gupta,
Goel and Re, "On the parameterization and initialization of diagonal state space models" (2022, arXiv 2206.11893), S4D.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from wavebase.constructions.algorithm import Weights
from wavebase.constructions.handwritten import Handwritten
from wavebase.spectrum import resolve_bins, root_of_unity

Eigenvalue = Literal["complex", "lru", "s4d"]
LOG_DECAY = -40.0  # exp(-40) is 4e-18: |lambda| is 1 to rounding, in float64 too


# long: the weights of the whole algorithm, written out in one place
def state_space_construction(
    T: int,
    bins: str | Iterable[int] = "full",
    eigenvalue: Eigenvalue = "complex",
    log_decay: float | None = None,
    dtype: torch.dtype = torch.float64,
) -> Handwritten:
    """Return exact weights for the power spectrum of a window.

    Args:
        T: Samples in a window.
        bins: See `spectrum.resolve_bins`; F of them.
        eigenvalue: How lambda is stored.
        log_decay: nu of lru, None for -40; in s4d the decay a step is the same, so that its log_decay is this less log(2/T).

    Returns:
        Two or three tensors of lambda, input_real, input_imag, each [F] but log_step [1]; block mode. `error_bound` bounds
        |P_hat[k] - P[k]| over T * sum_t x_t^2, the window's whole spectral energy.

    Raises:
        ValueError: For another eigenvalue, a log_decay of complex or out of range, or bins that do not fit T.
    """
    k = resolve_bins(T, bins)
    F = len(k)
    if log_decay is not None and eigenvalue == "complex":
        raise ValueError(f"model.log_decay must be null with eigenvalue=complex, got {log_decay}; use eigenvalue=lru")
    log_decay = LOG_DECAY if log_decay is None else log_decay
    if not -700 <= log_decay <= 3:
        raise ValueError(f"model.log_decay must lie in -700..3, got {log_decay}; use null")
    signed = torch.tensor(
        [n if 2 * n <= T else n - T for n in k], dtype=torch.float64
    )  # |angle| <= pi: smallest rounding
    u = torch.finfo(dtype).eps / 2
    decay = 0.0 if eigenvalue == "complex" else -math.expm1(-math.exp(log_decay))
    roots = torch.tensor([root_of_unity(n, T) for n in k], dtype=torch.float64)
    if eigenvalue == "complex":
        weights = {"eigenvalue_real": roots[:, 0], "eigenvalue_imag": roots[:, 1]}
        rounding = 2 * u
    elif eigenvalue == "lru":
        weights = {"nu": torch.full((F,), log_decay, dtype=torch.float64), "theta": 2 * math.pi / T * signed}
        rounding = (math.pi + 4) * u
    elif eigenvalue == "s4d":
        log_step = math.log(2 / T)
        weights = {
            "log_decay": torch.full((F,), log_decay - log_step, dtype=torch.float64),
            "omega": math.pi * signed,
            "log_step": torch.tensor([log_step], dtype=torch.float64),
        }
        rounding = (math.pi * (4 + abs(log_step)) + 4) * u
    else:
        raise ValueError(f"model.eigenvalue must be complex, lru or s4d, got {eigenvalue!r}; use complex")
    units = {name: torch.ones_like(weight) for name, weight in weights.items()}
    if eigenvalue == "s4d":  # a change of step * omega by 1 radian turns the state as far as one of theta does
        units["omega"] = torch.full_like(units["omega"], 2.0 ** round(math.log2(T / 2)))
    weights |= {"input_real": torch.ones(F, dtype=torch.float64), "input_imag": torch.zeros(F, dtype=torch.float64)}
    units |= {name: torch.ones(F, dtype=torch.float64) for name in ("input_real", "input_imag")}
    # lambda is off by `off`, or a step's four products and sums are, so h by sum_m m off |x| <= off T^1.5/sqrt(3) |x|
    off = (decay + rounding + 6 * u) * T
    bound = 2 / 3**0.5 * off + off**2 / 3 + 4 * u
    return Handwritten(
        weights={name: weight.to(dtype) for name, weight in weights.items()},
        unit_scale=units,
        blocks={"mode": slice(0, F)},
        error_bound=bound,
        tolerance=T * bound,  # over the window's energy: power in all bins together is T times a sample's
        questions={"roots_of_unity": lambda found: _overlap(found, roots, T)},
        generators={"phase": _turn_inputs},
        reflections={"conjugate": _conjugate},
    )


def eigenvalues(weights: Weights) -> tuple[Tensor, Tensor]:
    """Return real and imaginary parts of lambda, [F] each, from the tensors of any of the three ways."""
    if "eigenvalue_real" in weights:
        return weights["eigenvalue_real"], weights["eigenvalue_imag"]
    if "nu" in weights:
        modulus, angle = (-weights["nu"].exp()).exp(), weights["theta"]
    else:
        step = weights["log_step"].exp()
        modulus, angle = (-step * weights["log_decay"].exp()).exp(), step * weights["omega"]
    return modulus * angle.cos(), modulus * angle.sin()


def _overlap(found: Weights, roots: Tensor, T: int) -> float:
    """Return the least |cosine|, over modes, between what a mode remembers of a window and the bin's complex tone.

    What it remembers is input * lambda^m, m = 0..T-1. A state that turns the other way has the same square for real inputs.

    Args:
        roots: Real and imaginary part of each bin's root of unity, [F, 2].
    """
    real, imag = (part.double() for part in eigenvalues(found))
    power = torch.arange(T, dtype=torch.float64)[:, None]
    memory, tone = torch.complex(real, imag) ** power, torch.view_as_complex(roots) ** power  # [T, F]
    both = torch.stack([(memory * tone.conj()).sum(0), (memory * tone).sum(0)]).abs().amax(0)
    cosine = both / (memory.norm(dim=0) * T**0.5)
    heard = torch.hypot(found["input_real"], found["input_imag"]) > 0
    return float((cosine * heard).min().nan_to_num(0.0))


def random_eigenvalues(exact: Handwritten, generator: torch.Generator) -> dict[str, Tensor]:
    """Return LRU's random start on the ring 0.5 <= |lambda| <= 1, stored as `exact` stores lambda; inputs normal.

    |lambda|^2 and the angle are uniform. Draws in float64.
    """
    like = exact.weights["input_real"]
    square, turn = torch.rand(2, len(like), generator=generator, dtype=torch.float64)
    radius, angle = (0.25 + 0.75 * square).sqrt(), (2 * turn - 1) * math.pi
    log_rate = (-radius.log()).log()  # nu
    inputs = torch.randn(2, len(like), generator=generator, dtype=torch.float64) * 0.5**0.5
    drawn = {"input_real": inputs[0], "input_imag": inputs[1]}
    if "nu" in exact.weights:
        drawn |= {"nu": log_rate, "theta": angle}
    elif "omega" in exact.weights:
        log_step = exact.weights["log_step"].double()
        drawn |= {"log_decay": log_rate - log_step, "omega": angle / log_step.exp(), "log_step": log_step}
    else:
        drawn |= {"eigenvalue_real": radius * angle.cos(), "eigenvalue_imag": radius * angle.sin()}
    return {name: drawn[name].to(like.dtype) for name in exact.weights}


def _turn_inputs(weights: Weights, t: float) -> dict[str, Tensor]:
    """Every state turned by t radians: its square's modulus does not see it."""
    real, imag = weights["input_real"], weights["input_imag"]
    cos, sin = math.cos(t), math.sin(t)
    return {**weights, "input_real": cos * real - sin * imag, "input_imag": sin * real + cos * imag}


def _conjugate(weights: Weights) -> dict[str, Tensor]:
    """Every state turning the other way: inputs are real."""
    return {
        name: -w if name in ("eigenvalue_imag", "theta", "omega", "input_imag") else w for name, w in weights.items()
    }
