"""Reading weights by name from the files of common libraries. Nothing that a file names is imported or run."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from wavebase.analysis import inert_pickle
from wavebase.analysis.state_dicts import is_recurrent
from wavebase.records import checkpoints, untrusted
from wavebase.records.atomic import RecordsError, open_regular

CONTAINERS = ("weights", "state_dict", "model_state_dict", "model_state", "model", "net")  # usual keys of a state_dict
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".jit", ".ts", ".pkl", ".pickle", ".safetensors", ".npz")
_KERAS = "pip install h5py and save each layer's recurrent kernel, transposed, as w_hh in an .npz"
_RECORDING = "a recording is trained on: wavebase run signal=file signal.path=FILE"
REMEDIES = {
    ".wav": _RECORDING,
    ".csv": _RECORDING,
    ".npy": "save arrays by name, numpy.savez('net.npz', w_hh=...); a recording is trained on, signal=file signal.path=FILE",
    ".onnx": "pip install onnx and save R and W of the recurrent node as w_hh and w_ih in an .npz, gates in torch's order",
    ".h5": _KERAS,
    ".hdf5": _KERAS,
    ".keras": _KERAS,
}  # in full: docs/reading_spectra.md
REPEATED = ("_flat_weights",)  # torch.nn.LSTM lists its parameters a second time
MOST_DENSE = 2**24  # numbers of a sparse tensor that is read densely
CONSTRUCTION = "wavebase construction"


@dataclass(frozen=True)
class Stored:
    """The weights of a file.

    Attributes:
        weights: Name to array or tensor, in the file's order.
        notes: Weights in the file that are not read.
        activation: The cell's kind if the file states it, else None.
    """

    weights: dict[str, Any]
    notes: tuple[str, ...] = ()
    activation: str | None = None


def check_suffix(file: Path) -> None:
    """Check that `read` knows files of this kind.

    Raises:
        ValueError: If not, with what to do.
    """
    if file.suffix not in SUFFIXES:
        remedy = REMEDIES.get(file.suffix, "save the state_dict with torch.save")
        raise ValueError(
            f"the file must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {file.name}; {remedy}"
        )


def read(file: Path) -> Stored:
    """Read the weights of a file, and unpack the container that checkpoints put around them. Sparse tensors become dense.

    Args:
        file: .npz; .safetensors; .pt, .pth, .ckpt, .bin (torch.save of a state_dict, or of a whole module); .jit, .ts
            (TorchScript); .pkl, .pickle (numpy arrays).

    Raises:
        ValueError: For a file that cannot be read or holds no mapping.
        RecordsError: For what is not a regular file.
    """
    library = {".npz": "numpy", ".safetensors": "safetensors"}.get(file.suffix, "torch")
    try:
        with open_regular(file, "rb") as opened:
            if file.suffix == ".safetensors":
                return _safetensors(opened)
            with torch.sparse.check_sparse_tensor_invariants():  # an index out of range would crash the process
                found = _dense(_load(opened, file.suffix))
        checkpoints.check_tensors(found)
    except RecordsError:
        raise
    except Exception as error:  # libraries raise many kinds of exception for a broken file
        reason = untrusted.reason(error)[:120]
        raise ValueError(
            f"{file} must be readable weights, got what {library} cannot read ({type(error).__name__}: {reason}); save a state_dict with torch.save"
        ) from error
    if not isinstance(found, Mapping):
        raise ValueError(
            f"{file} must hold a mapping from name to tensor, got {type(found).__name__}; save a state_dict"
        )
    return _unwrapped(found)


def one_net(weights: Mapping[str, Any], net: int | None) -> dict[str, Any]:
    """Pick one net out of stacked weights, whose recurrent matrices are [nets, gates H, H].

    Args:
        weights: Name to array or tensor. One without an axis of that length, such as a number, is kept as it is.
        net: Its number, from 0; None if the weights are one net's.

    Raises:
        ValueError: For a number out of range, for stacked weights without a number, and for a number without stacked weights.
    """
    stacked = {
        name: np.shape(value)[0] for name, value in weights.items() if is_recurrent(name) and np.ndim(value) == 3
    }
    count = next(iter(stacked.values()), 0)
    if net is None:
        if count:
            raise ValueError(
                f"net must be given for the weights of {count} nets, got none; use net=0 to net={count - 1}"
            )
        return dict(weights)
    if not count:
        raise ValueError(
            f"net is for stacked weights [nets, gates H, H], got net={net} for the weights of one; leave it out"
        )
    if not 0 <= net < count:
        raise ValueError(f"net must lie in 0..{count - 1}, got {net}; use net=0")

    def pick(name: str, value: Any) -> Any:
        shape = np.shape(value)
        own = len(shape) > (3 if name == "inputs" else 0) and shape[0] == count
        return value[net] if own else value

    return {name: pick(name, value) for name, value in weights.items()}


def _safetensors(file: BinaryIO) -> Stored:
    """Read tensors by name; of a construction of wavebase the weights alone, with the kind of its input gate."""
    from safetensors.torch import load

    content = file.read(untrusted.MOST_ARRAYS)
    tensors = dict(sorted(load(content).items()))  # the format keeps no order
    about = untrusted.parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    if not str(about.get("format")).startswith(CONSTRUCTION):
        return Stored(dict(tensors))
    weights = {
        name: w for name, w in tensors.items() if not name.startswith(("mask.", "unit_scale.")) and name != "level"
    }
    return Stored(weights, activation="lstm_signed" if about.get("input_gate") == '"tanh"' else None)


def _load(opened: BinaryIO, suffix: str) -> Any:
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
    """Read a zip file of torch.save or torch.jit.save. torch refuses to read TorchScript, and pickled modules, as data."""
    with zipfile.ZipFile(opened) as archive:
        names = archive.namelist()
        script = any(name.endswith("/constants.pkl") for name in names)
        if not script:
            opened.seek(0)
            try:
                return torch.load(opened, weights_only=True, map_location="cpu")
            except pickle.UnpicklingError:  # it names other classes than tensors and containers
                pass
        root = next(name for name in names if name.endswith("/data.pkl")).removesuffix("data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("numbers of another byte order")
        return inert_pickle.load(archive.read(f"{root}data.pkl"), lambda key: archive.read(f"{root}data/{key}"))


def _unwrapped(found: Mapping[str, Any]) -> Stored:
    """Return the weights in a checkpoint: all of it, or the parts one level down that hold arrays and are no optimiser's."""
    if isinstance(found, inert_pickle.Attributes) or any(is_recurrent(str(name)) for name in found):
        return Stored(dict(_named(found)))
    parts = {}
    for key, part in found.items():
        if isinstance(part, Mapping) and "param_groups" not in part:
            inside = dict(_named(part))
            if any(isinstance(value, np.ndarray | torch.Tensor) for value in inside.values()):
                parts[str(key)] = inside
    holding = [key for key, part in parts.items() if any(is_recurrent(name) for name in part)]
    usual = next((key for key in CONTAINERS if key in (holding or parts)), None)
    if usual is not None and usual in holding:
        # a checkpoint of wavebase holds its weights twice, under "net" in the coordinates that are trained
        others = ", ".join(key for key in holding if key != usual and usual != "weights")
        notes = (f"{usual} is read and not {others}, where there are weights too",) if others else ()
        return Stored(parts[usual], notes)
    if len(parts) == 1:
        return Stored(next(iter(parts.values())))
    if holding:  # each part is a module
        return Stored({f"{key}.{name}": value for key, part in parts.items() for name, value in part.items()})
    return Stored(dict(_named(found)) if usual is None else parts[usual])


def _dense(value: Any) -> Any:
    """Make sparse tensors dense. Raises ValueError for one that is too large."""
    if isinstance(value, torch.Tensor):
        if value.layout == torch.strided:
            return value
        if value.numel() > MOST_DENSE:
            raise ValueError(f"a sparse tensor of {value.numel()} numbers")
        return value.to_dense()
    if isinstance(value, Mapping):
        kind = inert_pickle.Attributes if isinstance(value, inert_pickle.Attributes) else dict
        return kind((key, _dense(part)) for key, part in value.items())
    return value


def _named(found: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, array) of everything inside."""
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
