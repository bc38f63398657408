"""Constructions as .safetensors files, which any reader of the format can open.

The format (https://github.com/huggingface/safetensors) holds named tensors behind a JSON header and cannot run code. It
has no checksum, so the header carries one over tensors and metadata.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavebase.constructions.construction import STATE_NAMES, WEIGHT_NAMES, Construction, unit_scales
from wavebase.records.atomic import RecordsError, atomic_write
from wavebase.records.untrusted import parse_json, reason
from wavebase.recurrence.cells import GATES

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
        ValueError: For anything but a construction whose fields fit each other and whose numbers are finite.
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
    if wrong := [*_wrong_tensors(construction), *_wrong_numbers(construction)]:
        raise ValueError(f"construction must have finite fields that fit each other, got others in {_names(wrong)}; build it anew")  # fmt: skip
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
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}  # safetensors maps the file, which may change
    try:
        known: dict[str, Any] = {name: parse_json(about[name]) for name in NUMBERS}
        blocks = {name: slice(*units) for name, units in parse_json(about["blocks"]).items()}
        peaks, mask, scales = tensors.pop(PEAKS), _take(tensors, "mask."), _take(tensors, "unit_scale.")
        made = Construction(
            weights=tensors,
            mask=mask,
            max_activation=peaks,
            unit_scale=scales,
            blocks=blocks,
            bins=tuple(parse_json(about["bins"])),
            **known,
        )
        if wrong := [*_wrong_tensors(made), *_wrong_numbers(made)]:
            raise ValueError(f"{_names(wrong)} do not fit each other")
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # the checksum fits: another program wrote it
        raise _refused(path, f"other fields than a construction's ({reason(error)})") from error
    return made if scales else replace(made, unit_scale=unit_scales(tensors, peaks, made.amplitude, blocks))


def _names(wrong: list[str]) -> str:
    return ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")


def _wrong_tensors(made: Construction) -> list[str]:
    """Return the names of tensors that are missing, surplus, not finite, or of another shape or dtype."""
    H, bias, inputs = made.hidden_size, made.weights["readout.bias"], made.weights["weight_ih_cell"]
    if not (made.dtype.is_floating_point and H and inputs.numel()):
        return ["hidden_0", "weight_ih_cell"]
    kinds = {"weight_ih": (H, inputs.shape[-1]), "weight_hh": (H, H), "bias_ih": (H,), "bias_hh": (H,)}
    shapes = {name: kinds[name.rpartition("_")[0]] for name in WEIGHT_NAMES} | dict.fromkeys(STATE_NAMES, (H,))
    shapes |= {"readout.weight": (bias.numel(), H), "readout.bias": (bias.numel(),)}
    masks = dict.fromkeys((f"weight_hh_{gate}" for gate in GATES), (H, H))

    def fits(tensor: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
        return tensor is not None and tensor.shape == shape and tensor.dtype == dtype and bool(tensor.isfinite().all())

    def positive(tensor: Tensor | None) -> bool:
        return tensor is not None and bool((tensor > 0).all())

    wrong = [name for name, shape in shapes.items() if not fits(made.weights.get(name), shape, made.dtype)]
    for name, shape in shapes.items():
        unit = made.unit_scale.get(name)
        given = unit is not None or made.unit_scale  # none at all in files of version 1
        wrong += [f"unit_scale.{name}"] if given and not (fits(unit, shape, made.dtype) and positive(unit)) else []
    wrong += [f"mask.{name}" for name, shape in masks.items() if not fits(made.mask.get(name), shape, torch.bool)]
    peaks = made.max_activation
    wrong += [] if fits(peaks, (H,), torch.float64) and positive(peaks) else [PEAKS]
    for known, found in ((shapes, made.weights), (shapes, made.unit_scale), (masks, made.mask)):
        wrong += sorted(set(found) - set(known))
    return wrong


def _wrong_numbers(made: Construction) -> list[str]:
    """Return the names of fields beside the tensors that cannot be a construction's."""

    def real(value: Any) -> bool:
        return type(value) in (int, float) and math.isfinite(value)

    def whole(value: Any, least: int, end: float = math.inf) -> bool:
        return type(value) is int and least <= value < end

    outputs = len(made.weights["readout.bias"])  # a lock-in has one for all bins
    right = {
        "T": whole(made.T, 1),
        "bins": outputs in (len(made.bins), 1) and len(set(made.bins)) == len(made.bins) > 0
        and all(whole(k, 0, made.T) for k in made.bins),
        "input_gate": made.input_gate in ("tanh", "sigmoid"),
        "margin": real(made.margin) and made.margin > 0,
        "amplitude": real(made.amplitude) and made.amplitude > 0,
        "output_gain": real(made.output_gain) and made.output_gain != 0,
        "scale": real(made.scale),
        "error_bound": type(made.error_bound) in (int, float) and made.error_bound >= 0,  # infinite where there is none
        "bound_windows": whole(made.bound_windows, 1),
        "latency": whole(made.latency, 0),
        "gains": all(map(real, made.gains.values())),
        "blocks": all(
            u.step is None and whole(u.start, 0) and whole(u.stop, u.start, made.hidden_size + 1)
            for u in made.blocks.values()
        ),
    }  # fmt: skip
    return [name for name, is_right in right.items() if not is_right]


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
