"""Kill sweeps of every launcher at random moments, run them again, and compare every record with an undisturbed sweep's.

    python tests/kill_sweeps.py [kills=200] [seed=0] [minutes=60] [launchers=basic,stacked,...]

The processes are forked from one that has everything imported; a share of the sweeps runs in fresh interpreters. A sweep is
killed up to eight times and then run until it ends. After a kill every file that is left must be readable, and
the process must end by itself where it was only asked to. The records must be equal bit for bit; to 1e-6 where a stack may
be continued with fewer members. Linux only. The CPU time is without that of orphans.
"""

from __future__ import annotations

import collections
import functools
import importlib.util
import json
import math
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

import hydra_once
from killable import KINDS, Sweep, run_directly, strike, warm
from same_records import contents, readable, same
from wavebase.records.folder import find_runs

SETTINGS = (
    "T=4", "model=perturbed", "optim=adam", "optim.schedule=cosine", "train.batch=4", "train.log_every=1",
    "task.held_out_count=8", "probe.figures=[]", "probe.curvature=false", "probe.curvature_batch=8",
    "probe.measure=[function.held_out_error]",
)  # fmt: skip
TOLERANCE = 1e-6
PATIENCE = 15  # seconds for orphans; idle ones of joblib would stay for minutes


class Launcher(NamedTuple):
    """One way to run a sweep.

    Attributes:
        words: Of the command line.
        plugin: The package that it needs.
        forks: Whether a forked copy of this process can run it; its workers then need no imports.
        workers: Whether it has processes of its own; stacks: whether it trains several runs together.
        weight: How often it is drawn.
    """

    words: tuple[str, ...]
    plugin: str | None = None
    forks: bool = True
    workers: bool = False
    stacks: bool = False
    weight: int = 2


LAUNCHERS = {
    "basic": Launcher(("hydra/launcher=basic",)),
    "stacked": Launcher(("hydra/launcher=stacked", "hydra.launcher.processes=1"), stacks=True),
    "stacked_2": Launcher(("hydra/launcher=stacked", "hydra.launcher.processes=2"), workers=True, stacks=True),
    "joblib": Launcher(("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"), "hydra_joblib_launcher", workers=True),
    "submitit_local": Launcher(
        ("hydra/launcher=submitit_local", "hydra/sweeper=stacks", "hydra.sweeper.size=2"),
        "hydra_submitit_launcher", workers=True, stacks=True,
    ),
    "ray": Launcher(
        ("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.include_dashboard=false"),
        "hydra_ray_launcher", False, True, weight=1,
    ),
}  # fmt: skip


def installed(plugin):
    """Whether a Hydra plugin can be imported."""
    try:
        return plugin is None or importlib.util.find_spec(f"hydra_plugins.{plugin}") is not None
    except ModuleNotFoundError:
        return False


