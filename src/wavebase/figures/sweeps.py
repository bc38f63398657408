"""Figures of many runs: one recorded series of groups, two swept keys as a heat map, and every run by each swept key."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, Colormap
from matplotlib.figure import Figure

from wavebase.figures.curves import Series, legend_below, median_and_range, tables, whole_run
from wavebase.figures.style import FONT, GREY, VERDICTS, WIDTH, decade, literal, log_axis, positive, styled
from wavebase.formatting import counted, number, short_cell

MOST_CURVES, MOST_PANELS, MOST_CELLS, MOST_LEVELS = 12, 6, 400, 12
STILL = "#BBBBBB"  # a cell in which nothing moved, whatever its error
COLOURED_BY_BASELINE = "relative_error.final"


class Point(NamedTuple):
    """One run.

    Attributes:
        settings: The values of its swept keys.
        value: The number compared; None if it has none.
        status, verdict: The run's; no verdict ("") where none is defined.
        mean: Relative error of predicting the mean; None if unknown.
    """

    settings: Mapping[str, Any]
    value: float | None
    status: str
    verdict: str = ""
    mean: float | None = None


def best(groups: Mapping[str, Sequence[Series]], tag: str) -> dict[str, Sequence[Series]]:
    """Choose the groups to draw, in their order: all, or if they are too many those whose median run ends lowest."""

    def end(label: str) -> float:
        last = [series[tag][1][-1] for series in groups[label] if tag in series]
        return statistics.median([math.inf if math.isnan(value) else value for value in last] or [math.inf])

    chosen = sorted(groups, key=end)[:MOST_CURVES]
    return {label: runs for label, runs in groups.items() if label in chosen}


@styled
def learning_curves(groups: Mapping[str, Sequence[Series]], tag: str, last: int | None = None) -> Figure:
    """Draw one recorded series against the step: the median of each group's runs, and their range as a band."""
    shown = best(groups, tag)
    curves = tables(shown, tag, math.inf, None)
    figure = Figure(figsize=(WIDTH, 3.8 + 0.19 * len(shown)), layout="constrained")
    ax = figure.subplots()
    lowest = min((np.nanmin(table, initial=math.inf) for *_, table in curves), default=math.inf)
    logarithmic = 0 < lowest < math.inf
    for label, (colour, style), steps, table in curves:
        median_and_range(ax, steps, positive(table) if logarithmic else table, colour, style, label)
    left_out = len(groups) - len(shown)
    title = f"the {len(shown)} of {len(groups)} groups that end lowest" if left_out else ""
    if logarithmic:
        log_axis(ax)
    ax.set(xlabel="step", ylabel=literal(tag), title=title)
    whole_run(ax, last)
    legend_below(figure, ax)
    return figure


def widest_pair(points: Sequence[Point]) -> tuple[str, str] | None:
    """Return the two keys with the most values, or None if fewer than two have more than one."""
    counts = {key: len(_levels(points, key)) for key in {key for point in points for key in point.settings}}
    keys = sorted((key for key, count in counts.items() if count > 1), key=lambda key: (-counts[key], key))
    return (keys[0], keys[1]) if len(keys) > 1 and counts[keys[0]] * counts[keys[1]] <= MOST_CELLS else None


