"""The report as one self-contained HTML page: styles, pictures and one script are in it, and nothing is fetched.

Records may come from elsewhere. All that is read from them is escaped, the page's policy lets the browser run this file's
script and no other, and the script writes text, never markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wavebase.formatting import counted, number
from wavebase.report.rows import Column, run_columns, run_rows
from wavebase.report.runs import Run
from wavebase.report.table import ERROR

TITLES = {
    "train_loss.png": "Learning curves: medians, range over runs as a band",
    "learning_curves.png": "Learning curves: medians, range over runs as a band",
    "drift.png": "Drift of the watched weight: medians, range over runs as a band",
    "heat_map.png": "Two swept keys",
    "by_setting.png": "Every run by each swept key",
}
TROUBLES = {
    "failed": "Failed, and why",
    "unfinished": "Not finished",
    "broken": "Records that cannot be read (left out above)",
}


def asset(name: str) -> str:
    """Return a style sheet or script of this package as text."""
    return (files("wavebase.report") / name).read_text()


def document(title: str, body: str, script: str, style: str) -> str:
    """Return a whole page whose policy allows this script and no other, inline styles, and pictures in the page.

    Args:
        title: Plain text, escaped here.
        body: Markup; whatever it holds from records must be escaped.
        script, style: Their content.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f'<link rel="icon" href="data:,">\n<style>{style}</style>\n</head>\n<body>\n{body}\n<script>{script}</script>\n</body>\n</html>\n'
    )


def as_data(name: str, value: Any) -> str:
    """Return JSON as an element that no parser takes for markup, whatever text it holds."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>'


def html(
    root: Path,
    runs: Sequence[Run],
    rows: list[dict[str, Any]],
    keys: Sequence[str],
    value: str,
    pictures: Mapping[str, bytes],
    troubles: Mapping[str, list[tuple[str, str]]],
    out: Path,
) -> str:
    """Return the page.

    Args:
        root: The folder that is reported on; runs: all of its runs.
        rows: The groups, as `table.row` returns them; keys: what is swept; value: the number that is compared.
        pictures: PNG by file name.
        troubles: (folder, reason) of runs by kind, a key of `TROUBLES`.
        out: The page's folder, which links start from.
    """
    title = root.resolve().name
    counts = ", ".join(f"{len(lines)} {kind}" for kind, lines in troubles.items() if lines or kind == "failed")
    parts = [
        f"<h1>{escape(title)}</h1>\n<p class='note'>{counted(len(runs), 'run')}, {counts}. Click a column's head to sort.</p>",
        _groups(rows, value),
        '<div class="figures">',
        *(
            f'<figure><figcaption>{TITLES[name]}</figcaption>\n<img alt="{TITLES[name]}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></figure>'
            for name, png in pictures.items()
        ),
        "</div>",
        _runs(runs, keys, value, out),
    ]
    for kind, lines in troubles.items():
        if lines:
            items = "\n".join(f"<li><code>{escape(path)}</code><br>{escape(why)}</li>" for path, why in lines)
            parts.append(f"<h2>{TROUBLES[kind]} ({len(lines)})</h2>\n<ul>\n{items}\n</ul>")
    return document(title, "\n".join(parts), asset("page.js"), asset("page.css"))


def _groups(rows: list[dict[str, Any]], value: str) -> str:
    if not rows:
        return "<p>No run has ended yet.</p>"
    end = "error_end" if value == ERROR else value
    name = "error, end" if value == ERROR else value
    columns = [
        Column("group", "text"),
        Column("runs"),
        Column("failed"),
        Column("verdict", "text"),
        Column("decided by", "text"),
        Column("error, start"),
        Column(name),
        Column("its interval", "text"),
        Column("drift"),
        Column("changed"),
        Column("distance, start"),
        Column("distance, end"),
    ]
    cells = [
        [
            r["group"], r["runs"], r["failed"], r["verdict"], r["decided_by"], r["error_start_median"], r[f"{end}_median"],
            "-" if r[f"{end}_low"] is None else f"{number(r[f'{end}_low'])} … {number(r[f'{end}_high'])}", r["drift_median"],
            r["changed_of_live_median"], r["distance_start_median"], r["distance_end_median"],
        ]
        for r in rows
    ]  # fmt: skip
    return (
        table("groups", columns, cells)
        + '\n<p class="note">Medians over the runs of a group. Errors are relative: a zero output has 1. Distance is that from the '
        "exact weights modulo symmetry: zero weights have 1. Changed: the share of the weights with a gradient that moved by more "
        "than rounding. Decided by: the condition that most often names the verdict. The interval holds the median with 95 % "
        "confidence, whatever the distribution; below 6 runs it is their range. A dash stands where nothing is defined.</p>"
    )


def _runs(runs: Sequence[Run], keys: Sequence[str], value: str, out: Path) -> str:
    columns, cells = run_columns(keys, value), run_rows(runs, keys, value)
    links = [_links(run, out) for run in runs]
    return (
        f"<h2>All {len(runs)} runs</h2>\n<p class='note'><label>Show runs that contain <input id='filter' type='search'></label> "
        "Tick two runs to see where they differ. Every run is also a line of runs.csv.</p>\n<div id='difference'></div>\n"
        + table("runs", columns, cells, links)
        + as_data("details", _details(runs))
    )


def _links(run: Run, out: Path) -> str:
    """Return markup that leads to a run's folder, and to its page if it has one."""
    folder = run.folder.path
    way = quote(os.path.relpath(folder.resolve(), out.resolve()).replace(os.sep, "/"))
    look = f' <a href="./{way}/look.html">look</a>' if (folder / "look.html").is_file() else ""
    return f'<a href="./{way}/">{escape(folder.name)}</a>{look}'


