"""A page to scroll through one run's steps: curves, oscillators, weights, output against target, and the verdict.

Drawn from the run's records alone, in one file that needs no network. See `page` for what keeps records from running as
script.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import torch

from wavebase.experiment.config import parse_stored
from wavebase.experiment.validation import ConfigError
from wavebase.figures.weights import oscillator_errors
from wavebase.probes import dynamics, verdict
from wavebase.records import metrics
from wavebase.records.atomic import RecordsError, atomic_write
from wavebase.records.folder import RunFolder
from wavebase.report.page import as_data, asset, document

MOST_STEPS, MOST_POINTS, MOST_UNITS, MOST_OUTPUTS = 80, 2000, 192, 256
NOT_FINITE = -128  # of a weight, among steps of -127..127
DECADES = 6  # of a weight's colour scale, on either side of zero


def write(folder: RunFolder) -> str:
    """Write look.html into a run's folder; return its path.

    Raises:
        RecordsError: If the records cannot be used.
    """
    try:
        data = collect(folder)
    except ConfigError as error:
        raise RecordsError(f"{folder.path}: {error}") from error
    name = folder.path.resolve().name
    body = f"<h1>{escape(name)}</h1>\n{asset('look.html')}\n{as_data('data', data)}"
    text = document(name, body, asset("look.js"), asset("look.css"))
    path = folder.path / "look.html"
    atomic_write(path, lambda file: file.write(text.encode(errors="replace")))
    return str(path)


def collect(folder: RunFolder) -> dict[str, Any]:
    """Return what the page shows, as strict JSON can hold it.

    Returns:
        steps: measured ones, each with its verdict, reasons and conditions. curves: (steps, log10 of the values) by tag.
        checkpoints: of each its step, oscillators, weights and output. target: that of the output. blocks: first units.
    """
    cfg = parse_stored(folder.config())
    summary = folder.summary() or {}
    thresholds = cfg.probe.verdict
    lines: dict[int, dict[str, float]] = {}
    for line in metrics.read_lines(folder.path / "metrics.jsonl"):
        lines.setdefault(line["step"], {}).update(metrics.tags(line))
    if not lines:
        raise RecordsError(f"{folder.path}/metrics.jsonl must hold a run's numbers, got none; run it first")
    measured = [step for step in sorted(lines) if "loss/held_out" in lines[step]]
    start = lines[measured[0]] if measured else {}
    weight = thresholds.weight
    return {
        "summary": {
            "verdict": str(summary.get("verdict", "unfinished")) if verdict.is_defined(summary) else "-",
            "unmoved": summary.get("verdict") == "unmoved",
            "asked": cfg.train.steps,
            "weight": weight,
        },
        "steps": [_judged(step, start, lines[step], thresholds) for step in _thinned(measured, MOST_STEPS)],
        "curves": _curves(folder, weight),
        "baselines": _baselines(start),
        **_checkpoints(folder, weight, int(cfg.T)),
    }


def _judged(
    step: int, start: Mapping[str, float], now: Mapping[str, float], bounds: verdict.Thresholds
) -> dict[str, Any]:
    # the start itself is judged as a net: as a run it would be one in which nothing has moved
    judged = verdict.judge(now, bounds) if now is start else verdict.judge_run(start, now, bounds)
    conditions = [
        {"name": c.name, "value": _number(c.value), "bound": c.bound, "least": c.least, "holds": c.holds}
        for c in judged.conditions
    ]
    return {"step": step, "verdict": judged.name, "reasons": judged.reasons[:4], "conditions": conditions}


def _curves(folder: RunFolder, weight: str) -> dict[str, Any]:
    """Return steps and the logarithms of the values, null where there is none, of the curves that the page draws."""
    wanted = {
        f"drift/{weight}": "drift",
        "position/distance": "drift",
        "loss/train": "loss",
        "loss/held_out": "loss",
        "error/training": "error",
    }
    found: dict[str, Any] = {}
    for tag, (steps, values) in folder.metrics().items():
        if tag in wanted:
            kept = _thinned(range(len(steps)), MOST_POINTS)
            found[tag] = {
                "panel": wanted[tag],
                "steps": [int(steps[n]) for n in kept],
                "logs": [_number(math.log10(values[n])) if 0 < values[n] < math.inf else None for n in kept],
            }
    return found


def _baselines(start: Mapping[str, float]) -> dict[str, float | None]:
    losses = {name: start.get(f"baseline/{name}") for name in ("zero", "mean")}
    return {name: _number(math.log10(loss)) if loss and loss > 0 else None for name, loss in losses.items()}


def _checkpoints(folder: RunFolder, weight: str, T: int) -> dict[str, Any]:
    """Return the checkpoints' oscillators, weights and outputs, the block lines, and the outputs' target."""
    shown: list[dict[str, Any]] = []
    blocks: dict[str, int] = {}
    first: np.ndarray | None = None
    examples = folder.examples() if (folder.path / "examples.npz").exists() else {}
    target = _row(examples.get("target"))
    steps = _thinned(folder.checkpoint_steps(), MOST_STEPS)
    for n, step in enumerate(steps):
        state = folder.load_checkpoint(step)
        units = {str(name): slice(*ends) for name, ends in state.get("blocks", {}).items()}
        blocks = {name: part.start for name, part in units.items()}
        matrix = state.get("weights", {}).get(weight)
        entry: dict[str, Any] = {"step": step}
        if isinstance(matrix, torch.Tensor) and matrix.ndim == 2 and max(matrix.shape) <= MOST_UNITS:
            now = matrix.double().numpy()
            first = now if first is None else first
            entry |= {"weights": _quantised(now), "change": _quantised(now - first)}
            gen = units.get("gen")
            if gen is not None and matrix[gen, gen].isfinite().all():
                k, modulus, angle = oscillator_errors(dynamics.gen_eigenvalues(matrix, gen), T)
                entry["oscillators"] = [[int(a), _number(b), _number(c)] for a, b, c in zip(k, modulus, angle, strict=True)]  # fmt: skip
        output = _row(state.get("example"))
        if output is None and n in (0, len(steps) - 1):
            output = _row(examples.get("before" if n == 0 else "after"))
        entry["output"] = output
        shown.append(entry)
    return {"checkpoints": shown, "blocks": blocks, "target": target}


def _row(values: Any) -> list[float | None] | None:
    """Return the first signal's first row of an array [signal, ..., output]; None if there is no such array."""
    if values is None or getattr(values, "ndim", 0) < 1 or 0 in values.shape:
        return None
    array = np.asarray(values)
    while array.ndim > 1:
        array = array[0]
    return [_number(float(value)) for value in array[:MOST_OUTPUTS].tolist()]


def _quantised(matrix: np.ndarray) -> dict[str, Any]:
    """Return a matrix in steps of a symmetric logarithmic scale: -127..127, 0 for zero, `NOT_FINITE` for what is not finite."""
    finite = np.isfinite(matrix)
    size = np.abs(np.where(finite, matrix, 0.0))
    top = float(size.max(initial=0.0))
    logs = np.log10(np.maximum(size / top, 1e-300)) if top > 0 else np.full(matrix.shape, -300.0)
    depth = np.clip(1 + logs / DECADES, 0, 1)
    steps = np.where(size > 0, np.sign(matrix) * np.maximum(1, np.round(127 * depth)), 0)
    steps = np.where(finite, steps, NOT_FINITE).astype(np.int8)
    return {"shape": list(matrix.shape), "top": _number(top), "data": base64.b64encode(steps.tobytes()).decode()}


def _thinned(values: Sequence[int], most: int) -> list[int]:
    """Return at most `most` of the values, evenly spaced, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[n] for n in np.unique(np.linspace(0, len(values) - 1, most).round().astype(int))]


def _number(value: float) -> float | None:
    """Return a number with five digits, None if it is not finite."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
