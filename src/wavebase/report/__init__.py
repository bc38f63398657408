"""Tables, figures and one page of a tree of runs, from their records alone: `python -m wavebase.report FOLDER`.

Light at import: Hydra loads `SweepReport` before anything is computed.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from wavebase import terminal
from wavebase.report.runs import Run, grouped, swept
from wavebase.report.table import ERROR, as_csv, number, row, table

__all__ = ["Options", "Run", "SweepReport", "describe", "grouped", "main", "mark_failed", "write"]

USAGE = """usage: python -m wavebase.report FOLDER [key=value ...]
FOLDER   a run's, a sweep's, or any folder above them
keys=    what the rows of the table are, such as keys=model,T,optim.lr (configuration keys or groups);
         without it everything that differs between runs, except seeds
value=   the number of summary.json that is compared (relative_error.final); small is good
x= y=    the two keys of the heat map; without them the two with the most values
tag=     of the learning curves (the training loss)
out=     where to write (FOLDER)

exit status  0 written, whatever the runs came to; 1 nothing to report or a wrong word, and one line on standard error says why; 130 interrupted"""


class SweepReport(Callback):
    """Remembers the folder of the sweep under way, so that the entrypoint reports on it even if a job failed."""

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra calls this once, in the launching process."""
        SweepReport.folder = Path(config.hydra.sweep.dir)


@dataclass(frozen=True)
class Options:
    """The keys of the command line; see USAGE."""

    keys: str = ""
    value: str = ERROR
    x: str = ""
    y: str = ""
    tag: str = ""
    out: str = ""

    def __post_init__(self) -> None:
        if bool(self.x) != bool(self.y):
            raise ValueError(f"x and y must be given together, got x={self.x} y={self.y}; give both or neither")


