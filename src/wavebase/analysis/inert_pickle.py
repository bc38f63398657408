"""Reading the arrays in a pickle without running it.

Python's unpickler imports and calls what a file names. Here every name becomes an `Inert` record of its arguments and
state, and records of numpy arrays and torch tensors are rebuilt from their bytes afterwards.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
import torch

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
MODULE_PARTS = ("_parameters", "_buffers", "_modules")  # of a pickled torch.nn.Module; not part of parameters' names
MOST_DEPTH, MOST_CONTAINERS = 64, 100_000


class Inert:
    """An object of a pickle as data.

    Attributes:
        origin: Module and name of its class or function.
        args: Arguments of the call.
        state: What __setstate__ would get.
        items: What was set by key, or appended (by position).
    """

    origin = ""

    def __new__(cls, *args: Any, **_: Any) -> Inert:
        made = super().__new__(cls)
        made.args, made.state, made.items = args, None, {}
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        self.args: tuple[Any, ...]
        self.state: Any
        self.items: dict[Any, Any]

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        """Store an element of a list."""
        self.items[len(self.items)] = value

    add = append


class Attributes(dict[str, Any]):
    """The attributes of an object."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, storage: Callable[[str], bytes] | None) -> None:
        super().__init__(file, encoding="latin1")  # Python 2 kept bytes as text
        self.storage = storage
        self.classes: dict[str, type[Inert]] = {}
        self.storages: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        origin = f"{module}.{name}"
        return self.classes.setdefault(origin, type("Inert", (Inert,), {"origin": origin}))

    def persistent_load(self, pid: Any) -> Any:
        """Return a storage of torch.save: ("storage", class, key of its file in the archive, device, count)."""
        if self.storage is None:
            raise pickle.UnpicklingError("storage outside the file")
        dtype, key = DTYPES.get(pid[1].origin.removeprefix("torch.")), str(pid[2])
        if dtype is not None and key not in self.storages:
            content = bytearray(self.storage(key))
            self.storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self.storages.get(key)


def load(file: BinaryIO | bytes, storage: Callable[[str], bytes] | None = None) -> Any:
    """Read a pickle as nested dicts of arrays and plain values.

    Args:
        file: The pickle.
        storage: Returns the bytes of a torch.save storage by its key; None for a pickle that is a file of its own.

    Returns:
        numpy arrays and torch tensors, in dicts and lists. Objects become Attributes; a torch.nn.Module becomes those of
        its parameters, buffers and submodules. A container inside itself becomes None.

    Raises:
        pickle.UnpicklingError, ValueError, RuntimeError and others: For what is no such pickle.
    """
    found = _Unpickler(io.BytesIO(file) if isinstance(file, bytes) else file, storage).load()
    return _Reader().plain(found)


class _Reader:
    """Turns records into plain values. It is bounded, because a small pickle can refer to one container many times."""

    def __init__(self) -> None:
        self.count = 0
        self.open: set[int] = set()  # containers around the current one
        self.rebuilt: dict[int, Any] = {}

    def plain(self, node: Any) -> Any:
        if isinstance(node, Inert) and node.origin == "torch._utils._rebuild_parameter":
            node = node.args[0]
        if isinstance(node, Inert) and node.origin in _REBUILD:
            if id(node) not in self.rebuilt:
                self.rebuilt[id(node)] = _REBUILD[node.origin](node)
            return self.rebuilt[id(node)]
        if not isinstance(node, Inert | Mapping | list | tuple):
            return node
        self.count += 1
        if self.count > MOST_CONTAINERS or len(self.open) > MOST_DEPTH:
            raise ValueError("too many containers, or containers nested too deeply")
        if id(node) in self.open:
            return None
        self.open.add(id(node))
        inside = _contents(node) if isinstance(node, Inert) else node
        found: Any
        if isinstance(inside, Mapping):
            kind = Attributes if isinstance(node, Inert) and node.origin != "collections.OrderedDict" else dict
            found = kind((str(key), self.plain(value)) for key, value in inside.items())
        else:
            found = [self.plain(value) for value in inside]
        self.open.remove(id(node))
        return found


def _contents(node: Inert) -> dict[Any, Any]:
    """Return the items and attributes of an object; of a torch.nn.Module its parameters, buffers and submodules."""
    found = dict(node.items)
    if not isinstance(node.state, Mapping):
        return found
    if not all(part in node.state for part in MODULE_PARTS):
        return found | dict(node.state)
    for part in MODULE_PARTS:
        inside = node.state[part]
        found |= inside.items if isinstance(inside, Inert) else dict(inside)
    return found


def _bytes(node: Any) -> bytes:
    """Return bytes, which old protocols write as text or as _codecs.encode(text, "latin1")."""
    if isinstance(node, Inert) and node.origin == "_codecs.encode":
        node = node.args[0]
    return node.encode("latin1") if isinstance(node, str) else bytes(memoryview(node))


def _array(shape: Any, dtype: Inert, order: Any, content: Any) -> np.ndarray | None:
    """Return an array of numbers from its bytes; None for text or objects."""
    code = str(dtype.args[0])
    if not re.fullmatch(r"[<>|=]?[fiub][0-9]{1,2}", code):
        return None
    read = np.dtype(code)
    if dtype.state and dtype.state[1] in ("<", ">"):
        read = read.newbyteorder(dtype.state[1])
    return np.frombuffer(_bytes(content), read).reshape(shape, order=order).astype(read.newbyteorder("="))


def _numpy_reconstruct(node: Inert) -> Any:
    if not isinstance(node.state, tuple) or len(node.state) != 5:
        return None
    _, shape, dtype, fortran, content = node.state
    return _array(shape, dtype, "F" if fortran else "C", content)


def _numpy_frombuffer(node: Inert) -> Any:
    content, dtype, shape, order = node.args
    return _array(shape, dtype, "F" if order == "F" else "C", content)


def _torch_tensor(node: Inert) -> Any:
    storage, offset, size, stride = node.args[:4]
    if storage is None:
        return None
    found = storage.as_strided(size, stride, offset)  # raises where the storage is too small
    if found.nbytes > storage.nbytes:
        raise ValueError("a tensor without all of its numbers")
    return found


_REBUILD: dict[str, Callable[[Inert], Any]] = {
    "torch._utils._rebuild_tensor_v2": _torch_tensor,
    "numpy.core.multiarray._reconstruct": _numpy_reconstruct,
    "numpy._core.multiarray._reconstruct": _numpy_reconstruct,
    "numpy.core.numeric._frombuffer": _numpy_frombuffer,
    "numpy._core.numeric._frombuffer": _numpy_frombuffer,
}
