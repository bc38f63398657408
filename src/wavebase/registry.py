"""What a configuration may name: functions and classes marked `@registered`, and torch's optimisers.

A name is looked up, not imported: only modules of the packages below are imported, so that a configuration from
elsewhere cannot choose code.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Collection
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

# For each group of the configuration, the packages or modules whose `@registered` functions and classes it may name.
# Trusted packages from outside this repository would be added here.
PACKAGES: dict[str, tuple[str, ...]] = {
    "model": ("wavebase.models",),
    "signal": ("wavebase.signals",),
    "task": ("wavebase.tasks",),
    "optim": ("wavebase.training.optimizers",),
    "probe.measure": ("wavebase.probes",),
    "probe.figures": ("wavebase.figures",),
}
# Old names and their present ones: configurations in run folders keep the old.
MOVED = {
    "wavebase.figures.weight_hh_init": "wavebase.figures.weights.weight_hh_init",
    "wavebase.figures.gen_eigenvalues": "wavebase.figures.weights.gen_eigenvalues",
    "wavebase.figures.train_loss": "wavebase.figures.run.train_loss",
    "wavebase.figures.spectrum": "wavebase.figures.run.spectrum",
    "wavebase.optimizers.AdamL1": "wavebase.training.optimizers.AdamL1",
    "wavebase.optimizers.GaussNewton": "wavebase.training.optimizers.GaussNewton",
    "wavebase.optimizers.MuonWithAdamW": "wavebase.training.optimizers.MuonWithAdamW",
    "wavebase.optimizers.lion": "wavebase.training.optimizers.lion",
}
Thing = TypeVar("Thing", bound=Callable[..., Any])
_registered: dict[str, Callable[..., Any]] = {}


def registered(thing: Thing) -> Thing:
    """Let a configuration name this function or class. A decorator."""
    _registered[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return thing


def lookup(group: str, name: str) -> Callable[..., Any] | None:
    """Return what a dotted name means in a group of the configuration.

    Args:
        group: A key of `PACKAGES`.

    Returns:
        The function or class; None if nothing of that name is registered for the group.
    """
    if name in (optimizers := _torch_optimizers() if group == "optim" else {}):
        return optimizers[name]
    name = MOVED.get(name, name)
    module = name.rpartition(".")[0]
    if module not in _modules(group):
        return None
    import_module(module)
    return _registered.get(name)


def names(group: str) -> list[str]:
    """Return every name that the group may use, sorted. Imports all modules of the group."""
    modules = _modules(group)
    for module in modules:
        import_module(module)
    own = [name for name, thing in _registered.items() if thing.__module__ in modules]
    return sorted([*own, *(_torch_optimizers() if group == "optim" else {})])


def _modules(group: str) -> Collection[str]:
    """Return the full names of the group's modules, as its packages' folders list them. Imports the packages only."""
    found = set()
    for package in PACKAGES[group]:
        below = getattr(import_module(package), "__path__", [])  # a module has no path
        found |= {package, *(f"{package}.{module.name}" for module in pkgutil.iter_modules(below))}
    return found


@cache
def _torch_optimizers() -> dict[str, type]:
    """Return the optimisers that torch.optim exports, by dotted name."""
    from torch import optim

    exported = {name: getattr(optim, name) for name in dir(optim) if not name.startswith("_")}
    return {
        f"torch.optim.{name}": thing
        for name, thing in exported.items()
        if isinstance(thing, type) and issubclass(thing, optim.Optimizer) and thing is not optim.Optimizer
    }
