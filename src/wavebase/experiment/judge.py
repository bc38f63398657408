"""The verdict on any net against any construction, and on a stored run: which condition failed first, and when."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wavebase.constructions.algorithm import ExactAlgorithm
from wavebase.constructions.construction import Construction
from wavebase.experiment.build import load_run, measure, snapshot
from wavebase.experiment.restoring import load_net
from wavebase.formatting import number
from wavebase.models.spectral import SpectralLSTM
from wavebase.probes import algorithm, drift, function, mechanism, position
from wavebase.probes.snapshot import snapshot_of
from wavebase.probes.verdict import Thresholds, Verdict, first_failures, judge, judge_run, stopped
from wavebase.records.folder import RunFolder
from wavebase.signals import Signal
from wavebase.signals.generators import WhiteNoise
from wavebase.spectrum import NORMALISATIONS, normalisation_factor
from wavebase.tasks.base import Task
from wavebase.tasks.power_spectrum import PowerSpectrum

ALGORITHM_PROBES = (
    function.held_out_error,
    algorithm.distance,
    algorithm.masked_error,
    algorithm.questions,
    drift.weight_drift,
)
PROBES = (
    function.held_out_error,
    function.centred_error,
    function.quadratic_forms,
    mechanism.oscillators,
    mechanism.masked_error,
    mechanism.interchange,
    position.distance,
    drift.weight_drift,
)


def verdict(
    weights: Mapping[str, Tensor],
    start: Construction,
    signal: Signal | None = None,
    thresholds: Thresholds | None = None,
    count: int = 64,
    seed: int = 0,
) -> Verdict:
    """Judge whether weights hold the algorithm of a construction, from everything that a run's verdict rests on.

    Args:
        weights: Names and shapes as `start.weights` (see `constructions.construction.pad` for other sizes).
        start: The construction.
        signal: The training signal; white noise within the start's amplitude by default.
        thresholds: Bounds of the conditions; those of conf/probe/default.yaml by default.
        count: Held-out sequences of each probe signal.
        seed: Of these sequences.

    Returns:
        The verdict: `name` is whether and how the algorithm is held, `precision` how precisely.

    Raises:
        ValueError: For weights of other names or shapes.

    >>> import torch, wavebase
    >>> start = wavebase.spectral_construction(4)
    >>> wavebase.verdict(start.weights, start).name
    'preserved'
    >>> wavebase.verdict({**start.weights, "readout.weight": 0 * start.weights["readout.weight"]}, start).name
    'broken'
    """
    if not isinstance(weights, Mapping):
        raise ValueError(f"weights must be a mapping from name to tensor, got {type(weights).__name__}; give net.named_weights()")  # fmt: skip
    for name, weight in start.weights.items():
        if name not in weights or weights[name].shape != weight.shape:
            got = list(weights[name].shape) if name in weights else "nothing"
            raise ValueError(
                f"weights must hold {name} {list(weight.shape)}, got {got}; pad the construction or the net"
            )
    known = [name for name in NORMALISATIONS if math.isclose(normalisation_factor(start.T, name), start.scale)]
    if not known:
        raise ValueError(f"start.scale must be that of {', '.join(NORMALISATIONS)}, got {start.scale:g}; use scale=1")
    task = PowerSpectrum(
        signal or WhiteNoise(start.amplitude),
        start.T,
        start.dtype,
        torch.device("cpu"),
        torch.Generator().manual_seed(seed),
        bins=list(start.bins),
        normalisation=known[0],  # type: ignore[arg-type]
        held_out_count=count,
    )
    net = SpectralLSTM(start, weights)
    return judge(measure(PROBES, snapshot_of(net, task, start.weights, start)), thresholds or Thresholds())


def algorithm_verdict(
    weights: Mapping[str, Tensor], exact: ExactAlgorithm, task: Task, thresholds: Thresholds | None = None
) -> Verdict:
    """Judge whether weights hold an algorithm that is given by its contract.

    Args:
        weights: By the names and shapes of `exact.weights`.
        exact: The algorithm; its `forward` is needed.
        task: Whose held-out sets the function is judged on.

    Raises:
        ValueError: Without a forward, or for weights of other names or shapes.
    """
    if exact.forward is None:
        raise ValueError("exact must have a forward, got none; give the function of weights and input")
    for name, weight in exact.weights.items():
        if name not in weights or weights[name].shape != weight.shape:
            got = list(weights[name].shape) if name in weights else "nothing"
            raise ValueError(f"weights must hold {name} {list(weight.shape)}, got {got}; use the algorithm's names")
    net = _Weights(weights, exact)
    return judge(measure(ALGORITHM_PROBES, snapshot_of(net, task, exact.weights, None)), thresholds or Thresholds())


class _Weights(torch.nn.Module):
    """Weights as a model, through their algorithm's forward."""

    construction = None

    def __init__(self, weights: Mapping[str, Tensor], exact: ExactAlgorithm):
        super().__init__()
        self.weights, self.algorithm = dict(weights), exact

    def forward(self, inputs: Any) -> Tensor:
        return self.algorithm.output(self.weights, inputs)

    def named_weights(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.weights.items()}


