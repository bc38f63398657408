"""The command `wavebase`, or `python -m wavebase`: its first argument names the command to run. Light to import."""

from __future__ import annotations

import difflib
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

from wavebase import __version__
from wavebase.cli.signals import STATUS, run_main
from wavebase.console import ignore_closed_pipes, print_error, print_help, print_styled

USAGE = """usage: wavebase COMMAND [arguments]

run       train one net, or many with -m: wavebase run model=spectral optim=sgd
report    tables, figures and one page of any folder of runs
look      a page to scroll through a run's steps: weights, output, verdict
probe     judge a stored run, and read the spectrum of its weights
compare   two nets of one architecture: distance modulo symmetry, paths, blocks, modes
analyze   read the spectrum of any recurrent weights, and judge nothing
findings  run the studies and write docs/findings.md (in a clone)

wavebase COMMAND --help   help on one command
wavebase --version        the version

exit status  0 done; 1 not done, and one line on standard error says why; 130 interrupted (a run has then saved a checkpoint, and the same command continues it)
environment  NO_COLOR=1 leaves colours out, which only terminals get; COLUMNS overrides the terminal's width; HYDRA_FULL_ERROR=1 shows tracebacks"""


@ignore_closed_pipes()
def main() -> None:
    """Run the command that the first argument names, with the others as its own."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        print_help(USAGE)
        sys.exit(0 if words else 1)
    if words[0] == "--version":
        print_styled(f"wavebase {__version__}")
        sys.exit(0)
    command = COMMANDS.get(words[0])
    if command is None:
        near = difflib.get_close_matches(words[0], COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else "see wavebase --help"
        print_error(f"the command must be one of {', '.join(COMMANDS)}, got {words[0]!r}; {hint}")
        sys.exit(1)
    sys.argv = [f"wavebase {words[0]}", *words[1:]]
    try:
        command()
    except KeyboardInterrupt:  # `run` handles its own
        print_error("interrupted; run the same command again")
        sys.exit(STATUS)


def _of(module: str, **arguments: bool) -> Callable[[], None]:
    """Return a module's `main`, imported only when it is called: some imports take a second."""
    return lambda: run_main(module, **arguments)


def _findings() -> None:
    script = Path(__file__).parents[2] / "experiments" / "findings.py"
    if not script.is_file():
        print_error(
            f"the studies must be there, got no {script}; use a clone of the repository, they are not installed"
        )
        sys.exit(1)
    runpy.run_path(str(script), run_name="__main__")


COMMANDS: dict[str, Callable[[], None]] = {
    "run": _of("wavebase.cli.run"),
    "report": _of("wavebase.report.__main__"),
    "look": _of("wavebase.cli.look"),
    "probe": _of("wavebase.cli.probe"),
    "compare": _of("wavebase.cli.compare"),
    "analyze": _of("wavebase.cli.probe", judge=False),
    "findings": _findings,
}

if __name__ == "__main__":
    main()
