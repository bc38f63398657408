"""How long does a command take before it is at work? New processes, warm disk, wall seconds, medians.

    python bench/startup.py [turns]

Help, the configuration, and a default run up to the end of its first training step: by then it has been built and judged at its
start, lambda_max has been measured, and its weights have been drawn. Writes bench/results/startup.md.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from wavebase.records import provenance

RUN = [sys.executable, "-m", "wavebase.run"]
STOP = """
import os
from wavebase import run
from wavebase.training.trainer import SingleTrainer
update = SingleTrainer.update
SingleTrainer.update = lambda self, step: (update(self, step), os._exit(0))
run.main()
"""
COMMANDS = {
    "`python -m wavebase.run --help`": [*RUN, "--help"],
    "`python -m wavebase.run --cfg job`": [*RUN, "--cfg", "job"],
    "`python -m wavebase.run`, first training step": [sys.executable, "-c", STOP, "hydra.run.dir=run"],
    "`import torch` and one step of `torch.optim.SGD`, for comparison": [
        sys.executable,
        "-c",
        "import torch; p = torch.zeros(1, requires_grad=True); p.sum().backward(); torch.optim.SGD([p], 0.1).step()",
    ],
}
RESULT = Path(__file__).parent / "results" / "startup.md"


def seconds(command: list[str]) -> float:
    """Wall time of a command in a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run(command, cwd=folder, capture_output=True, check=True)
        return time.perf_counter() - began


def main() -> None:
    """Measure, print and write."""
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    times = {name: [] for name in COMMANDS}
    for turn in range(turns + 1):
        for name, command in COMMANDS.items():
            taken = seconds(command)
            if turn:  # the first warms the disk
                times[name].append(taken)
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions().items())
    rows = [f"| {name} | {statistics.median(taken):.2f} | {min(taken):.2f} |" for name, taken in times.items()]
    head = ["# Start-up, wall seconds", "", f"`python bench/startup.py`, {turns} turns; {versions}", ""]
    RESULT.write_text("\n".join([*head, "| | median | least |", "|---|---|---|", *rows]) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
