"""A study answers one question with many runs: it sweeps through the command line, reads the records, leaves a finding.

A study is one file in experiments/. Its docstring is the question, and `main` runs its `measure` at one of three sizes. The
result goes to outputs/studies/<name>/ as finding.json, table.csv and figure.png; docs/findings.md is made from these.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import resource
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure

from wavebase import console
from wavebase.cli.run import main as run_command
from wavebase.figures import style
from wavebase.formatting import text_table
from wavebase.records import provenance
from wavebase.records.atomic import atomic_write
from wavebase.records.folder import find_runs
from wavebase.records.strict_json import dump_json, to_json
from wavebase.report.runs import Run
from wavebase.report.table import as_csv

FOLDER = Path("outputs/studies")
# a study of many short runs needs no pictures and no checkpoints on the way
FAST_OVERRIDES = ("probe.figures=[]", "probe.every=1000000", "train.checkpoint_every=1000000", "threads=1")

Choice = TypeVar("Choice")


class Size(NamedTuple):
    """How much a study computes: tiny (two steps with every part, for tests), fast, or full."""

    name: Literal["tiny", "fast", "full"]
    study: str

    @property
    def folder(self) -> Path:
        """Return where this study leaves its finding. Each size has a folder of its own."""
        return FOLDER / (self.study if self.name == "fast" else f"{self.study}_{self.name}")

    def pick(self, *, tiny: Choice, fast: Choice, full: Choice) -> Choice:
        """Return the value for this size."""
        return {"tiny": tiny, "fast": fast, "full": full}[self.name]

    def sweep(self, *overrides: str) -> list[Run]:
        """Return the runs of one sweep with `FAST_OVERRIDES` and these overrides, in a folder of its own.

        Raises:
            RuntimeError: If a run failed.
        """
        words = (*FAST_OVERRIDES, *overrides)
        part = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:8]
        return sweep(f"{self.folder.name}/{part}", *words)


@dataclass(frozen=True)
class Finding:
    """What a study found.

    Attributes:
        title: A few words.
        rows: The table, a mapping from column to cell for each row.
        conclusion: What the numbers show, with the numbers.
        limitations: What they do not show.
        figure: A picture of them.
    """

    title: str
    rows: Sequence[Mapping[str, Any]]
    conclusion: str
    limitations: str
    figure: Figure


@console.ignore_closed_pipes()
def main(file: str, doc: str, measure: Callable[[Size], Finding]) -> None:
    """Run a study from the command line: `python experiments/NAME.py [--full | --tiny]`.

    Args:
        file: The study's `__file__`; doc: its docstring.
        measure: Computes the finding at a size.
    """
    question = doc.split("\n\n")[0].replace("\n", " ")
    parser = console.Parser(description=question)
    sizes = parser.add_mutually_exclusive_group()
    for name, words in (("full", "more sizes, seeds and steps: hours"), ("tiny", "two steps of the least: a test")):
        sizes.add_argument(f"--{name}", dest="size", action="store_const", const=name, default="fast", help=words)
    size = Size(parser.parse_args().size, Path(file).stem)
    torch.set_num_threads(1)  # as its runs do: matrices this small are slower with more
    before = _processor_seconds()
    finding = measure(size)
    rows = to_json([dict(row) for row in finding.rows])
    record = {
        "question": question,
        "command": f"python experiments/{size.study}.py" + ("" if size.name == "fast" else f" --{size.name}"),
        "processor_seconds": max(round(_processor_seconds() - before, 1), _spent(size.folder)),
        "title": finding.title,
        "rows": rows,
        "conclusion": " ".join(finding.conclusion.split()),
        "limitations": " ".join(finding.limitations.split()),
        "versions": provenance.versions(),
        "git": provenance.git_state(),
    }
    for name, content in {
        "finding.json": dump_json(record, indent=1),
        "table.csv": as_csv(rows),
        "figure.png": style.png(finding.figure),
    }.items():
        atomic_write(size.folder / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
    wide = min(console.width(), 80)
    said = (textwrap.fill(str(record[key]), wide) for key in ("question", "conclusion", "limitations"))
    console.print_styled("\n\n".join([next(said), text_table(rows), *said]))
    console.print_styled(
        f"\n{record['processor_seconds']:.0f} s of processor time; finding.json, table.csv, figure.png in {size.folder}"
    )


def _spent(folder: Path) -> float:
    """Return the processor seconds recorded earlier: a study that finds its runs finished spends fewer now."""
    file = folder / "finding.json"
    return json.loads(file.read_text())["processor_seconds"] if file.is_file() else 0.0


def _processor_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def sweep(name: str, *overrides: str) -> list[Run]:
    """Run `python -m wavebase.run -m hydra/launcher=stacked` with the overrides, in outputs/studies/<name>.

    Finished runs are not run again. The sweep's output goes to sweep.log there.

    Returns:
        Every run found there afterwards.

    Raises:
        RuntimeError: If a run failed.
    """
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    # a study reads the runs itself: no report of each sweep
    words = ("-m", "hydra/launcher=stacked", "~hydra.callbacks.sweep_report", f"hydra.sweep.dir={folder}", *overrides)
    status = run_forked(_launch, words, folder / "sweep.log")
    if status:
        raise RuntimeError(f"every run of the sweep must finish, got exit status {status}; see {folder}/sweep.log")
    return [Run(found) for found in find_runs(folder)]


def run_forked(target: Callable[..., None], *args: Any) -> int | None:
    """Call a function in a forked process, which saves it the start of torch. Returns its exit status.

    Where there is a CUDA device the process is a new one: what is forked cannot use CUDA if this one has.
    """
    start = multiprocessing.get_context("spawn") if torch.cuda.device_count() else multiprocessing.get_context("fork")
    process = start.Process(target=target, args=args)
    process.start()
    process.join()
    return process.exitcode


def _launch(words: Sequence[str], log: Path) -> None:
    sys.argv = ["wavebase.run", *words]
    torch.set_num_threads(1)  # a forked process must not use the pool of threads of its parent
    with log.open("w") as file, contextlib.redirect_stdout(file):
        run_command()


def grouped(runs: Iterable[Run], *keys: str) -> dict[tuple[Any, ...], list[Run]]:
    """Group runs by their configuration's values at dotted keys, in the order of these values."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.config[key] for key in keys), []).append(run)
    return dict(sorted(groups.items()))


def final_errors(runs: Iterable[Run]) -> np.ndarray:
    """Return relative_error at the end of each run, infinite where a run diverged."""
    errors = [run.value("relative_error", "final") for run in runs]
    return np.array([np.inf if error is None else error for error in errors])


def counted(verdicts: Sequence[str]) -> str:
    """Return verdicts and their counts as text: `preserved 4, deformed 1`, the commonest first."""
    return ", ".join(f"{name} {count}" for name, count in Counter(verdicts).most_common())
