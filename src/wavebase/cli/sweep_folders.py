"""Checks on a whole sweep before its first job: that it has jobs, and that each job has a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict

Named = tuple[str, Sequence[str], Mapping[str, Any]]  # folder, overrides and resolved configuration of a job


def check_sweep(conf: str, overrides: Sequence[str]) -> None:
    """Check the command line of a sweep with Hydra's own sweeper or `stacks`.

    A job is composed here only if the command line gives `hydra.sweep.subdir`: the default names every job apart.

    Args:
        conf: Folder of the configurations.
        overrides: All overrides of the command line.

    Raises:
        HydraException: If the sweep has no job, or two different jobs share a folder.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    for override in parsed:
        if override.is_discrete_sweep() and not list(override.sweep_string_iterator()):
            raise HydraException(f"a sweep must have jobs, got none from {override.input_line}; give it values")
    given = {override.get_key_element().lstrip("+"): override for override in parsed}
    sweeper = given.get("hydra/sweeper")
    if "hydra.sweep.subdir" not in given or (sweeper and sweeper.value() not in ("basic", "stacks")):
        return
    own = [override for override in parsed if not override.key_or_group.startswith("hydra")]
    fixed = [str(override.input_line) for override in parsed if override.key_or_group.startswith("hydra")]
    (jobs,) = BasicSweeper.split_arguments(own, None)
    GlobalHydra.instance().clear()
    with initialize_config_dir(conf, version_base="1.3"):
        check_distinct(_compose(n, fixed, words) for n, words in enumerate(jobs))


def _compose(number: int, fixed: Sequence[str], words: Sequence[str]) -> Named:
    cfg = compose("config", [*fixed, *words], return_hydra_config=True)
    with open_dict(cfg):
        cfg.hydra.job.id = cfg.hydra.job.num = number
    HydraConfig.instance().set_config(cfg)
    try:
        folder = str(OmegaConf.select(cfg, "hydra.sweep.subdir"))
        node = {str(key): cfg._get_node(key) for key in cfg if key != "hydra"}
        return folder, words, OmegaConf.to_container(OmegaConf.create(node))  # type: ignore[return-value]
    finally:
        HydraConfig.instance().cfg = None


def check_distinct(jobs: Iterable[Named]) -> None:
    """Check that jobs with different configurations have different folders. Equal jobs may share one.

    Raises:
        HydraException: With the overrides that the folder's name lacks.
    """
    first: dict[str, tuple[Sequence[str], str]] = {}
    for folder, words, node in jobs:
        text = json.dumps(node, sort_keys=True, default=str)
        others, other_text = first.setdefault(folder, (words, text))
        if text != other_text:
            keys = dict.fromkeys(word.partition("=")[0].lstrip("+") for word in set(words) ^ set(others))
            raise HydraException(
                f"hydra.sweep.subdir must name every job's own folder, got {folder} for jobs that differ in"
                f" {', '.join(sorted(keys))}; put that into hydra.sweep.subdir, or leave hydra.sweep.subdir out"
            )
