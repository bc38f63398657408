"""Errors as one line each: what was wanted, what was got, and the remedy."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from wavebase.cli.names import conf_folder
from wavebase.records.atomic import RecordsError


def is_expected(error: Exception) -> bool:
    """Whether it is a complaint to the user; anything else is a defect and keeps its traceback."""
    kinds = (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, RecordsError)
    return isinstance(error, kinds) or _no_memory(error) or raised_by_hydra(error)


def raised_by_hydra(error: BaseException) -> bool:
    """Whether Hydra or OmegaConf raised it itself, of whatever kind: about words that it does not understand."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and any(part in ("hydra", "omegaconf") for part in Path(frames[-1].filename).parts)


def _no_memory(error: BaseException) -> bool:
    """Whether it is Python's or torch's way of saying that memory ran out (on the CPU torch has no kind of its own)."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in ("allocate memory", "out of memory"))
    )


def one_line(error: BaseException) -> str:
    """A Hydra or OmegaConf complaint of several lines as one, with the nearest known name where a name is unknown."""
    import difflib
    import re

    text = " ".join(str(error).split())
    if inner := re.search(r"Error in call to target '[^']+': \w+\((['\"])(.+)\1\)", text):
        return inner[2]  # a plugin's own complaint
    if isinstance(error, yaml.YAMLError):
        return f"every file of conf/ must be readable YAML, got {text}; repair that line"
    if isinstance(error, OverrideParseException) or (
        raised_by_hydra(error) and not isinstance(error, HydraException | OmegaConfBaseException | OSError)
    ):
        return f"every override must be what Hydra understands, got {text.partition(' See https')[0]}; see --cfg job and --hydra-help"
    if _no_memory(error):
        return f"the run must fit into memory, got {text or 'none left'}; use a smaller T, train.batch, task.held_out_count or probe.curvature_batch"
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return f"the run's folder must be writable, got {text}; free space there or set hydra.run.dir"
    if unknown := re.search(r"Could not override '([^']+)'", text):
        near = difflib.get_close_matches(unknown[1], _known_keys(unknown[1]), 1, 0.4)
        return f"every override must name a known key, got {unknown[1]!r}; " + (
            f"did you mean {near[0]}?" if near else "see --cfg job for all keys"
        )
    if absent := re.search(r"Could not find '([^']+)'.*?Available options in '[^']+': (.*?)(?: Config search|$)", text):
        group, _, choice = absent[1].rpartition("/")
        options = absent[2].split()
        near = difflib.get_close_matches(choice, options, 1, 0.4)
        return f"{group} must be one of {', '.join(options)}, got {choice!r}" + (
            f"; did you mean {near[0]}?" if near else ""
        )
    if missing := re.search(r"Missing mandatory value: (\S+)", text):
        name = getattr(error, "full_key", None) or missing[1]
        return f"{name} must be given, got nothing; add {name}=..."
    return text


def _known_keys(unknown: str) -> list[str]:
    """The keys of the configuration that the command line asks for, but for the one it does not have."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    words = [word for word in sys.argv[1:] if "=" in word and not word.startswith(("-", "hydra", unknown))]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        try:
            return _leaves(compose("config", words))
        except Exception:  # something else is wrong too, or it is a sweep: the keys of the defaults will do
            return _leaves(compose("config"))


def _leaves(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, DictConfig):
        return []
    names = {f"{prefix}{key!s}": node._get_node(key) for key in node}
    return [leaf for name, below in names.items() for leaf in (name, *_leaves(below, f"{name}."))]
