"""Weights in files as others ship them, by name; nothing that a file names is imported or run."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from wavebase.analysis import inert_pickle
from wavebase.analysis.state_dicts import is_recurrent
from wavebase.records import checkpoints, untrusted
from wavebase.records.atomic import RecordsError, open_regular

CONTAINERS = ("weights", "state_dict", "model_state_dict", "model", "net")  # preferred keys around a state_dict
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".jit", ".ts", ".pkl", ".pickle", ".safetensors", ".npz")
_KERAS = "pip install h5py and save each layer's recurrent kernel, transposed, as w_hh in an .npz"
REMEDIES = {
    ".onnx": "pip install onnx and save R and W of the recurrent node as w_hh and w_ih in an .npz, gates in torch's order",
    ".h5": _KERAS,
    ".hdf5": _KERAS,
    ".keras": _KERAS,
}  # in full: docs/reading_spectra.md
REPEATED = ("_flat_weights",)  # torch.nn.LSTM lists its parameters a second time


def check_suffix(file: Path) -> None:
    """Raise ValueError, with what to do, for a file of no kind that `read_weights` knows."""
    if file.suffix not in SUFFIXES:
        remedy = REMEDIES.get(file.suffix, "save the state_dict with torch.save")
        raise ValueError(
            f"the file must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {file.name}; {remedy}"
        )


def read_weights(file: Path) -> dict[str, Any]:
    """Read the arrays of a file of weights by their dotted names.

    Args:
        file: .npz; .safetensors; .pt, .pth, .ckpt, .bin (torch.save of a state_dict, or of a whole module); .jit, .ts
            (TorchScript); .pkl, .pickle (numpy arrays).

    Returns:
        Name to numpy array or tensor, in the file's order. Of a checkpoint, the part that holds the net: what is under
        one of CONTAINERS, else the one mapping with arrays that is no optimiser's; several keep their keys as prefixes.

    Raises:
        ValueError: in one line, for a file that cannot be read or that holds no mapping.
    """
    library = {".npz": "numpy", ".safetensors": "safetensors"}.get(file.suffix, "torch")
    try:
        with open_regular(file, "rb") as opened:
            found = _load(opened, file.suffix)
        checkpoints.check_tensors(found)
    except RecordsError:
        raise
    except Exception as error:  # the libraries raise many kinds for a broken file; all mean the same to the user
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"{file} must be readable weights, got what {library} cannot read ({type(error).__name__}: {reason[:120]}); save a state_dict with torch.save"
        ) from error
    if not isinstance(found, Mapping):
        raise ValueError(
            f"{file} must hold a mapping from name to tensor, got {type(found).__name__}; save a state_dict"
        )
    return dict(_named(_net(found)))


def _load(opened: BinaryIO, suffix: str) -> Any:
    if suffix == ".safetensors":
        from safetensors.torch import load

        return dict(sorted(load(opened.read()).items()))  # the format keeps no order
    archive = zipfile.is_zipfile(opened)
    if archive:
        untrusted.check_archive(opened, unpacked=untrusted.MOST_ARRAYS)
    opened.seek(0)
    if suffix == ".npz":
        with np.load(opened, allow_pickle=False) as arrays:
            return dict(arrays)
    if archive:
        return _torch_archive(opened)
    if suffix in (".pkl", ".pickle"):
        return inert_pickle.load(opened)
    return torch.load(opened, weights_only=True, map_location="cpu")


def _torch_archive(opened: BinaryIO) -> Any:
    """A zip file of torch.save or torch.jit.save. torch refuses to read the second, and modules in the first, as data."""
    with zipfile.ZipFile(opened) as archive:
        names = archive.namelist()
        script = any(name.endswith("/constants.pkl") for name in names)
        if not script:
            opened.seek(0)
            try:
                return torch.load(opened, weights_only=True, map_location="cpu")
            except pickle.UnpicklingError:  # classes other than tensors and containers
                pass
        root = next(name for name in names if name.endswith("/data.pkl")).removesuffix("data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("numbers of another byte order")
        return inert_pickle.load(archive.read(f"{root}data.pkl"), lambda key: archive.read(f"{root}data/{key}"))


def _net(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a checkpoint that holds the net; an object, or a mapping that holds recurrent weights, is one itself."""
    if isinstance(found, inert_pickle.Attributes):
        return found
    for key in CONTAINERS:
        if isinstance(found.get(key), Mapping):
            return found[key]
    if any(is_recurrent(str(key)) for key in found):
        return found
    parts = {
        key: value
        for key, value in found.items()
        if isinstance(value, Mapping)
        and "param_groups" not in value  # an optimiser's
        and any(isinstance(array, np.ndarray | torch.Tensor) for _, array in _named(value))
    }
    return next(iter(parts.values())) if len(parts) == 1 else parts or found


def _named(found: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, array) of everything inside."""
    for key, value in found.items():
        name = f"{prefix}{key}"
        if key in REPEATED:
            continue
        if isinstance(value, list | tuple) and any(isinstance(v, Mapping | np.ndarray | torch.Tensor) for v in value):
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            yield from _named(value, f"{name}.")
        elif isinstance(value, np.ndarray | torch.Tensor | list | tuple):
            yield name, value
