"""A whole sweep of 64 runs (4 learning rates x 16 seeds, T = 8): wall time, memory and numbers by launcher.

    python bench/sweeps.py [steps]

Every launcher runs the same command in a process of its own, in a new folder: start-up, training, probes, figures and records
included. The launchers take turns; a member of a stack is compared with the run alone by its last
weights. Memory: what each further member of a stack of 8 and of 64 adds to the process.
Writes bench/results/sweeps.md; the ratios are what is quoted.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import torch

from wavebase import provenance
from wavebase.records import RunFolder, find_runs

RATES = "0.03,0.1,0.3,0.5"
SWEEP = ("-m", "model=random", f"optim.lr_over_boundary={RATES}", "seed=range(0,16)", "T=8", "threads=1")
LAUNCHERS = {
    "stacked": ("hydra/launcher=stacked",),
    "basic": (),
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
}
RESULT = Path(__file__).parent / "results" / "sweeps.md"


def command(folder: Path, *words: str) -> tuple[float, float, float]:
    """(wall seconds, CPU seconds, peak MiB) of `python -m wavebase.run` with these words."""
    began = time.perf_counter()
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen([sys.executable, "-m", "wavebase.run", *words], stdout=said, stderr=said, cwd=folder)
        _, status, usage = os.wait4(process.pid, 0)  # the CPU time of processes of its own too
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(
            f"wavebase.run must end well, got {process.returncode}: {(folder / 'said').read_text()[-500:]}"
        )
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def ends(folder: Path) -> dict[str, RunFolder]:
    """A sweep's runs by what distinguishes them."""
    runs = {}
    for run in find_runs(folder):
        summary = run.summary()
        assert summary is not None and summary["status"] == "done", run.path
        runs[f"{summary['optim']['lr_over_boundary']:.6g} {summary['seed']}"] = run
    return runs


def difference(one: dict[str, RunFolder], other: dict[str, RunFolder]) -> tuple[float, int]:
    """Largest relative difference of last weights over all runs, and how many runs agree bit for bit."""
    assert one.keys() == other.keys() and len(one) == 64, (len(one), len(other))
    worst, equal = 0.0, 0
    for name, run in one.items():
        a, b = (r.load_checkpoint(r.checkpoint_steps()[-1])["weights"] for r in (run, other[name]))
        equal += all(torch.equal(a[key], b[key]) for key in a)
        worst = max(worst, *(float((a[key] - b[key]).norm() / a[key].norm().clamp_min(1e-300)) for key in a))
    return worst, equal


def main() -> None:
    """Measure, print and write."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    turns = 3
    words = [*SWEEP, f"train.steps={steps}"]
    offered = {k: v for k, v in LAUNCHERS.items() if k != "joblib" or find_spec("hydra_plugins.hydra_joblib_launcher")}
    walls: dict[str, list[float]] = {name: [] for name in offered}
    cpus: dict[str, list[float]] = {name: [] for name in offered}
    with tempfile.TemporaryDirectory() as root:
        for turn in range(turns):
            for name, launcher in offered.items():
                folder = Path(root) / f"{name}{turn}"
                folder.mkdir()
                wall, cpu, _ = command(folder, *words, *launcher, f"hydra.sweep.dir={folder}/sweep")
                walls[name].append(wall)
                cpus[name].append(cpu)
                print(f"turn {turn}: {name} {wall:.1f} s wall, {cpu:.1f} s CPU", flush=True)
        worst, equal = difference(ends(Path(root) / "basic0"), ends(Path(root) / "stacked0"))
        memory = {}
        for members in (1, 8, 64):
            folder = Path(root) / f"memory{members}"
            folder.mkdir()
            seeds = f"seed=range(0,{members})" if members > 1 else "seed=0"
            plain = [
                "-m",
                "model=random",
                seeds,
                "T=8",
                "threads=1",
                f"train.steps={min(steps, 50)}",
                "probe.figures=[]",
            ]
            memory[members] = command(folder, *plain, "hydra/launcher=stacked", f"hydra.sweep.dir={folder}/sweep")[2]
    median = {name: statistics.median(values) for name, values in walls.items()}
    each = {members: (memory[members] - memory[1]) / (members - 1) for members in (8, 64)}
    lines = [
        f"# A sweep of 64 runs: 4 learning rates x 16 seeds, T = 8, {steps} steps, float64, two cores",
        "",
        f"`python bench/sweeps.py {steps}`, medians of {turns}; {provenance.versions()}".replace("'", ""),
        "",
        "| launcher | wall s | CPU s | basic / this, wall |",
        "|---|---|---|---|",
        *(
            f"| {name} | {median[name]:.1f} | {statistics.median(cpus[name]):.1f} | {median['basic'] / median[name]:.2f} |"
            for name in offered
        ),
        "",
        f"Stacked against basic: last weights of all 64 runs differ by at most {worst:.2g} relative; {equal} of 64 agree bit for bit.",
        f"Peak memory of the process: {memory[1]:.0f} MiB with one member, {memory[8]:.0f} with 8, {memory[64]:.0f} with 64: "
        f"{each[8]:.2f} MiB for each further one of 8, {each[64]:.2f} of 64.",
    ]
    RESULT.write_text("\n".join(lines) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
