"""Signals as windows of T samples: checked, padded, and read where each window ends."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

ROUNDING = 1e-6  # relative, by which a signal may exceed its bound


def flushed(signal: Tensor, T: int, latency: int, dtype: torch.dtype) -> Tensor:
    """Return a signal [batch, samples] as inputs [batch, samples + latency, 1] in a dtype.

    Raises:
        ValueError: For anything but a real tensor of whole windows.
    """
    if not isinstance(signal, Tensor) or signal.is_complex():
        got = signal.dtype if isinstance(signal, Tensor) else type(signal).__name__
        raise ValueError(f"signal must be a real tensor [batch, samples], got {got}; use torch.as_tensor")
    if signal.ndim != 2 or signal.shape[1] < T or signal.shape[1] % T:
        raise ValueError(
            f"signal must be [batch, samples] with samples a multiple of T={T}, got {list(signal.shape)}; "
            "cut or pad it to whole windows"
        )
    return torch.constant_pad_nd(signal.to(dtype), (0, latency)).unsqueeze(-1)


def warn_beyond_amplitude(signal: Tensor, amplitude: float) -> bool:
    """Warn if a signal exceeds the bound for which a construction promises its error; return whether to stop looking.

    Only signals on the CPU are examined, since reading a number from a device would make every step wait for it.
    """
    if not signal.is_cpu:
        return True
    try:
        peak = float(signal.detach().abs().max())
    except RuntimeError:  # torch.func.vmap has no number to give
        return True
    if peak <= amplitude * (1 + ROUNDING):
        return False
    warnings.warn(
        f"signal must stay within the amplitude {amplitude:.4g} that the net was built for, got |x| up to {peak:.4g}, for which no error bound holds; build it with amplitude={peak:.4g}",
        stacklevel=5,
    )
    return True


def window_ends(T: int, latency: int) -> slice:
    """Return the steps of a flushed signal where windows are read."""
    return slice(T - 1 + latency, None, T)
