"""How long does a command take before anything is computed? New processes, warm disk, medians.

    python bench/startup.py [turns]

The last is a whole run of one step without figures: no less than the time to the first training step of any run.
Writes bench/results/startup.md.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from wavebase import provenance

COMMANDS = {
    "--help": ("--help",),
    "--cfg job": ("--cfg", "job"),
    "one step": ("train.steps=1", "probe.figures=[]", "hydra.run.dir=run"),
}
RESULT = Path(__file__).parent / "results" / "startup.md"


def seconds(words: tuple[str, ...]) -> float:
    """Wall time of `python -m wavebase.run` with these words, in a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "wavebase.run", *words], cwd=folder, capture_output=True, check=True)
        return time.perf_counter() - began


def main() -> None:
    """Measure, print and write."""
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    for words in COMMANDS.values():
        seconds(words)
    times = {name: [] for name in COMMANDS}
    for _ in range(turns):
        for name, words in COMMANDS.items():
            times[name].append(seconds(words))
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions().items())
    rows = [
        f"| `{' '.join(COMMANDS[name])}` | {statistics.median(t):.2f} | {min(t):.2f} |" for name, t in times.items()
    ]
    head = ["# Start-up, wall seconds", "", f"`python bench/startup.py`, {turns} turns; {versions}", ""]
    RESULT.write_text(
        "\n".join([*head, "| `python -m wavebase.run` | median | least |", "|---|---|---|", *rows]) + "\n"
    )
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
