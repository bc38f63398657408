"""The entrypoint: `python -m wavebase.run model=spectral optim=sgd`, and sweeps with -m. Heavy imports come late."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wavebase import report, terminal
from wavebase.durable import Busy, RecordsError

USAGE = """usage: python -m wavebase.run [-m] [group=option ...] [key=value ...]

-m         a sweep over every value of a=1,2,3 or a='range(0,9)', with a report at the end
--cfg job  the whole configuration, and where every value came from; runs nothing
--info, --hydra-help, -sc install=bash   Hydra's own: how it composed, its keys, completion

{groups}

exit status  0 done (a verdict, a diverged run's too, is a result and no failure); 1 it could not run, or a job of a sweep failed, and a line on standard error says why; 130 interrupted by SIGINT, SIGTERM or SIGUSR2: the step was ended and a checkpoint saved, and the same command continues it"""

failures: list[Exception] = []  # of jobs run in this process; a sweep's other processes leave theirs in the folders


def main() -> None:
    """Run one job or a sweep from the command line. Exit status 1, with one line, for whatever could not run."""
    verbose = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, instead of printing several lines and a traceback
    words = [word for word in sys.argv[1:] if not word.startswith(("-", "hydra"))]
    os.environ["WAVEBASE_SWEEP"] = _short_hash(json.dumps(sorted(words)))
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # not that it has looked through the fonts
    failures.clear()
    report.SweepReport.folder = None
    status = _told(_start, verbose)
    if report.SweepReport.folder is not None and any(report.SweepReport.folder.rglob("config.yaml")):
        status = max(status, _told(_report, verbose))
    os.environ["HYDRA_FULL_ERROR"] = verbose or "0"
    sys.exit(status)


def _start() -> int:
    """Let Hydra run what the command line says; a single run's failure is raised, a sweep's is for the report to tell."""
    parser = get_args_parser()
    parser.error = _unknown_words  # type: ignore[method-assign]
    asked = parser.parse_args()
    if asked.help:
        terminal.explain(USAGE.format(groups=_groups()))
        return 0
    if asked.cfg == "job" and asked.package is None:
        from wavebase import origins

        print(origins.show(str(conf_folder()), asked.overrides))
        return 0
    hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(job)()
    if failures and report.SweepReport.folder is None:
        raise failures[0]
    return int(bool(failures))


def _unknown_words(message: str) -> NoReturn:
    raise HydraException(f"every word must be key=value or a known option, got this: {message}; see --help")


def _groups() -> str:
    """What each config group offers, a line each."""
    files = sorted(conf_folder().glob("*/*.yaml"))
    options = {
        folder.name: [file.stem for file in files if file.parent == folder] for folder in {f.parent for f in files}
    }
    return "\n".join(f"{group + '=':<12} {' '.join(names)}" for group, names in sorted(options.items()))


def _report() -> int:
    return int(report.write(report.SweepReport.folder) > 0)  # type: ignore[arg-type]


def _told(act: Callable[[], int], verbose: str | None) -> int:
    """The act's exit status; 1 with one line if it raises what concerns the user, 130 if it was interrupted."""
    try:
        return act()
    except KeyboardInterrupt as stop:
        terminal.complain(str(stop) or "interrupted")
        return 130
    except Exception as error:
        if verbose not in (None, "0") or not _expected(error):
            raise
        terminal.complain(_one_line(error))
        return 1


def job(cfg: DictConfig) -> float | None:
    """One run of a resolved configuration, in the folder that Hydra gives it; returns the final relative error.

    It raises nothing but an interruption, so that the other jobs of a sweep go on: `main` and the report tell of it.
    """
    from wavebase import jobs

    single = HydraConfig.get().mode == RunMode.RUN
    try:
        return jobs.run(session_job(cfg), single)
    except Exception as error:
        if single:
            failures.append(error)
            _remove_if_empty(whereabouts()[0])
        else:
            mark_failed(cfg, error, *whereabouts())
        return None


def session_job(cfg: DictConfig) -> Any:
    """The job that Hydra is about to run, as `jobs` wants it. A default learning rate yields to a fraction of the boundary that
    the command line asks for: only here it can be told from the default.

    Raises:
        ConfigError: if the command line gives both.
    """
    from wavebase.config import ConfigError
    from wavebase.jobs import Job

    node: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    given = {word.lstrip("+").partition("=")[0] for word in HydraConfig.get().overrides.task}
    rate, fraction = (node["optim"].get(name) for name in ("lr", "lr_over_boundary"))
    if "optim.lr_over_boundary" in given and rate is not None and fraction is not None:
        if "optim.lr" in given:
            raise ConfigError(
                f"optim.lr or optim.lr_over_boundary must be given, got {rate} and {fraction}; leave out one of them"
            )
        node["optim"]["lr"] = None
    return Job(node, *whereabouts())


def mark_failed(cfg: DictConfig, error: Exception, folder: Path, choices: Mapping[str, str]) -> None:
    """Leave a sweep's failed job's reason in its own folder, and tell it. One that another process runs is left to it."""
    line = _one_line(error) if _expected(error) else f"{type(error).__name__}: {error}"
    details = "".join(traceback.format_exception(error))
    print(terminal.visible(f"{folder.name}: {line if _expected(error) else details}", sys.stderr), file=sys.stderr)
    if isinstance(error, Busy):
        return
    failures.append(error)
    try:
        report.mark_failed(folder, _readable(cfg), line, details, choices)
    except (RecordsError, OSError) as second:
        told = f"{folder.name}: the reason above could not be left there: {_one_line(second)}"
        print(terminal.visible(told, sys.stderr), file=sys.stderr)


def whereabouts() -> tuple[Path, dict[str, str]]:
    """The folder of the job that Hydra is running, and the option chosen in each config group."""
    runtime = HydraConfig.get().runtime
    return Path(runtime.output_dir), {
        group: str(choice) for group, choice in runtime.choices.items() if "/" not in group
    }


def _readable(cfg: DictConfig) -> str:
    from wavebase.jobs import config_text

    try:
        return config_text(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]
    except OmegaConfBaseException:
        return OmegaConf.to_yaml(cfg)


def conf_folder() -> Path:
    """Where the YAML files are: WAVEBASE_CONF, else beside the installed package, else the repository's conf/."""
    package = Path(__file__).parent
    chosen = os.environ.get("WAVEBASE_CONF")
    folders = [Path(chosen)] if chosen else [package / "conf", package.parents[1] / "conf"]
    for folder in folders:
        if (folder / "config.yaml").is_file():
            return folder.resolve()
    raise HydraException(f"the folder of configurations must hold config.yaml, got {folders[0]}; set WAVEBASE_CONF")


def run_name(*, _root_: DictConfig) -> str:
    """model-optim-T8-s0-<hash of the whole resolved configuration>: the same run always has the same folder."""
    choices = _root_.hydra.runtime.choices
    cfg = {key: _root_._get_node(key) for key in _root_ if key not in ("hydra", "resume")}
    try:
        text = json.dumps(OmegaConf.to_container(OmegaConf.create(cfg), resolve=True), sort_keys=True, default=str)
    except OmegaConfBaseException:  # a missing or broken value: the run itself will say so
        text = OmegaConf.to_yaml(OmegaConf.create(cfg))
    return f"{choices.model}-{choices.optim}-T{_root_.T}-s{_root_.seed}-{_short_hash(text)}"


def sweep_name() -> str:
    """A short hash of the sweep's own words: the same sweep always has the same folder, whatever launches it.

    Each job composes its configuration anew and knows only its own overrides, so `main` leaves the name in the
    environment, from which a launcher's other processes inherit it.
    """
    return os.environ.get("WAVEBASE_SWEEP", "unnamed")


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


OmegaConf.register_new_resolver("run_name", run_name, replace=True)
OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)