class Campaign:
    """Kills over several launchers.

    Args:
        names: Of the launchers; those that are not installed are left out and listed in `skipped`.
        fresh: Share of the sweeps of forking launchers that fresh interpreters run all the same.
        nodes: Resolved configurations of the jobs, to run them directly and not by the command line.
    """

    def __init__(self, root, seed, names, steps=60, jobs=2, fresh=0.05, nodes=None):
        self.root, self.draw, self.steps, self.jobs, self.fresh = root, random.Random(seed), steps, jobs, fresh
        self.skipped = [name for name in names if not installed(LAUNCHERS[name].plugin)]
        self.names = [name for name in names if name not in self.skipped]
        self.kills, self.places, self.records = collections.Counter(), collections.Counter(), collections.Counter()
        self.tracebacks, self.orphans, self.sweeps, self.fresh_kills = [], 0, 0, 0
        self.whole, self.lasted = {}, {}
        torch.set_num_threads(1)
        self.nodes = nodes
        if nodes is None:
            warm(root / "warm", [*self.words("stacked"), "train.steps=2"])

    def words(self, name):
        """Return a launcher's command line."""
        lengths = (
            f"train.steps={self.steps}",
            f"train.checkpoint_every={self.steps // 10}",
            f"probe.every={self.steps // 4}",
        )
        return [
            "-m",
            *LAUNCHERS[name].words,
            *SETTINGS,
            *lengths,
            f"seed=range(0,{self.jobs})",
            "hydra.sweep.dir=sweep",
        ]

    def act(self, name):
        """Return what a sweep's process does instead of the command line, or None."""
        if self.nodes is None:
            return None
        return functools.partial(run_directly, self.nodes, {"basic": 0, "stacked": 1, "stacked_2": 2}[name])

    def undisturbed(self, name, fork):
        """Measure how long a sweep takes; the first one's records are what all of this launcher are compared with."""
        if (name, fork) in self.lasted:
            return
        root, began = self.root / f"whole{len(self.lasted)}", time.monotonic()
        sweep = Sweep(root, self.words(name), fork, self.act(name))
        assert sweep.wait(name) == 0, sweep.said()
        self.lasted[name, fork] = time.monotonic() - began
        found = {run.path.name: contents(run.path) for run in find_runs(root / "sweep")}
        assert len(found) == self.jobs and all(len(one["metrics"]) == self.steps + 5 for one in found.values())
        self.whole.setdefault(name, found)

    def go(self, kills, most=8, seconds=math.inf):
        """Kill so many times, unless the time is over before.

        Args:
            most: Kills of one sweep.
        """
        began = time.monotonic()
        while self.kills.total() < kills and time.monotonic() - began < seconds:
            self.trial(min(self.draw.randint(1, most), kills - self.kills.total()))
            print(f"{self.kills.total()} kills, {time.monotonic() - began:.0f} s", flush=True)

    def trial(self, most):
        """Kill one sweep up to `most` times, run it until it ends, and compare its records."""
        self.sweeps += 1
        name = self.draw.choices(self.names, [LAUNCHERS[each].weight for each in self.names])[0]
        launcher = LAUNCHERS[name]
        fork = launcher.forks and self.draw.random() >= self.fresh
        self.undisturbed(name, fork)
        root, kinds = (
            self.root / f"cut{self.sweeps}",
            [kind for kind in KINDS if launcher.workers or kind != "one worker"],
        )
        where = f"sweep {self.sweeps}, {name}, {'forked' if fork else 'fresh interpreter'}"
        killed = []
        for _ in range(most):
            kind, longest = self.draw.choice(kinds), self.lasted[name, fork]
            moment = self.draw.uniform(0, min(1, longest) if self.draw.random() < 0.3 else longest)
            sweep = Sweep(root, self.words(name), fork, self.act(name))
            until = time.monotonic() + moment
            while sweep.status() is None and time.monotonic() < until:
                time.sleep(min(0.005, max(0, until - time.monotonic())))
            if not strike(sweep, kind, self.draw):
                sweep.wait(where)
                break
            killed.append(sweep)
            self.kills[name, kind] += 1
            self.fresh_kills += not fork
            self.places[self.left(root)] += 1
            if kind != "all processes" and "Traceback" in (said := sweep.said()):
                self.tracebacks.append(f"{where}, {kind} at {moment:.2f} s:\n{said}")
            if self.draw.random() < 0.5:  # otherwise orphans still write when the sweep is run again
                self.bury(sweep)
        self.finish(where, name, root, fork)
        for sweep in killed:  # idle workers of joblib, whose parent was killed
            sweep.kill_all()
        self.compare(where, name, root)

    def left(self, root):
        """Read what a killed sweep left; returns the place of its latest run."""
        folders = sorted(file.parent for file in root.glob("sweep/*/config.yaml"))
        places = [readable(folder, self.steps) for folder in folders]
        return next(
            (place for place in reversed(places) if place != "after the summary"),
            places[-1] if places else readable(root),
        )

    def bury(self, sweep):
        """Wait for the orphans of a parent that was killed; kill those that a few seconds do not end."""
        until = time.monotonic() + PATIENCE
        while sweep.members():
            if time.monotonic() > until:
                self.orphans += len(sweep.members())
                sweep.kill_all()
            time.sleep(0.02)

    def finish(self, where, name, root, fork):
        """Run the sweep until every run is done: again where orphans of a killed parent still wrote."""
        for _ in range(5):
            sweep = Sweep(root, self.words(name), fork, self.act(name))
            status = sweep.wait(where)
            self.bury(sweep)
            if status == 0 and len(list(root.glob("sweep/*/summary.json"))) == self.jobs and self.done(root):
                return
            assert status == 0 or "written now by" in sweep.said() or "got process" in sweep.said(), (
                f"{where}: status {status}\n{sweep.said()}"
            )
        raise AssertionError(f"{where}: five more runs did not end it\n{sweep.said()}")

    @staticmethod
    def done(root):
        return all(json.loads(file.read_text())["status"] == "done" for file in root.glob("sweep/*/summary.json"))

    def compare(self, where, name, root):
        """Compare every record; count those that are equal and those that are close."""
        found = {run.path.name: run.path for run in find_runs(root / "sweep")}
        assert found.keys() == self.whole[name].keys(), f"{where}: {sorted(found)}"
        for job, folder in found.items():
            record = contents(folder)
            # a run that was asked to stop leaves a checkpoint of that step too
            steps = self.whole[name][job]["checkpoints"].keys()
            record["checkpoints"] = {step: held for step, held in record["checkpoints"].items() if step in steps}
            difference = same(self.whole[name][job], record)
            if difference is not None and LAUNCHERS[name].stacks:
                self.records[name, "to 1e-6"] += 1
                difference = same(self.whole[name][job], record, tolerance=TOLERANCE)
            else:
                self.records[name, "bit for bit"] += 1
            assert difference is None, f"{where}: {job} differs at {difference}; see {folder}"

    def table(self):
        """Return the counts as lines of text."""
        lines = [f"{'kills':<22}" + "".join(f"{kind:>18}" for kind in KINDS)]
        lines += [
            f"{name:<22}" + "".join(f"{self.kills[name, kind] or '-':>18}" for kind in KINDS) for name in self.names
        ]
        lines += [f"{name:<22}not installed, skipped" for name in self.skipped]
        lines += [f"{count:5d} {place}" for place, count in self.places.most_common()]
        lines += [f"{count:5d} records of {name} equal {how}" for (name, how), count in sorted(self.records.items())]
        lines += [f"{self.fresh_kills:5d} kills of fresh interpreters, the others of forked ones"]
        return "\n".join(
            [
                *lines,
                f"{self.orphans:5d} orphans that had to be killed",
                f"{len(self.tracebacks):5d} kills with a traceback",
            ]
        )


def main():
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    kills, minutes = int(options.get("kills", 200)), float(options.get("minutes", 60))
    names = options["launchers"].split(",") if "launchers" in options else list(LAUNCHERS)
    began, root = time.monotonic(), Path(tempfile.mkdtemp(prefix="kill_sweeps"))
    with hydra_once.remembering():
        campaign = Campaign(root, int(options.get("seed", 0)), names)
        try:
            campaign.go(kills, seconds=60 * minutes)
        finally:
            print("\n".join(campaign.tracebacks[:20]))
            print(campaign.table(), flush=True)
    used = sum(os.times()[:4])
    shutil.rmtree(root)  # a difference leaves the folders to look at
    seconds = f"{time.monotonic() - began:.0f} s, {used:.0f} s of CPU time"
    print(f"{campaign.kills.total()} kills in {campaign.sweeps} sweeps, {seconds}, no difference")


if __name__ == "__main__":
    main()
