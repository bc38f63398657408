"""Files of weights: what torch, numpy, safetensors and the usual training programs write, as one mapping from name to array."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from wavebase import checkpoints, stored
from wavebase.durable import RecordsError, open_regular

SUFFIXES = (".pt", ".pth", ".ckpt", ".npz", ".safetensors")
CONTAINERS = ("weights", "state_dict", "model_state_dict", "model_state", "model", "net")
MOST_DENSE = 2**24  # numbers of a sparse tensor that is read densely
CONSTRUCTION = "wavebase construction"


@dataclass(frozen=True)
class Stored:
    """weights: name to array or tensor, in the file's order; notes: what the file holds beside them; activation: what the
    file itself says of its layers, else None."""

    weights: dict[str, Any]
    notes: tuple[str, ...] = ()
    activation: str | None = None


def read(file: Path) -> Stored:
    """Read the weights of a file, out of the container that checkpoints wrap them in.

    Nothing but tensors and plain values is loaded. Sparse tensors become dense. Raises ValueError, in one line, for a file
    that is not readable weights; RecordsError for what is not a file.
    """
    try:
        with open_regular(file, "rb") as opened:
            if file.suffix == ".safetensors":
                return _safetensors(opened)
            if zipfile.is_zipfile(opened):
                stored.check_archive(opened, unpacked=stored.MOST_ARRAYS)
            opened.seek(0)
            if file.suffix == ".npz":
                with np.load(opened, allow_pickle=False) as arrays:
                    return Stored(dict(arrays))
            with torch.sparse.check_sparse_tensor_invariants():  # an index out of range would end the process
                found = _dense(torch.load(opened, weights_only=True, map_location="cpu"))
        checkpoints.check_tensors(found)
    except RecordsError:
        raise
    except Exception as error:  # each library raises many kinds for a broken file; all mean the same to the user
        library = {".npz": "numpy", ".safetensors": "safetensors"}.get(file.suffix, "torch")
        if refused := re.search(r"Unsupported global: GLOBAL (\w+\.[\w.]+)", str(error)):
            raise ValueError(
                f"{file} must hold tensors and plain values, got an object of {refused[1]}, which is not loaded because it can run code; save the state_dict alone with torch.save"
            ) from error
        reason = stored.reason(error)[:120]
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
        weights: name to array or tensor. What has no axis of that length, such as a number, is left as it is.
        net: which one, from 0; None where the weights are one net's.

    Raises ValueError for a number that is not there, for stacked weights without one, and for one without stacked weights.
    """
    stacked = {name: np.shape(value)[0] for name, value in weights.items() if _recurrent(name) and np.ndim(value) == 3}
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
    """Tensors by name. Of a construction of ours the weights alone, with the kind of its input gate."""
    from safetensors.torch import load

    content = file.read(stored.MOST_ARRAYS)
    tensors = load(content)
    about = stored.parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    if not str(about.get("format")).startswith(CONSTRUCTION):
        return Stored(dict(tensors))
    weights = {
        name: w for name, w in tensors.items() if not name.startswith(("mask.", "unit_scale.")) and name != "level"
    }
    return Stored(weights, activation="lstm_signed" if about.get("input_gate") == '"tanh"' else None)


def _unwrapped(found: Mapping[str, Any]) -> Stored:
    """The mapping of weights in a checkpoint: the whole, or what lies one level down and holds a recurrent layer."""
    if any(_recurrent(name) for name in found):
        return Stored(dict(found))
    inner = {str(key): part for key, part in found.items() if isinstance(part, Mapping)}
    holding = {
        key: part
        for key, part in inner.items()
        if any(_recurrent(name) and np.ndim(value) > 1 for name, value in part.items())
    }
    usual = [key for key in CONTAINERS if key in holding]
    if usual or len(holding) == 1:
        chosen = usual[0] if usual else next(iter(holding))
        # a checkpoint of ours holds its weights twice, under "net" in the units that they are trained in
        others = ", ".join(key for key in holding if key != chosen and chosen != "weights")
        return Stored(
            dict(holding[chosen]),
            (f"{chosen} is read and not {others}, where there are weights too",) if others else (),
        )
    if holding:  # one module each
        return Stored({f"{key}.{name}": value for key, part in holding.items() for name, value in part.items()})
    usual = [key for key in CONTAINERS if key in inner]
    return Stored(dict(inner[usual[0]] if usual else found))


def _recurrent(name: Any) -> bool:
    return isinstance(name, str) and (name == "w_hh" or "weight_hh" in name)


def _dense(value: Any) -> Any:
    """The value with its sparse tensors made dense. Raises ValueError for one that is too large for that."""
    if isinstance(value, torch.Tensor):
        if value.layout == torch.strided:
            return value
        if value.numel() > MOST_DENSE:
            raise ValueError(f"a sparse tensor of {value.numel()} numbers")
        return value.to_dense()
    if isinstance(value, Mapping):
        return {key: _dense(part) for key, part in value.items()}
    return value
