"""`--cfg job`: the whole resolved configuration, with the file or the override behind every value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from wavebase.cli.errors import check_groups

COMMENT_COLUMN = 44


def show(folder: str, overrides: list[str], added: Sequence[str] = ()) -> str:
    """Return the configuration under these overrides as YAML, with the source of each value in a comment.

    Args:
        folder: Holds config.yaml and the groups.
        overrides: Of the command line.
        added: More folders with options of the groups, absolute.

    Raises:
        HydraException, OmegaConfBaseException: Hydra's and OmegaConf's own errors.
    """
    GlobalHydra.instance().clear()
    if added:
        overrides = [*overrides, f"hydra.searchpath=[{','.join(f'file://{path}' for path in added)}]"]
    with initialize_config_dir(folder, version_base="1.3"):
        cfg = compose("config", overrides)
        check_groups(cfg)
        written = sources(overrides, added)
    raw: Any = OmegaConf.to_container(cfg)
    resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    return "\n".join(_lines(resolved, raw, written))


def sources(overrides: list[str], added: Sequence[str] = ()) -> dict[str, str]:
    """Return, for the dotted key of each value and mapping that was written somewhere, the last place that wrote it.

    Args:
        overrides, added: As in `show`. Hydra must have been started.
    """
    loader: Any = GlobalHydra.instance().config_loader()
    defaults = loader.compute_defaults_list("config", overrides, RunMode.RUN)
    found: dict[str, str] = {}
    for default in defaults.defaults:
        if default.config_path is None or default.config_path.startswith("hydra"):
            continue
        loaded = loader.repository.load_config(default.config_path)
        files = [Path(folder) / f"{default.config_path}.yaml" for folder in added]
        own = next((file for file in files if loaded is None and file.is_file()), None)
        place = f"conf/{default.config_path}.yaml" if own is None else str(own)
        node = OmegaConf.load(own) if own is not None else loaded and loaded.config
        if isinstance(node, DictConfig):
            package = "" if default.package in (None, "", "_global_") else f"{default.package}."
            found |= dict.fromkeys(_names(OmegaConf.to_container(node), package), place)
    for override in defaults.config_overrides:
        key = override.key_or_group.replace("@", ".")
        place = f"command line, {override.input_line}"
        for name in [name for name in found if name.startswith(f"{key}.")]:
            found[name] = place
        found[key] = place
    return found


def _names(node: Any, prefix: str) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _names(value, f"{prefix}{key}.")


def _lines(
    node: Mapping[str, Any], raw: Mapping[str, Any], sources: Mapping[str, str], prefix: str = ""
) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for key, value in node.items():
        name = f"{prefix}{key}"
        source = sources.get(name, "")
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}:"
            below = raw[key] if isinstance(raw[key], Mapping) else value
            inherited = dict.fromkeys(_names(value, f"{name}."), source)
            yield from _lines(value, below, {**inherited, **sources}, f"{name}.")
            continue
        text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").rstrip("\n")
        if isinstance(raw[key], str) and "${" in raw[key]:
            source += f": {raw[key]}"
        if value == "???":
            source += f"; must be given: {name}=..."
        yield f"{f'{indent}{key}: {text}':<{COMMENT_COLUMN}}  # {source}"
