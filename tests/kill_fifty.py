"""Kill runs with SIGKILL at random moments, continue them, and compare every record with the uninterrupted ones.

    python tests/kill_fifty.py [kills=50] [seed=0]

A run is a forked process that does what `wavebase.run` does after composing; it is killed at a moment drawn evenly from
the time that the uninterrupted run takes, started again, perhaps killed once more, and started until it ends. Every second one is a stack of
two runs. Only times, and what hangs on their digits (the length and hash of metrics.jsonl), may differ.
"""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wavebase.cli import names
from wavebase.experiment import runner, stacked
from wavebase.records.folder import RunFolder

TIMES = ("seconds", "training_seconds", "metrics_bytes", "metrics_sha256", "git", "parts")  # and who commits meanwhile
SETTINGS = (
    "T=4", "model=perturbed", "optim=adam", "optim.schedule=cosine", "train.batch=4", "train.log_every=1",
    "task.held_out_count=8", "probe.figures=[]", "probe.curvature=false", "probe.curvature_batch=8",
)  # fmt: skip


def configurations(steps):
    """The resolved configurations of two runs that differ in their seeds, of 11 checkpoints and five measurements each."""
    words = (*SETTINGS, f"train.steps={steps}", f"train.checkpoint_every={steps // 10}", f"probe.every={steps // 4}")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(names.conf_folder()), version_base="1.3"):
        return [OmegaConf.to_container(compose("config", [*words, f"seed={seed}"]), resolve=True) for seed in (0, 1)]


def refuse(job, error):
    raise error


def started(nodes, folder):
    """The process of a run, or of a stack where there are several configurations."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        ran(nodes, folder)
        status = 0
    finally:
        os._exit(status)


def ran(nodes, folder):
    """Run them in this process."""
    listed = [runner.Job(node, folder / str(n), {"model": "test"}) for n, node in enumerate(nodes)]
    if len(listed) == 1:
        runner.run(listed[0], single=False)
    else:
        stacked.run_stacked(listed, 64, refuse)


def ends(pid, seconds):
    """Whether the process ended by itself within that time; it is killed otherwise."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, f"the run failed with status {status}"
            return True
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def contents(folder):
    """Everything a run folder holds, read; raises if any of it is unreadable. Times are left out."""
    found = RunFolder(folder)
    texts = [json.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        "metrics": [without_times(line) for line in texts],
        "checkpoints": {step: without_times(found.load_checkpoint(step)) for step in found.checkpoint_steps()},
        "summary": without_times(found.summary()),
        "examples": {name: array.tobytes() for name, array in found.examples().items()},
        "figures": {file.name: file.read_bytes() for file in sorted(folder.glob("figures/*"))},
        "events": {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]},
        "others": sorted(f.name for f in folder.rglob("*") if f.name.endswith(".part")),
    }


def without_times(mapping):
    return {key: value for key, value in mapping.items() if key not in TIMES}


def same(one, two, where=""):
    """The first place where two records differ, or None; tensors are compared bit for bit."""
    if type(one) is not type(two):
        return where
    if isinstance(one, torch.Tensor):
        equal = one.dtype == two.dtype and one.shape == two.shape and one.numpy().tobytes() == two.numpy().tobytes()
        return None if equal else where
    if isinstance(one, dict):
        if one.keys() != two.keys():
            return f"{where}: keys"
        return next((d for key in one if (d := same(one[key], two[key], f"{where}/{key}"))), None)
    if isinstance(one, list | tuple):
        if len(one) != len(two):
            return f"{where}: length"
        return next(
            (d for n, (a, b) in enumerate(zip(one, two, strict=True)) if (d := same(a, b, f"{where}/{n}"))), None
        )
    return None if one == two or (one != one and two != two) else f"{where}: {one} and {two}"


def readable(folder, last=200):
    """Where a killed run had got to, after every file that it left has been read."""
    if not folder.exists() or not (folder / "config.yaml").exists():
        return "before anything was written"
    assert OmegaConf.load(folder / "config.yaml").T == 4
    found = RunFolder(folder)
    found.metrics()
    steps = found.checkpoint_steps()
    for step in steps:
        found.load_checkpoint(step)
    if (folder / "examples.npz").exists():
        found.examples()
    for file in folder.glob("figures/*.png"):
        Image.open(file).verify()
    if found.summary() is not None:
        return "after the summary"
    return (
        "before the first checkpoint"
        if not steps
        else "while the results are written"
        if steps[-1] == last
        else "in training"
    )


def kill_and_compare(kills, seed, root, steps=200):
    """Kill as often as told; returns where the kills hit. Raises AssertionError at the first difference."""
    draw, nodes, hits = random.Random(seed), configurations(steps), collections.Counter()
    whole, longest = {}, {}
    torch.set_num_threads(1)
    ran(nodes[:1], root / "warm")  # whatever is imported late is imported before the first fork
    for kind in (1, 2):
        began = time.monotonic()
        ran(nodes[:kind], root / f"whole{kind}")
        longest[kind] = time.monotonic() - began
        whole[kind] = [contents(root / f"whole{kind}" / str(n)) for n in range(kind)]
        assert len(whole[kind][0]["metrics"]) == steps + 5 and len(whole[kind][0]["checkpoints"]) == 11
    trial = 0
    while sum(hits.values()) < kills:
        trial += 1
        kind, folder = 1 + trial % 2, root / f"cut{trial}"
        moments = [draw.uniform(0, longest[kind]) for _ in range(min(2, kills - sum(hits.values())))] + [600]
        for moment in moments:
            if ends(started(nodes[:kind], folder), moment):
                break
            hits[readable(folder / "0", steps)] += 1
        for n in range(kind):
            difference = same(whole[kind][n], contents(folder / str(n)))
            assert difference is None, f"seed {seed}, trial {trial}: {difference} differs"
    return hits, trial


def main():
    options = dict(word.split("=") for word in sys.argv[1:])
    kills, seed = int(options.get("kills", 50)), int(options.get("seed", 0))
    with tempfile.TemporaryDirectory() as root:
        began = time.monotonic()
        hits, trials = kill_and_compare(kills, seed, Path(root))
    print(f"{sum(hits.values())} kills in {trials} runs and stacks, {time.monotonic() - began:.0f} s, no difference:")
    for where, count in hits.most_common():
        print(f"  {count:3d} {where}")


if __name__ == "__main__":
    main()
