"""Which forecaster is best on tasks A and B, clean and noisy, and what does a forecast cost? Expected: linear prediction where
there is no noise, nets that learn the prior where there is.

    python -m wavebase.run experiment=harmonic_forecast         # and any net's experiment, forecast_*.yaml
    python experiments/forecast_table.py outputs/harmonic_forecast outputs/runs

Every run found is judged anew on its own fixed held-out set (or, with --signals 20000, on that many others), beside the
oracle, who knows each signal's periods and noise; on the noisy task B also step by step, by the number of components, and
paired with sparse Bayes. The limit is drawn if `forecast_limit.py` has stored it. Writes table.md, curves.csv, error.png,
intervals.png and leakage.png to outputs/studies/forecast_table.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from forecast_limit import FOLDER, LEVELS

from wavebase import console, study
from wavebase.experiment import build
from wavebase.figures import forecast as pictures
from wavebase.figures import style
from wavebase.records.atomic import atomic_write
from wavebase.records.folder import RunFolder, find_runs
from wavebase.signals.subspace import oracle
from wavebase.statistics import nmse, paired_difference, proportion

SETTINGS = {(5, False): "A clean", (10, False): "B clean", (5, True): "A noisy", (10, True): "B noisy"}
GROUPS = ((3, 5), (6, 8), (9, 12), (13, 16), (17, 20), (21, 24), (25, 28), (29, 32), (33, 36), (37, 40), (41, 44))


def setting(folder: RunFolder) -> str | None:
    """Which of the four settings a run is about; None for one about something else."""
    config = study.Run(folder).config
    return SETTINGS.get((config.get("task.horizon"), (config.get("signal.noise") or 0) > 0))


def judged(folder: RunFolder, signals: int | None, fitted: int) -> dict[str, Any]:
    """A run's squared errors on its held-out signals, or on others; its intervals are fitted to `fitted` more."""
    cfg, components = build.load_run(folder)
    task = components.task
    generator = cfg.generator("probe") if signals is None else torch.Generator().manual_seed(20_000)
    drawn = task.signal.draw(signals or len(task.held_out["training"].target), task.lookback + task.horizon, generator)
    x = drawn.signal.to(task.dtype)
    began = time.process_time()
    with torch.no_grad():
        forecast = torch.cat([components.net(part) for part in x[:, : task.lookback].split(500)])
    seconds = (time.process_time() - began) / len(x)
    future = drawn.signal[:, task.lookback :]
    net, quantiles = components.net, None
    if getattr(net, "probabilistic", False) and setting(folder) == "B noisy":
        fresh = task.signal.sample(fitted, x.shape[1], torch.Generator().manual_seed(40_000)).to(task.dtype)
        net.fit_spread(fresh[:, : task.lookback], fresh[:, task.lookback :])
        quantiles = torch.cat([net.quantiles(part, LEVELS) for part in x[:, : task.lookback].split(500)], 1)
    return {
        "quantiles": quantiles,
        "spread": torch.as_tensor(getattr(net, "spread", 1.0)),
        "setting": setting(folder),
        "name": (folder.summary() or {}).get("choices", {}).get("model") or folder.path.name.split("-")[0],
        "errors": (forecast.double() - future).square(),
        "sizes": future.square(),
        "drawn": drawn,
        "oracle": (oracle(drawn, task.lookback, task.signal.periods) - future).square(),
        "microseconds": 1e6 * seconds,
        "parameters": sum(p.numel() for p in components.net.parameters()),
    }


def main() -> None:
    torch.set_num_threads(1)
    words = console.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folders", nargs="+", type=Path)
    words.add_argument("--signals", type=int, help="judge on so many other signals instead of the fixed set")
    words.add_argument(
        "--fitted", type=int, default=4000, help="signals of the generator to which intervals are fitted"
    )
    words.add_argument("--only", choices=sorted(SETTINGS.values()))
    asked = words.parse_args()
    for folder in asked.folders:
        if not folder.is_dir():
            words.error(f"no folder {folder}")
    if min(asked.fitted, asked.signals or 1) < 1:
        words.error(f"--signals and --fitted must be at least 1, got {asked.signals} and {asked.fitted}")
    rows = [
        judged(run, asked.signals, asked.fitted)
        for folder in asked.folders
        for run in find_runs(folder)
        if run.checkpoint_steps() and (about := setting(run)) and asked.only in (None, about)
    ]
    names = list(dict.fromkeys(row["name"] for row in rows))
    cells = {(row["name"], row["setting"]): nmse(row["errors"], row["sizes"]) for row in rows}
    for row in rows:
        cells["oracle", row["setting"]] = nmse(row["oracle"], row["sizes"])
    lines = ["| forecaster | " + " | ".join(SETTINGS.values()) + " | parameters | microseconds |", "|---|" + "---|" * 6]
    for name in (*names, "oracle"):
        own = [row for row in rows if row["name"] == name]
        costs = (
            (str(own[-1]["parameters"]), f"{np.median([row['microseconds'] for row in own]):.3g}") if own else ("", "")
        )
        values = [_cell(cells.get((name, setting))) for setting in SETTINGS.values()]
        lines.append("| " + " | ".join((name, *values, *costs)) + " |")

    noisy = {row["name"]: row for row in rows if row["setting"] == "B noisy"}
    if "sparse_bayes" in noisy:
        lines += ["", "NMSE minus that of sparse Bayes on noisy B, the same signals, 95 % by bootstrap:", ""]
        base = noisy["sparse_bayes"]
        for name, row in noisy.items():
            difference = paired_difference(
                row["errors"], base["errors"], base["sizes"], torch.Generator().manual_seed(0)
            )
            lines.append(f"- {name}: {difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})")
        limit = sorted((FOLDER / "fixed_0.1_800").glob("*.npz"))
        if limit and asked.signals is None:
            noisy["limit"] = _limit(base, [np.load(file) for file in limit])
        lines += _coverage(noisy)
        out = study.FOLDER / "forecast_table"
        atomic_write(out / "intervals.png", lambda file: file.write(style.png(_intervals(noisy))))
        curves = _curves(noisy | {"oracle": base | {"errors": base["oracle"]}})
        for name, figure in (("error", pictures.error_curves(curves)), ("leakage", pictures.leakage())):
            atomic_write(out / f"{name}.png", lambda file, figure=figure: file.write(style.png(figure)))
        text = ["variable,forecaster,at,nmse,low,high"] + [
            f"{variable},{name},{place},{','.join(f'{v:.5g}' for v in interval)}"
            for variable, by_name in curves.items()
            for name, series in by_name.items()
            for place, interval in zip(*series, strict=True)
        ]
        atomic_write(out / "curves.csv", lambda file: file.write("\n".join([*text, ""]).encode()))
        atomic_write(out / "table.md", lambda file: file.write("\n".join([*lines, ""]).encode()))
    print("\n".join(lines))


