"""What becomes of every forecaster when a signal is not what it was built for? Expected: little, because of `model.robust`.

    python experiments/forecast_robustness.py                               # classical forecasters and Bayes, 2 CPU minutes
    python experiments/forecast_robustness.py outputs/runs/learned_prior    # and trained nets

Noisy task B with one thing changed at a time, the same signals for all forecasters. NMSE is relative to the signal without
the offset or trend: 1 is the error of a forecast that knows these and nothing else. Writes table.md to
outputs/studies/forecast_robustness.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from wavebase import console, study
from wavebase.experiment import build
from wavebase.models import (
    bayes,
    esprit,
    learned_prior,
    linear_forecasters,
    linear_prediction,
    matching_pursuit,
    preparation,
    sparse_bayes,
)
from wavebase.records.atomic import atomic_write
from wavebase.records.folder import RunFolder
from wavebase.signals.harmonics import Harmonics
from wavebase.statistics import nmse

LOOKBACK, HORIZON, NOISE, PERIODS = 100, 10, 0.1, (10, 99)
Forecaster = Callable[[Tensor], Tensor]


def any_periods(count: int, generator: torch.Generator) -> Tensor:
    """Draw signals like those of noisy task B whose periods are real numbers, U(10, 99)."""
    components = torch.randint(3, 45, (count, 1), generator=generator)
    period, size, phase = torch.rand(3, count, 44, generator=generator, dtype=torch.float64)
    size, t = size * (torch.arange(44) < components), torch.arange(LOOKBACK + HORIZON, dtype=torch.float64)
    waves = (math.tau * (t / (10 + 89 * period)[..., None] + phase[..., None])).sin()
    clean = (size[..., None] * waves).sum(1)
    clean /= clean.abs().amax(1, keepdim=True)
    x = clean + NOISE * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    return x / x.abs().amax(1, keepdim=True)


def conditions(count: int) -> Mapping[str, tuple[Tensor, Tensor, Tensor]]:
    """Signals under every condition: what a forecaster sees, [count, 100], the signal [count, 110] and what was added."""

    def drawn(noise: float = NOISE) -> Tensor:
        return Harmonics((3, 44), PERIODS, noise).sample(
            count, LOOKBACK + HORIZON, torch.Generator().manual_seed(30_000)
        )

    x, t = drawn(), torch.arange(LOOKBACK + HORIZON, dtype=torch.float64) / LOOKBACK
    holes = torch.rand(count, LOOKBACK, generator=torch.Generator().manual_seed(30_001)) < 0.1
    changed = {
        "as built for": (x, 0 * x),
        "offset 5": (x, 0 * x + 5),
        "offset 0.3": (x, 0 * x + 0.3),
        "trend": (x, (3 * t).expand_as(x)),
        "times 37": (37 * x, 0 * x),
        "times 0.01": (0.01 * x, 0 * x),
        "real periods": (any_periods(count, torch.Generator().manual_seed(30_002)), 0 * x),
        "noise 0.03": (drawn(0.03), 0 * x),
        "noise 0.3": (drawn(0.3), 0 * x),
    }
    seen = {name: ((signal + added)[:, :LOOKBACK], signal, added) for name, (signal, added) in changed.items()}
    return seen | {"10 % missing": (torch.where(holes, math.nan, x[:, :LOOKBACK]), x, 0 * x)}


def forecasters(robust: bool, folders: list[Path], updates: int) -> dict[str, Forecaster]:
    """Every forecaster, built for noisy task B. Those that cannot be `robust` read a past whose gaps are filled."""
    sizes, usual = (LOOKBACK, HORIZON, torch.float64), {"periods": PERIODS, "noise": NOISE, "robust": robust}
    simple: dict[str, Forecaster] = {
        "zero": linear_forecasters.zero(*sizes),
        "mean of the past": lambda past: past.mean(1, keepdim=True).expand(-1, HORIZON),
        "last value": linear_forecasters.last(*sizes),
        "DFT continuation": linear_forecasters.dft(*sizes),
    }
    found: dict[str, Forecaster] = {
        name: lambda past, one=one: one(preparation.fill(past)) for name, one in simple.items()
    }
    found |= {
        "ridge on the dictionary": linear_forecasters.dictionary_ridge(*sizes, **usual),  # type: ignore[arg-type]
        "linear prediction": linear_prediction.build(*sizes, noise=NOISE, robust=robust),
        "group OMP": matching_pursuit.build(*sizes, **usual),  # type: ignore[arg-type]
        "ESPRIT": esprit.build(*sizes, noise=NOISE, robust=robust),
        "sparse Bayes": sparse_bayes.build(*sizes, **usual),  # type: ignore[arg-type]
        "Bayes": bayes.build(*sizes, **usual, updates=updates),  # type: ignore[arg-type]
    }
    for folder in folders:
        net = build.load_run(RunFolder(folder))[1].net
        if isinstance(net, learned_prior.LearnedPrior):
            net.robust = robust
        found[folder.name] = net
    return found


def measure(forecaster: Forecaster, past: Tensor, signal: Tensor, added: Tensor) -> str:
    """NMSE of one forecaster on one condition, as a table's cell."""
    try:
        with torch.no_grad():
            forecast = forecaster(past).double()
    except RuntimeError:  # torch's factorisations refuse what is not finite
        return "fails"
    future = signal[:, LOOKBACK:]
    if not forecast.isfinite().all():
        return "nan"
    value, low, high = nmse((forecast - added[:, LOOKBACK:] - future).square(), future.square())
    return f"{value:.3f} +- {(high - low) / 2:.3f}" if value < 10 else f"{value:.3g}"


def main() -> None:
    torch.set_num_threads(1)
    words = console.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folders", nargs="*", type=Path, help="runs of trained nets on noisy task B")
    words.add_argument("--signals", type=int, default=100)
    words.add_argument("--updates", type=int, default=200, help="of Bayes")
    asked = words.parse_args()
    for folder in asked.folders:
        if not folder.is_dir():
            words.error(f"no folder {folder}")
    cases, lines = conditions(asked.signals), []
    for robust in (True, False):
        lines += [
            "",
            f"model.robust={str(robust).lower()}",
            "",
            "| forecaster | " + " | ".join(cases) + " |",
            "|---|" + "---|" * len(cases),
        ]
        for name, forecaster in forecasters(robust, asked.folders, asked.updates).items():
            if not robust and (not isinstance(forecaster, nn.Module) or name == "Bayes"):
                continue
            cells = [measure(forecaster, *case) for case in cases.values()]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    atomic_write(
        study.FOLDER / "forecast_robustness" / "table.md", lambda file: file.write("\n".join([*lines[1:], ""]).encode())
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
