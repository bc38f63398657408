"""Tables and figures of a tree of runs, from their records alone: `python -m wavebase.report FOLDER`.

Light at import: Hydra loads `SweepReport` before anything is computed.
"""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

IGNORED = (
    "seed",
    "seeds.",
    "model.torch_seed",
    "resume",
    "threads",
    "device",
)  # what repeats a setting instead of changing it


class SweepReport(Callback):
    """Remembers the folder of the sweep under way, so that the entrypoint reports on it even if a job failed."""

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra calls this once, in the launching process."""
        SweepReport.folder = Path(config.hydra.sweep.dir)


def main() -> None:
    """Report on the folder named on the command line. Exit status 1, with one line, if there is nothing to report."""
    words = sys.argv[1:]
    if len(words) != 1 or words[0] in ("-h", "--help"):
        print("usage: python -m wavebase.report FOLDER   (a run's, a sweep's, or any folder above them)")
        sys.exit(0 if words and words[0] in ("-h", "--help") else 1)
    from wavebase.records import RecordsError

    try:
        write(Path(words[0]))
    except RecordsError as error:
        print(f"wavebase: {error}", file=sys.stderr)
        sys.exit(1)


def write(root: Path) -> int:
    """Write summary.csv, runs.csv and train_loss.png into the folder, print the table; returns how many runs failed."""
    from wavebase import figures, records

    runs = [Run(folder) for folder in records.find_runs(root)]
    if not runs:
        raise records.RecordsError(
            f"the folder must hold runs, got none below {root}; run a sweep with hydra.sweep.dir={root}"
        )
    groups = grouped(runs)
    rows = [row(label, members) for label, members in groups.items()]
    records.write_whole(root / "summary.csv", lambda file: file.write(as_csv(rows)))
    records.write_whole(root / "runs.csv", lambda file: file.write(as_csv([run.flat() for run in runs])))
    curves = {
        f"{label}: {statistics.multimode(run.verdict for run in members)[0]}": [run.folder.metrics() for run in members]
        for label, members in groups.items()
    }
    baselines = {json.dumps(run.summary["baseline"]) for run in runs if "baseline" in run.summary}
    shared = json.loads(baselines.pop()) if len(baselines) == 1 else None
    if len(root.parts) and any(
        any(tag.startswith("loss/") for tag in m) for members in curves.values() for m in members
    ):
        picture = figures.png(figures.loss_curves(curves, shared, _styles(groups, curves)))
        records.write_whole(root / "train_loss.png", lambda file: file.write(picture))
    print(table(rows))
    failed = [run for run in runs if run.status == "failed"]
    for run in failed:
        print(f"failed: {run.folder.path}: {run.summary['error']}")
    print(f"{len(runs)} runs, {len(failed)} failed; summary.csv, runs.csv, train_loss.png in {root}")
    return len(failed)


class Run:
    """One run's records, as the report needs them."""

    def __init__(self, folder: Any):
        self.folder = folder
        self.summary: dict[str, Any] = folder.summary() or {}
        self.config = _flatten(OmegaConf.to_container(OmegaConf.load(folder.path / "config.yaml")))  # type: ignore[arg-type]
        self.choices: dict[str, str] = self.summary.get("choices", {})
        self.status: str = self.summary.get("status", "unfinished")
        self.verdict: str = self.summary.get("verdict", self.status)

    def value(self, *path: str) -> float | None:
        """A number of the summary, None where there is none."""
        node: Any = self.summary
        for key in path:
            node = node.get(key) if isinstance(node, Mapping) else None
        return node

    def flat(self) -> dict[str, Any]:
        """One line of runs.csv: choices, configuration and results."""
        results = {
            k: v for k, v in self.summary.items() if k not in ("choices", "probes", "versions", "reasons", "details")
        }
        return {"folder": str(self.folder.path), **self.choices, **self.config, **_flatten(results, "result.")}