def _limit(base: dict[str, Any], stored: list[Any]) -> dict[str, Any]:
    """The sampled posterior's row, beside the row of another forecaster on the same signals."""
    mean, quantiles = (
        torch.from_numpy(np.concatenate([part[name] for part in stored])) for name in ("mean", "quantiles")
    )
    future = base["drawn"].signal[:, -mean.shape[1] :]
    if len(mean) != len(future):
        raise SystemExit(
            f"{FOLDER} must hold all {len(future)} signals, got {len(mean)}; run forecast_limit.py to its end"
        )
    return base | {"errors": (mean - future).square(), "quantiles": quantiles.movedim(1, 0)}


def _coverage(noisy: dict[str, Any]) -> list[str]:
    """How often the truth lies in the central intervals, over all steps; 95 % over signals."""
    lines = ["", "Coverage of central intervals on noisy B, fitted to other signals:", ""]
    for name, row in noisy.items():
        if row["quantiles"] is None:
            continue
        future, found = row["drawn"].signal[:, -row["sizes"].shape[1] :], row["quantiles"].double()
        cells = []
        for level, low in ((50, 2), (80, 1), (95, 0)):
            inside = ((future >= found[low]) & (future <= found[-1 - low])).double()
            each = inside.mean(1)
            cells.append(f"{level} %: {each.mean():.3f} +- {1.96 * each.std() / len(each) ** 0.5:.3f}")
            last = proportion(int(inside[:, -1].sum()), len(inside))
            cells[-1] += f", at the last step {last.value:.3f} ({last.low:.3f} to {last.high:.3f})"
        spread = "" if name == "limit" else f"; factors {row['spread'].min():.2f} to {row['spread'].max():.2f}"
        lines.append(f"- {name}: " + "; ".join(cells) + spread)
    return lines


def _intervals(noisy: dict[str, Any]) -> Any:
    """Three signals with the intervals of every probabilistic forecaster."""
    found = {
        n: r["quantiles"][[0, 3, 6], :3].movedim(0, 1).numpy() for n, r in noisy.items() if r["quantiles"] is not None
    }
    x = noisy["sparse_bayes"]["drawn"].signal[:3]
    horizon = noisy["sparse_bayes"]["sizes"].shape[1]
    return pictures.intervals(x[:, :-horizon].numpy(), x[:, -horizon:].numpy(), found)


def _curves(noisy: dict[str, Any]) -> dict[str, dict[str, tuple[list[float], list[Any]]]]:
    """By step of the horizon, and by the number of components in GROUPS, at each group's middle."""
    steps, components = {}, {}
    for name, row in noisy.items():
        if name in ("dft", "zero"):  # off the scale of all others; drawn as a line
            continue
        errors, sizes, K = row["errors"], row["sizes"], row["drawn"].components
        steps[name] = (
            [h + 1 for h in range(sizes.shape[1])],
            [nmse(e, s) for e, s in zip(errors.T, sizes.T, strict=True)],
        )
        groups = [(low, high, torch.isin(K, torch.arange(low, high + 1))) for low, high in GROUPS]
        components[name] = [(a + b) / 2 for a, b, _ in groups], [nmse(errors[own], sizes[own]) for *_, own in groups]
    return {"step of the horizon": steps, "components": components}


def _cell(found: Any) -> str:
    if found is None:
        return ""
    return f"{found.value:.3g}" if found.value < 1e-3 else f"{found.value:.3f} ({found.low:.3f}..{found.high:.3f})"


if __name__ == "__main__":
    main()
