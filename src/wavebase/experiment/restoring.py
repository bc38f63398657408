"""Checkpoints given back to a run: every field is checked first, since a file can hold anything."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wavebase.experiment.config import RunConfig
from wavebase.records.atomic import RecordsError
from wavebase.records.folder import RunFolder
from wavebase.records.reader import FINISHED, sha256
from wavebase.records.untrusted import reason
from wavebase.signals.recording_files import content_sha256, is_there
from wavebase.theory import boundaries
from wavebase.training.optimizers import load_state

START_KEYS = ("start_from", "weights")  # options of models that name the file or the run to start from
# what torch raises for other names and kinds
FOREIGN = (LookupError, TypeError, AttributeError, ValueError, RuntimeError)


def load_net(net: nn.Module, state: Mapping[str, Any], folder: RunFolder) -> None:
    """Give a net the weights of a checkpoint.

    Raises:
        RecordsError: If they are another net's, or of another dtype.
    """
    try:
        _load(net, state)
    except FOREIGN as error:
        raise RecordsError(
            f"{folder.path} must hold checkpoints of the net in its config.yaml, got others ({reason(error)}); restore config.yaml"
        ) from error


def check_fields(state: Mapping[str, Any], folder: RunFolder, steps: int) -> None:
    """Check what a checkpoint holds beside net, optimiser and generator.

    Args:
        state: The checkpoint.
        folder: Where it was found.
        steps: Of the whole run.

    Raises:
        RecordsError: For a field that no run writes.
    """
    try:
        boundaries.recorded(state)
        right = {
            "step": type(state["step"]) is int and 0 <= state["step"] <= steps,
            "seconds": _is_real(state["seconds"]) and state["seconds"] >= 0,
            "learning_rate": _is_real(state["learning_rate"]),
            "values": _are_values(state["values"]),
            "start_values": _are_values(state["start_values"]),
            "ended": state["ended"] is None or (isinstance(state["ended"], str) and state["ended"] in FINISHED),
            "parts": isinstance(state.get("parts", []), list)  # version 0.1 had none
            and all(isinstance(part, dict) for part in state.get("parts", [])),
        }  # fmt: skip
        if wrong := [name for name, is_right in right.items() if not is_right]:
            raise ValueError(f"{wrong[0]} {' '.join(str(state[wrong[0]]).split())[:40]!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise _other(folder, state, error) from error


def check_content(cfg: RunConfig, recorded: Mapping[str, Any], folder: RunFolder) -> None:
    """Check that the files that a run read are those that it began with; one that is gone is not compared.

    Args:
        cfg: The run's configuration.
        recorded: The run's checkpoint or summary, which holds their hashes. Version 0.1 recorded none.
        folder: The run's.

    Raises:
        RecordsError: If the content of one changed.
    """
    path = cfg.signal.get("path")
    recording = content_sha256(path) if isinstance(path, str) and is_there(path) else None
    for key, what, now, where in (
        ("recording_sha256", "recording", recording, path),
        ("start_sha256", "start", start_sha256(cfg), _start_file(cfg)),
    ):
        if None not in (recorded.get(key), now) and recorded[key] != now:
            raise RecordsError(
                f"{folder.path} must be continued with the {what} that it began with, got another content of {where}; "
                "restore the file, or use resume=false"
            )


def with_own_start(cfg: RunConfig, folder: RunFolder, step: int) -> RunConfig:
    """Return the configuration of a stored run; where the file that it started from is gone, with its own checkpoint instead.

    Args:
        step: Of that checkpoint. The first one holds the weights of the start bit for bit.
    """
    key = next((key for key in START_KEYS if isinstance(cfg.model.get(key), str)), None)
    ours = str(cfg.model.get("_target_")).startswith("wavebase.")  # a user's model may mean something else by the key
    if key is None or not ours or _start_file(cfg) is not None or step not in folder.checkpoint_steps():
        return cfg
    return dataclasses.replace(cfg, model={**cfg.model, key: str(folder.checkpoint_file(step))})


def start_sha256(cfg: RunConfig) -> str | None:
    """Return the SHA-256 of the checkpoint that a run starts from, or None."""
    file = _start_file(cfg)
    return None if file is None else sha256(file.read_bytes())


def _start_file(cfg: RunConfig) -> Path | None:
    """Return the file that the model's options name, or the last checkpoint in the folder, if it is there."""
    given = next((value for key in START_KEYS if isinstance(value := cfg.model.get(key), str)), None)
    if given is None:
        return None
    steps = RunFolder(given).checkpoint_steps() if Path(given).is_dir() else []
    file = RunFolder(given).checkpoint_file(steps[-1]) if steps else Path(given)
    return file if file.is_file() else None


def restore(
    net: nn.Module, optimizer: torch.optim.Optimizer, data: torch.Generator, state: Mapping[str, Any], folder: RunFolder
) -> None:
    """Give net, optimiser and the generator of the batches what a checkpoint holds of them.

    Raises:
        RecordsError: If it is another run's.
    """
    try:
        _load(net, state)
        load_state(optimizer, state["optimizer"], state["step"])
        data.set_state(state["data"])
    except FOREIGN as error:
        raise _other(folder, state, error) from error


def _load(net: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a net's weights. Raises one of FOREIGN, for another dtype too, which torch would cast: complex numbers to real."""
    found = state["net"]
    for name, own in net.state_dict().items():
        if isinstance(own, Tensor) and isinstance(found[name], Tensor) and found[name].dtype != own.dtype:
            raise ValueError(f"{name} holds {found[name].dtype} in place of {own.dtype}")
    net.load_state_dict(found)


def _is_real(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _are_values(found: Any) -> bool:
    """Return whether these are a probe's numbers by name; they may be infinite or nan."""
    return isinstance(found, Mapping) and all(
        isinstance(name, str) and type(value) in (int, float) for name, value in found.items()
    )


def _other(folder: RunFolder, state: Mapping[str, Any], error: Exception) -> RecordsError:
    return RecordsError(
        f"{folder.path} must hold checkpoints of this run, got one of step {str(state.get('step'))[:20]} with something else ({reason(error)}); delete it to use an older one"
    )
