"""Options that would have no effect are refused."""

from __future__ import annotations

from typing import Any


class IgnoredOption(ValueError):
    """A configuration sets a key that has no effect beside the others.

    Attributes:
        key: The key within the group `model`, with dots. Without it, the configuration builds the same net.
    """

    def __init__(self, key: str, message: str):
        super().__init__(message)
        self.key = key


def refuse_ignored(condition: str, remedy: str, *options: tuple[str, Any, Any]) -> None:
    """Refuse options that would have no effect.

    Args:
        condition: Why they have none, as in "with model.start=random".
        remedy: What to do instead.
        options: Name, value and default of each.

    Raises:
        IgnoredOption: For the first whose value is not its default.
    """
    for key, value, default in options:
        if value != default:
            wanted = "null" if default is None else default
            raise IgnoredOption(key, f"model.{key} must be {wanted} {condition}, got {value}; {remedy}")
