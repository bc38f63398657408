"""What each part of a run was computed with: a run that is continued is the same bit for bit only with the same kernels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

import wavebase
from wavebase.recurrence.native import lstm

Part = dict[str, Any]
DECIDES_BITS = ("device", "kernel", "torch_kernel", "torch", "wavebase")


def this_part(step: int, device: torch.device, weights: Iterable[str]) -> Part:
    """Return what this process computes a run with.

    Args:
        step: The step that it begins at.
        device: Of the net.
        weights: Names of the net's weights; only a recurrent net has a kernel of ours.

    Returns:
        step; launcher: Hydra's name of it, "single" for a run of its own; device; kernel: avx2, avx512 or plain, of the
        native recurrence, "cuda" on a GPU; torch_kernel: the vectors that torch uses on the CPU; threads; the versions
        of torch and wavebase.
    """
    recurrent = any(name.startswith("weight_hh") for name in weights)
    return {
        "step": step,
        "launcher": _launcher(),
        "device": device.type,
        "kernel": "cuda" if device.type == "cuda" else lstm.vectors() if recurrent else "plain",
        "torch_kernel": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "wavebase": wavebase.__version__,
    }


def changes(parts: Sequence[Part]) -> list[str]:
    """Return one line for each part that was computed with something else than the part before it."""
    lines = []
    for before, after in pairwise(parts):
        if odd := [name for name in DECIDES_BITS if before.get(name) != after.get(name)]:
            words = ", ".join(f"{name} {after.get(name)} (before: {before.get(name)})" for name in odd)
            lines.append(
                f"from step {after['step']} on with {words}; the last digits may differ from an unbroken run's"
            )
    return lines


def _launcher() -> str:
    if not HydraConfig.initialized() or HydraConfig.get().mode == RunMode.RUN:
        return "single"
    return str(HydraConfig.get().runtime.choices.get("hydra/launcher"))
