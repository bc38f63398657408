"""Constructions as .safetensors files, which any reader of the format can open.

The format (https://github.com/huggingface/safetensors) holds named tensors behind a JSON header and cannot run code. It
has no checksum, so the header carries one over tensors and metadata.
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

from wavebase.constructions.construction import STATE_NAMES, WEIGHT_NAMES, Construction, unit_scales
from wavebase.records.atomic import RecordsError, atomic_write
from wavebase.records.untrusted import parse_json, reason

FORMAT, FORMAT_1 = "wavebase construction, version 2", "wavebase construction, version 1"  # 1 had no unit scales
TENSORS = ("weights", "mask", "max_activation", "unit_scale")
PEAKS = "level"  # what files call max_activation
NUMBERS = tuple(field.name for field in fields(Construction) if field.name not in (*TENSORS, "blocks", "bins"))


def save_construction(construction: Construction, path: str | Path) -> None:
    """Write a construction to one .safetensors file, whole or not at all.

    Tensors: the weights under their own names (`Construction.weights`), `mask.weight_hh_<gate>` [H, H] bool, `level` [H]
    (`max_activation`), `unit_scale.<weight>`. Metadata: format, sha256, and as JSON blocks ({name: [start, stop]}), bins,
    T, input_gate, gains and the other numbers.

    Raises:
        ValueError: For anything but a construction.
        OSError: If the disk refuses.

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
    tensors = {**construction.weights, **masks, **scales, PEAKS: construction.max_activation}
    # the format refuses tensors that share storage
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    about = {name: json.dumps(getattr(construction, name)) for name in NUMBERS if name != "gains"}
    about |= {
        "gains": json.dumps(dict(construction.gains)),
        "bins": json.dumps(construction.bins),
        "blocks": json.dumps({name: [units.start, units.stop] for name, units in construction.blocks.items()}),
        "format": FORMAT,
    }
    content = save(tensors, about | {"sha256": _digest(tensors, about)})
    atomic_write(Path(path), lambda file: file.write(content))


def load_construction(path: str | Path) -> Construction:
    """Return the construction that `save_construction` wrote, bit for bit.

    Raises:
        RecordsError: In one line, for any other file.
    """
    from safetensors import SafetensorError, safe_open

    if Path(path).exists() and not Path(path).is_file():  # opening a pipe would block
        raise _refused(path, "no file")
    try:
        with safe_open(Path(path), framework="pt") as file:
            about, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _refused(path, " ".join(str(error).split())) from error
    if about.get("format") not in (FORMAT, FORMAT_1):
        raise _refused(path, f"a file of format {about.get('format')!r}")
    if about.pop("sha256", None) != _digest(tensors, about):
        raise _refused(path, "content that does not match its checksum")
    try:
        known: dict[str, Any] = {name: parse_json(about[name]) for name in NUMBERS}
        blocks = {name: slice(*units) for name, units in parse_json(about["blocks"]).items()}
        peaks, mask, scales = tensors.pop(PEAKS), _take(tensors, "mask."), _take(tensors, "unit_scale.")
        made = Construction(
            weights=tensors,
            mask=mask,
            max_activation=peaks,
            unit_scale=scales or unit_scales(tensors, peaks, known["amplitude"], blocks),
            blocks=blocks,
            bins=tuple(parse_json(about["bins"])),
            **known,
        )
        _check(made)
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:  # the checksum is right, but another program wrote it
        raise _refused(path, f"other fields than a construction's ({reason(error)})") from error
    return made


def _check(made: Construction) -> None:
    """Raise ValueError for fields or tensors whose types or shapes differ from those in `Construction`."""
    H, inputs = made.hidden_size, made.weights["weight_ih_cell"].shape[-1]
    shapes = {"weight_ih": (H, inputs), "weight_hh": (H, H), "bias_ih": (H,), "bias_hh": (H,)}
    shapes = {name: shapes[name.rpartition("_")[0]] for name in WEIGHT_NAMES} | dict.fromkeys(STATE_NAMES, (H,))
    shapes |= {
        "readout.weight": (len(made.weights["readout.bias"]), H),
        "readout.bias": made.weights["readout.bias"].shape,
    }
    wrong = [
        name
        for name, shape in shapes.items()
        if made.weights[name].shape != shape or made.weights[name].dtype != made.dtype
    ]
    wrong += [
        name
        for name, w in made.weights.items()
        if name not in made.unit_scale or made.unit_scale[name].shape != w.shape
    ]
    wrong += [name for name, mask in made.mask.items() if mask.shape != (H, H) or mask.dtype != torch.bool]
    wrong += [] if made.max_activation.shape == (H,) and set(made.weights) == set(shapes) else [PEAKS]
    wrong += [name for name, u in made.blocks.items() if not 0 <= u.start <= u.stop <= H]
    whole = (made.T, made.bound_windows, made.latency, *made.bins)
    numbers = (made.margin, made.amplitude, made.output_gain, made.scale, made.error_bound, *made.gains.values())
    wrong += [] if len(made.weights["readout.bias"]) in (len(made.bins), 1) else ["bins"]  # a lock-in has one output
    if wrong or not made.dtype.is_floating_point or made.input_gate not in ("tanh", "sigmoid"):
        raise ValueError(f"{', '.join([*wrong, made.input_gate])[:100]} do not fit each other")
    if not all(type(n) is int for n in whole) or not all(type(n) in (int, float) for n in numbers):
        raise ValueError("fields that should be numbers and are not")


def _take(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove the tensors with a prefix from the mapping; return them by their names without it."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """Return the SHA-256 of metadata and of the tensors' names, dtypes, shapes and bytes, sorted by name."""
    digest = hashlib.sha256(json.dumps(sorted(about.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _refused(path: str | Path, got: str) -> RecordsError:
    return RecordsError(f"{path} must be a construction as save_construction writes it, got {got}; save it anew")
