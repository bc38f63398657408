"""Figures of many runs: learning curves of groups, two swept keys as a heat map, all of them as parallel coordinates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from wavebase.figures.style import GREY, WIDTH, literal, look
from wavebase.figures.curves import legend_below, median_and_range
from wavebase.formatting import number

Series = Mapping[str, tuple[np.ndarray, np.ndarray]]
MISSING = "#B3261E"
MOST_CURVES, MOST_PANELS, MOST_CELLS = 12, 6, 400


class Point(NamedTuple):
    """One run: the values of its swept keys, the number compared (None if it has none), and its status."""

    settings: Mapping[str, Any]
    value: float | None
    status: str


def best(groups: Mapping[str, Sequence[Series]], tag: str) -> dict[str, Sequence[Series]]:
    """Choose the groups to draw, in their order: all, or if they are too many those whose median run ends lowest."""

    def end(label: str) -> float:
        last = [series[tag][1][-1] for series in groups[label] if tag in series]
        return statistics.median([math.inf if math.isnan(value) else value for value in last] or [math.inf])

    chosen = sorted(groups, key=end)[:MOST_CURVES]
    return {label: runs for label, runs in groups.items() if label in chosen}


def learning_curves(groups: Mapping[str, Sequence[Series]], tag: str) -> Figure:
    """Draw one recorded series against the step: the median of each group's runs, and their range as a band."""
    shown = best(groups, tag)
    figure = Figure(figsize=(WIDTH, 4.8), layout="constrained")
    ax = figure.subplots()
    lowest = math.inf
    for n, (label, runs) in enumerate(shown.items()):
        series = [run[tag] for run in runs if tag in run]
        if series:
            steps = np.unique(np.concatenate([at for at, _ in series]))
            values = np.full((len(series), len(steps)), np.nan)
            for line, (at, numbers) in zip(values, series, strict=True):
                line[np.searchsorted(steps, at)] = numbers
            median_and_range(ax, steps, values, *look(n), literal(label))
            lowest = min(lowest, np.nanmin(values, initial=math.inf))
    left_out = len(groups) - len(shown)
    title = f"the {len(shown)} of {len(groups)} groups that end lowest" if left_out else ""
    ax.set(xlabel="step", ylabel=literal(tag), yscale="log" if 0 < lowest < math.inf else "linear", title=title)
    ax.grid(alpha=0.25)
    legend_below(figure, ax)
    return figure


def widest_pair(points: Sequence[Point]) -> tuple[str, str] | None:
    """Return the two keys with the most values, or None if fewer than two have more than one."""
    counts = {key: len(_levels(points, key)) for key in {key for point in points for key in point.settings}}
    keys = sorted((key for key, count in counts.items() if count > 1), key=lambda key: (-counts[key], key))
    return (keys[0], keys[1]) if len(keys) > 1 and counts[keys[0]] * counts[keys[1]] <= MOST_CELLS else None


