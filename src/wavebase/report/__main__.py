"""The command line `python -m wavebase.report FOLDER [key=value ...]`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from wavebase import console
from wavebase.report.write import Options, write

USAGE = """usage: python -m wavebase.report FOLDER [key=value ...]
FOLDER   a run's, a sweep's, or any folder above them
keys=    one row for each value of these configuration keys or groups, such as keys=model,T,optim.lr;
         by default everything in which runs differ, except seeds
value=   the number of summary.json that is compared (relative_error.final); smaller is better
x= y=    the two keys of the heat map; by default the two with the most values
tag=     the series of the learning curves (the training loss)
out=     the folder to write to (FOLDER)
figures=true   also draw each finished run's own figures (probe.figures) into its folder; a sweep leaves them out

exit status  0 written, whatever the runs came to; 1 nothing to report or an unknown argument, and one line on standard error says why; 130 interrupted"""


@console.ignore_closed_pipes()
def main() -> None:
    """Report on the folder named on the command line. Exit status 1, with one line, if there is nothing to report."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        console.print_help(USAGE)
        sys.exit(0 if words else 1)
    try:
        from wavebase.experiment import validation

        if wrong := [word for word in words[1:] if "=" not in word]:
            raise ValueError(f"every argument after the folder must be key=value, got {wrong[0]!r}; see --help")
        options = validation.call(Options, dict(word.split("=", 1) for word in words[1:]), "")
        write(Path(words[0]), options)
    except OSError as error:
        console.print_error(f"the report must be writable, got {error}; free space there or give out=FOLDER")
        sys.exit(1)
    except ValueError as error:
        console.print_error(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        console.print_error("interrupted; the same command writes the report anew")
        sys.exit(130)
    except Exception as error:  # a record can be broken in a way that no check foresees
        if os.environ.get("HYDRA_FULL_ERROR", "0") != "0":
            raise
        console.print_error(
            f"{words[0]} must hold runs that wavebase wrote, got {type(error).__name__}: {error}; HYDRA_FULL_ERROR=1 shows where"
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
