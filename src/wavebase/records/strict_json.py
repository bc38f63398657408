"""JSON without NaN or infinity, which the standard does not have."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def to_json(value: Any) -> Any:
    """Return the value as strict JSON can hold it: numbers that are not finite become null, tuples lists, keys text."""
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def dump_json(value: Any, indent: int | None = None) -> bytes:
    """Return the value as UTF-8 encoded strict JSON, with a newline at the end."""
    return json.dumps(to_json(value), indent=indent, allow_nan=False).encode() + b"\n"
