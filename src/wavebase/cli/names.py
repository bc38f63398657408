"""Where the configurations are, and the names of the folders of runs and sweeps."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


def trust_words(words: Sequence[str]) -> list[str]:
    """Return the modules that the word `trust=[...]` of a command line names; of several such words the last counts."""
    named: list[str] = []
    for word in words:
        if word.startswith(("trust=", "+trust=", "++trust=")):
            value = word.partition("=")[2].strip().removeprefix("[").removesuffix("]")
            named = [part.strip().strip("'\"") for part in value.split(",") if part.strip()]
    return named


def trusted_by_person() -> list[str]:
    """Return what the command line trusts. `main` leaves it in the environment, which a launcher's processes inherit."""
    return json.loads(os.environ.get("WAVEBASE_TRUST", "[]"))


def conf_folder() -> Path:
    """Where the YAML files are: WAVEBASE_CONF, else beside the installed package, else the repository's conf/."""
    package = Path(__file__).parents[1]
    chosen = os.environ.get("WAVEBASE_CONF")
    folders = [Path(chosen)] if chosen else [package / "conf", package.parents[1] / "conf"]
    for folder in folders:
        if (folder / "config.yaml").is_file():
            return folder.resolve()
    raise HydraException(f"the folder of configurations must hold config.yaml, got {folders[0]}; set WAVEBASE_CONF")


def run_name(*, _root_: DictConfig) -> str:
    """model-optim-T8-s0-<hash of the whole resolved configuration>: the same run always has the same folder."""
    choices = _root_.hydra.runtime.choices
    cfg = {
        key: _root_._get_node(key)
        for key in _root_
        if key not in ("hydra", "resume") and (key != "trust" or _root_[key])
    }
    try:
        text = json.dumps(OmegaConf.to_container(OmegaConf.create(cfg), resolve=True), sort_keys=True, default=str)
    except OmegaConfBaseException:  # a missing or broken value: the run itself will say so
        text = OmegaConf.to_yaml(OmegaConf.create(cfg))
    return f"{choices.model}-{choices.optim}-T{_root_.T}-s{_root_.seed}-{short_hash(text)}"


def sweep_name() -> str:
    """A short hash of the sweep's own words: the same sweep always has the same folder, whatever launches it.

    Each job composes its configuration anew and knows only its own overrides, so `main` leaves the name in the
    environment, from which a launcher's other processes inherit it.
    """
    return os.environ.get("WAVEBASE_SWEEP", "unnamed")


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


OmegaConf.register_new_resolver("run_name", run_name, replace=True)
OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
