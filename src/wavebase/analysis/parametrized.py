"""Weights that a file stores in parts: weight normalisation, spectral normalisation and pruning."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from wavebase.analysis.cell import as_array

PARAMETRIZED = re.compile(r"^(?P<prefix>.*?)parametrizations\.(?P<name>[^.]+)\.(?P<part>.+)$")


def multiplied_out(weights: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Replace the parts of a weight by the weight.

    Supported are torch.nn.utils.weight_norm and spectral_norm, in their old forms (`weight_g` and `weight_v`; `weight_orig`,
    `weight_u` and `weight_v`) and in those of torch.nn.utils.parametrizations, and torch.nn.utils.prune (`weight_orig` and
    `weight_mask`). Spectral normalisation divides by u' W v with the stored u and v, as a module in eval mode does.

    Args:
        weights: Name to array or tensor.

    Returns:
        The mapping in its own order, each weight in the place of its first part; and the names of weights with another
        parametrization, whose formula the file does not hold. Their parts are left out.
    """
    groups: dict[str, dict[str, str]] = {}  # weight to part to the name in the file
    for name in weights:
        if match := PARAMETRIZED.match(name):
            groups.setdefault(match["prefix"] + match["name"], {})[match["part"]] = name
        elif match := re.match(r"^(.+)_(g|orig)$", name):
            parts = {
                part: f"{match[1]}_{part}"
                for part in ("g", "v", "orig", "u", "mask")
                if f"{match[1]}_{part}" in weights
            }
            if len(parts) > 1 and match[1] not in weights:
                groups.setdefault(match[1], parts)
    owner = {name: weight for weight, parts in groups.items() for name in parts.values()}
    found: dict[str, Any] = {}
    unknown = []
    for name, value in weights.items():
        weight = owner.get(name)
        if weight is None:
            found[name] = value
        elif weight not in found and weight not in unknown:
            whole = _product({part: as_array(weights[full], full) for part, full in groups[weight].items()})
            if whole is None:
                unknown.append(weight)
            else:
                found[weight] = whole
    return found, unknown


def _product(parts: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return the weight that these parts make; None if their kind is unknown."""
    match sorted(parts):
        case ["g", "v"]:
            return _weight_norm(parts["g"], parts["v"])
        case ["original0", "original1"]:
            return _weight_norm(parts["original0"], parts["original1"])
        case ["mask", "orig"]:
            return parts["orig"] * parts["mask"]
        case ["orig", "u", "v"]:
            return _spectral_norm(parts["orig"], parts["u"], parts["v"])
        case ["0._u", "0._v", "original"]:
            return _spectral_norm(parts["original"], parts["0._u"], parts["0._v"])
    return None


def _weight_norm(size: np.ndarray, direction: np.ndarray) -> np.ndarray | None:
    """Return size * direction / |direction|, with the norm over the axes of length 1 in size."""
    if size.ndim == 0:
        return size * direction / np.linalg.norm(direction)
    if size.ndim != direction.ndim or any(n not in (1, m) for n, m in zip(size.shape, direction.shape, strict=True)):
        return None
    axes = tuple(axis for axis, n in enumerate(size.shape) if n == 1)
    norm = np.sqrt((direction**2).sum(axes, keepdims=True))
    return size * direction / np.where(norm > 0, norm, 1.0)


def _spectral_norm(weight: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray | None:
    if weight.ndim != 2 or {weight.shape, weight.shape[::-1]}.isdisjoint({(u.size, v.size)}):
        return None
    matrix = weight if weight.shape == (u.size, v.size) else weight.T
    return weight / (u.ravel() @ matrix @ v.ravel())