def _details(runs: Sequence[Run]) -> dict[str, Any]:
    """Return settings and results that are not the same in all runs: their names, and a row of values for each run."""
    flats = [{key: _short(found) for key, found in run.flat().items()} for run in runs]
    names = list(dict.fromkeys(key for flat in flats for key in flat))
    differing = [name for name in names if len({repr(flat.get(name)) for flat in flats}) > 1]
    return {"names": differing, "rows": [[flat.get(name) for name in differing] for flat in flats]}


def _short(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    return number(value) if isinstance(value, float) else value if isinstance(value, int) and abs(value) < 2**53 else str(value)[:120]  # fmt: skip


def table(name: str, columns: Sequence[Column], rows: Sequence[Sequence[Any]], heads: Sequence[str] = ()) -> str:
    """Return a table that the script sorts: numbers by their full value, which each cell holds beside its short form.

    Args:
        heads: Markup of a first column, one for each row, which also gets a box to tick.
    """
    first = "<th></th><th class='text'>run</th>" if heads else ""
    head = first + "".join(f'<th class="{column.kind}">{escape(column.name)}</th>' for column in columns)
    lines = []
    for n, row in enumerate(rows):
        start = f'<td><input type="checkbox" value="{n}"></td><td class="text">{heads[n]}</td>' if heads else ""
        lines.append(f"<tr>{start}{''.join(map(_cell, columns, row))}</tr>")
    return f'<div class="scroll"><table id="{name}">\n<thead><tr>{head}</tr></thead>\n<tbody>\n' + "\n".join(lines) + "\n</tbody></table></div>"  # fmt: skip


def _cell(column: Column, value: Any) -> str:
    if value is None:
        return "<td>-</td>"
    if column.kind == "text":
        bad = " bad" if str(value).split(" ")[0] in ("failed", "diverged", "unreadable") else ""
        return f'<td class="text{bad}" title="{escape(str(value))}">{escape(str(value))}</td>'
    text = f"{100 * value:.0f} %" if column.name == "changed" else str(value) if isinstance(value, int) else number(value)  # fmt: skip
    bad = ' class="bad"' if column.name == "failed" and value else ""
    return f'<td{bad} data-v="{value!r}">{text}</td>'
