"""Checkpoint files: written atomically, and read only if every checksum is right."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavebase.records import untrusted
from wavebase.records.atomic import RecordsError, atomic_write, open_regular

if TYPE_CHECKING:  # torch takes a second to import, and a report needs no weights
    import torch


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors, numbers, text and containers of them. Raises OSError if the disk fails."""
    import torch

    buffer = io.BytesIO()  # torch.save hides the errors of a file
    torch.save(_own_storage(state, {}), buffer)
    atomic_write(path, lambda file: file.write(buffer.getbuffer()))


def load(path: Path) -> dict[str, Any]:
    """Return what `save` wrote: tensors, numbers, text and containers, nothing else.

    Raises:
        RecordsError: If the file is not as it was written.
    """
    import torch

    try:
        with open_regular(path, "rb") as file:
            untrusted.check_archive(file, checksums=True)  # torch does not check them
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
    """Check that every tensor is as large as its storage: else a file of a kilobyte could ask for any memory.

    Raises:
        ValueError: If one is larger, is sparse, or is not on the CPU.
    """
    import torch

    seen: set[int] = set()
    rest = [value]
    while rest:
        node = rest.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, torch.Tensor):
            on_cpu = node.layout == torch.strided and node.device.type == "cpu"
            if not on_cpu or node.nbytes > node.untyped_storage().nbytes():
                raise ValueError("a tensor without all of its numbers")
        elif isinstance(node, Mapping):
            rest += node.values()
        elif isinstance(node, list | tuple):
            rest += node


def _own_storage(value: Any, copies: dict[tuple[Any, ...], torch.Tensor]) -> Any:
    """Return the value with each view of a larger storage copied once: torch.save would write the whole storage."""
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
