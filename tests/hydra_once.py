"""Hydra, remembering what it has parsed and composed: a fifth of the suite's CPU time was spent on doing that again."""

import contextlib
import functools
import pickle
from pathlib import Path

import omegaconf
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra

from wavebase.cli import names

CONF = str(names.conf_folder())  # before a test chooses another
# how an override begins that may bring a mode of Hydra's along, besides experiments and cases that say so
MODAL = ("hydra.mode", "+", "~")


@functools.cache
def _modal(word):
    """Whether an override may bring a mode of Hydra's along."""
    group, _, option = word.partition("=")
    file = Path(CONF) / group / f"{option}.yaml"
    return word.startswith(MODAL) or (
        group in ("experiment", "case") and not (file.is_file() and "mode:" not in file.read_text())
    )


def _known(repository):
    """Whether every file comes from the sources' own conf/ or from Hydra: others may change from test to test."""
    return all(source.scheme() != "file" or source.path == CONF for source in repository.get_sources() if source.path)


@contextlib.contextmanager
def remembering():
    """Let Hydra keep, besides its parsed files and interpolations, what it merges of them for a choice in each group; values
    of a command line are set in a copy. Leave out two things that it composes for nothing: the whole configuration to read
    its mode, and the choices for interpolated defaults where none is interpolated."""
    load, mode, merge = (
        ConfigRepository.load_config,
        Hydra.get_mode,
        ConfigLoaderImpl._compose_config_from_defaults_list,
    )
    choices, parse = defaults_list._create_interpolation_map, omegaconf.base.parse
    parsed, merged = {}, {}

    def load_config(self, config_path):
        if not _known(self):
            return load(self, config_path)
        if config_path not in parsed:
            parsed[config_path] = pickle.dumps(load(self, config_path))
        return pickle.loads(parsed[config_path])

    def merge_defaults(self, defaults, repo):
        if not _known(repo):
            return merge(self, defaults, repo)
        key = tuple((one.config_path, one.parent, one.package, one.is_self, one.primary) for one in defaults)
        if key not in merged:
            merged[key] = pickle.dumps(merge(self, defaults, repo))
        return pickle.loads(merged[key])

    def get_mode(self, config_name, overrides):
        if config_name != "config" or any(map(_modal, overrides)):
            return mode(self, config_name, overrides)
        return None  # as the command line says

    def known_choices(overrides, defaults, self_added):
        interpolated = any(not default.is_self() and default.is_interpolation() for default in defaults)
        return choices(overrides, defaults, self_added) if interpolated else None

    ConfigRepository.load_config, Hydra.get_mode = load_config, get_mode
    ConfigLoaderImpl._compose_config_from_defaults_list = merge_defaults
    defaults_list._create_interpolation_map, omegaconf.base.parse = known_choices, functools.lru_cache(10000)(parse)
    try:
        yield
    finally:
        ConfigRepository.load_config, Hydra.get_mode = load, mode
        ConfigLoaderImpl._compose_config_from_defaults_list = merge
        defaults_list._create_interpolation_map, omegaconf.base.parse = choices, parse