def main() -> None:
    """Report on the folder named on the command line. Exit status 1, with one line, if there is nothing to report."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        terminal.explain(USAGE)
        sys.exit(0 if words else 1)
    try:
        from wavebase import config

        if wrong := [word for word in words[1:] if "=" not in word]:
            raise ValueError(f"every word after the folder must be key=value, got {wrong[0]!r}; see --help")
        options = config.call(Options, dict(word.split("=", 1) for word in words[1:]), "")
        write(Path(words[0]), options)
    except BrokenPipeError:  # whoever reads it has seen enough; the files are written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        terminal.complain(f"the report must be writable, got {error}; free space there or give out=FOLDER")
        sys.exit(1)
    except ValueError as error:
        terminal.complain(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        terminal.complain("interrupted; the same command writes the report anew")
        sys.exit(130)
    except Exception as error:  # what a record holds can be wrong in ways that no check names
        if os.environ.get("HYDRA_FULL_ERROR", "0") != "0":
            raise
        terminal.complain(
            f"{words[0]} must hold runs that wavebase wrote, got {type(error).__name__}: {error}; HYDRA_FULL_ERROR=1 shows where"
        )
        sys.exit(1)


def write(root: Path, options: Options | None = None) -> int:
    """Write the tables, figures and the page into the folder, print the table; returns how many runs failed.

    What cannot be read is named in a line and left out. Raises RecordsError if there is nothing to report, ConfigError
    for an option that no run knows.
    """
    from wavebase import records
    from wavebase.report import page

    options = options or Options()
    runs = [Run(folder) for folder in records.find_runs(root)]
    if not runs:
        raise records.RecordsError(
            f"the folder must hold runs, got none below {root}; run a sweep with hydra.sweep.dir={root}"
        )
    ended = [run for run in runs if run.ended]
    keys = _checked(options, ended)
    groups = grouped(ended, keys)
    rows = [row(label, members, options.value) for label, members in groups.items()]
    out = Path(options.out or root)
    pictures = _pictures(groups, swept(ended) if keys is None else keys, options)
    files = {"summary.csv": as_csv(rows), "runs.csv": as_csv([run.flat() for run in runs]), **pictures}
    for name, content in files.items():
        records.write_whole(out / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
    troubles = {
        "failed": [(str(run.folder.path), run.reason()) for run in runs if run.status == "failed"],
        "unfinished": [
            (str(run.folder.path), run.reason()) for run in runs if not run.ended and run.status != "unreadable"
        ],
        "broken": [(str(run.folder.path), problem) for run in runs for problem in run.problems],
    }
    troubles = {kind: [(path, terminal.one_line(why)) for path, why in lines] for kind, lines in troubles.items()}
    html = page.html(root, len(runs), rows, options.value, pictures, troubles)
    records.write_whole(out / "report.html", lambda file: file.write(html.encode(errors="replace")))
    if rows:
        terminal.say(table(rows, options.value, terminal.width()))
    for kind, lines in troubles.items():
        for path, why in lines:
            terminal.say(f"{kind}: {why}" if kind == "broken" else f"{kind}: {path}: {why}")
    counts = ", ".join(f"{len(lines)} {kind}" for kind, lines in troubles.items() if lines or kind == "failed")
    terminal.say(f"{len(runs)} runs, {counts}; {', '.join([*files, 'report.html'])} in {out}")
    return len(troubles["failed"])


def _checked(options: Options, runs: list[Run]) -> list[str] | None:
    """The keys of the rows, None for the default. Raises ConfigError for a name that no run has."""
    from wavebase.config import ConfigError, unknown_key
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
    """The figures that these runs can fill, as PNG by file name."""
    from wavebase import figures
    from wavebase.figures import sweeps

    runs = [run for members in groups.values() for run in members]
    series = {label: [run.series() for run in members] for label, members in groups.items()}
    made: dict[str, Any] = {}
    if options.tag:
        tags = {tag for members in series.values() for one in members for tag in one}
        if options.tag not in tags:
            from wavebase.config import ConfigError, unknown_key

            raise ConfigError(unknown_key("tag", options.tag, tags))
        made["learning_curves.png"] = sweeps.learning_curves(series, options.tag)
    elif any(tag.startswith("loss/") for members in series.values() for one in members for tag in one):
        baselines = [losses for run in runs if (losses := run.baselines()) is not None]
        shared = baselines[0] if baselines and all(losses == baselines[0] for losses in baselines) else None
        # what was trained on may be noisy: where there are enough probes, the error that the table speaks of
        probed = all(len(one.get("error/training", ((), ()))[0]) > 4 for members in series.values() for one in members)
        best = sweeps.best(series, "error/training" if probed else "loss/train" if shared else "loss/relative")
        verdicts = {label: row(label, groups[label])["verdict"] for label in best}
        curves = {f"{label}: {verdicts[label]}": members for label, members in best.items()}
        left_out = len(groups) - len(best)
        note = f"the {len(best)} of {len(groups)} groups that end lowest" if left_out else ""
        made["train_loss.png"] = (
            figures.error_curves(curves, shared, _styles(best, curves), note)
            if probed
            else figures.loss_curves(curves, shared, _styles(best, curves), note)
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
    return {name: figures.png(figure) for name, figure in made.items() if figure is not None}


def describe(summary: Mapping[str, Any], path: Path, short: bool = False) -> str:
    """A finished run in a few lines for the console, 80 columns wide at most but for the path."""
    from wavebase.probes.verdict import Precision

    error, loss, baseline = summary["relative_error"], summary["relative_loss"], summary["baseline"]
    verdict = f"{summary['verdict']}"
    if short:
        return f"{path.name}: {verdict}, relative error {number(error['initial'])} -> {number(error['final'])}"
    optim, weight = summary["optim"], summary["watched_weight"]
    moved, noise = summary.get("moved"), summary.get("label_noise")  # version 0.1 had neither
    precision = Precision(**summary["precision"]).words() if summary.get("precision") else ""
    how = [f"                {line}" for line in textwrap.wrap(precision, 63)]
    if moved:
        counts = f"{moved['changed']} of {moved['trained']} trained; {moved['live']} have a gradient; of {moved['nonzero']} that are not zero {moved['nonzero_changed']}"
        how += [
            f"weights moved   {line}" if not n else f"                {line}"
            for n, line in enumerate(textwrap.wrap(counts, 63))
        ]
    if noise:
        how.append(
            f"label noise     explains an error of {number(noise['expected_error'])}, {100 * noise['share']:.0f} % of its square"
        )
    rate = f"{optim['lr']:.3g}"
    if optim["boundary"] is not None:
        rate += f", {optim['lr_over_boundary']:.3g} of the boundary {optim['formula']} = {optim['boundary']:.3g}"
        rate = textwrap.fill(rate, 64, subsequent_indent=" " * 16, break_long_words=False)
    zero = f"mean predictor: 1, zero: {baseline['zero'] / baseline['mean']:.2f}" if baseline["mean"] > 0 else "zero: 1"
    return "\n".join(
        [
            "",
            f"verdict         {verdict}",
            *(f"                {reason}" for reason in summary["reasons"][:4]),
            *how,
            f"relative error  {number(error['initial'])} at the start, {number(error['final'])} after {summary['steps']} steps (zero output: 1)",
            f"relative loss   {number(loss['initial'])} -> {number(loss['final'])} ({zero})",
            f"drift           {number(summary['drift'].get(weight))} of its norm, {weight}",
            f"learning rate   {rate}",
            f"records         {path}",
            "",
        ]
    )


def mark_failed(path: Path, config_yaml: str, error: str, details: str, choices: Mapping[str, str]) -> None:
    """Leave a failed job's reason in its own folder, unless a finished run stands there. Raises RecordsError."""
    from wavebase.records import RunFolder

    summary = {"status": "failed", "error": error, "details": details, "choices": dict(choices)}
    RunFolder(path).fail(config_yaml, summary)


def _styles(groups: Mapping[str, Any], curves: Mapping[str, Any]) -> dict[str, tuple[str, str]] | None:
    """One colour a model and one line style a setting, where the groups are models times settings."""
    from wavebase.figures import COLOURS, STYLES

    firsts = {label: label.split(" ", 1) for label in groups}
    models = list(dict.fromkeys(words[0] for words in firsts.values()))
    settings = list(dict.fromkeys(words[1] if len(words) > 1 else "" for words in firsts.values()))
    if len(models) * len(settings) != len(groups) or len(models) > len(COLOURS) or len(settings) > len(STYLES):
        return None
    return {
        curve: (COLOURS[models.index(words[0])], STYLES[settings.index(words[1] if len(words) > 1 else "")])
        for curve, words in zip(curves, firsts.values(), strict=True)
    }
