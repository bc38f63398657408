"""Errors as one line each: what was wanted, what was got, and the remedy."""

from __future__ import annotations

import difflib
import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import hydra
import omegaconf
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from wavebase.cli.names import conf_folder
from wavebase.records.atomic import RecordsError

# the extra that installs each of Hydra's plugins
EXTRAS = {
    "joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray", "optuna": "optuna",
}  # fmt: skip


def is_expected(error: BaseException) -> bool:
    """Return whether an error is the user's to resolve. Any other is a defect and keeps its traceback."""
    kinds = (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, RecordsError)
    return isinstance(error, kinds) or _out_of_memory(error) or raised_by_hydra(error) or _worker_killed(error)


def raised_by_hydra(error: BaseException) -> bool:
    """Return whether Hydra or OmegaConf raised it, of whatever type: it concerns an override they cannot parse."""
    return _raised_in(error, hydra, omegaconf)


def _raised_in(error: BaseException, *packages: ModuleType) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    folders = [Path(str(package.__file__)).resolve().parent for package in packages]
    return bool(frames) and any(Path(frames[-1].filename).resolve().is_relative_to(folder) for folder in folders)


def _worker_killed(error: BaseException) -> bool:
    """Return whether joblib or submitit lost a worker process."""
    packages = [sys.modules[name] for name in ("joblib", "submitit") if name in sys.modules]
    return _raised_in(error, *packages) or type(error).__name__ == "TerminatedWorkerError"


def _out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out. On the CPU torch raises a plain RuntimeError for that."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(part in str(error) for part in ("allocate memory", "out of memory"))
    )


def one_line(error: BaseException) -> str:
    """Return an error's text as one line, with the nearest known name where a name is unknown."""
    text = " ".join(str(error).split())
    if inner := re.search(r"Error in call to target '[^']+': \w+\((['\"])(.+)\1\)", text):
        return inner[2]  # a plugin's own message
    if isinstance(error, yaml.YAMLError):
        return f"every file of conf/ must be readable YAML, got {text}; repair that line"
    if ambiguous := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"a single run must have one value for each key, got {ambiguous[1]}; add -m to sweep over the values"
    if isinstance(error, OverrideParseException) or (
        raised_by_hydra(error) and not isinstance(error, HydraException | OmegaConfBaseException | OSError)
    ):
        return f"every override must be what Hydra understands, got {text.partition(' See https')[0]}; see --cfg job and --hydra-help"
    if _out_of_memory(error):
        return f"the run must fit into memory, got {text or 'none left'}; use a smaller T, train.batch, task.held_out_count or probe.curvature_batch"
    if _worker_killed(error):
        return f"every worker process must finish its jobs, got one that ended early ({text[:200]}); run the same command again for the rest"
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return f"the run's folder must be writable, got {text}; free space there or set hydra.run.dir"
    if unknown := re.search(r"Could not override '([^']+)'", text):
        return f"every override must name a known key, got {unknown[1]!r}; {_remedy(unknown[1])}"
    if absent := re.search(r"Could not find '([^']+)'.*?Available options in '[^']+': (.*?)(?: Config search|$)", text):
        group, _, choice = absent[1].rpartition("/")
        extra = EXTRAS.get(choice) if group in ("hydra/launcher", "hydra/sweeper") else None
        options = absent[2].split()
        near = difflib.get_close_matches(choice, options, 1, 0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        if extra:
            hint = f", whose plugin is not installed; run pip install -c constraints.txt -e '.[{extra}]'"
        return f"{group} must be one of {', '.join(options)}, got {choice!r}{hint}"
    if missing := re.search(r"Missing mandatory value: (\S+)", text):
        name = getattr(error, "full_key", None) or missing[1]
        return f"{name} must be given, got nothing; add {name}=..."
    return text


def check_choices(overrides: Iterable[str]) -> None:
    """Check that each group of conf/ is given a name, or names to sweep over, before Hydra looks for it.

    Raises:
        HydraException: For a list, a mapping, a number, true, false or null.
    """
    for word in overrides:
        group, equals, choice = word.lstrip("+").partition("=")
        if not equals or not group.isidentifier() or not (conf_folder() / group).is_dir():
            continue
        try:
            names = yaml.safe_load(f"[{choice}]")
        except yaml.YAMLError:
            continue  # Hydra's own grammar
        if not names or not all(isinstance(name, str) for name in names):
            raise HydraException(f"{group} must be the name of an option, got {choice or 'nothing'}; see conf/{group}")


def check_groups(cfg: DictConfig) -> None:
    """Check that each group's option is a mapping of keys, before others refer to these keys.

    Raises:
        HydraException: For a group whose file holds something else.
    """
    for group in ("model", "signal", "task", "optim", "train", "probe"):
        node = cfg._get_node(group) if group in cfg else None
        if isinstance(node, ListConfig):
            raise HydraException(f"{group} must be a mapping of keys, got {node}; see conf/{group}")


def _remedy(unknown: str) -> str:
    """Return what to do about a key that Hydra does not know: the nearest key, or how to set one of a swept group."""
    given = [word for word in sys.argv[1:] if "=" in word and not word.startswith(("-", "hydra"))]
    others = [word for word in given if not word.lstrip("+").startswith(f"{unknown}=")]
    group = unknown.partition(".")[0]
    for word in others:
        # Hydra checks the keys of a sweep against the group's default option
        if word.startswith(f"{group}=") and "," in word:
            options = word.removeprefix(f"{group}=").split(",")
            if all(unknown in _keys([f"{group}={option}"]) for option in options):
                value = next((w.partition("=")[2] for w in given if w not in others), "...")
                return f"write ++{unknown}={value}, since {group} is swept"
    keys = _keys(others)
    parent, _, name = unknown.rpartition(".")
    siblings = [key for key in keys if parent and key.rpartition(".")[0] == parent]
    if siblings:
        near = [f"{parent}.{found}" for found in _near(name, [key.rpartition(".")[2] for key in siblings], 0.5)]
    else:
        near = _near(unknown, keys, 0.6)
    return f"did you mean {near[0]}?" if near else "see --cfg job for all keys"


def _near(name: str, known: Iterable[str], cutoff: float) -> list[str]:
    return difflib.get_close_matches(name, list(known), 1, cutoff)


def _keys(overrides: list[str]) -> list[str]:
    """Return the dotted keys of the configuration under these overrides, or of the defaults if they do not compose."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        try:
            return config_keys(compose("config", overrides))
        except Exception:  # something else is wrong too, or it is a sweep
            return config_keys(compose("config"))


def config_keys(node: Any, prefix: str = "") -> list[str]:
    """Return the dotted keys of every mapping and every value below a node."""
    if not isinstance(node, DictConfig):
        return []
    names = {f"{prefix}{key!s}": node._get_node(key) for key in node}
    return [leaf for name, below in names.items() for leaf in (name, *config_keys(below, f"{name}."))]
