"""Read everything that a run folder holds, and compare two of them bit for bit or to a tolerance."""

from __future__ import annotations

import itertools
import json
import math

import torch
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wavebase.records.folder import RunFolder

# times, what depends on their digits, and a commit that somebody makes meanwhile
TIMES = ("seconds", "training_seconds", "metrics_bytes", "metrics_sha256", "git", "parts")


def contents(folder):
    """Return everything a run folder holds except times; raises if any of it is unreadable."""
    found = RunFolder(folder)
    texts = [json.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        "metrics": [without_times(line) for line in texts],
        "checkpoints": {step: without_times(found.load_checkpoint(step)) for step in found.checkpoint_steps()},
        "summary": without_times(found.summary()),
        "examples": {name: torch.from_numpy(array) for name, array in found.examples().items()},
        "figures": {file.name: file.read_bytes() for file in sorted(folder.glob("figures/*"))},
        "events": {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]},
        "others": sorted(f.name for f in folder.rglob("*") if f.name.endswith(".part")),
    }


def without_times(mapping):
    return {key: value for key, value in mapping.items() if key not in TIMES}


def same(one, two, where="", tolerance=0.0):
    """Return the first place where two records differ, or None.

    Args:
        tolerance: 0 to compare bit for bit; else the largest difference of two numbers, relative to the larger of 1 and
            the largest number of their tensor. Texts that print numbers are not compared then.
    """
    if type(one) is not type(two):
        return where
    if isinstance(one, torch.Tensor):
        if one.dtype != two.dtype or one.shape != two.shape:
            return f"{where}: dtype or shape"
        if one.numpy().tobytes() == two.numpy().tobytes():
            return None
        size = max(1.0, float(one.abs().max())) if one.is_floating_point() else 0.0
        return None if bool(((one - two).abs() <= tolerance * size).all()) and tolerance * size else where
    if isinstance(one, dict):
        if one.keys() != two.keys():
            return f"{where}: keys"
        return next((d for key in one if (d := same(one[key], two[key], f"{where}/{key}", tolerance))), None)
    if isinstance(one, list | tuple):
        if len(one) != len(two):
            return f"{where}: length"
        pairs = zip(itertools.count(), one, two, strict=False)
        return next((d for n, a, b in pairs if (d := same(a, b, f"{where}/{n}", tolerance))), None)
    if one == two or (one != one and two != two):
        return None
    if tolerance and isinstance(one, float) and math.isclose(one, two, rel_tol=tolerance, abs_tol=tolerance):
        return None
    if tolerance and isinstance(one, str) and any(letter.isdigit() for letter in one):
        return None
    return f"{where}: {one} and {two}"


def readable(folder, last=200):
    """Read every file that a killed run left; return where the run had got to.

    Args:
        last: The step of a complete run.
    """
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
    summary = found.summary()
    if summary is not None and summary["status"] == "done":
        return "after the summary"
    if not steps:
        return "before the first checkpoint"
    return "while the results are written" if steps[-1] == last else "in training"
