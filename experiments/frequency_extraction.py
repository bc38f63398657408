"""Which recipe extracts a tone from a noisy mix, over seeds and away from the training data's phases? Expected: fixed phases
teach a clock that shifts break; random phases teach an estimator; nothing learned comes near least squares.

    python experiments/frequency_extraction.py              the sweeps below, in outputs/studies/extraction_*, and their tables
    python experiments/frequency_extraction.py jitter       one of them
    python experiments/frequency_extraction.py FOLDER       the table of runs that are there already
Every sweep at the document's full length: python -m wavebase.run -m experiment=extraction_<name> hydra/launcher=stacked
"""

import sys
from pathlib import Path

import numpy as np

from wavebase import study
from wavebase.experiment import build, config
from wavebase.figures.extraction import SETS
from wavebase.records.folder import find_runs
from wavebase.report.runs import Run, grouped

EPOCHS = 5  # of the original's 100 in the sweeps of its settings
ORIGINAL = (f"train.steps={1250 * EPOCHS}", "train.checkpoint_every=1000000", "probe.every=1000000", "probe.figures=[]")
OURS = ("train.steps=300", "probe.every=1000000", "probe.figures=[]")  # of 1250
SWEEPS = {
    "learning_rate": (*ORIGINAL, "train.steps=25000"),  # 20 epochs: five do not judge a rate
    "jitter": ORIGINAL,
    "data_seeds": ORIGINAL,
    "hidden": ORIGINAL,
    "batch": (*ORIGINAL, "train.steps=10000"),  # a quarter of an epoch of single rows, 8 epochs of 32
    "layers": OURS,
    "decay": OURS,
    "attention": OURS,
    "bidirectional": OURS,
    "lock_in": ("probe.figures=[]",),
}


def table(runs: list[study.Run]) -> str:
    """Mean squared errors, whole / after one window, on every held-out set: medians and ranges over seeds, references."""
    lines = [f"| | n | {' | '.join(SETS.values())} |", "|" + "---|" * (2 + len(SETS))]
    for label, members in grouped(runs).items():
        finals = [run.summary["probes"]["final"] for run in members if run.status in ("done", "diverged")]
        rows = {f"{label} | {len(finals)}": [[_spread(finals, f"mean_squared_error{part}/{name}") for part in ("", "_after")] for name in SETS]}  # fmt: skip
        of = _references(members[0])
        for reference in ("least_squares", "zero"):
            rows[f"{reference} | "] = [[f"{value:.2g}" for value in of[name][reference]] for name in SETS]
        lines += [f"| {head} | {' | '.join(' / '.join(cell) for cell in cells)} |" for head, cells in rows.items()]
    return "\n".join(lines)


def _spread(finals: list[dict[str, float]], key: str) -> str:
    values = sorted(np.inf if final[key] is None else final[key] for final in finals)
    return f"{np.median(values):.2g}" + (f" ({values[0]:.2g}-{values[-1]:.2g})" if len(values) > 1 else "")


def _references(run: study.Run) -> dict[str, dict[str, tuple[float, float]]]:
    """What the references make of the very data of a run."""
    cfg = config.parse(run.folder.config())
    task = build.build_components(cfg, learning_rate=1.0).task
    return {name: task.reference_errors(name) for name in SETS}


def main() -> None:
    for word in sys.argv[1:] or SWEEPS:
        if word in SWEEPS:
            print(f"\n{word}")
            runs = study.sweep(f"extraction_{word}", f"experiment=extraction_{word}", "threads=1", *SWEEPS[word])
        else:
            runs = [Run(folder) for folder in find_runs(Path(word))]
        print(table(runs), flush=True)


if __name__ == "__main__":
    main()
