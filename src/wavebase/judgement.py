"""The verdict of a stored run, measured anew at each of its checkpoints: what failed first, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from wavebase import config
from wavebase.assembly import assemble, measure, snapshot
from wavebase.probes.verdict import Verdict, first_failures, judge
from wavebase.records import RecordsError, RunFolder


@dataclass(frozen=True)
class Judgement:
    """verdicts, by step of a checkpoint; first_failed: the first such step at which a condition did not hold, or None;
    start: the probes' values of the net before training."""

    verdicts: dict[int, Verdict]
    first_failed: dict[str, int | None]
    start: dict[str, float]

    @property
    def last(self) -> Verdict:
        """The verdict at the newest checkpoint."""
        return self.verdicts[max(self.verdicts)]

    def to_dict(self) -> dict[str, Any]:
        """What verdict.json holds."""
        return {
            "verdict": self.last.name,
            "reasons": self.last.reasons,
            "first_failed": self.first_failed,
            "steps": {
                step: {"verdict": verdict.name, "values": {c.name: c.value for c in verdict.conditions}}
                for step, verdict in self.verdicts.items()
            },
        }

    def table(self) -> str:
        """The verdict and its conditions, in at most 80 columns."""
        lines = [f"verdict at step {max(self.verdicts)}: {self.last.name}"]
        lines += [f"  {reason}" for reason in self.last.reasons]
        lines.append(f"{'condition':<34} {'start':>9} {'now':>9}    {'bound':>9}  first failed")
        for c in self.last.conditions:
            step = self.first_failed[c.name]
            when = "-" if step is None else f"step {step}"
            bound = f"{'>=' if c.least else '<='} {c.bound:>9.2g}"
            first = self.start.get(c.name, float("nan"))
            lines.append(f"{c.name:<34} {first:>9.2g} {c.value:>9.2g} {bound}  {when}")
        history = [f"{step} {verdict.name}" for step, verdict in self.verdicts.items()]
        return "\n".join([*lines, "by step: " + ", ".join(history)])


def judge_run(folder: RunFolder, step: int | None = None) -> Judgement:
    """Rebuild a run from its config.yaml and judge its checkpoints (or that of one step) against its start, with its own probes.

    Raises RecordsError if the folder holds no checkpoint, ConfigError if its configuration cannot be built here.
    """
    steps = folder.checkpoint_steps()
    if not steps:
        raise RecordsError(f"{folder.path} must hold checkpoints, got none; run it again with the same command")
    node = OmegaConf.to_container(OmegaConf.load(folder.path / "config.yaml"), resolve=True)
    cfg = config.parse(node)  # type: ignore[arg-type]
    first = folder.load_checkpoint(steps[0])
    pieces = assemble(cfg, first["learning_rate"], first["lambda_max"])
    begun = {name: weight.clone() for name, weight in pieces.net.named_weights().items()}
    probes = cfg.probe.functions("measure")
    start = measure(probes, snapshot(pieces, begun, 0))
    values: dict[int, dict[str, float]] = {}
    for at in steps if step is None else [step]:
        pieces.net.load_state_dict(folder.load_checkpoint(at)["net"])
        values[at] = measure(probes, snapshot(pieces, begun, at))
    thresholds = cfg.probe.verdict
    verdicts = {step: judge(start, measured, thresholds) for step, measured in values.items()}
    return Judgement(verdicts, first_failures(values, start, thresholds), start)
