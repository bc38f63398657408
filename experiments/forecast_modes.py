"""Does a trained forecaster turn into the oscillators of the signal it has heard? Expected: modes at the signal's
frequencies, nearer than those of another signal and than an untrained net's.

    python experiments/forecast_modes.py outputs/runs/lstm_forecaster-...     # or seq2seq_gru, mlp_gru

After the lookback the net runs on its own forecasts: state -> state, a map whose Jacobian has the eigenvalues
exp(+-2 pi i / p) if it continues a sum of sinusoids of periods p for ever. For each component of 100 signals: the distance to the
nearest mode (|eigenvalue| > 0.8), in bins of 1/lookback cycles per sample; beside it the same modes against another
signal's components, and the net's own start. Writes outputs/studies/forecast_modes/<run>.png.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from wavebase import study
from wavebase.experiment import build
from wavebase.figures import style
from wavebase.records.atomic import atomic_write
from wavebase.records.folder import RunFolder
from wavebase.recurrence import lstm

SIGNALS, LEAST_MODULUS = 100, 0.8


def modes(net: torch.nn.Module, past: torch.Tensor) -> np.ndarray:
    """Eigenvalues of the free-running step after each past, [signals, units]."""
    with lstm.plain(), torch.no_grad():
        state = net.state_after(past)
        jacobian = torch.cat([torch.func.vmap(torch.func.jacfwd(lambda s: net.free_step(s[None])[0]))(part) for part in state.split(50)])  # fmt: skip
    return torch.linalg.eigvals(jacobian.double()).numpy()


def distances(values: np.ndarray, periods: torch.Tensor, lookback: int) -> np.ndarray:
    """Of every component to the nearest mode, in bins; half a cycle per sample where there is no mode at all."""
    found = []
    for row, own in zip(values, periods.numpy(), strict=True):
        angle = np.abs(np.angle(row[np.abs(row) > LEAST_MODULUS])) / (2 * np.pi)
        found += [np.min(np.abs(angle - 1 / p), initial=0.5) * lookback for p in own[own > 0]]
    return np.array(found)


def main(folder: RunFolder) -> None:
    torch.set_num_threads(1)
    nets = {}
    for at in (0, -1):
        _, components = build.load_run(folder, at)
        nets[at] = components.net
    task = components.task
    drawn = task.signal.draw(SIGNALS, task.lookback, torch.Generator().manual_seed(1))
    past = drawn.signal.to(task.dtype)
    trained, start = modes(nets[-1], past), modes(nets[0], past)
    series = {
        "its own signal": distances(trained, drawn.periods, task.lookback),
        "another signal": distances(trained, drawn.periods.roll(1, 0), task.lookback),
        "untrained net": distances(start, drawn.periods, task.lookback),
    }
    for name, values in series.items():
        print(
            f"{name}: median {np.median(values):.3g} bins, {np.mean(values < 0.5):.0%} of the components within half a bin"
        )
    active = (np.abs(trained) > LEAST_MODULUS).sum(1)
    print(f"modes over {LEAST_MODULUS}: {np.median(active):.0f} of {trained.shape[1]} (median over signals)")

    figure = Figure(figsize=(10.5, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    turn = np.linspace(0, 2 * np.pi, 400)
    left.plot(np.cos(turn), np.sin(turn), color=style.GREY, linewidth=0.8)
    own = drawn.periods[0][drawn.periods[0] > 0].numpy()
    for n, p in enumerate(own):
        x, y = np.cos(2 * np.pi / p), np.sin(2 * np.pi / p)
        left.plot(
            [0, 1.1 * x],
            [0, 1.1 * y],
            color=style.COLOURS[1],
            linewidth=0.8,
            label=None if n else "signal's frequencies",
        )
    upper = trained[0][trained[0].imag >= 0]
    left.plot(upper.real, upper.imag, ".", color=style.COLOURS[0], label="modes")
    left.set(
        aspect="equal",
        ylim=(-0.1, 1.15),
        xlim=(-1.15, 1.15),
        xlabel="real part",
        ylabel="imaginary part",
        title="one signal",
    )
    left.legend(fontsize=9)
    for (name, values), colour in zip(series.items(), style.COLOURS, strict=False):
        right.plot(np.sort(values), np.linspace(0, 1, len(values)), color=colour, label=name)
    right.set(xscale="log", xlim=(1e-2, 50), xlabel="distance to the nearest mode, bins", ylabel="share of components")
    right.grid(alpha=0.25)
    right.legend(fontsize=9)
    figure.suptitle(f"Modes of the free-running {folder.path.name.split('-')[0]} after its lookback")
    atomic_write(
        study.FOLDER / "forecast_modes" / f"{folder.path.name}.png", lambda file: file.write(style.png(figure))
    )


if __name__ == "__main__":
    main(RunFolder(Path(sys.argv[1])))
