"""Groups of runs as rows, for the terminal and as CSV: medians with intervals that assume no distribution."""

from __future__ import annotations

import csv
import io
import statistics
from typing import Any

from wavebase import console
from wavebase.formatting import number
from wavebase.report.runs import Run
from wavebase.statistics import median

ERROR = "relative_error.final"
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
        interval (low, high) and the range (min, max); None for a quantity that no run has.
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
    for name, path in {**COLUMNS, "drift": f"drift.{watched}", **({} if value == ERROR else {value: value})}.items():
        values = [found for run in runs if (found := run.value(*path.split("."))) is not None]
        estimate = median(values) if values else (None, None, None)
        line[f"{name}_median"], line[f"{name}_low"], line[f"{name}_high"] = estimate
        line[f"{name}_min"], line[f"{name}_max"] = min(values, default=None), max(values, default=None)
    moved = [(run.value("moved", "changed"), run.value("moved", "live")) for run in runs]
    shares = [min(1.0, changed / live) for changed, live in moved if changed is not None and live]
    line["changed_of_live_median"] = statistics.median(shares) if shares else None
    return line


def table(rows: list[dict[str, Any]], value: str = ERROR, width: int = 80) -> str:
    """Return the rows as text of at most `width` columns: medians at the start and the end, and the end's interval."""
    end = "error_end" if value == ERROR else value
    verdict = max(len("verdict"), *(len(r["verdict"]) for r in rows))
    head = f"{'n':>3} {'fail':>4}  {'verdict':<{verdict}} {'start':>7} {'end':>7} {'low':>7} {'high':>7} {'drift':>7} {'chgd':>5}"
    wide = width - len(head) - 1
    what = "relative error on held-out data" if value == ERROR else f"{value} (start: relative error)"
    lines = [
        f"{what}: medians of n runs; low, high hold that of the",
        "end with 95 % confidence (under 6 runs the range); drift of the watched",
        "weight; chgd: share of the weights with a gradient that changed",
    ]
    if wide < 1:
        return "\n".join([*lines, *(line for r in rows for line in _block(r, end))])
    lines.append(f"{'':<{wide}} {head}")
    for r in rows:
        label = r["group"]
        if len(label) > wide:  # on a line of its own
            lines.append(label)
            label = ""
        cells = " ".join(f"{number(v):>7}" for v in _cells(r, end))
        lines.append(
            f"{label:<{wide}} {r['runs']:>3} {r['failed'] or '-':>4}  {r['verdict']:<{verdict}} {cells} {_percent(r):>5}"
        )
    return "\n".join(lines)


def _percent(line: dict[str, Any]) -> str:
    share = line["changed_of_live_median"]
    return "-" if share is None else f"{100 * share:.0f}%"


def _cells(line: dict[str, Any], end: str) -> list[float | None]:
    return [line[k] for k in ("error_start_median", f"{end}_median", f"{end}_low", f"{end}_high", "drift_median")]


def _block(line: dict[str, Any], end: str) -> list[str]:
    """Return a row for a terminal that is too narrow for the table."""
    start, last, low, high, drift = (number(value) for value in _cells(line, end))
    failed = f", {line['failed']} failed" if line["failed"] else ""
    return [
        f"{line['group']}: {line['verdict']}",
        f"  {line['runs']} runs{failed}",
        f"  {start} -> {last} ({low}, {high})",
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
