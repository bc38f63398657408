"""The report as one self-contained HTML page: styles and pictures are in it, nothing is fetched."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from wavebase.formatting import number
from wavebase.report.table import ERROR

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .5rem; text-align: right; border-bottom: 1px solid #ddd; }
th { border-bottom: 2px solid #888; vertical-align: bottom; } td:first-child, th:first-child, td.word, th.word { text-align: left; }
td:not(:first-child) { white-space: nowrap; } td.bad { color: #b3261e; font-weight: 600; } img { max-width: 100%; height: auto; }
code { font-size: .9em; overflow-wrap: anywhere; } li { margin: .3rem 0; } p.note { color: #555; }
"""
TITLES = {
    "train_loss.png": "Learning curves: medians, range over runs as a band",
    "learning_curves.png": "Learning curves: medians, range over runs as a band",
    "heat_map.png": "Two swept keys",
    "parallel_coordinates.png": "All swept keys, one line a run",
}
TROUBLES = {
    "failed": "Failed, and why",
    "unfinished": "Not finished",
    "broken": "Records that cannot be read (left out above)",
}


def html(
    root: Path,
    count: int,
    rows: list[dict[str, Any]],
    value: str,
    pictures: Mapping[str, bytes],
    troubles: Mapping[str, list[tuple[str, str]]],
) -> str:
    """Return the page.

    Args:
        root: The folder that is reported on; count: its runs.
        rows: The groups, as `table.row` returns them; value: the number that is compared.
        pictures: PNG by file name.
        troubles: (folder, reason) of runs by kind, a key of `TROUBLES`.
    """
    parts = [
        f"<h1>{escape(root.resolve().name)}: {count} runs, {len(troubles['failed'])} failed</h1>",
        _table(rows, value),
        *(
            f'<h2>{TITLES[name]}</h2>\n<img alt="{TITLES[name]}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
            for name, png in pictures.items()
        ),
    ]
    for kind, lines in troubles.items():
        if lines:
            items = "\n".join(f"<li><code>{escape(path)}</code><br>{escape(why)}</li>" for path, why in lines)
            parts.append(f"<h2>{TROUBLES[kind]} ({len(lines)})</h2>\n<ul>\n{items}\n</ul>")
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(root.resolve().name)}</title>\n'
        f'<link rel="icon" href="data:,">\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n'
    )


def _table(rows: list[dict[str, Any]], value: str) -> str:
    if not rows:
        return "<p>No run has ended yet.</p>"
    end = "error_end" if value == ERROR else value
    cells = []
    for r in rows:
        numbers = (
            number(r["error_start_median"]),
            number(r[f"{end}_median"]),
            "-" if r[f"{end}_low"] is None else f"{number(r[f'{end}_low'])} … {number(r[f'{end}_high'])}",
            number(r["drift_median"]),
            number(r["lr_median"]),
            number(r["seconds_median"]),
        )
        failed = f'<td class="bad">{r["failed"]}</td>' if r["failed"] else "<td>0</td>"
        cells.append(
            f'<tr><td>{escape(r["group"])}</td><td>{r["runs"]}</td>{failed}<td class="word">{escape(r["verdict"])}</td>'
            + "".join(f"<td>{cell}</td>" for cell in numbers)
            + "</tr>"
        )
    name = "error at the end" if value == ERROR else escape(value)
    return (
        '<table>\n<tr><th>group</th><th>runs</th><th>failed</th><th class="word">verdict</th><th>error at the start</th>'
        f"<th>{name}</th><th>its interval</th><th>drift</th><th>learning rate</th><th>seconds</th></tr>\n"
        + "\n".join(cells)
        + '\n</table>\n<p class="note">Medians over the runs of a group. Errors are relative (a zero output has 1). The '
        "interval holds the median with 95 % confidence, whatever the distribution; below 6 runs it is their range. "
        "Every run is a line of runs.csv.</p>"
    )
