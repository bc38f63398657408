"""The gains of a construction: presets, overrides, and the checks of all that decides them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch

from wavebase.recurrence.cells import InputGate

Preset = Literal["exact", "trainable"]


def linearity_bound(dtype: torch.dtype) -> float:
    """Return the largest power of two eps such that tanh(u) rounds to u for |u| <= eps.

    Then u^2/3 is under a quarter of the dtype's eps: 2^-27 in float64, 2^-12 in float32.

    Raises:
        ValueError: For a dtype that is not a floating one.
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
    """Return the gains (a, s1..s5) of a preset.

    Args:
        T: Window, samples.
        preset: exact keeps every argument of a tanh within eps. trainable has gains near 1, found by search at T=8 for
            low error times curvature: about 3 % error at any T, and a largest Hessian eigenvalue fifteen orders of
            magnitude below that of exact.
        amplitude: Bound on |x|.
        dtype: Of the weights.
        eps: Of preset=exact; None for the dtype's linearity bound.
        input_gate: The sigmoid cell has preset=exact only. Its differential pair loses digits as u falls (roundoff / u)
            and gains linearity (u^2 / 12); the sum is least near u = (6 roundoff)^(1/3).

    Raises:
        ValueError: For preset=trainable in the sigmoid cell.
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
    """Return the preset's gains with some replaced. Raise ValueError for an unknown name, or a value that is 0 or not finite."""
    if not isinstance(gains, Mapping):
        raise ValueError(f"gains must be numbers by name, got {gains!r}; use {{'{[*preset][-1]}': 1.0}}")
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
