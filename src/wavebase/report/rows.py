"""The table of single runs on a report's page: its columns, and what each run says in them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from wavebase import console
from wavebase.report.runs import Run
from wavebase.report.table import ERROR

# "mechanism/mode_phase is 0.0731, over 0.05 (bin 2)"
CONDITION = re.compile(r"(\S+) is (\S+), (over|under|within|at least) (\S+)")


class Column(NamedTuple):
    """A column's head, and whether its cells are text or numbers."""

    name: str
    kind: Literal["text", "number"] = "number"


def decided_by(runs: Sequence[Run]) -> str:
    """Return the condition that names the verdict of most of these runs, without its value; "" where none is defined."""
    heads = [_condition(found[0]) for run in runs if (found := run.reasons())]
    if not heads:
        return ""
    words, count = Counter(heads).most_common(1)[0]
    return words if count == len(runs) else f"{words} ({count}/{len(runs)})"


def _condition(reason: str) -> str:
    found = CONDITION.match(reason)
    return console.one_line(f"{found[1]} {found[3]} {found[4]}" if found else re.sub(r"\d[\d.e+-]*", "…", reason, count=1))[:80]  # fmt: skip


def run_columns(keys: Sequence[str], value: str) -> list[Column]:
    """Return the columns of the runs' table: swept keys, the seed, and results."""
    extra = [] if value == ERROR else [Column(value)]
    return [
        *(Column(key, "text") for key in keys),
        Column("seed"),
        Column("verdict", "text"),
        Column("error, start"),
        Column("error, end"),
        *extra,
        Column("drift"),
        Column("changed"),
        Column("distance, start"),
        Column("distance, end"),
        Column("why", "text"),
    ]


def run_rows(runs: Sequence[Run], keys: Sequence[str], value: str) -> list[list[Any]]:
    """Return a row for each run, in the columns of `run_columns`; None where a run has no number."""
    rows = []
    for run in runs:
        weight = str(run.summary.get("watched_weight", "weight_hh_cell"))
        changed, live = run.value("moved", "changed"), run.value("moved", "live")
        seed = run.config.get("seed")
        rows.append(
            [
                *("-" if (found := run.setting(key)) is None else console.one_line(str(found))[:80] for key in keys),
                seed if isinstance(seed, int) else None,
                run.shown_verdict,
                run.value("relative_error", "initial"),
                run.value("relative_error", "final"),
                *([] if value == ERROR else [run.value(*value.split("."))]),
                run.value("drift", weight),
                min(1.0, changed / live) if changed is not None and live else None,
                run.value("distance", "initial"),
                run.value("distance", "final"),
                console.one_line("; ".join(run.reasons()[:2]) or _trouble(run))[:200],
            ]
        )
    return rows


def _trouble(run: Run) -> str:
    return "" if run.status in ("done", "diverged") else run.reason()
