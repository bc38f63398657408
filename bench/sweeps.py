"""A whole sweep of 64 runs (4 learning rates x 16 seeds, T = 8): wall time and numbers by launcher; memory of a stack.

    python bench/sweeps.py [--steps 500] [--turns 3]

Every launcher runs the same command in a process of its own, in a new folder: start-up, training, probes, figures, records and
the report at the end. The launchers take turns. Each run of the first sweep through the stacked launcher is compared with the one
through the basic launcher by its last weights. Sweeps of fewer seeds show what a job costs in a sweep of 4, 16 and 64. Memory: what
a stack of 1, 8 and 64 adds to the peak of a process that has run something tiny, without figures. A step of a stack's nets is timed
in turns, as sweeps take it, and as one program. At last, what the time of a stacked sweep is spent on. Writes bench/results/sweeps.md;
the ratios are what is quoted.
"""

import argparse
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from wavebase.cli.names import conf_folder
from wavebase.experiment import build, config, runner, session, stacked
from wavebase.records import provenance
from wavebase.records.folder import RunFolder, find_runs
from wavebase.report import write
from wavebase.tasks.power_spectrum import PowerSpectrum
from wavebase.theory import boundaries
from wavebase.training import stacks, trainer

RATES, SEEDS = 4, 16
SWEEP = ("-m", "model=random", "optim.lr_over_boundary=0.03,0.1,0.3,0.5", f"seed=range(0,{SEEDS})", "T=8", "threads=1")
FEWER = (1, 4)  # seeds of the sweeps that show the cost of a job against their number
LAUNCHERS = {
    "stacked": ("hydra/launcher=stacked",),
    "stacked, one process": ("hydra/launcher=stacked", "hydra.launcher.processes=1"),
    "basic": (),
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
}
STACKS = (1, 8, 64)
REST = "all else"
PARTS = {
    "forward, loss and gradient": [(trainer.SingleTrainer, "losses"), (stacks.StackedTrainer, "losses")],
    "updates": [(trainer.SingleTrainer, "update"), (stacks.StackedTrainer, "update")],
    "fresh batches": [(PowerSpectrum, "sample_batch")],
    "probes": [(session.Session, "_observe")],
    "the learning rate's boundary, once a start": [(boundaries, "measure")],
    "preparing a job: configuration, task, net": [(stacked, "prepare")],
    "checkpoints and other records": [(session.Session, "_save"), (RunFolder, "log")],
    "the ends of runs: verdict, summary, examples": [(session.Session, "end"), (session.Session, "finish")],
    "the report": [(write, "write")],
    REST: [],
}
RESULT = Path(__file__).parent / "results" / "sweeps.md"


def command(folder: Path, *words: str) -> tuple[float, float]:
    """(wall seconds, CPU seconds) of `python -m wavebase.run` with these words."""
    began = time.perf_counter()
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen([sys.executable, "-m", "wavebase.run", *words], stdout=said, stderr=said, cwd=folder)
        _, status, usage = os.wait4(process.pid, 0)  # the CPU time of processes of its own too
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(
            f"wavebase.run must end well, got {process.returncode}: {(folder / 'said').read_text()[-500:]}"
        )
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime


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


def memory(members: int) -> float:
    """MiB that training this many as one stack adds to the peak of this process, a new one."""

    def job(name: str, *words: str) -> runner.Job:
        plain = ("model=random", "optim.lr=0.01", "train.steps=50", "probe.figures=[]", "probe.curvature=false")
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            cfg = compose("config", [*plain, *words, "hydra.run.dir=unused"])
        return runner.Job(OmegaConf.to_container(cfg, resolve=True), Path(folder) / name, {})  # type: ignore[arg-type]

    def failed(job: runner.Job, error: Exception) -> None:
        raise error

    with tempfile.TemporaryDirectory() as folder:
        stacked.run_stacked([job("tiny", "T=3", "train.batch=1")], 1, failed)
        stack = [job(str(seed), "T=8", f"seed={seed}") for seed in range(members)]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        stacked.run_stacked(stack, members, failed)
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def shares(steps: int) -> dict[str, float]:
    """Seconds of CPU time of 16 jobs in one stack, by what they are spent on; what calls another is less the other."""
    spent: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    running: list[float] = []  # seconds of what was called, for each call that is going on

    def timed(name, function):  # type: ignore[no-untyped-def]
        def call(*given, **named):  # type: ignore[no-untyped-def]
            began = time.process_time()
            running.append(0.0)
            try:
                return function(*given, **named)
            finally:
                taken = time.process_time() - began
                spent[name] += taken - running.pop()
                if running:
                    running[-1] += taken

        return call

    def failed(job: runner.Job, error: Exception) -> None:
        raise error

    words = [word for word in SWEEP[1:] if not word.startswith(("seed=", "optim."))]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"), tempfile.TemporaryDirectory() as folder:
        nodes = [
            compose("config", [*words, f"train.steps={steps}", f"seed={seed}", f"optim.lr_over_boundary={rate}", "hydra.run.dir=unused"])
            for seed in range(4) for rate in (0.03, 0.1, 0.3, 0.5)
        ]  # fmt: skip
        jobs = [
            runner.Job(OmegaConf.to_container(node, resolve=True), Path(folder) / str(n), {"model": "random"})  # type: ignore[arg-type]
            for n, node in enumerate(nodes)
        ]
        with contextlib.ExitStack() as patches:
            for name, places in PARTS.items():
                for owner, attribute in places:
                    patches.enter_context(mock.patch.object(owner, attribute, timed(name, getattr(owner, attribute))))
            timed(REST, stacked.run_stacked)(jobs, len(jobs), failed)
            write.write(Path(folder))
    return spent


