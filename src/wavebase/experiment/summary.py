"""What the end of a run writes and prints."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wavebase import registry
from wavebase.experiment.build import Components
from wavebase.experiment.config import RunConfig, identity
from wavebase.experiment.parts import Part, changes
from wavebase.formatting import counted, number
from wavebase.probes.verdict import Verdict, is_defined
from wavebase.records import provenance


def summarize(
    cfg: RunConfig,
    components: Components,
    choices: Mapping[str, str],
    status: str,
    verdict: Verdict,
    start: Mapping[str, float],
    end: Mapping[str, float],
    step: int,
    training_seconds: float,
    seconds: float,
    parts: list[Part],
) -> dict[str, Any]:
    """Return what summary.json holds.

    Args:
        start, end: The probes' values at step 0 and at the last `step`. Null stands for what no probe measured.
        training_seconds: Of the training loop in this process; seconds: of the whole run, earlier processes included.
        parts: What the run was computed with, from which step on.
    """
    error, loss, relative_loss = (
        {"initial": start.get(name), "final": end.get(name)}
        for name in ("error/training", "loss/held_out", "loss/relative")
    )
    return {
        "choices": dict(choices),
        "status": status,
        "verdict": verdict.name,
        "reasons": verdict.reasons,
        "precision": None if verdict.precision is None else dataclasses.asdict(verdict.precision),
        "label_noise": _label_noise(start.get("noise/predicted_error"), error["final"]),
        "moved": {name: int(value) for name, value in _below("moved/", end).items()},
        "conditions": {
            c.name: {"kind": c.kind, "value": c.value, "bound": c.bound, "holds": c.holds} for c in verdict.conditions
        },
        "metrics": _below("task/", end),
        "steps": step,
        "seconds": round(seconds, 3),
        "training_seconds": round(training_seconds, 3),
        "seed": cfg.seed,
        "loss": loss,
        "relative_loss": relative_loss,
        "relative_error": error,
        "baseline": dict(components.task.baselines),
        "drift": {name: value for name, value in _below("drift/", end).items() if "/" not in name},
        "distance": _distance(start, end),
        "watched_weight": verdict.weight,
        "optim": {"lr": components.learning_rate, **components.boundary.summary(components.learning_rate)},
        "probes": {"initial": dict(start), "final": dict(end)},
        "parameters": sum(p.numel() for p in components.net.parameters()),
        "device": str(next(components.net.parameters()).device),
        "parts": parts,
        "changes": changes(parts),
        "recording_sha256": components.recording,
        "start_sha256": components.start,
        "versions": provenance.versions(),
        "git": provenance.git_state(),
        **({"trusted": sources} if (sources := registry.sources()) else {}),
    }


def _below(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _distance(start: Mapping[str, float], end: Mapping[str, float]) -> dict[str, Any] | None:
    """Return the distances from the exact weights at both ends, of all and by block; None without a known algorithm."""
    name, prefix = "position/distance", "position/block_"
    if name not in end:
        return None
    blocks = [tag.removeprefix(prefix) for tag in end if tag.startswith(prefix)]
    ends = {"initial": start, "final": end}
    return {
        **{when: values.get(name) for when, values in ends.items()},
        "blocks": {b: {when: values.get(prefix + b) for when, values in ends.items()} for b in blocks},
    }


def _label_noise(expected: float | None, error: float | None) -> dict[str, float] | None:
    """Return the error that label noise alone causes, and its share of the squared error; None where no law is known."""
    if expected is None or error is None or not error > 0:
        return None
    return {"expected_error": expected, "share": min(1.0, (expected / error) ** 2)}


def objective(summary: Mapping[str, Any]) -> float | None:
    """Return the value that a search minimises: the final relative error, infinity for a diverged run.

    None where no probe measures the error.
    """
    error = summary["relative_error"]["final"]
    if summary["status"] == "diverged" or (error is not None and not math.isfinite(error)):
        return math.inf
    return error


def describe(summary: Mapping[str, Any], path: Path, short: bool = False) -> str:
    """Return a finished run in a few lines of at most 80 columns (a path may be longer), or in one line if `short`."""
    error, loss, baseline = summary["relative_error"], summary["relative_loss"], summary["baseline"]
    judged = is_defined(summary)
    if short:
        verdict = f"{summary['verdict']}, " if judged else ""
        return f"{path.name}: {verdict}relative error {number(error['initial'])} -> {number(error['final'])}"
    optim, weight = summary["optim"], summary["watched_weight"]
    moved, noise = summary.get("moved"), summary.get("label_noise")  # version 0.1 had neither
    zero = (
        f"mean predictor: 1, zero: {number(baseline['zero'] / baseline['mean'])}" if baseline["mean"] > 0 else "zero: 1"
    )
    rate = number(optim["lr"])
    if optim["boundary"] is not None:
        rate += (
            f", {number(optim['lr_over_boundary'])} of the boundary {optim['formula']} = {number(optim['boundary'])}"
        )
    lines = [] if judged and _has_mechanism(summary) else _metric_lines(summary)
    lines += _judgement_lines(summary) if judged else []
    if moved:
        counts = f"{moved['changed']} of {moved['trained']} trained; {moved['live']} have a gradient; {moved['nonzero_changed']} of {moved['nonzero']} nonzero ones changed"
        lines += _entry("weights changed", counts)
    if noise:
        share = 100 * noise["share"]
        lines += [
            f"label noise     explains an error of {number(noise['expected_error'])}, {share:.0f} % of its square"
        ]
    for change in summary.get("changes", []):
        lines += textwrap.wrap(change, 80, initial_indent="continued       ", subsequent_indent=" " * 16)
    return "\n".join(
        [
            "",
            *lines,
            f"relative error  {number(error['initial'])} at the start, {number(error['final'])} after {counted(summary['steps'], 'step')} (zero output: 1)",
            f"relative loss   {number(loss['initial'])} -> {number(loss['final'])} ({zero})",
            f"drift           {number(summary['drift'].get(weight))} of its norm, {weight}",
            *_entry("distance", _distance_words(summary.get("distance"))),
            *_entry("learning rate", rate),
            f"records         {path}",
            "",
        ]
    )


def _distance_words(distance: Mapping[str, Any] | None) -> str:
    """Return the distances from the exact weights in words; nothing without a known algorithm."""
    if distance is None:
        return ""
    blocks = ", ".join(
        f"{name} {number(ends['initial'])} -> {number(ends['final'])}" for name, ends in distance["blocks"].items()
    )
    whole = f"{number(distance['initial'])} -> {number(distance['final'])} from the exact weights"
    return f"{whole} (zero weights: 1){'; ' + blocks if blocks else ''}"


def _has_mechanism(summary: Mapping[str, Any]) -> bool:
    """Return whether the run's net was held against an algorithm. Version 0.1 recorded no conditions, and had no other nets."""
    conditions = summary.get("conditions")
    return conditions is None or any(found["kind"] == "mechanism" for found in conditions.values())


