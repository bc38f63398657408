"""Groups of runs as rows, for the terminal and as CSV: medians with intervals that assume no distribution."""

from __future__ import annotations

import csv
import io
import statistics
import textwrap
from typing import Any

from wavebase import console
from wavebase.formatting import counted, number
from wavebase.report.runs import Run
from wavebase.statistics import median

ERROR = "relative_error.final"
HEAD = (
    "medians of n runs; low, high hold that of the end with 95 % confidence (under 6 runs the range); drift of the watched "
    "weight; chgd: share of the weights with a gradient that changed"
)
LONGEST_CELL = 32_000  # characters; spreadsheets take 767 more
COLUMNS = {
    "error_start": "relative_error.initial",
    "error_end": ERROR,
    "relative_loss_end": "relative_loss.final",
    "drift_weight_hh_cell": "drift.weight_hh_cell",
    "distance_start": "distance.initial",
    "distance_end": "distance.final",
    "lr": "optim.lr",
    "lr_over_boundary": "optim.lr_over_boundary",
    "seconds": "seconds",
}


def row(label: str, runs: list[Run], value: str = ERROR) -> dict[str, Any]:
    """Return one row of the table.

    Args:
        label: The group's name; runs: its runs.
        value: The number of summary.json that is compared.

    Returns:
        Counts, the most frequent verdict, and for each quantity the median over the runs that have it, the median's
        interval (low, high; None for a single run) and the range (min, max); None for a quantity that no run has.
    """
    verdicts = statistics.multimode(run.shown_verdict for run in runs)
    share = sum(run.shown_verdict == verdicts[0] for run in runs)
    line: dict[str, Any] = {
        "group": console.one_line(label),
        "runs": len(runs),
        "failed": sum(run.status == "failed" for run in runs),
        "verdict": verdicts[0] + (f" {share}/{len(runs)}" if share < len(runs) else ""),
    }
    watched = next((str(run.summary["watched_weight"]) for run in runs if "watched_weight" in run.summary), None)
    compared = {} if value == ERROR else {path: path for path in (start_of(value), value) if path}
    for name, path in {**COLUMNS, "drift": f"drift.{watched}", **compared}.items():
        values = [found for run in runs if (found := run.value(*path.split("."))) is not None]
        line[f"{name}_median"], *interval = median(values) if values else (None, None, None)
        line[f"{name}_low"], line[f"{name}_high"] = interval if len(values) > 1 else (None, None)
        line[f"{name}_min"], line[f"{name}_max"] = min(values, default=None), max(values, default=None)
    moved = [(run.value("moved", "changed"), run.value("moved", "live")) for run in runs]
    shares = [min(1.0, changed / live) for changed, live in moved if changed is not None and live]
    line["changed_of_live_median"] = statistics.median(shares) if shares else None
    return line


def start_of(value: str) -> str | None:
    """Return the path of the number of summary.json that holds the start of one that holds the end; None without one."""
    return f"{value.removesuffix('.final')}.initial" if value.endswith(".final") else None


def table(rows: list[dict[str, Any]], value: str = ERROR, width: int = 80) -> str:
    """Return the rows as text of at most `width` columns: medians at the start and the end, and the end's interval."""
    start, end = ("error_start", "error_end") if value == ERROR else (start_of(value), value)
    verdict = max(len("verdict"), *(len(r["verdict"]) for r in rows))
    head = f"{'n':>3} {'fail':>4}  {'verdict':<{verdict}} {'start':>8} {'end':>8} {'low':>8} {'high':>8} {'drift':>8} {'chgd':>5}"
    wide = width - len(head) - 1
    what = "relative error on held-out data" if value == ERROR else value
    lines = textwrap.wrap(f"{what}: {HEAD}", min(width, 80))
    if wide < 1:
        return "\n".join([*lines, *(line for r in rows for line in _block(r, start, end))])
    lines.append(f"{'':<{wide}} {head}")
    for r in rows:
        label = r["group"]
        if len(label) > wide:  # on a line of its own
            lines.append(label)
            label = ""
        cells = " ".join(f"{number(v):>8}" for v in _cells(r, start, end))
        lines.append(
            f"{label:<{wide}} {r['runs']:>3} {r['failed'] or '-':>4}  {r['verdict']:<{verdict}} {cells} {_percent(r):>5}"
        )
    return "\n".join(lines)


def _percent(line: dict[str, Any]) -> str:
    share = line["changed_of_live_median"]
    return "-" if share is None else f"{100 * share:.0f}%"


def _cells(line: dict[str, Any], start: str | None, end: str) -> list[float | None]:
    """Return a row's numbers in the order of the table's columns; None where there is none."""
    return [line.get(k) for k in (f"{start}_median", f"{end}_median", f"{end}_low", f"{end}_high", "drift_median")]


def _block(line: dict[str, Any], begin: str | None, end: str) -> list[str]:
    """Return a row for a terminal that is too narrow for the table."""
    start, last, low, high, drift = (number(value) for value in _cells(line, begin, end))
    interval = f" ({low}, {high})" if line[f"{end}_low"] is not None else ""
    failed = f", {line['failed']} failed" if line["failed"] else ""
    return [
        f"{line['group']}: {line['verdict']}",
        f"  {counted(line['runs'], 'run')}{failed}",
        f"  {start} -> {last}{interval}",
        f"  drift {drift}, changed {_percent(line)}",
    ]


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    """Return rows as UTF-8 encoded CSV, columns in order of first appearance."""
    text = io.StringIO()
    columns = list(dict.fromkeys(key for line in rows for key in line))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writerow({key: _csv_cell(key) for key in columns})
    writer.writerows({key: _csv_cell(value) for key, value in line.items()} for line in rows)
    return text.getvalue().encode(errors="replace")


def _csv_cell(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula: text gets an apostrophe if needed, and is cut to a cell's length."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = console.visible(str(value))[:LONGEST_CELL]
    if text == "-" or not text.lstrip().startswith(("=", "+", "-", "@")):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
