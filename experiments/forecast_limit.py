"""How well can noisy task B be forecast at all? The posterior of its generator, sampled: its mean has the least error.

    python experiments/forecast_limit.py                           # the fixed set of 2000 signals, about 15 CPU minutes
    python experiments/forecast_limit.py --others --signals 1500 outputs/runs/learned_prior   # other signals, and a net
    python experiments/forecast_limit.py --others --signals 100 --assume 0.2    # control: a wrong noise is found out

Each part of 100 signals is stored when it is done, in outputs/studies/forecast_limit; the same command continues. Prints
the error beside those of zero, sparse Bayes, the oracle and the nets of the folders given, R-hat, coverage of the intervals,
and the uniformity of the truth's ranks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from wavebase import console, study
from wavebase.experiment import build
from wavebase.experiment.config import seeded_generator
from wavebase.models import sparse_bayes
from wavebase.models.bayes import sample_posterior
from wavebase.records.atomic import atomic_write
from wavebase.records.folder import RunFolder
from wavebase.signals.harmonics import Drawn, Harmonics
from wavebase.signals.subspace import oracle
from wavebase.statistics import nmse, paired_ratio, proportion

SIGNAL, LOOKBACK, HORIZON, PART = Harmonics((3, 44), (10, 99), 0.1), 100, 10, 100
LEVELS = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
FOLDER = study.FOLDER / "forecast_limit"


def signals(others: bool, count: int) -> Drawn:
    """The held-out set of noisy B with seeds.probe=0, or the first of the signals that `forecast_table.py --signals` draws."""
    generator = torch.Generator().manual_seed(20_000) if others else seeded_generator(0, "probe")
    whole = SIGNAL.draw(4000 if others else 2000, LOOKBACK + HORIZON, generator)
    return Drawn(*(part[:count] for part in whole))


def sampled(drawn: Drawn, folder: Path, noise: float, updates: int, uniform: bool) -> Iterator[dict[str, np.ndarray]]:
    """Sample the signals part by part and yield what is known of each; parts that are stored are read."""
    for first in range(0, len(drawn.signal), PART):
        file = folder / f"{first:05d}.npz"
        if not file.is_file():
            x = drawn.signal[first : first + PART]
            began = time.process_time()
            generator = torch.Generator().manual_seed(first)
            found = sample_posterior(
                x[:, :LOOKBACK], HORIZON, SIGNAL.periods, SIGNAL.components, noise, generator, updates=updates, uniform=uniform
            )  # fmt: skip
            seconds = (time.process_time() - began) / len(x)
            future = x[:, None, LOOKBACK:]
            below, equal = (found.draws < future).sum(1), (found.draws == future).sum(1)
            ranks = (below + (equal + 1) * torch.rand(equal.shape, generator=generator)) / (found.draws.shape[1] + 1)
            held = {
                "mean": found.mean,
                "quantiles": found.draws.quantile(torch.tensor(LEVELS, dtype=torch.float64), 1).movedim(0, 1),
                "variance": found.draws.var(1),
                "rank": ranks,
                "error": found.error,
                "rhat": found.rhat,
                "accepted": found.accepted,
                "seconds": torch.full((len(x),), seconds),
            }
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(file, lambda opened, held=held: np.savez(opened, **{k: v.numpy() for k, v in held.items()}))
            print(f"{first + len(x)} signals, {seconds:.3f} CPU s each, R-hat {found.rhat.median():.3f}", flush=True)
        yield dict(np.load(file))


def report(drawn: Drawn, found: dict[str, torch.Tensor], folders: list[Path]) -> list[str]:
    """Errors, diagnostics and calibration as lines of text."""
    future, past = drawn.signal[:, LOOKBACK:], drawn.signal[:, :LOOKBACK]
    nets = {
        "sparse Bayes": sparse_bayes.build(LOOKBACK, HORIZON, torch.float64, periods=SIGNAL.periods, noise=SIGNAL.noise)
    }
    nets |= {folder.name: build.load_run(RunFolder(folder))[1].net for folder in folders}
    forecasts = {
        "limit": found["mean"],
        "zero": torch.zeros_like(future),
        "oracle": oracle(drawn, LOOKBACK, SIGNAL.periods),
    }
    for name, net in nets.items():
        with torch.no_grad():
            forecasts[name] = torch.cat([net(part).double() for part in past.split(250)])
    errors = {name: (forecast - future).square() for name, forecast in forecasts.items()}
    sizes, lines = future.square(), []
    for name, square in errors.items():
        ratio = paired_ratio(square, errors["limit"], torch.Generator().manual_seed(0))
        lines.append(
            "{}: NMSE {:.4f} ({:.4f} to {:.4f}), over the limit {:.3f} ({:.3f} to {:.3f})".format(
                name, *nmse(square, sizes), *ratio
            )
        )
    good = found["rhat"] < 1.05
    lines.append(
        f"R-hat < 1.05: {good.double().mean():.3f} of {len(good)} signals, < 1.1: {(found['rhat'] < 1.1).double().mean():.3f}, largest {found['rhat'].max():.2f}"
    )
    if good.any():
        lines.append(f"NMSE of those: {nmse(errors['limit'][good], sizes[good]).value:.4f}")
    lines.append(f"accepted {found['accepted'].mean():.3f}")
    lines.append(
        f"CPU seconds a signal: {found['seconds'].mean():.3f}; variance of the draws over squared error: {found['variance'].mean() / errors['limit'].mean():.3f}"
    )
    if "error" in found:
        lines.append(f"part of the NMSE that longer chains would save: {found['error'].sum() / sizes.sum():.5f}")
    for level, (low, high) in {50: (2, 4), 80: (1, 5), 95: (0, 6)}.items():
        inside = (future >= found["quantiles"][:, low]) & (future <= found["quantiles"][:, high])
        last = inside[:, -1]
        each = proportion(int(last.sum()), len(last))
        lines.append(
            f"{level} % intervals hold {inside.double().mean():.4f} (all steps), {each.value:.4f} ({each.low:.4f} to {each.high:.4f}) at the last step"
        )
    for step in (0, 4, 9):
        counts = np.histogram(found["rank"][:, step], bins=20, range=(0, 1))[0]
        lines.append(f"ranks of the truth at step {step + 1}, 20 bins: chi2 p = {stats.chisquare(counts).pvalue:.3f}")
    return lines


def main() -> None:
    torch.set_num_threads(1)
    words = console.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folders", nargs="*", type=Path, help="runs of nets on noisy task B to compare with the limit")
    words.add_argument("--others", action="store_true", help="other signals than the fixed set")
    words.add_argument("--signals", type=int, default=2000)
    words.add_argument("--updates", type=int, default=800)
    words.add_argument("--assume", type=float, default=SIGNAL.noise, help="noise that the sampler is given")
    words.add_argument(
        "--uniform", action="store_true", help="also correct the mixture of Gaussians to uniform amplitudes"
    )
    asked = words.parse_args()
    for folder in asked.folders:
        if not folder.is_dir():
            words.error(f"no folder {folder}")
    drawn = signals(asked.others, asked.signals)
    name = f"{'others' if asked.others else 'fixed'}_{asked.assume:g}_{asked.updates}{'_uniform' * asked.uniform}"
    stored = list(sampled(drawn, FOLDER / name, asked.assume, asked.updates, asked.uniform))
    found = {key: torch.from_numpy(np.concatenate([part[key] for part in stored])) for key in stored[0]}
    lines = report(Drawn(*(part[: len(found["mean"])] for part in drawn)), found, asked.folders)
    atomic_write(FOLDER / f"{name}.txt", lambda file: file.write("\n".join([*lines, ""]).encode()))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
