"""Constructions as .safetensors files: weights that any reader of the format can open, and all that makes them a construction.

The format (https://github.com/huggingface/safetensors) holds named tensors behind a header of JSON and can run nothing.
It has no checksum, so the header carries one of ours, over the tensors and the metadata alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavebase.constructions.construction import Construction
from wavebase.durable import RecordsError, write_whole

FORMAT = "wavebase construction, version 1"
TENSORS = ("weights", "mask", "level")
NUMBERS = tuple(field.name for field in fields(Construction) if field.name not in (*TENSORS, "blocks", "bins"))


def save_construction(construction: Construction, path: str | Path) -> None:
    """Write a construction to one .safetensors file, whole or not at all; raises OSError where the disk does, ValueError for
    what is no construction.

    Tensors: the weights under their own names (`Construction.weights`), `mask.weight_hh_<gate>` [H, H] bool, `level` [H].
    Metadata: format, sha256, and as JSON blocks ({name: [start, stop]}), bins, T, input_gate, gains and the other numbers.

    >>> import tempfile, wavebase
    >>> folder = tempfile.TemporaryDirectory()
    >>> wavebase.save_construction(wavebase.spectral_construction(4), f"{folder.name}/exact.safetensors")
    >>> again = wavebase.load_construction(f"{folder.name}/exact.safetensors")
    >>> again.T, again.bins
    (4, (0, 1, 2, 3))
    """
    from safetensors.torch import save

    if not isinstance(construction, Construction):
        raise ValueError(f"construction must be a Construction, got {type(construction).__name__}; give net.construction")  # fmt: skip
    masks = {f"mask.{name}": mask for name, mask in construction.mask.items()}
    tensors = {**construction.weights, **masks, "level": construction.level}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = {name: json.dumps(getattr(construction, name)) for name in NUMBERS if name != "gains"}
    about |= {
        "gains": json.dumps(dict(construction.gains)),
        "bins": json.dumps(construction.bins),
        "blocks": json.dumps({name: [units.start, units.stop] for name, units in construction.blocks.items()}),
        "format": FORMAT,
    }
    content = save(tensors, about | {"sha256": _digest(tensors, about)})
    write_whole(Path(path), lambda file: file.write(content))


def load_construction(path: str | Path) -> Construction:
    """The construction that `save_construction` wrote, bit for bit. Raises RecordsError, in one line, for any other file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(Path(path), framework="pt") as file:
            about, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _refused(path, " ".join(str(error).split())) from error
    if about.get("format") != FORMAT:
        raise _refused(path, f"a file of format {about.get('format')!r}")
    if about.pop("sha256", None) != _digest(tensors, about):
        raise _refused(path, "other content than its checksum vouches for")
    known: dict[str, Any] = {name: json.loads(about[name]) for name in NUMBERS}
    return Construction(
        weights={name: tensor for name, tensor in tensors.items() if name != "level" and not name.startswith("mask.")},
        mask={name.removeprefix("mask."): tensor for name, tensor in tensors.items() if name.startswith("mask.")},
        level=tensors["level"],
        blocks={name: slice(*units) for name, units in json.loads(about["blocks"]).items()},
        bins=tuple(json.loads(about["bins"])),
        **known,
    )


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """Over names, dtypes, shapes and bytes of the tensors and over the metadata, in the order of their names."""
    digest = hashlib.sha256(json.dumps(sorted(about.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _refused(path: str | Path, got: str) -> RecordsError:
    return RecordsError(f"{path} must be a construction as save_construction writes it, got {got}; save it anew")
