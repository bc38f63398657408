"""The entry point `python -m wavebase.run model=spectral optim=sgd`, and sweeps with -m. Heavy imports come late."""

from __future__ import annotations

import json
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException

from wavebase import console
from wavebase.cli.errors import check_choices, is_expected, one_line
from wavebase.cli.jobs import failures, job
from wavebase.cli.names import conf_folder, short_hash, trust_words
from wavebase.cli.signals import STATUS, raise_on_signal
from wavebase.cli.sweep_folders import check_sweep
from wavebase.records.folder import find_runs
from wavebase.report import callback, write

USAGE = """usage: python -m wavebase.run [-m] [group=option ...] [key=value ...]

-m         a sweep over every value of a=1,2,3 or a='range(0,9)', with a report at the end
--cfg job  the whole configuration, and where every value came from; runs nothing
--info, --hydra-help, -sc install=bash   Hydra's own: how it composed, its keys, completion

{groups}

exit status  0 done (a verdict, a diverged run's too, is a result and no failure); 1 it could not run, or a job of a sweep failed, and a line on standard error says why; 130 interrupted by SIGINT, SIGTERM, SIGHUP or SIGUSR2: in training the step was ended and a checkpoint saved, and the same command continues it"""


@console.ignore_closed_pipes()
def main() -> None:
    """Run one job or a sweep from the command line, and exit with one of the statuses in `USAGE`."""
    verbose = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, instead of printing several lines and a traceback
    overrides = [word for word in sys.argv[1:] if not word.startswith(("-", "hydra"))]
    os.environ["WAVEBASE_TRUST"] = json.dumps(trust_words(overrides))
    os.environ["WAVEBASE_SWEEP"] = short_hash(json.dumps(sorted(overrides)))
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it logs its search for fonts
    failures.clear()
    callback.SweepReport.folder, callback.SweepReport.new_folders = None, ()
    try:
        with raise_on_signal() as stop:
            status = run_reporting_errors(_start, verbose)
            folder = callback.SweepReport.folder
            if folder is not None and folder.is_dir():
                if find_runs(folder):
                    status = max(status, run_reporting_errors(lambda: int(write.write(folder) > 0), verbose))
                elif status:
                    callback.SweepReport.remove_new_folders()
        if stop.pending is not None and status != STATUS:  # raised where Python ignores exceptions, after the last run
            console.print_error(str(stop.pending))
            status = STATUS
    finally:
        os.environ["HYDRA_FULL_ERROR"] = verbose or "0"
    sys.exit(status)


def _start() -> int:
    """Let Hydra run the command line. A single run's failure is raised; a sweep's failures are named by its report."""
    arguments = _parse()
    if arguments.help:
        console.print_help(USAGE.format(groups=_groups()))
        return 0
    check_choices(arguments.overrides)
    if arguments.cfg == "job" and arguments.package is None:
        from wavebase.cli import config_sources

        added = [str(Path(arguments.config_dir).absolute())] if arguments.config_dir else []
        print(config_sources.show(str(conf_folder()), arguments.overrides, added))
        return 0
    if arguments.multirun and not arguments.config_dir and not (arguments.cfg or arguments.info):
        check_sweep(str(conf_folder()), arguments.overrides)
    hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(job)()
    if failures and callback.SweepReport.folder is None:
        raise failures[0]
    return int(bool(failures))


def _parse() -> Namespace:
    """Parse the command line, and put its options before its overrides, the only order that Hydra itself accepts."""
    parser = get_args_parser()
    parser.error = _unknown_words  # type: ignore[method-assign]
    arguments = parser.parse_intermixed_args()
    options = sys.argv[1:]
    for override in arguments.overrides:
        options.reverse()
        options.remove(override)  # the last one: an option's value may look the same
        options.reverse()
    sys.argv[1:] = [*options, *arguments.overrides]
    return arguments


def _unknown_words(message: str) -> NoReturn:
    raise HydraException(f"every word must be key=value or a known option, got this: {message}; see --help")


def _groups() -> str:
    """Return what each config group offers, a line each."""
    files = sorted(conf_folder().glob("*/*.yaml"))
    options = {
        folder.name: [file.stem for file in files if file.parent == folder] for folder in {f.parent for f in files}
    }
    return "\n".join(f"{group + '=':<12} {' '.join(names)}" for group, names in sorted(options.items()))


def run_reporting_errors(act: Callable[[], int], verbose: str | None) -> int:
    """Run a function, and print an error that concerns the user as one line.

    Args:
        act: Returns an exit status.
        verbose: The environment's HYDRA_FULL_ERROR; if set and not 0, errors keep their traceback.

    Returns:
        The function's exit status; 1 after such an error, 130 after an interruption.
    """
    try:
        return act()
    except KeyboardInterrupt as stop:
        console.print_error(str(stop) or "interrupted")
        return STATUS
    except Exception as error:
        if verbose not in (None, "0") or not is_expected(error):
            raise
        console.print_error(one_line(error))
        return 1