def _judgement_lines(summary: Mapping[str, Any]) -> list[str]:
    from wavebase.probes.verdict import Precision

    precision = Precision(**summary["precision"]).words() if summary.get("precision") else ""
    reasons = [line for reason in summary["reasons"][:4] for line in _entry("", reason)]
    return [f"verdict         {summary['verdict']}", *reasons, *_entry("", precision)]


def _metric_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return the task's own numbers, and the losses of its baselines."""
    metrics = {name: value for name, value in summary["metrics"].items() if name != "relative_error"}
    entries = {"task metrics": metrics, "final loss": {"": summary["loss"]["final"], **summary["baseline"]}}
    return [
        line
        for label, values in entries.items()
        for line in _entry(label, ", ".join(f"{name} {number(value)}".strip() for name, value in values.items()))
    ]


def _entry(label: str, text: str) -> list[str]:
    """Return a label and its text in lines of at most 79 columns; nothing for an empty text."""
    lines = textwrap.wrap(text, 63, break_long_words=False)
    return [f"{label if n == 0 else '':<16}{line}" for n, line in enumerate(lines)]


def mark_failed(path: Path, config_yaml: str, error: str, details: str, choices: Mapping[str, str]) -> None:
    """Leave the reason of a failed job in its folder, unless that holds a finished run.

    Args:
        path: The job's folder.
        config_yaml: Its configuration, as far as it can be read.
        error: The reason in one line; details: with the traceback.
        choices: The option chosen in each config group.

    Raises:
        RecordsError: If the folder cannot be used.
    """
    from wavebase.records.folder import RunFolder

    summary = {"status": "failed", "error": error, "details": details, "choices": dict(choices)}
    RunFolder(path, identity).fail(config_yaml, summary)
