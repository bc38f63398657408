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

from wavebase.constructions.construction import Construction, unit_scales
from wavebase.durable import RecordsError, write_whole

FORMAT, FORMAT_1 = "wavebase construction, version 2", "wavebase construction, version 1"  # 1 had no unit scales
TENSORS = ("weights", "mask", "level", "unit_scale")
NUMBERS = tuple(field.name for field in fields(Construction) if field.name not in (*TENSORS, "blocks", "bins"))


def save_construction(construction: Construction, path: str | Path) -> None:
    """Write a construction to one .safetensors file, whole or not at all; raises OSError where the disk does, ValueError for
    what is no construction.

    Tensors: the weights under their own names (`Construction.weights`), `mask.weight_hh_<gate>` [H, H] bool, `level` [H],
    `unit_scale.<weight>`.
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
    scales = {f"unit_scale.{name}": scale for name, scale in construction.unit_scale.items()}
    tensors = {**construction.weights, **masks, **scales, "level": construction.level}
    tensors = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()
    }  # no shared storage
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
    if about.get("format") not in (FORMAT, FORMAT_1):
        raise _refused(path, f"a file of format {about.get('format')!r}")
    if about.pop("sha256", None) != _digest(tensors, about):
        raise _refused(path, "other content than its checksum vouches for")
    known: dict[str, Any] = {name: json.loads(about[name]) for name in NUMBERS}
    level, mask, scales = tensors.pop("level"), _taken(tensors, "mask."), _taken(tensors, "unit_scale.")
    blocks = {name: slice(*units) for name, units in json.loads(about["blocks"]).items()}
    return Construction(
        weights=tensors,
        mask=mask,
        level=level,
        unit_scale=scales or unit_scales(tensors, level, known["amplitude"], blocks),
        blocks=blocks,
        bins=tuple(json.loads(about["bins"])),
        **known,
    )


def _taken(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take the tensors of a prefix out of the mapping, by their names without it."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """Over names, dtypes, shapes and bytes of the tensors and over the metadata, in the order of their names."""
    digest = hashlib.sha256(json.dumps(sorted(about.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _refused(path: str | Path, got: str) -> RecordsError:
    return RecordsError(f"{path} must be a construction as save_construction writes it, got {got}; save it anew")
