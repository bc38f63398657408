"""Writes tables, figures and one page of a tree of runs from their records: `python -m wavebase.report FOLDER`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavebase import console
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

    def __post_init__(self) -> None:
        if bool(self.x) != bool(self.y):
            raise ValueError(f"x and y must be given together, got x={self.x} y={self.y}; give both or neither")


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
    from wavebase.report import page

    options = options or Options()
    runs = [Run(found) for found in find_runs(root)]
    if not runs:
        raise RecordsError(f"the folder must hold runs, got none below {root}; run a sweep with hydra.sweep.dir={root}")
    ended = [run for run in runs if run.ended]
    keys = _checked(options, ended)
    groups = grouped(ended, keys)
    rows = [row(label, members, options.value) for label, members in groups.items()]
    out = Path(options.out or root)
    pictures = _pictures(groups, swept(ended) if keys is None else keys, options)
    files = {"summary.csv": as_csv(rows), "runs.csv": as_csv([run.flat() for run in runs]), **pictures}
    for name, content in files.items():
        atomic_write(out / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
    troubles = {
        "failed": [(str(run.folder.path), run.reason()) for run in runs if run.status == "failed"],
        "unfinished": [
            (str(run.folder.path), run.reason()) for run in runs if not run.ended and run.status != "unreadable"
        ],
    }
    troubles["broken"] = [(str(run.folder.path), problem) for run in runs for problem in run.problems]
    troubles = {kind: [(path, console.one_line(why)) for path, why in lines] for kind, lines in troubles.items()}
    html = page.html(root, len(runs), rows, options.value, pictures, troubles)
    atomic_write(out / "report.html", lambda file: file.write(html.encode(errors="replace")))
    if rows:
        console.print_styled(table(rows, options.value, console.width()))
    for kind, lines in troubles.items():
        for path, why in lines:
            console.print_styled(f"{kind}: {why}" if kind == "broken" else f"{kind}: {path}: {why}")
    counts = ", ".join(f"{len(lines)} {kind}" for kind, lines in troubles.items() if lines or kind == "failed")
    console.print_styled(f"{len(runs)} runs, {counts}; {', '.join([*files, 'report.html'])} in {out}")
    return len(troubles["failed"])


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


def _pictures(groups: Mapping[str, list[Run]], keys: list[str], options: Options) -> dict[str, bytes]:
    """Return the figures for which these runs have numbers, as PNG by file name."""
    from wavebase.figures import sweeps
    from wavebase.figures.style import png
    from wavebase.figures.curves import error_curves, loss_curves

    runs = [run for members in groups.values() for run in members]
    series = {label: [run.series() for run in members] for label, members in groups.items()}
    made: dict[str, Any] = {}
    if options.tag:
        tags = {tag for members in series.values() for one in members for tag in one}
        if options.tag not in tags:
            from wavebase.experiment.validation import ConfigError, unknown_key

            raise ConfigError(unknown_key("tag", options.tag, tags))
        made["learning_curves.png"] = sweeps.learning_curves(series, options.tag)
    elif any(tag.startswith("loss/") for members in series.values() for one in members for tag in one):
        baselines = [losses for run in runs if (losses := run.baselines()) is not None]
        shared = baselines[0] if baselines and all(losses == baselines[0] for losses in baselines) else None
        # the training loss may be noisy; with enough probes, plot the error that the table shows
        probed = all(len(one.get("error/training", ((), ()))[0]) > 4 for members in series.values() for one in members)
        best = sweeps.best(series, "error/training" if probed else "loss/train" if shared else "loss/relative")
        verdicts = {label: row(label, groups[label])["verdict"] for label in best}
        curves = {f"{label}: {verdicts[label]}": members for label, members in best.items()}
        left_out = len(groups) - len(best)
        note = f"the {len(best)} of {len(groups)} groups that end lowest" if left_out else ""
        made["train_loss.png"] = (
            error_curves(curves, shared, _styles(best, curves), note)
            if probed
            else loss_curves(curves, shared, _styles(best, curves), note)
        )
    points = [
        sweeps.Point({key: run.setting(key) for key in keys}, run.value(*options.value.split(".")), run.status)
        for run in runs
    ]
    if options.x:
        pair: tuple[str, str] | None = (options.x, options.y)
        points = [
            p._replace(settings={**p.settings, **{key: run.setting(key) for key in (options.x, options.y)}})
            for p, run in zip(points, runs, strict=True)
        ]
    else:
        pair = sweeps.widest_pair(points)
    if pair is not None:
        made["heat_map.png"] = sweeps.heat_map(points, *pair, options.value)
    if len(keys) > 1:
        made["parallel_coordinates.png"] = sweeps.parallel_coordinates(points, keys, options.value)
    return {name: png(figure) for name, figure in made.items() if figure is not None}


def _styles(groups: Mapping[str, Any], curves: Mapping[str, Any]) -> dict[str, tuple[str, str]] | None:
    """Return (colour, line style) by curve, one colour a model and one style a setting; None if groups are not their product."""
    from wavebase.figures.style import COLOURS, STYLES

    firsts = {label: label.split(" ", 1) for label in groups}
    models = list(dict.fromkeys(words[0] for words in firsts.values()))
    settings = list(dict.fromkeys(words[1] if len(words) > 1 else "" for words in firsts.values()))
    if len(models) * len(settings) != len(groups) or len(models) > len(COLOURS) or len(settings) > len(STYLES):
        return None
    return {
        curve: (COLOURS[models.index(words[0])], STYLES[settings.index(words[1] if len(words) > 1 else "")])
        for curve, words in zip(curves, firsts.values(), strict=True)
    }
