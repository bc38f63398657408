"""What a run's end writes and prints."""

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
from wavebase.formatting import number
from wavebase.probes.verdict import Verdict
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
        start, end: The probes' values at step 0 and at the last `step`.
        training_seconds: Of the training loop in this process; seconds: of the whole run, earlier processes included.
        parts: What the run was computed with, from which step on.
    """
    error = {"initial": start["error/training"], "final": end["error/training"]}
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
        "loss": {"initial": start["loss/held_out"], "final": end["loss/held_out"]},
        "relative_loss": {"initial": start["loss/relative"], "final": end["loss/relative"]},
        "relative_error": error,
        "baseline": dict(components.task.baselines),
        "drift": {name: value for name, value in _below("drift/", end).items() if "/" not in name},
        "watched_weight": verdict.weight,
        "optim": {"lr": components.learning_rate, **components.boundary.summary(components.learning_rate)},
        "probes": {"initial": dict(start), "final": dict(end)},
        "parameters": sum(p.numel() for p in components.net.parameters()),
        "device": str(next(components.net.parameters()).device),
        "parts": parts,
        "changes": changes(parts),
        "recording_sha256": components.recording,
        "versions": provenance.versions(),
        "git": provenance.git_state(),
        **({"trusted": sources} if (sources := registry.sources()) else {}),
    }


def hparams(
    cfg: RunConfig, components: Components, choices: Mapping[str, str], end: Mapping[str, float]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return what TensorBoard's HParams tab shows of a run: its settings, and its final numbers."""
    over = components.boundary.summary(components.learning_rate)["lr_over_boundary"]
    settings = {
        **{group: choices.get(group, "") for group in ("model", "signal", "task", "optim")},
        "preset": cfg.model.get("preset", ""),
        "T": cfg.T,
        "seed": cfg.seed,
        "dtype": cfg.dtype,
        "lr": components.learning_rate,
        "lr_over_boundary": math.nan if over is None else over,
        "steps": cfg.train.steps,
    }
    numbers = {
        "final/relative_error": end["error/training"],
        "final/drift_weight_hh_cell": end.get("drift/weight_hh_cell", math.nan),
    }
    return settings, numbers


def _below(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _label_noise(expected: float | None, error: float) -> dict[str, float] | None:
    """Return the error that label noise alone causes, and its share of the squared error; None where no law is known."""
    if expected is None or not error > 0:
        return None
    return {"expected_error": expected, "share": min(1.0, (expected / error) ** 2)}


def describe(summary: Mapping[str, Any], path: Path, short: bool = False) -> str:
    """A finished run in a few lines for the console, 80 columns wide at most but for the path."""
    from wavebase.probes.verdict import Precision

    error, loss, baseline = summary["relative_error"], summary["relative_loss"], summary["baseline"]
    verdict = f"{summary['verdict']}"
    if short:
        return f"{path.name}: {verdict}, relative error {number(error['initial'])} -> {number(error['final'])}"
    optim, weight = summary["optim"], summary["watched_weight"]
    moved, noise = summary.get("moved"), summary.get("label_noise")  # version 0.1 had neither
    precision = Precision(**summary["precision"]).words() if summary.get("precision") else ""
    how = [f"                {line}" for line in textwrap.wrap(precision, 63)]
    if moved:
        counts = f"{moved['changed']} of {moved['trained']} trained; {moved['live']} have a gradient; of {moved['nonzero']} that are not zero {moved['nonzero_changed']}"
        how += [
            f"weights changed {line}" if not n else f"                {line}"
            for n, line in enumerate(textwrap.wrap(counts, 63))
        ]
    if noise:
        how.append(
            f"label noise     explains an error of {number(noise['expected_error'])}, {100 * noise['share']:.0f} % of its square"
        )
    for change in summary.get("changes", []):
        how += textwrap.wrap(change, 80, initial_indent="continued       ", subsequent_indent=" " * 16)
    rate = number(optim["lr"])
    if optim["boundary"] is not None:
        rate += (
            f", {number(optim['lr_over_boundary'])} of the boundary {optim['formula']} = {number(optim['boundary'])}"
        )
        rate = textwrap.fill(rate, 64, subsequent_indent=" " * 16, break_long_words=False)
    zero = f"mean predictor: 1, zero: {baseline['zero'] / baseline['mean']:.2f}" if baseline["mean"] > 0 else "zero: 1"
    return "\n".join(
        [
            "",
            f"verdict         {verdict}",
            *(f"                {reason}" for reason in summary["reasons"][:4]),
            *how,
            f"relative error  {number(error['initial'])} at the start, {number(error['final'])} after {summary['steps']} steps (zero output: 1)",
            f"relative loss   {number(loss['initial'])} -> {number(loss['final'])} ({zero})",
            f"drift           {number(summary['drift'].get(weight))} of its norm, {weight}",
            f"learning rate   {rate}",
            f"records         {path}",
            "",
        ]
    )


def mark_failed(path: Path, config_yaml: str, error: str, details: str, choices: Mapping[str, str]) -> None:
    """Leave a failed job's reason in its own folder, unless a finished run stands there. Raises RecordsError."""
    from wavebase.records.folder import RunFolder

    summary = {"status": "failed", "error": error, "details": details, "choices": dict(choices)}
    RunFolder(path, identity).fail(config_yaml, summary)
