"""Hydra, remembering what it has parsed and composed: a fifth of the suite's CPU time was spent on doing that again."""

import contextlib
import copy
import dataclasses
import functools
import pickle
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import omegaconf
from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.hydra import Hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from wavebase.cli import names

CONF = str(names.conf_folder())  # before a test chooses another
# how an override begins that may bring a mode of Hydra's along, besides experiments and cases that say so
MODAL = ("hydra.mode", "+")


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


def _copied(config, memo, plain=DictConfig.__deepcopy__):
    """Copy a configuration as its own method does node by node, several times as fast."""
    parent = config.__dict__["_parent"]
    if memo:  # a part of a larger copy
        return plain(config, memo)
    config.__dict__["_parent"] = None  # pickled, it would bring all that is above
    try:
        content = pickle.dumps(config, pickle.HIGHEST_PROTOCOL)
    except Exception:  # it holds what cannot be pickled
        content = None
    finally:
        config.__dict__["_parent"] = parent
    if content is None:
        return plain(config, memo)
    result = pickle.loads(content)
    result.__dict__["_parent"] = parent
    return result


@contextlib.contextmanager
def remembering():
    """Let Hydra keep, besides its parsed files, overrides and interpolations, what it merges of them for a choice in each
    group; values of a command line are set in a copy. Leave out three things that it does for nothing: composing the whole
    configuration to read its mode, the choices for interpolated defaults where none is interpolated, and a copy of the
    search path that is rarely changed."""
    load, mode, merge = (
        ConfigRepository.load_config,
        Hydra.get_mode,
        ConfigLoaderImpl._compose_config_from_defaults_list,
    )
    choices, parse = defaults_list._create_interpolation_map, omegaconf.base.parse
    read, initialize = OverridesParser.parse_rule, CachingConfigRepository.initialize_sources
    read_yaml, texts = OmegaConf.load, {}
    list_defaults = config_loader_impl.create_defaults_list
    parsed, listed, merged, overridden, modes = {}, {}, {}, {}, {}

    def load_config(self, config_path):
        if not _known(self):
            return load(self, config_path)
        if config_path not in parsed:
            parsed[config_path] = pickle.dumps(load(self, config_path))
        return pickle.loads(parsed[config_path])

    def load_text(file):
        if not hasattr(file, "read"):
            return read_yaml(file)
        text = file.read()
        if text not in texts:
            file.seek(0)
            texts[text] = pickle.dumps(read_yaml(file))
        return pickle.loads(texts[text])

    def create_defaults_list(repo, config_name, overrides_list, **named):
        """The list depends on the choices in groups alone; values are passed on."""
        if not _known(repo):
            return list_defaults(repo, config_name, overrides_list, **named)
        given = defaults_list.Overrides(repo=repo, overrides_list=overrides_list)
        key = repr((config_name, named, given.override_choices, given.append_group_defaults, given.deletions))
        if key not in listed:
            listed[key] = list_defaults(repo, config_name, overrides_list, **named)
        return dataclasses.replace(listed[key], config_overrides=given.config_overrides)

    def merge_defaults(self, defaults, repo):
        if not _known(repo):
            return merge(self, defaults, repo)
        key = tuple((one.config_path, one.parent, one.package, one.is_self, one.primary) for one in defaults)
        if key not in merged:
            merged[key] = pickle.dumps(merge_ours(self, defaults, repo, key))
        return pickle.loads(merged[key])

    def merge_ours(self, defaults, repo, key):
        """Merge Hydra's own part, which comes first and is half of the work, once for each of its forms."""
        own = next((n for n, one in enumerate(defaults) if not one.config_path.startswith("hydra/")), len(defaults))
        if own < 2:
            return merge(self, defaults, repo)
        if key[:own] not in merged:
            merged[key[:own]] = pickle.dumps(merge(self, defaults[:own], repo))
        begun = SimpleNamespace(config=pickle.loads(merged[key[:own]]))
        one_by_one = self._load_single_config
        self._load_single_config = lambda default, repo: begun if default is defaults[0] else one_by_one(default, repo)
        try:
            return merge(self, [defaults[0], *defaults[own:]], repo)
        finally:
            del self._load_single_config

    def get_mode(self, config_name, overrides):
        if config_name != "config" or not _known(self.config_loader.repository):
            return mode(self, config_name, overrides)
        if not any(map(_modal, overrides)):
            return None  # as the command line says
        key = tuple(overrides)
        if key not in modes:
            modes[key] = mode(self, config_name, overrides)
        return modes[key]

    def known_choices(overrides, defaults, self_added):
        interpolated = any(not default.is_self() and default.is_interpolation() for default in defaults)
        return choices(overrides, defaults, self_added) if interpolated else None

    def parse_rule(self, text, rule):
        if rule != "override":
            return read(self, text, rule)
        if text not in overridden:
            overridden[text] = read(self, text, rule)
        return copy.copy(overridden[text])  # its loader is set

    def share(self, delegate):
        self.delegate, self.cache = delegate, {}

    def initialize_sources(self, path):
        self.delegate = copy.deepcopy(self.delegate)
        initialize(self, path)

    patches = [
        (ConfigRepository, "load_config", load_config),
        (OmegaConf, "load", staticmethod(load_text)),  # of a conf/ of a test's own, of which it changed a file
        (Hydra, "get_mode", get_mode),
        (ConfigLoaderImpl, "_compose_config_from_defaults_list", merge_defaults),
        (config_loader_impl, "create_defaults_list", create_defaults_list),
        (defaults_list, "_create_interpolation_map", known_choices),
        (omegaconf.base, "parse", functools.lru_cache(10000)(parse)),
        (OverridesParser, "parse_rule", parse_rule),
        (CachingConfigRepository, "__init__", share),
        (CachingConfigRepository, "initialize_sources", initialize_sources),
        (DictConfig, "__deepcopy__", _copied),
    ]
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(mock.patch.object(*patch))
        yield
