"""Writes tables, figures and one page of a tree of runs from their records: `python -m wavebase.report FOLDER`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wavebase import console
from wavebase.formatting import counted
from wavebase.records.reader import FINISHED
from wavebase.report.rows import decided_by
from wavebase.report.runs import Run, grouped, swept
from wavebase.report.table import ERROR, as_csv, row, table


@dataclass(frozen=True)
class Options:
    """The keys of the command line, as USAGE in `report.__main__` explains them."""

    keys: str = ""
    value: str = ERROR
    x: str = ""
    y: str = ""
    tag: str = ""
    out: str = ""
    figures: Literal["true", "false"] = "false"

    def __post_init__(self) -> None:
        if bool(self.x) != bool(self.y):
            raise ValueError(f"x and y must be given together, got x={self.x} y={self.y}; give both or neither")
        if self.x and self.x == self.y:
            raise ValueError(f"x and y must be two keys, got x={self.x} y={self.y}; give another y")


def write(root: Path, options: Options | None = None) -> int:
    """Write tables, figures and the page into the folder, and print the table.

    A record that cannot be read is named in one line and left out.

    Returns:
        How many runs failed.

    Raises:
        RecordsError: If there is nothing to report.
        ConfigError: For an option that no run knows.
    """
    from wavebase.records.atomic import RecordsError, atomic_write
    from wavebase.records.folder import find_runs
    from wavebase.report import page, pictures

    options = options or Options()
    runs = [Run(found) for found in find_runs(root)]
    if not runs:
        raise RecordsError(f"the folder must hold runs, got none below {root}; run a sweep with hydra.sweep.dir={root}")
    ended = [run for run in runs if run.ended]
    keys = _checked(options, ended)
    groups = grouped(ended, keys)
    rows = [
        {**row(label, members, options.value), "decided_by": decided_by(members)} for label, members in groups.items()
    ]
    names = swept(ended) if keys is None else keys
    pair = (options.x, options.y) if options.x else None
    drawn = pictures.of_sweep(groups, names, options.value, options.tag, pair)
    if options.figures == "true":
        _draw_runs(runs)
    out = Path(options.out or root)
    files = {"summary.csv": as_csv(rows), "runs.csv": as_csv([run.flat() for run in runs]), **drawn}
    for name, content in files.items():
        atomic_write(out / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
    troubles = _troubles(runs)
    html = page.html(root, runs, rows, names, options.value, drawn, troubles, out)
    atomic_write(out / "report.html", lambda file: file.write(html.encode(errors="replace")))
    if rows:
        console.print_styled(table(rows, options.value, console.width()))
    for kind, lines in troubles.items():
        for path, why in lines:
            console.print_styled(f"{kind}: {why}" if kind == "broken" else f"{kind}: {path}: {why}")
    counts = ", ".join(f"{len(lines)} {kind}" for kind, lines in troubles.items() if lines or kind == "failed")
    console.print_styled(f"{counted(len(runs), 'run')}, {counts}; {', '.join([*files, 'report.html'])} in {out}")
    return len(troubles["failed"])


def _troubles(runs: Sequence[Run]) -> dict[str, list[tuple[str, str]]]:
    """Return (folder, reason in one line) of the runs that failed, are not finished, or have records that cannot be read."""
    troubles = {
        "failed": [(str(run.folder.path), run.reason()) for run in runs if run.status == "failed"],
        "unfinished": [
            (str(run.folder.path), run.reason()) for run in runs if not run.ended and run.status != "unreadable"
        ],
    }
    troubles["broken"] = [(str(run.folder.path), problem) for run in runs for problem in run.problems]
    return {kind: [(path, console.one_line(why)) for path, why in lines] for kind, lines in troubles.items()}


def _draw_runs(runs: Sequence[Run]) -> None:
    """Draw each finished run's own figures into its folder. A run that cannot be drawn gets a problem instead."""
    from wavebase.report import pictures

    finished = [run for run in runs if run.status in FINISHED]
    made = 0
    for run in finished:
        try:
            made += len(pictures.of_run(run))
        except Exception as error:  # what a broken record holds can be wrong in ways that no check foresees
            run.problems.append(f"{run.folder.path} must hold records to draw, got {type(error).__name__}: {error}; see --help")  # fmt: skip
    console.print_styled(
        f"{counted(made, 'figure')} of {counted(len(finished), 'finished run')}, in their folders under figures/"
    )


def _checked(options: Options, runs: list[Run]) -> list[str] | None:
    """Return the keys of the rows, None for the default. Raises ConfigError for a name that no run has."""
    from wavebase.experiment.validation import ConfigError, unknown_key
    from wavebase.report.runs import flatten

    names = {name for run in runs for name in (*run.choices, *run.config)}
    numbers = {name for run in runs for name in flatten(run.summary)}
    keys = [key.strip() for key in options.keys.split(",") if key.strip()]
    for option, wanted in (("keys", keys), ("x", [options.x]), ("y", [options.y])):
        for key in wanted:
            if key and key not in names:
                raise ConfigError(unknown_key(option, key, names))
    if runs and options.value not in numbers and options.value != ERROR:
        raise ConfigError(unknown_key("value", options.value, numbers))
    return keys or None