def _expected(error: Exception) -> bool:
    """Whether it is a complaint to the user; anything else is a defect and keeps its traceback."""
    kinds = (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, RecordsError)
    return isinstance(error, kinds) or _no_memory(error) or _in_hydra(error)


def _in_hydra(error: BaseException) -> bool:
    """Whether Hydra or OmegaConf raised it itself, of whatever kind: about words that it does not understand."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and any(part in ("hydra", "omegaconf") for part in Path(frames[-1].filename).parts)


def _no_memory(error: BaseException) -> bool:
    """Whether it is Python's or torch's way of saying that memory ran out (on the CPU torch has no kind of its own)."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in ("allocate memory", "out of memory"))
    )


def _one_line(error: BaseException) -> str:
    """A Hydra or OmegaConf complaint of several lines as one, with the nearest known name where a name is unknown."""
    import difflib
    import re

    text = " ".join(str(error).split())
    if inner := re.search(r"Error in call to target '[^']+': \w+\((['\"])(.+)\1\)", text):
        return inner[2]  # a plugin's own complaint
    if isinstance(error, yaml.YAMLError):
        return f"every file of conf/ must be readable YAML, got {text}; repair that line"
    if isinstance(error, OverrideParseException) or (
        _in_hydra(error) and not isinstance(error, HydraException | OmegaConfBaseException | OSError)
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


def _remove_if_empty(folder: Path) -> None:
    """Take away the folders that Hydra made for a run that wrote nothing."""
    for path in (folder, *folder.parents):
        if path == Path.cwd() or not path.is_dir() or any(path.iterdir()):
            return
        path.rmdir()


if __name__ == "__main__":
    from wavebase.run import main as entry  # so that the job lives in wavebase.run, where other processes find it

    entry()
