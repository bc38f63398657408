"""Reading files that others may have written: plain values only, of bounded size, through no link.

A stored configuration is data: YAML without tags, anchors or interpolation. Whatever is wrong with a file is one
RecordsError.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from wavebase.records.atomic import RecordsError, open_regular

# bytes; ours are a hundredth of it. A configuration of 2^18 takes PyYAML three seconds
MOST_CONFIG, MOST_SUMMARY, MOST_METRICS, MOST_ARRAYS = 2**18, 2**23, 2**30, 2**32
MOST_DEPTH, MOST_KEYS, MOST_DIGITS = 32, 5000, 19  # digits: those of 2^63


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """Mappings, lists, text, numbers, true, false and null, as OmegaConf writes them."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML's own name; its sixty-based numbers and dates are left out
    yaml_constructors = {  # noqa: RUF012
        tag: yaml.SafeLoader.yaml_constructors[tag]  # None: the refusal of every other tag
        for tag in (
            None,
            *(f"tag:yaml.org,2002:{kind}" for kind in ["null", "bool", "int", "float", "str", "seq", "map"]),
        )
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse anchors and what they are for: a page of them can stand for more than any memory holds."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.composer.ComposerError(None, None, "an anchor or alias", event.start_mark)
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: Any) -> None:
        """Merge keys are for anchors."""


for kind, pattern, first in (
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", rf"[-+]?(?:0|[1-9][0-9]{{0,{MOST_DIGITS - 1}}})", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+0123456789.")),
):  # fmt: skip
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"^(?:{pattern})$"), first)


def read_bytes(path: Path, most: int) -> bytes:
    """A file's content. Raises RecordsError for one of more than `most` bytes, a link, or what is no file."""
    with open_regular(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise RecordsError(f"{path} must hold at most {most} bytes, got more; remove it, or use another folder")
    return content


def read_config(path: Path) -> dict[str, Any]:
    """A stored configuration as plain containers; `${...}` in it stays text. Raises RecordsError."""
    try:
        node = yaml.load(read_bytes(path, MOST_CONFIG), _Loader)  # a SafeLoader with fewer types
        _check(node)
    except RecordsError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise RecordsError(f"{path} must be readable YAML of plain values, got {reason(error)}; restore it") from error
    if not isinstance(node, dict):
        raise RecordsError(f"{path} must be a mapping, got a {type(node).__name__}; restore it")
    return node


def parse_json(content: bytes | str) -> Any:
    """JSON as plain containers, whole numbers beyond 64 bits as floats. Raises ValueError."""
    try:
        value = json.loads(content, parse_int=_whole)
        _check(value)
    except RecursionError as error:
        raise ValueError("too many brackets in each other") from error
    return value


def check_archive(file: BinaryIO, checksums: bool = False, unpacked: int = 0) -> None:
    """Refuse a zip file (.npz, .pt) of parts larger than itself and than `unpacked` bytes: a small one can unpack to more than
    any memory holds, and neither numpy.savez nor torch.save compresses. Raises ValueError, zipfile.BadZipFile."""
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        if not unpacked and any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise ValueError("compressed parts")
        if sum(part.file_size for part in parts) > max(file.seek(0, 2), unpacked):
            raise ValueError("parts that are larger than the file")
        if checksums and (broken := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"a wrong checksum in {broken}")
    file.seek(0)


def _check(value: Any) -> None:
    """Raise ValueError for keys that are no text, for nesting or a number of keys that no record of ours has."""
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
    """An error as the end of one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
