"""The command `wavebase look FOLDER`: a page to scroll through each run's steps."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from wavebase import console

USAGE = """usage: wavebase look FOLDER

FOLDER   a run's, a sweep's, or any folder above them

Writes look.html into every run's folder below it: curves, oscillators, weights, output against target and the verdict, step by
step, from the run's records alone. Open it in a browser; it fetches nothing. A report written afterwards links to it.

exit status  0 written; 1 a run could not be shown, and one line on standard error says why; 130 interrupted"""


@console.ignore_closed_pipes()
def main() -> None:
    """Write the pages. Exit status 1, with one line for each, if there are runs that cannot be shown."""
    words = sys.argv[1:]
    if len(words) != 1 or words[0] in ("-h", "--help"):
        console.print_help(USAGE)
        sys.exit(0 if words and words[0] in ("-h", "--help") else 1)
    try:
        failed = _write(Path(words[0]))
    except (ValueError, OSError) as error:
        console.print_error(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        console.print_error("interrupted; the same command writes the pages anew")
        sys.exit(130)
    sys.exit(int(failed > 0))


def _write(root: Path) -> int:
    """Write a page for each run below a folder; return how many could not be written."""
    from wavebase.records.folder import find_runs
    from wavebase.report import look

    runs = find_runs(root)
    if not runs:
        raise ValueError(f"the folder must hold runs, got none below {root}; give a run's or a sweep's folder")
    failed = 0
    for folder in runs:
        try:
            console.print_styled(look.write(folder))
        except Exception as error:  # a record can be broken in a way that no check foresees
            if os.environ.get("HYDRA_FULL_ERROR", "0") != "0":
                raise
            known = isinstance(error, ValueError | OSError)
            line = str(error) if known else f"{folder.path} must hold a run that wavebase wrote, got {type(error).__name__}: {error}; HYDRA_FULL_ERROR=1 shows where"  # fmt: skip
            console.print_error(line)
            failed += 1
    return failed
