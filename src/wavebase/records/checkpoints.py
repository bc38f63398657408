"""Checkpoint files: written whole and without the storage of others, read only if every checksum is right."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavebase.records import untrusted
from wavebase.records.atomic import RecordsError, atomic_write, open_regular

if TYPE_CHECKING:  # records are read without it where no weights are: it takes a second to import
    import torch


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors, numbers, text and containers of them. Raises OSError where the disk does."""
    import torch

    buffer = io.BytesIO()  # torch.save hides the errors of a file
    torch.save(_own_storage(state, {}), buffer)
    atomic_write(path, lambda file: file.write(buffer.getbuffer()))


def load(path: Path) -> dict[str, Any]:
    """What was saved; nothing else is ever loaded. Raises RecordsError for a file that is not as it was written."""
    import torch

    try:
        with open_regular(path, "rb") as file:
            untrusted.check_archive(file, checksums=True)  # torch does not look at them
            found = torch.load(file, weights_only=True, map_location="cpu")
        check_tensors(found)
    except RecordsError:
        raise
    except Exception as error:  # torch raises many kinds for a broken file; all mean the same to the user
        raise RecordsError(
            f"{path} must be a readable checkpoint, got {untrusted.reason(error)}; delete it to use an older one"
        ) from error
    if not isinstance(found, Mapping):
        raise RecordsError(
            f"{path} must be a checkpoint, got a file that holds a {type(found).__name__}; delete it to use an older one"
        )
    return dict(found)


def check_tensors(value: Any) -> None:
    """Raise ValueError for a tensor that says it is larger than what is stored of it: a file of a kilobyte could ask for any
    memory."""
    import torch

    seen: set[int] = set()
    rest = [value]
    while rest:
        node = rest.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, torch.Tensor):
            if (
                node.layout != torch.strided
                or node.device.type != "cpu"
                or node.nbytes > node.untyped_storage().nbytes()
            ):
                raise ValueError("a tensor without all of its numbers")
        elif isinstance(node, Mapping):
            rest += node.values()
        elif isinstance(node, list | tuple):
            rest += node


def _own_storage(value: Any, copies: dict[tuple[Any, ...], torch.Tensor]) -> Any:
    """The value with views copied out of larger storage, each view once: torch.save would write the storage whole."""
    import torch

    if isinstance(value, torch.Tensor):
        if value.untyped_storage().nbytes() == value.nbytes:
            return value
        view = (value.data_ptr(), value.shape, value.stride())
        if view not in copies:
            copies[view] = value.detach().clone()
        return copies[view]
    if isinstance(value, Mapping):
        return {key: _own_storage(item, copies) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_own_storage(item, copies) for item in value)
    return value
