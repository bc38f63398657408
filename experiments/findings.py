"""What did the studies find? Run each (finished runs are not run again) and make docs/findings.md from their findings.

    python experiments/findings.py [--full] [--parallel 2] [--read]

--read runs nothing; it makes the page from the stored findings.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from wavebase import console, formatting, study
from wavebase.records.atomic import atomic_write

STUDIES = (
    "confusion_matrix",
    "verdict_pairs",
    "zoo_controls",
    "atlas",
    "spectral_exactness",
    "spectral_frontier",
    "one_dynamics",
    "spectral_boundary",
    "noise_law",
    "slow_drift",
    "phase_diagram",
    "spectral_curves",
    "repair",
    "spectral_optimisers",
    "perfect_starts",
    "rounding",
    "spectral_rivals",
    "spectral_support",
    "spectral_revival",
)
HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
HEAD = """# Findings

Made by `make findings` from the records of the studies in `experiments/`: each study writes its numbers to its `finding.json`.
Intervals are 95 %: Wilson's for proportions, order statistics for medians, Student's t for exponents. Errors are relative,
||P_hat - P|| / ||P||; predicting zero has 1. Losses are relative to the mean predictor's. Nets start at the exact algorithm and
train unit-scaled coordinates unless a row says raw; distances are in those coordinates. The verdicts and their thresholds are in
`conf/probe/default.yaml` and `src/wavebase/probes/verdict.py`.
"""


def run(name: str, words: list[str]) -> None:
    """One study in a process of its own."""
    subprocess.run([sys.executable, str(HERE / f"{name}.py"), *words], check=True, stdout=subprocess.DEVNULL)


def section(name: str, record: dict) -> str:
    """A study's part of the page."""
    return f"""
## {record["title"]}

{record["question"]}

`{record["command"]}` ({record["processor_seconds"]:.0f} s of processor time)

![{record["title"]}](pictures/{name}.png)

{formatting.text_table(record["rows"], markdown=True)}

**What it says.** {record["conclusion"]}

**What it does not say.** {record["limitations"]}
"""


def main() -> None:
    parser = console.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the full presets: hours")
    parser.add_argument("--parallel", type=int, default=2, help="studies at a time")
    parser.add_argument("--read", action="store_true", help="run nothing: use the stored findings")
    chosen = parser.parse_args()
    if chosen.parallel < 1:
        parser.error(f"--parallel must be at least 1, got {chosen.parallel}")
    words = ["--full"] if chosen.full else []
    if not chosen.read:
        with ThreadPoolExecutor(chosen.parallel) as pool:
            list(pool.map(lambda name: run(name, words), STUDIES))
    page, seconds = "", 0.0
    for name in STUDIES:
        folder = study.Size("full" if chosen.full else "fast", name).folder
        record = json.loads((folder / "finding.json").read_text())
        seconds += record["processor_seconds"]
        picture = Image.open(folder / "figure.png").convert("RGB").quantize(64)  # a third of the size
        atomic_write(DOCS / "pictures" / f"{name}.png", lambda file, picture=picture: picture.save(file, "png"))
        page += section(name, record)
    head = f"{HEAD}\nAll studies together took {seconds / 60:.0f} minutes of processor time.\n"
    atomic_write(DOCS / "findings.md", lambda file: file.write((head + page).encode()))
    print(f"docs/findings.md: {len(STUDIES)} studies, {seconds / 60:.1f} minutes of processor time")


if __name__ == "__main__":
    main()
