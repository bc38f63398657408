"""Memory over time: of a long run, of a sweep of many short runs, and of measuring a large window's curvature.

    python bench/memory.py long [--steps 200000]     T = 2: memory between step 10,000 and the end, checkpoints, folder
    python bench/memory.py jobs [--jobs 5000]        5 steps each by the stacked launcher: all processes together, the report
    python bench/memory.py curvature [--window 128]  the curvature that sets the default run's rate: the first product

The first two run the command line in a process of its own. What forked processes share counts once, and so do the files
that they map, such as torch's libraries, whatever else runs on the machine. Linux only.
"""

import argparse
import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from wavebase.cli.names import conf_folder
from wavebase.experiment import build, config
from wavebase.probes.curvature import Hessian, loss_terms

FEW = ("probe.figures=[]", "probe.curvature=false", "probe.measure=[function.held_out_error]")
MIB = 2**20


class Sample(NamedTuple):
    """Memory of a command's processes, MiB; `place`: how far it had got."""

    seconds: float
    mib: float
    place: int


def together(session: int) -> float:
    """Return the memory of every process of a session, MiB."""
    own, files = 0, 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, LookupError):  # it has ended
                if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                    text = (entry / "smaps_rollup").read_text()
                    kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)}
                    own += kib["Pss_Anon"]
                    files = max(files, kib["Rss"] - kib["Anonymous"])
    return (own + files) / 1024


def watched(folder: Path, place, *words: str) -> tuple[list[Sample], float]:
    """Run `python -m wavebase.run` with these words; returns samples of its memory and its CPU seconds.

    Args:
        place: Returns how far it has got.
    """
    samples: list[Sample] = []
    began = time.monotonic()
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "wavebase.run", *words], cwd=folder, stdout=said, stderr=said, start_new_session=True
        )
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.25):
                samples.append(Sample(time.monotonic() - began, together(process.pid), place()))

        watcher = threading.Thread(target=watch)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        watcher.join()
    text = (folder / "said").read_text(errors="replace")
    if process.returncode:
        raise SystemExit(f"wavebase.run must end well, got {process.returncode}: {text[-500:]}")
    return samples, usage.ru_utime + usage.ru_stime


def long(folder: Path, steps: int) -> None:
    """Measure a run of many steps."""
    run = folder / "run"

    def step() -> int:
        try:
            with (run / "metrics.jsonl").open("rb") as file:
                file.seek(max(0, os.stat(file.fileno()).st_size - 4096))
                return int(json.loads(file.read().rpartition(b"\n")[0].splitlines()[-1])["step"])
        except (OSError, LookupError, ValueError):
            return 0

    words = ("T=2", "model=random", "optim.lr=1e-3", f"train.steps={steps}", "train.keep_checkpoints=5")
    samples, cpu = watched(folder, step, *words, f"hydra.run.dir={run}")
    first = next(sample for sample in samples if sample.place >= min(10_000, steps // 20))
    rest = [sample.mib for sample in samples if sample.place >= first.place and sample.place < steps]
    print(f"{steps} steps, {cpu:.0f} s of CPU time")
    print(f"memory at step {first.place}: {first.mib:.0f} MiB; until the end {min(rest):.0f} to {max(rest):.0f} MiB")
    print(f"change from step {first.place} to the last: {100 * (rest[-1] / first.mib - 1):+.1f} %")
    print(f"peak, with figures at the end: {max(sample.mib for sample in samples):.0f} MiB")
    files = [file for file in run.rglob("*") if file.is_file()]
    print(f"checkpoints kept: {len(list(run.glob('checkpoints/*.pt')))}")
    print(f"folder: {sum(file.stat().st_size for file in files) / MIB:.1f} MiB in {len(files)} files")


def jobs(folder: Path, count: int) -> None:
    """Measure a sweep of many short runs."""
    sweep = folder / "sweep"

    def done() -> int:
        return sum(1 for _ in sweep.glob("*/summary.json"))

    words = ("-m", "hydra/launcher=stacked", "T=2", "model=random", "optim.lr=0.01", "train.steps=5", *FEW)
    samples, cpu = watched(folder, done, *words, f"seed=range(0,{count})", f"hydra.sweep.dir={sweep}")
    trained = next(sample.seconds for sample in samples if sample.place == count)
    print(f"{count} jobs, {cpu:.0f} s of CPU time, {1000 * cpu / count:.0f} ms each; {samples[-1].seconds:.0f} s")
    for share in (0.1, 0.25, 0.5, 0.75, 1.0):
        at = next(sample for sample in samples if sample.place >= share * count)
        print(f"memory with {at.place} jobs done: {at.mib:.0f} MiB")
    print(f"before the first job is done: {max(s.mib for s in samples if s.place == 0):.0f} MiB")
    print(f"peak: {max(sample.mib for sample in samples):.0f} MiB")
    print(f"report: {samples[-1].seconds - trained:.0f} s")


def curvature(folder: Path, window: int) -> None:
    """Measure a product of one part of the Hessian that the default run multiplies at its start: all parts are alike."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", [f"T={window}"])
    torch.set_num_threads(1)
    cfg = config.parse(OmegaConf.to_container(cfg, resolve=True))
    _, task, net = build._build_task_and_net(cfg)
    batch = task.sample_batch(cfg.probe.curvature_batch, cfg.generator("probe"))
    terms = loss_terms(net, task.loss, *batch, net.parameters(), task.mean_over_sequences)
    print(f"T = {window}: {len(terms)} parts of {len(batch[0])} sequences")
    product = Hessian(terms[0], net.parameters())
    product.product(np.random.default_rng(0).standard_normal(sum(product.sizes)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak: {peak:.2f} GiB, {time.process_time():.0f} s of CPU time")


def main() -> None:
    """Measure one of the three, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("long", "jobs", "curvature"))
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--window", type=int, default=128)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure, size = {
            "long": (long, asked.steps),
            "jobs": (jobs, asked.jobs),
            "curvature": (curvature, asked.window),
        }[asked.what]
        measure(Path(folder), size)


if __name__ == "__main__":
    main()