def heat_map(points: Sequence[Point], x: str, y: str, name: str) -> Figure:
    """Draw medians over the runs of each cell, a panel for each setting of the other keys (pooled if these are too many).

    A hatched cell has runs but no number. A white cell has no runs.
    """
    others = sorted({key for point in points for key in point.settings} - {x, y})
    panels: dict[str, list[Point]] = {}
    for point in points:
        panels.setdefault(" ".join(f"{literal(key)}={_word(point.settings.get(key))}" for key in others), []).append(
            point
        )
    title = f"median of {literal(name)}"
    if len(panels) > MOST_PANELS:
        panels = {"": list(points)}
        title += f", over all {', '.join(map(literal, others))}"
    xs, ys = _levels(points, x), _levels(points, y)
    tables = {label: _cells(members, x, y, xs, ys) for label, members in panels.items()}
    if any((tried & ~np.isfinite(cells)).any() for cells, tried in tables.values()):
        title += "\n(hatched: no run left a number)"
    norm = _norm([value for cells, _ in tables.values() for value in cells[np.isfinite(cells)]])
    columns = min(len(panels), 3)
    lines = math.ceil(len(panels) / columns)
    width, height = 1.6 + columns * max(2.4, 0.62 * len(xs) + 0.8), 0.9 + lines * max(1.6, 0.42 * len(ys) + 1.0)
    figure = Figure(figsize=(min(max(width, 5), 20), min(max(height, 3), 20)), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for ax, (label, (cells, tried)) in zip(axes.flat, tables.items(), strict=False):
        picture = ax.imshow(cells, norm=norm, cmap="cividis", aspect="auto", origin="lower")
        for (row, column), value in np.ndenumerate(cells):
            if np.isfinite(value):
                light = float(norm(value)) > 0.55
                if len(xs) <= 12 and len(ys) <= 30:
                    text = number(value)
                    ax.text(
                        column, row, text, ha="center", va="center", fontsize=7, color="black" if light else "white"
                    )
            elif tried[row, column]:
                ax.fill_between(
                    [column - 0.5, column + 0.5], row - 0.5, row + 0.5, facecolor="#EEEEEE", hatch="///", edgecolor=GREY, linewidth=0
                )  # fmt: skip
        ax.set_title(label, fontsize=10)
        ax.set_xticks(range(len(xs)), [_word(level) for level in xs], rotation=45 if len(xs) > 5 else 0, fontsize=8)
        ax.set_yticks(range(len(ys)), [_word(level) for level in ys], fontsize=8)
        ax.set(xlim=(-0.5, len(xs) - 0.5), ylim=(-0.5, len(ys) - 0.5))
    figure.supxlabel(literal(x), fontsize=10)
    figure.supylabel(literal(y), fontsize=10)
    figure.colorbar(picture, ax=axes, shrink=0.9)
    return figure


def parallel_coordinates(points: Sequence[Point], keys: Sequence[str], name: str) -> Figure:
    """Draw one line a run through the values of its swept keys, coloured by the number compared.

    Runs without one are dotted and end before it. Lines are slightly apart, so that equal settings can be counted.
    """
    figure = Figure(figsize=(max(6.5, 1.9 * (len(keys) + 1)), 5), layout="constrained")
    ax = figure.subplots()
    finite = [point.value for point in points if point.value is not None]
    norm, colours = _norm(finite), colormaps["viridis"]
    spread = bool(finite) and max(finite) > min(finite)
    scales = [_axis(ax, at, _levels(points, key)) for at, key in enumerate(keys)]
    for point, apart in zip(points, np.linspace(-0.02, 0.02, len(points)), strict=True):
        heights = [scale[str(point.settings.get(key))] + apart for scale, key in zip(scales, keys, strict=True)]
        if point.value is None:
            ax.plot(range(len(keys)), heights, ":", color=MISSING, alpha=0.6, linewidth=1)
            ax.plot(len(keys) - 1, heights[-1], "x", color=MISSING, markersize=5)
        else:
            end = float(norm(point.value)) if spread else 0.5
            ax.plot(range(len(keys) + 1), [*heights, end], color=colours(end), alpha=0.7, linewidth=1.1)
    ax.axvline(len(keys), color="black", linewidth=0.8)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0) if spread else (0.5,) if finite else ():
        value = float(norm.inverse(share)) if spread else finite[0]
        ax.text(len(keys) + 0.04, share, f"{value:.2g}", va="center", fontsize=8)
    ax.set_xticks(range(len(keys) + 1), [*map(literal, keys), literal(name)], fontsize=9)
    ax.set(yticks=[], xlim=(-0.45, len(keys) + 0.45), ylim=(-0.06, 1.06))
    missing = len(points) - len(finite)
    ax.set_title(f"{len(points)} runs" + (f", {missing} without a number (dotted red)" if missing else ""), fontsize=11)
    ax.spines[:].set_visible(False)
    return figure


def _axis(ax: Axes, at: int, levels: Sequence[Any]) -> dict[str, float]:
    """Draw a key's axis with its levels evenly spaced, and return the height of each."""
    heights = {str(level): n / (len(levels) - 1) if len(levels) > 1 else 0.5 for n, level in enumerate(levels)}
    ax.axvline(at, color="black", linewidth=0.8)
    for level in levels[:: math.ceil(len(levels) / 20)]:
        ax.text(
            at - 0.04,
            heights[str(level)],
            _word(level),
            ha="right",
            va="center",
            fontsize=8,
            bbox={"color": "white", "alpha": 0.7, "pad": 0.5},
        )
    return heights


def _levels(points: Sequence[Point], key: str) -> list[Any]:
    """Return a key's distinct values: numbers in order, then text."""
    values = {str(point.settings.get(key)): point.settings.get(key) for point in points}

    def order(item: tuple[str, Any]) -> tuple[bool, float, str]:
        number = isinstance(item[1], int | float) and not isinstance(item[1], bool)
        return not number, float(item[1]) if number else 0.0, item[0]

    return [value for _, value in sorted(values.items(), key=order)]


def _word(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return literal(text if len(text) <= 18 else f"{text[:8]}…{text[-9:]}")


def _cells(
    points: Sequence[Point], x: str, y: str, xs: Sequence[Any], ys: Sequence[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Return medians [y, x], nan where there is none, and whether anything was run."""
    places = {str(level): n for n, level in enumerate(xs)}, {str(level): n for n, level in enumerate(ys)}
    found: dict[tuple[int, int], list[float]] = {}
    tried = np.zeros((len(ys), len(xs)), dtype=bool)
    for point in points:
        at = places[1][str(point.settings.get(y))], places[0][str(point.settings.get(x))]
        tried[at] = True
        if point.value is not None:
            found.setdefault(at, []).append(point.value)
    cells = np.full(tried.shape, np.nan)
    for at, values in found.items():
        cells[at] = statistics.median(values)
    return cells, tried


def _norm(values: Sequence[float]) -> Normalize:
    """Return a scale, logarithmic if the values are positive and span more than a factor of 20."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    return LogNorm(low, high) if low > 0 and high > 20 * low else Normalize(low, high)
