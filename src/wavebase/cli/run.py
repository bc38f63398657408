"""The entrypoint: `python -m wavebase.run model=spectral optim=sgd`, and sweeps with -m. Heavy imports come late."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException

from wavebase import console
from wavebase.cli.errors import is_expected, one_line
from wavebase.cli.jobs import failures, job
from wavebase.cli.names import conf_folder, short_hash, trust_words
from wavebase.report import callback, write

USAGE = """usage: python -m wavebase.run [-m] [group=option ...] [key=value ...]

-m         a sweep over every value of a=1,2,3 or a='range(0,9)', with a report at the end
--cfg job  the whole configuration, and where every value came from; runs nothing
--info, --hydra-help, -sc install=bash   Hydra's own: how it composed, its keys, completion

{groups}

exit status  0 done (a verdict, a diverged run's too, is a result and no failure); 1 it could not run, or a job of a sweep failed, and a line on standard error says why; 130 interrupted by SIGINT, SIGTERM or SIGUSR2: the step was ended and a checkpoint saved, and the same command continues it"""


@console.ignore_closed_pipes()
def main() -> None:
    """Run one job or a sweep from the command line. Exit status 1, with one line, for whatever could not run."""
    verbose = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, instead of printing several lines and a traceback
    words = [word for word in sys.argv[1:] if not word.startswith(("-", "hydra"))]
    os.environ["WAVEBASE_TRUST"] = json.dumps(trust_words(words))
    os.environ["WAVEBASE_SWEEP"] = short_hash(json.dumps(sorted(words)))
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # not that it has looked through the fonts
    failures.clear()
    callback.SweepReport.folder = None
    status = run_reporting_errors(_start, verbose)
    if callback.SweepReport.folder is not None and any(callback.SweepReport.folder.rglob("config.yaml")):
        status = max(status, run_reporting_errors(_report, verbose))
    os.environ["HYDRA_FULL_ERROR"] = verbose or "0"
    sys.exit(status)


def _start() -> int:
    """Let Hydra run what the command line says; a single run's failure is raised, a sweep's is for the report to tell."""
    parser = get_args_parser()
    parser.error = _unknown_words  # type: ignore[method-assign]
    asked = parser.parse_args()
    if asked.help:
        console.print_help(USAGE.format(groups=_groups()))
        return 0
    if asked.cfg == "job" and asked.package is None:
        from wavebase.cli import config_sources

        print(config_sources.show(str(conf_folder()), asked.overrides))
        return 0
    hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(job)()
    if failures and callback.SweepReport.folder is None:
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
    return int(write.write(callback.SweepReport.folder) > 0)  # type: ignore[arg-type]


def run_reporting_errors(act: Callable[[], int], verbose: str | None) -> int:
    """The act's exit status; 1 with one line if it raises what concerns the user, 130 if it was interrupted."""
    try:
        return act()
    except KeyboardInterrupt as stop:
        console.print_error(str(stop) or "interrupted")
        return 130
    except Exception as error:
        if verbose not in (None, "0") or not is_expected(error):
            raise
        console.print_error(one_line(error))
        return 1