def turns_and_one_program(T: int, members: int = 16, rounds: int = 15) -> tuple[float, float]:
    """Milliseconds of processor time that a net's step takes in a stack: where nets take turns, and as one program."""

    def stack() -> list[trainer.TrainState]:
        found, nothing = [], lambda *_: None
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            for seed in range(members):
                words = [f"T={T}", "model=random", f"seed={seed}", "optim.lr=1e-3", "hydra.run.dir=unused"]
                cfg = config.parse(OmegaConf.to_container(compose("config", words), resolve=True))  # type: ignore[arg-type]
                made = build.build_components(cfg, learning_rate=1e-3)
                state = made.net, made.task, made.trained, made.optimizer, rate, None, cfg.generator("data")
                found.append(trainer.TrainState(*state, nothing, nothing, nothing))
        return found

    def rate(_: int) -> float:
        return 1e-3

    torch.set_num_threads(1)
    ways = [(made := stack(), kind(made)) for kind in (stacks.OneByOne, stacks.StackedTrainer)]
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for (nets, way), taken in zip(ways, times, strict=True):
            for repeat in range(4):  # the first warms the caches
                if repeat == 1:
                    began = time.process_time()
                way.losses([net.task.sample_batch(64, net.data, 0) for net in nets])
                way.update(0)
            taken.append((time.process_time() - began) / 3 / members)
    turns, program = (1e3 * statistics.median(taken) for taken in times)
    return turns, program


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--memory", type=int, metavar="MEMBERS", help="only that of one stack, in MiB")
    asked = parser.parse_args()
    if asked.memory:
        print(memory(asked.memory))
        return
    offered = {k: v for k, v in LAUNCHERS.items() if k != "joblib" or find_spec("hydra_plugins.hydra_joblib_launcher")}
    walls: dict[str, list[float]] = {name: [] for name in offered}
    cpus: dict[str, list[float]] = {name: [] for name in offered}
    with tempfile.TemporaryDirectory() as root:
        for turn in range(asked.turns):
            for n, (name, launcher) in enumerate(offered.items()):
                folder = Path(root) / f"{n}-{turn}"
                folder.mkdir()
                sweep = (*SWEEP, f"train.steps={asked.steps}", *launcher, f"hydra.sweep.dir={folder}/sweep")
                wall, cpu = command(folder, *sweep)
                walls[name].append(wall)
                cpus[name].append(cpu)
                print(f"turn {turn}: {name} {wall:.1f} s wall, {cpu:.1f} s CPU", flush=True)
        basic = list(offered).index("basic")
        worst, equal = difference(ends(Path(root) / f"{basic}-0"), ends(Path(root) / "0-0"))
        jobs = {}
        for seeds in FEWER:
            folder = Path(root) / f"fewer{seeds}"
            folder.mkdir()
            sweep = [f"seed=range(0,{seeds})" if word.startswith("seed=") else word for word in SWEEP]
            sweep += [f"train.steps={asked.steps}", *offered["stacked"], f"hydra.sweep.dir={folder}/sweep"]
            jobs[RATES * seeds] = command(folder, *sweep)
            print(f"{RATES * seeds} jobs: {jobs[RATES * seeds][0]:.1f} s wall", flush=True)
    jobs[RATES * SEEDS] = statistics.median(walls["stacked"]), statistics.median(cpus["stacked"])
    added = {}
    for members in STACKS:
        measure = [sys.executable, __file__, "--memory", str(members)]
        added[members] = float(subprocess.run(measure, capture_output=True, text=True, check=True).stdout.split()[-1])
    spent = shares(asked.steps)
    steps = {T: turns_and_one_program(T) for T in (5, 8, 16)}
    median = {name: statistics.median(values) for name, values in walls.items()}
    lines = [
        f"# A sweep of 64 runs: 4 learning rates x 16 seeds, T = 8, {asked.steps} steps, float64, two cores",
        "",
        f"`python bench/sweeps.py --steps {asked.steps}`, medians of {asked.turns}; "
        + ", ".join(f"{name} {version}" for name, version in provenance.versions().items()),
        "",
        "| launcher | wall s | CPU s | basic / this, wall |",
        "|---|---|---|---|",
        *(
            f"| {name} | {median[name]:.1f} | {statistics.median(cpus[name]):.1f} | {median['basic'] / median[name]:.2f} |"
            for name in offered
        ),
        "",
        f"Stacked against basic: last weights of all 64 runs differ by at most {worst:.2g} relative; {equal} of 64 agree bit for bit.",
        "",
        "| jobs of a sweep, stacked | wall s | CPU s | CPU s a job |",
        "|---|---|---|---|",
        *(f"| {count} | {wall:.1f} | {cpu:.1f} | {cpu / count:.2f} |" for count, (wall, cpu) in jobs.items()),
        "",
        "| members of a stack | MiB added to the process | per member, in units of one alone |",
        "|---|---|---|",
        *(f"| {n} | {added[n]:.1f} | {added[n] / n / added[1]:.2f} |" for n in STACKS),
        "",
        "| a stack of 16, float64: a net's step | in turns, ms | as one program, ms | times as fast in turns |",
        "|---|---|---|---|",
        *(
            f"| T = {T} | {turns:.3f} | {program:.3f} | {program / turns:.2f} |"
            for T, (turns, program) in steps.items()
        ),
        "",
        "| what 16 jobs of it, 4 starts in one stack, spend their time on | CPU s | share |",
        "|---|---|---|",
        *(f"| {name} | {taken:.2f} | {100 * taken / sum(spent.values()):.0f} % |" for name, taken in spent.items()),
    ]
    RESULT.write_text("\n".join(lines) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
