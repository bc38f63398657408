"""What a configuration may name: functions and classes marked `@registered`, and torch's optimisers.

A name is looked up, not imported: only modules of the packages below are imported, so that a configuration from
elsewhere cannot choose code.
"""

from __future__ import annotations

import hashlib
import pkgutil
import re
import sys
from collections.abc import Callable, Collection, Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

# For each group of the configuration, the packages or modules whose `@registered` functions and classes it may name, beside
# those of modules that the person at the command line trusts (`trust`).
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
    "wavebase.models.harmonic_forecasters.linear_prediction": "wavebase.models.linear_prediction.build",
    "wavebase.models.harmonic_forecasters.omp": "wavebase.models.matching_pursuit.build",
    "wavebase.models.harmonic_forecasters.sparse_bayes": "wavebase.models.sparse_bayes.build",
    "wavebase.models.harmonic_forecasters.esprit": "wavebase.models.esprit.build",
    "wavebase.optimizers.AdamL1": "wavebase.training.optimizers.AdamL1",
    "wavebase.optimizers.GaussNewton": "wavebase.training.optimizers.GaussNewton",
    "wavebase.optimizers.MuonWithAdamW": "wavebase.training.optimizers.MuonWithAdamW",
    "wavebase.optimizers.lion": "wavebase.training.optimizers.lion",
}
Thing = TypeVar("Thing", bound=Callable[..., Any])
_registered: dict[str, Callable[..., Any]] = {}
_trusted: set[str] = set()


def registered(thing: Thing) -> Thing:
    """Let a configuration name this function or class. A decorator."""
    _registered[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return thing


def trust(modules: Iterable[str]) -> None:
    """Let configurations name what modules outside wavebase register. Imports them: their code runs.

    Only a person may decide this, never a file: the command line passes on its own word `trust=[...]`.

    Args:
        modules: Dotted names of modules or packages, or paths of .py files, whose folder is then added to `sys.path`.

    Raises:
        ValueError: For a module that cannot be imported, in one line.
    """
    for module in modules:
        name = module
        if module.endswith(".py"):
            file = Path(module).expanduser().resolve()
            name = file.stem
            if not file.is_file():
                raise ValueError(f"trust must name modules or .py files that exist, got {module!r}; check the path")
            loaded = getattr(sys.modules.get(name), "__file__", None)
            if name in sys.modules and (loaded is None or Path(loaded).resolve() != file):
                raise ValueError(f"trust must name a file whose name is free, got {module!r}, but {name} is another module; rename the file")  # fmt: skip
            if str(file.parent) not in sys.path:
                sys.path.append(str(file.parent))
        try:
            import_module(name)
        except Exception as error:  # whatever the module's own code raises
            raise ValueError(
                f"trust must name modules that can be imported, got {module!r} ({type(error).__name__}: {error}); install it, or give the path of its .py file"
            ) from error
        _trusted.add(name)


def is_trusted(name: str) -> bool:
    """Return whether a dotted name lies in a trusted module or below a trusted package."""
    return any(name == module or name.startswith(f"{module}.") for module in _trusted)


def sources() -> dict[str, str]:
    """Return the SHA-256 of the source file of every module outside wavebase that registers something, by module name."""
    outside = sorted({thing.__module__ for thing in _registered.values() if is_trusted(thing.__module__)})
    found = {}
    for module in outside:
        file = getattr(sys.modules.get(module), "__file__", None)
        found[module] = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else "unknown"
    return found


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
    if module not in _modules(group) and not is_trusted(module):
        return None
    try:
        import_module(module)
    except ModuleNotFoundError:  # below a trusted package
        return None
    return _registered.get(name)


def is_in_source(name: str) -> bool:
    """Return whether the source of a module of ours registers a name, without an import of the module."""
    module, _, own = MOVED.get(name, name).rpartition(".")
    package, *path = module.split(".")
    file = Path(__file__).parent.joinpath(*path).with_suffix(".py")
    if package != __package__ or not own.isidentifier() or not all(map(str.isidentifier, path)) or not file.is_file():
        return False
    return re.search(rf"^@registered\n(?:@\w+\n)*(?:def|class) {own}\b", file.read_text(), re.MULTILINE) is not None


def names(group: str) -> list[str]:
    """Return every name that the group may use, sorted. Imports all modules of the group."""
    modules = _modules(group)
    for module in modules:
        import_module(module)
    own = [name for name, thing in _registered.items() if thing.__module__ in modules or is_trusted(thing.__module__)]
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
