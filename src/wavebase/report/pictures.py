"""The figures of a report: curves of groups, the drift, two swept keys as a heat map, and every run by each key."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from wavebase.experiment.config import parse_stored
from wavebase.experiment.drawing import draw_figures
from wavebase.experiment.validation import ConfigError, unknown_key
from wavebase.figures import sweeps
from wavebase.figures.curves import drift_curves, error_curves, loss_curves
from wavebase.figures.style import COLOURS, GREY, STYLES, look, png
from wavebase.records.atomic import RecordsError
from wavebase.report.runs import Run
from wavebase.report.table import row

Looks = dict[str, tuple[str, str]]


def of_sweep(
    groups: Mapping[str, list[Run]], keys: list[str], value: str, tag: str, pair: tuple[str, str] | None
) -> dict[str, bytes]:
    """Return the figures for which these runs have numbers, as PNG by file name.

    Args:
        groups: The runs by the label of their group.
        keys: The swept keys; value: the number that is compared.
        tag: The series of the learning curves; "" for the loss or the error, and the drift.
        pair: The two keys of the heat map; None for the two with the most values.

    Raises:
        ConfigError: For a tag that no run recorded.
    """
    runs = [run for members in groups.values() for run in members]
    series = {label: [run.series() for run in members] for label, members in groups.items()}
    tags = {tag for members in series.values() for one in members for tag in one}
    last = max((steps for run in runs if isinstance(steps := run.config.get("train.steps"), int)), default=None)
    made: dict[str, Any] = {}
    if tag and tag not in tags:
        raise ConfigError(unknown_key("tag", tag, tags))
    if tag:
        made["learning_curves.png"] = sweeps.learning_curves(series, tag, last)
    else:
        made |= _curves(groups, series, tags, last)
    shown = [*keys, *(pair or ())]
    points = [run.point(shown, value) for run in runs]
    found = pair or sweeps.widest_pair([run.point(keys, value) for run in runs])
    if found is not None:
        made["heat_map.png"] = sweeps.heat_map(points, *found, value)
    if keys:
        made["by_setting.png"] = sweeps.by_setting(points, keys, value)
    return {name: png(figure) for name, figure in made.items()}


def _curves(
    groups: Mapping[str, list[Run]], series: Mapping[str, list[Any]], tags: set[str], last: int | None
) -> dict[str, Any]:
    """Return the curves of the loss, or of the error if probes were frequent enough, and those of the drift."""
    made: dict[str, Any] = {}
    runs = [run for members in groups.values() for run in members]
    baselines = [losses for run in runs if (losses := run.baselines()) is not None]
    shared = baselines[0] if baselines and all(losses == baselines[0] for losses in baselines) else None
    # the training loss may be noisy; with enough probes, plot the error that the table shows
    probed = all(len(one.get("error/training", ((), ()))[0]) > 4 for members in series.values() for one in members)
    best = sweeps.best(series, "error/training" if probed else "loss/train" if shared else "loss/relative")
    verdicts = {label: row(label, groups[label])["verdict"] for label in best}
    names = {label: label if verdicts[label] == "-" else f"{label}: {verdicts[label]}" for label in best}
    curves = {names[label]: members for label, members in best.items()}
    left_out = len(groups) - len(best)
    note = f"the {len(best)} of {len(groups)} groups that end lowest" if left_out else ""
    looks = _looks(best, names) or {name: look(n) for n, name in enumerate(curves)}
    # a run in which nothing moved has tested nothing, however low its curve
    still = [name for label, name in names.items() if verdicts[label] == "unmoved"]
    looks |= {name: (GREY, STYLES[n % len(STYLES)]) for n, name in enumerate(still)}
    if any(tag.startswith("loss/") for tag in tags):
        draw = error_curves if probed else loss_curves
        made["train_loss.png"] = draw(curves, shared, looks, note, last)
    watched = Counter(str(run.summary["watched_weight"]) for run in runs if "watched_weight" in run.summary)
    weight = watched.most_common(1)[0][0] if watched else ""
    if f"drift/{weight}" in tags:
        made["drift.png"] = drift_curves(curves, weight, looks, note, last)
    return made


def _looks(groups: Mapping[str, Any], names: Mapping[str, str]) -> Looks | None:
    """Return (colour, line style) by curve, one colour a model and one style a setting; None if groups are not their product."""
    firsts = {label: (*label.split(" ", 1), "")[:2] for label in groups}
    models = list(dict.fromkeys(first for first, _ in firsts.values()))
    settings = list(dict.fromkeys(rest for _, rest in firsts.values()))
    if len(models) * len(settings) != len(groups) or len(models) > len(COLOURS) or len(settings) > len(STYLES):
        return None
    return {
        names[label]: (COLOURS[models.index(first)], STYLES[settings.index(rest)])
        for label, (first, rest) in firsts.items()
    }


def of_run(run: Run) -> list[str]:
    """Draw what a finished run's configuration names under `probe.figures` into its folder; return the files' names.

    Raises:
        RecordsError: If the configuration or the records cannot be used.
    """
    try:
        made = draw_figures(parse_stored(run.folder.config()).probe, run.folder, run.summary)
    except ConfigError as error:
        raise RecordsError(f"{run.folder.path}: {error}") from error
    return [os.path.join("figures", name) for name in made]
