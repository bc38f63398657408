"""torch.optim without torch's compiler, which it imports at the first step only to hide itself from it."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import optim

COMPILER = "torch._dynamo"


def spare_the_compiler() -> None:
    """Let torch's optimisers be built and stepped without an import of `torch._dynamo`, which takes as long as torch itself.

    Once the compiler has been imported by something else, they do what they always did. A torch that asks for the compiler
    in another way is left as it is.
    """
    for function in vars(optim.Optimizer).values():
        hidden = getattr(function, "__wrapped__", None)
        if hidden is not None and _asks(function):  # torch keeps what hides a function in this attribute
            vars(hidden).setdefault("__dynamo_disable", _hidden_later(hidden))
    for kind in vars(optim).values():
        if inspect.isclass(kind) and issubclass(kind, optim.Optimizer) and _asks(kind.step):
            kind.step = _stepped(kind.step)  # type: ignore[method-assign]


def _asks(function: Any) -> bool:
    """Return whether a function of torch names the compiler."""
    return "_dynamo" in getattr(getattr(function, "__code__", None), "co_names", ())


def _hidden_later(function: Any) -> Callable[..., Any]:
    """Return a function that is hidden from the compiler as soon as there is one."""

    def call(*given: Any, **named: Any) -> Any:
        if COMPILER in sys.modules:
            function.__dynamo_disable = torch._dynamo.disable(function, wrapping=False)
            return function.__dynamo_disable(*given, **named)
        return function(*given, **named)

    return call


def _stepped(step: Any) -> Callable[..., Any]:
    """Return an optimiser's step that breaks the compiler's graph, and turns gradients off, in plain torch."""
    plain = step.__wrapped__

    @functools.wraps(step)
    def call(self: optim.Optimizer, *given: Any, **named: Any) -> Any:
        if COMPILER in sys.modules or self.defaults.get("differentiable"):
            return step(self, *given, **named)
        with torch.no_grad():
            return plain(self, *given, **named)

    return call
