"""`--cfg job`: the whole resolved configuration, with the file or the word on the command line behind every value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

WHERE = 44  # column of the comments


def show(folder: str, overrides: list[str]) -> str:
    """The configuration in `folder` under these overrides, as YAML. Raises Hydra's and OmegaConf's own errors."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(folder, version_base="1.3"):
        cfg = compose("config", overrides)
        origins = _origins(overrides)
    raw: Any = OmegaConf.to_container(cfg)
    resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    return "\n".join(_lines(resolved, raw, origins))


def _origins(overrides: list[str]) -> dict[str, str]:
    """Dotted key of every value and every mapping that was written somewhere -> where; the last to write it wins."""
    loader: Any = GlobalHydra.instance().config_loader()
    defaults = loader.compute_defaults_list("config", overrides, RunMode.RUN)
    origins: dict[str, str] = {}
    for default in defaults.defaults:
        if default.config_path is None or default.config_path.startswith("hydra"):
            continue
        loaded = loader.repository.load_config(default.config_path)
        if loaded is not None and isinstance(loaded.config, DictConfig):
            package = "" if default.package in (None, "", "_global_") else f"{default.package}."
            written = OmegaConf.to_container(loaded.config)
            origins |= dict.fromkeys(_names(written, package), f"conf/{default.config_path}.yaml")
    for override in defaults.config_overrides:
        key = override.key_or_group.replace("@", ".")
        word = f"command line, {override.input_line}"
        for name in [name for name in origins if name.startswith(f"{key}.")]:
            origins[name] = word
        origins[key] = word
    return origins


def _names(node: Any, prefix: str) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _names(value, f"{prefix}{key}.")


def _lines(
    node: Mapping[str, Any], raw: Mapping[str, Any], origins: Mapping[str, str], prefix: str = ""
) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}:"
            below = raw[key] if isinstance(raw[key], Mapping) else value
            yield from _lines(
                value, below, {**dict.fromkeys(_names(value, f"{name}."), origins.get(name, "")), **origins}, f"{name}."
            )
            continue
        text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").rstrip("\n")
        said = origins.get(name, "")
        if isinstance(raw[key], str) and "${" in raw[key]:
            said += f": {raw[key]}"
        if value == "???":
            said += f"; must be given: {name}=..."
        yield f"{f'{indent}{key}: {text}':<{WHERE}}  # {said}"
