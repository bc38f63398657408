"""Checked calls: a mapping of settings against a signature. Every wrong value ends here in one line.

pydantic's `validate_call` (2.14) was tried for `call`: it takes no classes, strict mode refuses mappings for dataclasses, and
a union yields one error per option, so that code to restore these messages would be longer than what follows.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from hydra.errors import CompactHydraException

from wavebase import registry

# parameters that builders of version 0.1 take, by what they are called now
RENAMED = {"probing": "probe_generator", "perturbing": "perturbation_generator"}


class ConfigError(CompactHydraException, ValueError):
    """A configuration that cannot run: one line with what was wanted, what was got, and the remedy."""


def build(node: Mapping[str, Any], where: str, context: Mapping[str, Any] | None = None) -> Any:
    """Call what a group's `_target_` names, with the group's keys and what it asks of the context.

    Args:
        node: The group's keys and values.
        where: The group, one of `registry.PACKAGES`; only what is registered for it can be named.
        context: Arguments that are not keys, by parameter name.

    Raises:
        ConfigError: For a wrong key or value.
    """
    return call(
        named(where, node.get("_target_"), f"{where}._target_"),
        {key: value for key, value in node.items() if key != "_target_"},
        where,
        context or {},
    )


def named(group: str, path: Any, label: str, root: str = "") -> Callable[..., Any]:
    """Return the function or class that is registered for a group under a dotted name (`wavebase.registry`).

    Args:
        label: The key that names it.
        root: The part of the name that the key leaves out.

    Raises:
        ConfigError: If there is none.
    """
    found = registry.lookup(group, path) if isinstance(path, str) else None
    if found is None:
        got = path.removeprefix(root) if isinstance(path, str) else path
        top = str(got).partition(".")[0]
        if (
            top.isidentifier()
            and "." in str(got)
            and not root
            and top not in {*sys.stdlib_module_names, "wavebase", "torch"}
        ):
            remedy = f"if you trust the code of {top}, add trust=[{top}] to the command line"
            if registry.is_trusted(str(got)):
                remedy = f"mark it @registered in {top}"
            raise ConfigError(f"{label} must name what is registered for it, got {got!r}; {remedy}")
        near = difflib.get_close_matches(
            str(got), [name.removeprefix(root) for name in (*registry.names(group), *registry.MOVED)], 1, 0.6
        )
        raise ConfigError(
            f"{label} must name what is registered for it, got {got!r}; "
            + (f"did you mean {near[0]}?" if near else f"see conf/{group.partition('.')[0]}")
        )
    return found


def with_defaults(node: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a group's settings with the defaults of what its `_target_` names, dataclasses as mappings.

    Raises:
        ConfigError: If the target is not registered, or a value is not of its parameter's type.
    """
    target = named(where, node.get("_target_"), f"{where}._target_")
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    parameters = inspect.signature(target).parameters.values()
    filled = {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}
    for key, value in node.items():
        filled[key] = value if key == "_target_" else fit(value, hints.get(key, Any), f"{where}.{key}")
    name = f"{target.__module__}.{target.__qualname__}"  # the same under an old name
    plain = {
        key: dataclasses.asdict(v) if dataclasses.is_dataclass(v) and not isinstance(v, type) else v
        for key, v in filled.items()
    }
    return {**plain, "_target_": name}


def call(
    target: Callable[..., Any], node: Mapping[str, Any], where: str, context: Mapping[str, Any] | None = None
) -> Any:
    """Call a function or class with a mapping's values, checked against its signature.

    Args:
        where: The prefix of the keys in messages.
        context: As in `build`.

    Raises:
        ConfigError: For a wrong key or value, also one that `target` refuses with a ValueError.
    """
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(target).parameters
    context = dict(context or {})
    for old, new in RENAMED.items():
        if old in parameters and new in context:
            warnings.warn(f"{target.__name__} takes {old}, which is called {new} now", DeprecationWarning, stacklevel=2)
            context[old] = context[new]
    kinds = {parameter.kind for parameter in parameters.values()}
    if inspect.Parameter.POSITIONAL_ONLY in kinds:
        raise ConfigError(
            f"{target.__name__} must take its arguments by name, got positional-only ones; remove the / from its signature"
        )
    parameters = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    takes_any = inspect.Parameter.VAR_KEYWORD in kinds  # **options: the function checks its own keys
    known = set(parameters) - set(context)
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    arguments = {}
    for key, value in node.items():
        label = f"{where}.{key}" if where else str(key)
        if key not in known and (key in context or not takes_any):
            text = unknown_key(label, str(key), known)
            unused = f"{' Or' if text.endswith('?') else ', or'} leave it out with ~{label}" if context else ""
            raise ConfigError(text + unused)
        arguments[key] = fit(value, hints.get(key, Any), label)
    for name, parameter in parameters.items():
        if name in context:
            arguments[name] = context[name]
        elif name not in arguments and parameter.default is parameter.empty:
            if context:  # not a key of the group: another kind of task supplies it
                raise ConfigError(
                    f"{where} needs {name!r}, got a task that does not give it; choose another task= or {where}="
                )
            raise ConfigError(f"{where or 'config'}.{name} must be given, got nothing; see conf/{where}")
    try:
        return target(**arguments)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(" ".join(str(error).split())) from error


def unknown_key(label: str, key: str, known: Iterable[str]) -> str:
    """Return the message for an unknown key, with the nearest known one."""
    names = sorted(known)
    near = difflib.get_close_matches(key, names, 1, 0.5)
    return f"{label} must be a known key, got {key!r}; " + (
        f"did you mean {near[0]}?" if near else f"use one of {', '.join(names)}"
    )


def fit(value: Any, hint: Any, label: str) -> Any:
    """Return a value as the annotation `hint` wants it.

    Raises:
        ConfigError: If it is of another type.
    """
    if hint is Any or hint is inspect.Parameter.empty:
        return value
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        for option in options:
            try:
                return fit(value, option, label)
            except ConfigError as error:
                # the message about one of its keys says more than the one below
                if isinstance(value, Mapping) and dataclasses.is_dataclass(option):
                    raise error
        raise ConfigError(f"{label} must be {_words(hint)}, got {value!r}; see conf/")
    if origin is Literal:
        if value not in options:
            near = difflib.get_close_matches(str(value), map(str, options), 1, 0.5)
            raise ConfigError(
                f"{label} must be one of {', '.join(map(str, options))}, got {value!r}; use {near[0] if near else options[0]}"
            )
        return value
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return call(typing.cast(type, hint), value, label)
    if origin in (list, Sequence) and isinstance(value, list | tuple):
        return [fit(item, options[0], f"{label}[{n}]") for n, item in enumerate(value)]
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(fit(item, options[0], f"{label}[{n}]") for n, item in enumerate(value))
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {key: fit(item, options[1], f"{label}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = origin or hint
    if isinstance(plain, type) and isinstance(value, plain) and not (isinstance(value, bool) and plain is not bool):
        return value
    raise ConfigError(f"{label} must be {_words(hint)}, got {value!r}; see conf/")


def _words(hint: Any) -> str:
    options = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_words(option) for option in options)
    names = {int: "a whole number", float: "a number", str: "a word", bool: "true or false", type(None): "null"}
    if hint in names:
        return names[hint]
    if typing.get_origin(hint) in (list, Sequence, tuple):
        return "a list"
    return "a mapping" if typing.get_origin(hint) in (dict, Mapping) or dataclasses.is_dataclass(hint) else str(hint)