@dataclass(frozen=True)
class VerdictHistory:
    """The verdicts on a run at its checkpoints.

    Attributes:
        verdicts: By step.
        first_failed: The first of these steps at which each condition does not hold, or None.
        start, end: The probes' values before training and at the newest checkpoint.
        baselines: The task's losses of constant predictions and classical answers.
    """

    verdicts: dict[int, Verdict]
    first_failed: dict[str, int | None]
    start: dict[str, float]
    end: dict[str, float]
    baselines: dict[str, float]

    @property
    def last(self) -> Verdict:
        """Return the verdict at the newest checkpoint."""
        return self.verdicts[max(self.verdicts)]

    @property
    def is_defined(self) -> bool:
        """Whether a verdict says anything: not on a net that has no known algorithm and reached none."""
        return self.last.name != "no algorithm" or any(c.kind == "mechanism" for c in self.last.conditions)

    def _measured(self) -> list[str]:
        """Return what takes the verdict's place where none is defined: errors, losses beside the baselines', metrics."""
        errors, losses = (
            [number(v.get(n)) for v in (self.start, self.end)] for n in ("error/training", "loss/held_out")
        )
        baselines = ", ".join(f"{name} {number(loss)}" for name, loss in self.baselines.items())
        metrics = {n.removeprefix("task/"): v for n, v in self.end.items() if n.startswith("task/")}
        shown = ", ".join(f"{name} {number(value)}" for name, value in metrics.items() if name != "relative_error")
        return [
            f"step {max(self.verdicts)}: relative error {' -> '.join(errors)} (zero output: 1)",
            f"loss {' -> '.join(losses)} ({baselines})",
            *[f"task metrics: {shown}"] * bool(shown),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return what verdict.json holds."""
        return {
            "verdict": self.last.name,
            "reasons": self.last.reasons,
            "first_failed": self.first_failed,
            "steps": {
                step: {"verdict": verdict.name, "values": {c.name: c.value for c in verdict.conditions}}
                for step, verdict in self.verdicts.items()
            },
        }

    def short(self) -> str:
        """Return the verdict, what fails and what the run went through, in about five lines of at most 80 columns; the
        task's own numbers where no verdict is defined."""
        if not self.is_defined:
            return "\n".join(textwrap.fill(line, 80, subsequent_indent="      ") for line in self._measured())
        failing = [c for c in self.last.conditions if not c.holds]
        shown = [
            f"{c.name} {number(c.value)} (bound {number(c.bound)}, first at step {self.first_failed[c.name]})"
            for c in failing[:2]
        ]
        rest = f" and {len(failing) - 2} more" if len(failing) > 2 else ""
        held = f"{len(self.last.conditions) - len(failing)} of {len(self.last.conditions)} conditions hold"
        lines = [self._name(), f"{held}; not {', '.join(shown)}{rest}" if failing else held, self._turns(3)]
        return "\n".join(textwrap.fill(line, 80) for line in lines)

    def _name(self) -> str:
        precision = f", {self.last.precision.words()}" if self.last.precision else ""
        return f"verdict at step {max(self.verdicts)}: {self.last.name}{precision}"

    def _turns(self, most: int | None = None) -> str:
        """Return the verdicts that the run went through, the last `most` of them."""
        named = [(step, verdict.name) for step, verdict in self.verdicts.items()]
        turns = [f"{name} from step {step}" for n, (step, name) in enumerate(named) if not n or named[n - 1][1] != name]
        if most is not None and len(turns) > most:
            turns = [turns[0], "...", *turns[1 - most :]]
        return f"so far: {', '.join(turns)}"

    def table(self) -> str:
        """Return the verdict and its conditions as text of at most 80 columns."""
        if self.is_defined:
            lines = [textwrap.fill(self._name(), 80), *(f"  {reason}" for reason in self.last.reasons)]
        else:
            lines = self.short().split("\n")
        lines.append(f"{'condition':<33} {'start':>9} {'now':>9}    {'bound':>9}  first fails")
        for c in self.last.conditions:
            step = self.first_failed[c.name]
            when = "-" if step is None else f"step {step}"
            bound = f"{'>=' if c.least else '<='} {number(c.bound):>9}"
            first = self.start.get(c.name, float("nan"))
            lines.append(f"{c.name:<33} {number(first):>9} {number(c.value):>9} {bound}  {when}")
        return "\n".join([*lines, *[textwrap.fill(self._turns(), 80)] * self.is_defined])


def judge_folder(folder: RunFolder, step: int | None = None) -> VerdictHistory:
    """Rebuild a run from its config.yaml and judge its checkpoints (or that of one step) against its start, with its own probes.

    Args:
        step: Of the only checkpoint to judge; all by default.

    Raises:
        RecordsError: If the folder holds no checkpoint.
        ConfigError: If its configuration cannot be built here.
    """
    cfg, components = load_run(folder, 0)
    begun = {name: weight.clone() for name, weight in components.net.named_weights().items()}
    probes = cfg.probe.functions("measure")
    start = measure(probes, snapshot(components, begun, 0))
    values: dict[int, dict[str, float]] = {}
    diverged: set[int] = set()
    for at in folder.checkpoint_steps() if step is None else [step]:
        state = folder.load_checkpoint(at)
        load_net(components.net, state, folder)
        values[at] = measure(probes, snapshot(components, begun, at))
        if state.get("ended") == "diverged":
            diverged.add(at)
    thresholds = cfg.probe.verdict
    verdicts = {step: judge_run(start, measured, thresholds) for step, measured in values.items()}
    for at in diverged:
        verdicts[at] = stopped(verdicts[at])
    baselines = dict(components.task.baselines)
    return VerdictHistory(verdicts, first_failures(values, thresholds), start, values[max(values)], baselines)
