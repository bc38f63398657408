"""Reading files that others may have written: plain values of bounded size, through no link.

A stored configuration is data: YAML without tags, anchors or interpolation. Every fault of a file is one RecordsError.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from wavebase.records.atomic import RecordsError, open_regular

# bytes; our files have a hundredth of it. PyYAML takes three seconds for a configuration of 2^18 bytes
MOST_CONFIG, MOST_SUMMARY, MOST_METRICS, MOST_ARRAYS = 2**18, 2**23, 2**30, 2**28
MOST_COMPRESSION = 20  # bytes out of one byte of a large archive; weights have a tenth of it, zeros a thousand
MOST_DEPTH, MOST_KEYS, MOST_DIGITS = 32, 5000, 19  # digits: those of 2^63


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """Loads mappings, lists, text, numbers, true, false and null, as OmegaConf writes them."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML's name; without its dates and numbers to base 60
    yaml_constructors = {  # noqa: RUF012
        tag: yaml.SafeLoader.yaml_constructors[tag]  # None: refuses every other tag
        for tag in (
            None,
            *(f"tag:yaml.org,2002:{kind}" for kind in ["null", "bool", "int", "float", "str", "seq", "map"]),
        )
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse anchors and aliases: one page of them can expand beyond any memory."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.composer.ComposerError(None, None, "an anchor or alias", event.start_mark)
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: Any) -> None:
        """Do not merge keys, which needs anchors."""


for kind, pattern, first in (
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", rf"[-+]?(?:0|[1-9][0-9]{{0,{MOST_DIGITS - 1}}})", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+0123456789.")),
):  # fmt: skip
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"^(?:{pattern})$"), first)


def read_bytes(path: Path, most: int) -> bytes:
    """Return a file's content.

    Raises:
        FileNotFoundError: If there is none.
        RecordsError: If it is not a regular file, holds more than `most` bytes, or cannot be read.
    """
    try:
        with open_regular(path, "rb") as file:
            content = file.read(most + 1)
    except FileNotFoundError:
        raise
    except OSError as error:  # another user's file, a disk that fails
        raise RecordsError(
            f"{path} must be readable, got {error.strerror}; change its permissions, or leave it out"
        ) from error
    if len(content) > most:
        raise RecordsError(f"{path} must hold at most {most} bytes, got more; remove it, or use another folder")
    return content


def read_config(path: Path) -> dict[str, Any]:
    """Return a stored configuration as plain containers; `${...}` in it stays text.

    Raises:
        RecordsError: If the file is missing, or is not a YAML mapping of plain values.
    """
    try:
        content = read_bytes(path, MOST_CONFIG)
    except FileNotFoundError as error:
        raise RecordsError(f"{path} must exist, got no such file; restore it") from error
    return parse_config(content, path)


def parse_config(content: bytes, path: Path) -> dict[str, Any]:
    """Return the content of a stored configuration, as `read_config` does; `path` is for the message only."""
    try:
        node = copy.deepcopy(_parsed(content))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecordsError(f"{path} must be readable YAML of plain values, got {reason(error)}; restore it") from error
    if not isinstance(node, dict):
        raise RecordsError(f"{path} must be a mapping, got a {type(node).__name__}; restore it")
    return node


@functools.lru_cache(64)  # a report, a figure and a check read one file after another; parsing takes ten milliseconds
def _parsed(content: bytes) -> Any:
    node = yaml.load(content, _Loader)  # a SafeLoader with fewer types
    _check(node)
    return node


def parse_json(content: bytes | str) -> Any:
    """Return JSON as plain containers; whole numbers beyond 64 bits become floats.

    Raises:
        ValueError: If it is not JSON, or is nested deeper or has more keys than any record of ours.
    """
    try:
        value = json.loads(content, parse_int=_whole)
        _check(value)
    except RecursionError as error:
        raise ValueError("too many brackets in each other") from error
    return value


def check_archive(file: BinaryIO, checksums: bool = False, unpacked: int = 0) -> None:
    """Check that a zip file (.npz, .pt) does not unpack to more memory than its size explains.

    numpy.savez and torch.save do not compress, so their parts have the file's size.

    Args:
        checksums: Also verify the checksum of each part.
        unpacked: Bytes to which a compressed archive may always unpack, beyond them to `MOST_COMPRESSION` times its
            size; 0 refuses compression.

    Raises:
        ValueError, zipfile.BadZipFile: If the archive fails a check.
    """
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        if not unpacked and any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise ValueError("compressed parts")
        size = file.seek(0, 2)
        if sum(part.file_size for part in parts) > (max(MOST_COMPRESSION * size, unpacked) if unpacked else size):
            raise ValueError("parts that are larger than the file")
        if checksums and (broken := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"a wrong checksum in {broken}")
    file.seek(0)


def _check(value: Any) -> None:
    """Raise ValueError for keys that are not text, and for more nesting or keys than any record of ours has."""
    keys, rest = 0, [(value, 0)]
    while rest:
        node, depth = rest.pop()
        if depth > MOST_DEPTH:
            raise ValueError("too many brackets in each other")
        if isinstance(node, Mapping):
            keys += len(node)
            if keys > MOST_KEYS:
                raise ValueError(f"more than {MOST_KEYS} keys")
            if odd := [key for key in node if not isinstance(key, str)]:
                raise ValueError(f"a key that is no text: {str(odd[0])[:40]!r}")
            rest += [(item, depth + 1) for item in node.values()]
        elif isinstance(node, list):
            rest += [(item, depth + 1) for item in node]


def _whole(text: str) -> int | float:
    if len(text) <= MOST_DIGITS + 1:
        return int(text)
    return float(text) if len(text) < 400 else math.copysign(math.inf, -1 if text.startswith("-") else 1)


def reason(error: BaseException) -> str:
    """Return an error's message as the end of one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
