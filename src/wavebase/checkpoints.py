"""Checkpoint files: written whole and without the storage of others, read only if every checksum is right."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavebase.durable import RecordsError, write_whole

if TYPE_CHECKING:  # records are read without it where no weights are: it takes a second to import
    import torch


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors, numbers, text and containers of them. Raises OSError where the disk does."""
    import torch

    buffer = io.BytesIO()  # torch.save hides the errors of a file
    torch.save(_own_storage(state, {}), buffer)
    write_whole(path, lambda file: file.write(buffer.getbuffer()))


def load(path: Path) -> dict[str, Any]:
    """What was saved; nothing else is ever loaded. Raises RecordsError for a file that is not as it was written."""
    import torch

    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums
            if (broken := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"a wrong checksum in {broken}")
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises many kinds for a broken file; all mean the same to the user
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RecordsError(
            f"{path} must be a readable checkpoint, got {reason}; delete it to use an older one"
        ) from error


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