@styled
def heat_map(points: Sequence[Point], x: str, y: str, name: str) -> Figure:
    """Draw medians over the runs of each cell, a panel for each setting of the other keys (pooled if these are too many).

    Colours have steps. For the final error they diverge at the mean predictor's: blue is better, red is worse. A cell in
    which nothing moved is grey, whatever its error; a hatched cell has runs but no number; a white cell has no runs. The
    cell's verdict is the most frequent one.
    """
    others = sorted({key for point in points for key in point.settings} - {x, y})
    panels: dict[str, list[Point]] = {}
    for point in points:
        label = " ".join(f"{literal(key)}={_word(point.settings.get(key))}" for key in others)
        panels.setdefault(label, []).append(point)
    title = f"median of {literal(name)}"
    if len(panels) > MOST_PANELS:
        panels = {"": list(points)}
        title += f", over all {', '.join(map(literal, others))}"
    xs, ys = _levels(points, x), _levels(points, y)
    found = {label: _cells(members, x, y, xs, ys) for label, members in panels.items()}
    values = [
        float(cells[at])
        for cells, members in found.values()
        for at, runs in members.items()
        if np.isfinite(cells[at]) and not _still(runs)
    ]
    centre = statistics.median([p.mean for p in points if p.mean]) if any(p.mean for p in points) else 1.0
    norm, colours, what = _scale(values, centre if name == COLOURED_BY_BASELINE else None)
    words = len(xs) <= 8 and len(ys) <= 12
    columns = min(len(panels), 2 if len(xs) <= 4 else 1)
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(WIDTH, min(1.9 + lines * (0.5 + (0.5 if words else 0.3) * len(ys)), 20)), layout="constrained")  # fmt: skip
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for ax, (label, (cells, members)) in zip(axes.flat, found.items(), strict=False):
        picture = ax.imshow(cells, norm=norm, cmap=colours, aspect="auto", origin="lower")
        for at, runs in members.items():
            dark = np.isfinite(cells[at]) and sum(colours(norm(cells[at]))[:3]) < 1.5
            _draw_cell(ax, at, cells[at], runs, words, "white" if dark else "black")
        ax.grid(False)
        ax.set_title(label)
        ax.set_xticks(range(len(xs)), [_word(level) for level in xs], rotation=45 if len(xs) > 3 else 0)
        ax.set_yticks(range(len(ys)), [_word(level) for level in ys])
        ax.set(xlim=(-0.5, len(xs) - 0.5), ylim=(-0.5, len(ys) - 0.5))
    every = [(cells[at], runs) for cells, members in found.values() for at, runs in members.items()]
    notes = [what] * bool(what) + ["grey: nothing moved"] * any(_still(runs) for _, runs in every)
    notes += ["hatched: no number"] * any(not np.isfinite(value) for value, _ in every)
    figure.suptitle(title + ("".join(f"\n{note}" for note in notes) if notes else ""))
    figure.supxlabel(literal(x), fontsize=10)
    figure.supylabel(literal(y), fontsize=10)
    bar = figure.colorbar(picture, ax=axes, shrink=0.9, ticks=norm.boundaries[:: -(-len(norm.boundaries) // 7)])
    bar.ax.set_yticklabels([decade(float(f"{tick:.2g}")) for tick in bar.get_ticks()])
    bar.ax.minorticks_off()
    return figure


def _draw_cell(ax: Axes, at: tuple[int, int], value: float, runs: Sequence[Point], words: bool, ink: str) -> None:
    """Draw what a cell of the heat map says beside its colour: grey, hatching, its number and its verdict."""
    (row, column), has = at, np.isfinite(value)
    if _still(runs) or not has:
        box = [column - 0.5, column + 0.5], row - 0.5, row + 0.5
        look: dict[str, Any] = (
            {"facecolor": STILL} if has else {"facecolor": "#EEEEEE", "hatch": "///", "edgecolor": GREY}
        )
        ax.fill_between(*box, linewidth=0, **look)
        ink = "black"
    if words:
        lead = f"{number(value)}\n" if has else ""
        ax.text(column, row, f"{lead}{_verdicts(runs)}", ha="center", va="center", fontsize=FONT, color=ink)


@styled
def by_setting(points: Sequence[Point], keys: Sequence[str], name: str) -> Figure:
    """Draw every run's number against each swept key, a panel a key: marks by verdict, a bar at each value's median.

    Runs without a number stand at the top. For errors the lines of predicting zero and the mean are drawn. A key with too
    many values has its first and last named.
    """
    finite = [point.value for point in points if point.value is not None and math.isfinite(point.value)]
    logarithmic = bool(finite) and min(finite) > 0 and max(finite) > 20 * min(finite)
    top = (max(finite) * 3 if logarithmic else max(finite) + 0.1 * (np.ptp(finite) or 1)) if finite else 1.0
    error = name == COLOURED_BY_BASELINE
    figure = Figure(figsize=(WIDTH, 0.9 + 2.3 * len(keys)), layout="constrained")
    axes = figure.subplots(len(keys), 1, sharey=True, squeeze=False)[:, 0]
    named: dict[str, Any] = {}
    for ax, key in zip(axes, keys, strict=True):
        levels = _levels(points, key)
        places = {str(level): at for at, level in enumerate(levels)}
        sizes = Counter(str(point.settings.get(key)) for point in points)
        seen: Counter[str] = Counter()
        for point in points:
            level = str(point.settings.get(key))
            place = places[level] + 0.6 * (seen[level] / max(sizes[level] - 1, 1) - 0.5)
            seen[level] += 1
            has = point.value is not None and math.isfinite(point.value)
            kind = point.verdict or "no verdict defined"
            if not has:
                kind = point.status if point.status in ("failed", "diverged") else "no number"
            colour, mark = VERDICTS.get(kind, (GREY, "."))
            (line,) = ax.plot(place, point.value if has else top, mark, color=colour, markersize=6, alpha=0.8)
            named.setdefault(_kind(kind, has), line)
        for level, at in places.items():
            values = [p.value for p in points if str(p.settings.get(key)) == level and p.value is not None and p.verdict != "unmoved"]  # fmt: skip
            if values:
                named["median of those that moved"] = ax.hlines(
                    statistics.median(values), at - 0.35, at + 0.35, color="black", linewidth=2
                )
        if error:
            named["zero output"] = ax.axhline(1, color=GREY, linestyle=":")
            if any(p.mean for p in points):
                centre = statistics.median([p.mean for p in points if p.mean])
                named["mean predictor"] = ax.axhline(centre, color=GREY, linestyle="--")
        if logarithmic:
            log_axis(ax)
        shown = range(len(levels)) if len(levels) <= MOST_LEVELS else (0, len(levels) - 1)
        crowded = sum(len(_word(levels[at])) for at in shown) > 40
        ax.set_xticks(list(shown), [_word(levels[at]) for at in shown], rotation=30 if crowded else 0)
        ax.set(xlabel=literal(key), ylabel=literal(name).replace("_", " "), xlim=(-0.6, len(levels) - 0.4))
        ax.grid(False, axis="x")
    figure.suptitle(f"{counted(len(points), 'run')}, {len(points) - len(finite)} without a number")
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=2)
    return figure


def _kind(kind: str, has_number: bool) -> str:
    if kind == "unmoved":
        return "unmoved: tests nothing"
    return kind if has_number or kind == "no number" else f"{kind} (no number)"


def _still(runs: Sequence[Point]) -> bool:
    """Return whether no weight moved in any of these runs: they have tested nothing, whatever their error."""
    return all(run.verdict == "unmoved" for run in runs)


def _verdicts(runs: Sequence[Point]) -> str:
    """Return the most frequent verdict of a cell, with its count if the runs disagree."""
    counts = Counter(run.verdict or ("" if run.value is not None else run.status) for run in runs)
    word, count = counts.most_common(1)[0]
    return word if count == len(runs) or not word else f"{word} {count}/{len(runs)}"


def _levels(points: Sequence[Point], key: str) -> list[Any]:
    """Return a key's distinct values: numbers in order, then text."""
    values = {str(point.settings.get(key)): point.settings.get(key) for point in points}

    def order(item: tuple[str, Any]) -> tuple[bool, float, str]:
        number = isinstance(item[1], int | float) and not isinstance(item[1], bool)
        return not number, float(item[1]) if number else 0.0, item[0]

    return [value for _, value in sorted(values.items(), key=order)]


def _word(value: Any) -> str:
    text = short_cell(value)
    return literal(text if len(text) <= 18 else f"{text[:8]}…{text[-9:]}")


def _cells(
    points: Sequence[Point], x: str, y: str, xs: Sequence[Any], ys: Sequence[Any]
) -> tuple[np.ndarray, dict[tuple[int, int], list[Point]]]:
    """Return medians [y, x], nan where there is none, and the runs of each cell that has any."""
    places = {str(level): n for n, level in enumerate(xs)}, {str(level): n for n, level in enumerate(ys)}
    members: dict[tuple[int, int], list[Point]] = {}
    for point in points:
        at = places[1][str(point.settings.get(y))], places[0][str(point.settings.get(x))]
        members.setdefault(at, []).append(point)
    cells = np.full((len(ys), len(xs)), np.nan)
    for at, runs in members.items():
        values = [run.value for run in runs if run.value is not None]
        cells[at] = statistics.median(values) if values else np.nan
    return cells, members


def _scale(values: Sequence[float], centre: float | None) -> tuple[BoundaryNorm, Colormap, str]:
    """Return steps, colours and the scale's label; the colours diverge at `centre` if that is given."""
    low, high = min(values, default=0.5), max(values, default=1.0)
    if centre is not None and low > 0:
        below = max(1.0, math.log10(centre / max(low, 1e-20)))
        above = max(0.5, math.log10(min(high, 1e6) / centre))
        steps = [centre * 10 ** (-below * n / 5) for n in range(5, 0, -1)]
        steps += [centre, *(centre * 10 ** (above * n / 3) for n in range(1, 4))]
        # five steps of blue below the centre, three of red above it; the palest ones meet there
        colours = [*colormaps["RdBu"](np.linspace(1, 0.56, 5)), *colormaps["RdBu"](np.linspace(0.44, 0.1, 3))]
        return _steps(steps, colours), _colours(colours), f"blue: better than predicting the mean ({number(centre)})"
    logarithmic = low > 0 and high > 20 * low
    steps = list(np.geomspace(low, high, 9) if logarithmic else np.linspace(low, high if high > low else low + 1, 9))
    colours = list(colormaps["cividis"](np.linspace(0, 1, 8)))
    return _steps(steps, colours), _colours(colours), ""


def _steps(bounds: Sequence[float], colours: Sequence[Any]) -> BoundaryNorm:
    return BoundaryNorm(bounds, len(colours), clip=True)


def _colours(colours: Sequence[Any]) -> Colormap:
    from matplotlib.colors import ListedColormap

    return ListedColormap(np.array(colours))