def grouped(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs that differ in their seeds only, together, under a label that names what else differs; best starts first."""
    runs = list(runs)
    chosen = [
        key
        for key in ("model", "signal", "task", "optim", "train", "probe")
        if len({r.choices.get(key) for r in runs}) > 1
    ]
    varying = []
    for key in sorted({key for run in runs for key in run.config}):
        if key.startswith(IGNORED):
            continue
        group = key.split(".")[0]
        # within one choice of its group; a key that differs only because the choice does is already told by it
        pools: dict[str | None, set[str]] = {}
        for run in runs:
            pools.setdefault(run.choices.get(group) if group in chosen else "", set()).add(str(run.config.get(key)))
        if any(len(values) > 1 for values in pools.values()):
            varying.append(key)
    varying = [key for key in varying if not _follows(key, varying, runs)]
    groups: dict[str, list[Run]] = {}
    for run in runs:
        words = [run.choices.get(key, "?") for key in chosen] + [
            f"{key}={run.config.get(key)}" for key in varying if key in run.config
        ]
        groups.setdefault(" ".join(words) or "all runs", []).append(run)

    def start_error(members: list[Run]) -> float:
        return min(
            (error for run in members if (error := run.value("relative_error", "initial")) is not None),
            default=math.inf,
        )

    first: dict[str, float] = {}  # the best start of each first word, so that a model's groups stay together
    for label, members in groups.items():
        model = label.split(" ")[0]
        first[model] = min(first.get(model, math.inf), start_error(members))
    return dict(sorted(groups.items(), key=lambda group: (first[group[0].split(" ")[0]], group[0])))


def row(label: str, runs: list[Run]) -> dict[str, Any]:
    """One line of the table: medians over the runs of a group, and their spread."""
    verdicts = statistics.multimode(run.verdict for run in runs)
    share = sum(run.verdict == verdicts[0] for run in runs)
    line: dict[str, Any] = {
        "group": label,
        "runs": len(runs),
        "failed": sum(run.status == "failed" for run in runs),
        "verdict": verdicts[0] + (f" {share}/{len(runs)}" if share < len(runs) else ""),
    }
    for name, path in {
        "error_start": ("relative_error", "initial"),
        "error_end": ("relative_error", "final"),
        "relative_loss_end": ("relative_loss", "final"),
        "drift": ("drift", runs[0].summary.get("watched_weight", "weight_hh_cell")),
        "drift_weight_hh_cell": ("drift", "weight_hh_cell"),
        "lr": ("optim", "lr"),
        "lr_over_boundary": ("optim", "lr_over_boundary"),
        "seconds": ("seconds",),
    }.items():
        values = sorted(v for run in runs if (v := run.value(*path)) is not None)
        line[f"{name}_median"] = statistics.median(values) if values else None
        line[f"{name}_min"], line[f"{name}_max"] = (values[0], values[-1]) if values else (None, None)
    return line


def table(rows: list[dict[str, Any]], width: int = 80) -> str:
    """The rows for a terminal: relative errors at the start and the end, as medians with the range over runs."""
    head = f"{'n':>3}  {'verdict':<13} {'start':>7} {'end':>7} {'from':>7} {'to':>7} {'drift':>7}"
    wide = width - len(head) - 1
    lines = [
        "relative error on held-out data: medians of n runs, range of the end; drift of the watched weight",
        f"{'':<{wide}} {head}",
    ]
    for r in rows:
        label = r["group"]
        if len(label) > wide:  # the name gets a line of its own
            lines.append(label)
            label = ""
        cells = [
            _short(r[k])
            for k in (
                "error_start_median",
                "error_end_median",
                "error_end_min",
                "error_end_max",
                "drift_median",
            )
        ]
        lines.append(f"{label:<{wide}} {r['runs']:>3}  {r['verdict']:<13} " + " ".join(f"{cell:>7}" for cell in cells))
    return "\n".join(lines)


def describe(summary: Mapping[str, Any], path: Path, short: bool = False) -> str:
    """A finished run in a few lines for the console, 80 columns wide at most but for the path."""
    error, loss, baseline = summary["relative_error"], summary["relative_loss"], summary["baseline"]
    verdict = f"{summary['verdict']}"
    if short:
        return f"{path.name}: {verdict}, relative error {_short(error['initial'])} -> {_short(error['final'])}"
    optim, weight = summary["optim"], summary["watched_weight"]
    rate = f"{optim['lr']:.3g}"
    if optim["boundary"] is not None:
        rate += f", {optim['lr_over_boundary']:.3g} of the boundary 2/lambda_max = {optim['boundary']:.3g}"
    return "\n".join(
        [
            "",
            f"verdict         {verdict}",
            *(f"                {reason}" for reason in summary["reasons"][:4]),
            f"relative error  {_short(error['initial'])} at the start, {_short(error['final'])} after {summary['steps']} steps (zero output: 1)",
            f"relative loss   {_short(loss['initial'])} -> {_short(loss['final'])} (mean predictor: 1, zero: {baseline['zero'] / baseline['mean']:.2f})",
            f"drift           {_short(summary['drift'].get(weight))} of its norm, {weight}",
            f"learning rate   {rate}",
            f"records         {path}",
            "",
        ]
    )


def mark_failed(path: Path, config_yaml: str, error: str, details: str, choices: Mapping[str, str]) -> None:
    """Leave a failed job's reason in its own folder, unless a finished run stands there."""
    from wavebase import records

    folder = records.RunFolder(path)
    finished = folder.summary()
    if finished is None or finished["status"] not in ("done", "diverged"):
        folder.fail(config_yaml, {"status": "failed", "error": error, "details": details, "choices": dict(choices)})


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    """Rows as CSV, their columns in order of first appearance."""
    text = io.StringIO()
    columns = list(dict.fromkeys(key for line in rows for key in line))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _styles(groups: Mapping[str, list[Run]], curves: Mapping[str, Any]) -> dict[str, tuple[str, str]] | None:
    """One colour a model and one line style a setting, where the groups are models times settings."""
    from wavebase.figures import COLOURS, STYLES

    firsts = {label: label.split(" ", 1) for label in groups}
    models = list(dict.fromkeys(words[0] for words in firsts.values()))
    settings = list(dict.fromkeys(words[1] if len(words) > 1 else "" for words in firsts.values()))
    if len(models) * len(settings) != len(groups) or len(models) > len(COLOURS) or len(settings) > len(STYLES):
        return None
    return {
        curve: (COLOURS[models.index(words[0])], STYLES[settings.index(words[1] if len(words) > 1 else "")])
        for curve, words in zip(curves, firsts.values(), strict=True)
    }


def _follows(key: str, varying: list[str], runs: list[Run]) -> bool:
    """Whether a top-level key tells the same as this nested one (an interpolation such as signal.T of T)."""
    name = key.split(".")[-1]
    return (
        name != key
        and name in varying
        and all(run.config.get(key, run.config.get(name)) == run.config.get(name) for run in runs)
    )


def _flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= (
            _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
        )
    return flat


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}" if value and not 0.01 <= abs(value) < 1000 else f"{value:.3g}"


if __name__ == "__main__":
    main()
