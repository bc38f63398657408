"""What a run's end writes and prints."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wavebase.formatting import number


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
    rate = f"{optim['lr']:.3g}"
    if optim["boundary"] is not None:
        rate += f", {optim['lr_over_boundary']:.3g} of the boundary {optim['formula']} = {optim['boundary']:.3g}"
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
    RunFolder(path).fail(config_yaml, summary)
