"""Weights that take the place of a construction's: from a file, or random."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from wavebase.constructions.construction import STATE_NAMES, Construction
from wavebase.models.base import uniform
from wavebase.models.unit_scaled import random_theta
from wavebase.records.atomic import RecordsError
from wavebase.records.folder import RunFolder, load_weights


def load_start(construction: Construction, path: Path) -> dict[str, Tensor]:
    """Return the weights in a file, by the construction's names and in its dtype.

    Raises:
        ValueError: In one line, for a file that does not hold them.
    """
    file = "a checkpoint of a run, RUN/checkpoints/step_NNNNNNNN.pt"
    if path.is_dir():
        steps = RunFolder(path).checkpoint_steps()
        remedy = f"use {path}/checkpoints/step_{steps[-1]:08d}.pt" if steps else f"use {file}"
        raise ValueError(f"model.start_from must be a file, got the folder {path}; {remedy}")
    if not path.exists():
        raise ValueError(f"model.start_from must be a file that exists, got {path}; use {file}")
    try:
        found = load_weights(path)
    except RecordsError as error:
        raise ValueError(
            f"model.start_from must be a readable checkpoint, got {path}, which torch.load cannot read as weights; use {file}"
        ) from error
    if any(name in found for name in ("weight_ih_l0", "lstm.weight_ih_l0")) or "hidden_0" not in found:
        raise ValueError(
            f"model.start_from must hold a spectral net's weights, one matrix per gate and the state hidden_0, got others in {path}; use {file} with model=spectral, perturbed or random"
        )
    weights = {}
    for name, weight in construction.weights.items():
        if not isinstance(found.get(name), Tensor) or found[name].shape != weight.shape:
            got = list(found[name].shape) if isinstance(found.get(name), Tensor) else "nothing"
            raise ValueError(
                f"model.start_from must hold {name} {list(weight.shape)}, got {got} in {path}; use a checkpoint of a run with the same T, bins, algorithm and hidden_size"
            )
        if not found[name].is_floating_point():
            raise ValueError(
                f"model.start_from must hold real numbers in {name}, got {found[name].dtype} in {path}; use {file}"
            )
        weights[name] = found[name].to(weight.dtype)
    return weights


def random_weights(
    construction: Construction, generator: torch.Generator, unit_scaled: bool = False
) -> dict[str, Tensor]:
    """Draw weights of the construction's shapes as torch.nn.LSTM and torch.nn.Linear do: uniform in +-1/sqrt(H).

    The state starts at zero. Numbers are drawn in float64, so that nets of every dtype start alike.

    Args:
        construction: Gives names, shapes and dtype.
        generator: Of the numbers.
        unit_scaled: Draw in the algorithm's own coordinates instead, each row as long as the algorithm's
            (`random_theta`).
    """
    bound = construction.hidden_size**-0.5
    weights = {}
    for name, weight in construction.weights.items():
        if name in STATE_NAMES:
            weights[name] = torch.zeros_like(weight)
        elif unit_scaled:
            weights[name] = random_theta(weight, construction.unit_scale[name], generator)
        else:
            weights[name] = uniform(weight.shape, bound, generator).to(weight.dtype)
    return weights
