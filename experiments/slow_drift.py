"""Does descent under label noise keep the algorithm, or only the function that it is trained on? Expected: one window's error
stays where the law of label noise puts it, while the oscillators are damped in proportion to time and to the squares of noise and
rate, because nothing opposes a drift towards lower curvature along directions that one window does not show.

    python experiments/slow_drift.py [--full]
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from wavebase import study
from wavebase.experiment import build
from wavebase.figures import curves, style
from wavebase.probes import mechanism
from wavebase.spectrum import power_spectrum
from wavebase.theory import gauss_newton, slow_drift
from wavebase.theory.label_noise import UpdateRule

WINDOWS = 20  # of the stream that shows what one window does not
PLAIN = "optim.lr_over_boundary={rate} task.label_noise={noise}"
CHANGES = {  # label: the words that make it, beside those of half the boundary and the noise compared
    "no noise": "optim.lr_over_boundary=0.5",
    "streams of 20": PLAIN + " task.windows=20 train.batch=3",
    "momentum 0.9": "optim=momentum optim.lr_over_boundary=0.05 task.label_noise={noise}",
    "decay 1e-4": PLAIN + " optim.weight_decay=1e-4",
    "the same, no noise": "optim.lr_over_boundary=0.5 optim.weight_decay=1e-4",
    "Adam 1e-4": "optim=adam optim.lr=1e-4 task.label_noise={noise}",
}


class Start:
    """The common start of runs: what the theory needs to know of it, and what can be read of weights beside it."""

    def __init__(self, run: study.Run, sequences: int):
        self.cfg, components = build.load_run(run.folder, 0)
        self.components, self.construction, self.T = components, components.net.construction, components.net.T
        generator = torch.Generator().manual_seed(1)
        signal = components.task.sample_batch(sequences, generator).input
        self.matrix = gauss_newton.gauss_newton(components.net, components.trained, signal)
        self.third = slow_drift.third_derivatives(components.net, components.trained, signal, self.matrix.eigenvectors)
        self.count = self.cfg.train.batch * components.task.held_out["training"].target[0].numel()
        self.theta = {name: weight.detach().clone() for name, weight in components.trained.items()}
        self.stream = components.task.signal.sample(64, WINDOWS * self.T, generator)

    def displacement(self, run: study.Run, steps: int) -> torch.Tensor:
        """The theory's mean displacement for a run's rule and noise."""
        _, components = build.load_run(run.folder, 0)
        noise, power = components.task.label_noise, components.task.baselines["zero"]
        rule = UpdateRule.of(components.optimizer)
        return slow_drift.mean_displacement(self.matrix, self.third, rule, noise, self.count, power, steps)

    def damping(self, moved: torch.Tensor) -> float:
        """That of the start's weights moved by so much, see `damped`."""
        name, sizes = "weight_hh_cell", [theta.numel() for theta in self.theta.values()]
        part = dict(zip(self.theta, moved.split(sizes), strict=True))[name]
        exact, unit = self.construction.weights[name], self.construction.unit_scale[name]
        return damped({name: exact + unit * part.view_as(exact)}, self.T)

    def moved(self, run: study.Run) -> torch.Tensor:
        """A run's displacement in trained coordinates at its end."""
        weights = run.folder.load_checkpoint(run.folder.checkpoint_steps()[-1])["weights"]
        units, exact = self.construction.unit_scale, self.construction.weights
        return torch.cat([((weights[name] - exact[name]) / units[name]).flatten() for name in self.theta])

    def stream_errors(self, run: study.Run) -> np.ndarray:
        """(step, error of the last window of a stream, error of the first), at every checkpoint of a run."""
        target, found = power_spectrum(self.stream, self.T, "full", "power_per_sample"), []
        for step in run.folder.checkpoint_steps():
            net = self.construction.replace_weights(run.folder.load_checkpoint(step)["weights"])
            apart = mechanism.outputs(net, self.stream) - target
            errors = [(apart[:, n].norm() / target[:, n].norm()).item() for n in (-1, 0)]
            found.append((step, *errors))
        return np.array(found)

    def along(self, runs: Sequence[study.Run], steps: int) -> tuple[float, float]:
        """Measured over predicted displacement along the predicted one's part without curvature: mean and standard error."""
        vectors, predicted = self.matrix.eigenvectors, self.displacement(runs[0], steps)
        flat = predicted - vectors @ (vectors.mT @ predicted)
        shares = np.array([(self.moved(run) @ flat / flat.square().sum()).item() for run in runs])
        return float(shares.mean()), float(shares.std(ddof=1) / len(shares) ** 0.5) if len(shares) > 1 else np.nan

    def blocks(self, runs: Sequence[study.Run]) -> list[tuple[str, float]]:
        """Where the mean displacement of runs lies: shares of its square by weight and blocks, the largest first."""
        mean = torch.stack([self.moved(run) for run in runs]).mean(0).square()
        shares: Counter[str] = Counter()
        sizes = [theta.numel() for theta in self.theta.values()]
        for (name, theta), part in zip(self.theta.items(), mean.split(sizes), strict=True):
            square = part.view_as(theta)
            rows = {"": slice(None)} if name.startswith("readout") else self.construction.blocks
            columns = self.construction.blocks if theta.ndim == 2 and theta.shape[1] > 1 else {"": slice(None)}
            for to, row in rows.items():
                for source, column in columns.items():
                    square_of = square[row, column] if theta.ndim == 2 else square[row]
                    shares[" ".join(filter(None, (name, to, source and f"from {source}")))] += square_of.sum().item()
        return [(name, share / max(sum(shares.values()), 1e-300)) for name, share in shares.most_common(5)]


def damping(runs: Sequence[study.Run]) -> tuple[np.ndarray, np.ndarray]:
    """(steps, damping of the oscillators [runs, steps]), at every checkpoint after the start: see `damped`."""
    steps = runs[0].folder.checkpoint_steps()[1:]
    found = [[damped(run.folder.load_checkpoint(step)["weights"], run.config["T"]) for step in steps] for run in runs]
    return np.array(steps), np.array(found)


def damped(weights: dict[str, torch.Tensor], T: int) -> float:
    """-log |det W| / n of the n oscillating units' own matrix: the mean of -log |lambda|. It has a sign, so that the scatter of the
    weights averages out over runs, which that of a largest change does not."""
    gen = weights["weight_hh_cell"][: 2 * T, : 2 * T].double()
    return -torch.linalg.slogdet(gen)[1].item() / (2 * T)


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean over runs and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else np.nan


def power_of(x: Sequence[float], groups: Sequence[np.ndarray], draws: int = 2000) -> tuple[float, float, float]:
    """p of mean ~ x^p and its interval of 95 %, from means over runs; runs are drawn again with replacement (bootstrap)."""
    generator = np.random.default_rng(0)

    def fitted(means: np.ndarray) -> float:
        return float(np.polyfit(np.log(x), np.log(means), 1)[0])

    again = []
    for _ in range(draws):
        means = np.array([group[generator.integers(len(group), size=len(group))].mean() for group in groups])
        if (means > 0).all():
            again.append(fitted(means))
    means = np.array([group.mean() for group in groups])
    middle = fitted(means) if (means > 0).all() else np.nan
    return middle, *(np.percentile(again, (2.5, 97.5)).tolist() if again else (np.nan, np.nan))


def row_of(label: str, T: int, runs: Sequence[study.Run], start: Start, steps: int) -> dict:
    """What runs of one setting came to."""
    middle, error = mean_and_error(damping(runs)[1][:, -1])
    streams = np.array([start.stream_errors(run)[-1] for run in runs])
    return {
        "T": T,
        "setting": label,
        "damping": middle,
        "+-": error,
        "theory": None,
        "window": float(np.median(study.final_errors(runs))),
        "20th": float(np.median(streams[:, 1])),
    }


def exponents(main: dict, top: tuple[float, float]) -> dict[str, tuple[float, float, float]]:
    """Of noise at one rate, of the rate at one noise, and of time in the last eight tenths."""
    ends = {key: damping(runs)[1][:, -1] for key, runs in main.items()}
    found = {}
    for name, own, other in (("noise", 1, 0), ("rate", 0, 1)):
        chosen = {key[own]: values for key, values in ends.items() if key[other] == top[other]}
        if len(chosen) > 1:
            found[name] = power_of(list(chosen), list(chosen.values()))
    at, values = damping(main[top])
    if len(at) > 2:
        found["time"] = power_of(at[1:].tolist(), list(values.T[1:]))
    return found


def measure(size: study.Size) -> study.Finding:
    steps = size.pick(tiny=2, fast=2500, full=10000)
    seeds = size.pick(tiny=2, fast=10, full=20)
    T, longer = size.pick(tiny=(3, None), fast=(4, 8), full=(4, 8))
    settings = size.pick(
        tiny=((0.5, 0.3),),
        fast=((0.5, 0.1), (0.5, 0.2), (0.25, 0.3), (0.5, 0.3)),
        full=((0.5, 0.075), (0.5, 0.15), (0.125, 0.3), (0.25, 0.3), (0.5, 0.3)),
    )
    longest = size.pick(tiny=(), fast=settings[1:], full=settings[1:])
    top, compared = settings[-1], (0.5, settings[min(1, len(settings) - 1)][1])
    changes = dict(list(CHANGES.items())[:: size.pick(tiny=3, fast=1, full=1)])
    shared = (
        "hydra.launcher.processes=1",  # one stack of all seeds: few nets cost nearly what one does
        f"seed=range(0,{seeds})",
        f"train.steps={steps}",
        f"train.checkpoint_every={max(steps // 10, 1)}",
        "train.log_every=100",
        "probe.measure=[function.held_out_error]",
        f"probe.every={steps}",
    )

    def runs_of(T: int, words: str, rate: float, noise: float) -> list[study.Run]:
        return size.sweep(f"T={T}", *shared, *words.format(rate=rate, noise=noise).split())

    rows, ratios = [], []
    main = {key: runs_of(T, PLAIN, *key) for key in settings}
    starts = {T: Start(main[top][0], size.pick(tiny=50, fast=400, full=1000))}
    everything = [(T, f"SGD {rate:g}, noise {noise:g}", runs) for (rate, noise), runs in main.items()]
    everything += [(T, label, runs_of(T, words, *compared)) for label, words in changes.items()]
    also = {key: runs_of(longer, PLAIN, *key) for key in longest} if longer is not None else {}
    everything += [(longer, f"SGD {rate:g}, noise {noise:g}", runs) for (rate, noise), runs in also.items()]
    if longer is not None:
        starts[longer] = Start(also[top][0], size.pick(tiny=0, fast=130, full=200))
    for length, label, runs in everything:
        row = row_of(label, length, runs, starts[length], steps)
        if label.startswith("SGD") or label.startswith("momentum"):
            row["theory"] = starts[length].damping(starts[length].displacement(runs[0], steps))
            ratios.append((length, label, row["damping"] / row["theory"], *starts[length].along(runs, steps)))
        rows.append(row)
    found = {f"{name} at T = {T}": power for name, power in exponents(main, top).items()}
    if also:
        found |= {f"{name} at T = {longer}": power for name, power in exponents(also, top).items()}
    heard = starts[T].blocks(main[top])
    conclusion, limitations = texts(rows, ratios, found, heard, steps, seeds, compared)
    return study.Finding("The slow drift", rows, conclusion, limitations, picture(main, starts[T], top, steps))


def texts(
    rows: list[dict],
    ratios: list[tuple],
    found: dict[str, tuple[float, float, float]],
    heard: list[tuple[str, float]],
    steps: int,
    seeds: int,
    compared: tuple[float, float],
) -> tuple[str, str]:
    """What the numbers show, and what they do not."""
    powers = ", ".join(f"{name} {p:.2f} ({low:.2f} to {high:.2f})" for name, (p, low, high) in found.items()) or "none"
    along = [f"{share:.3f} +- {error:.3f} (T = {T}, {label})" for T, label, _, share, error in ratios]
    worst = max((row for row in rows if row["setting"].startswith("SGD")), key=lambda row: row["damping"])
    conclusion = f"""Descent under noise keeps the function that it is trained on and slowly destroys the algorithm. After {steps} steps of
    {worst["setting"]} at T = {worst["T"]} the error of one window is {worst["window"]:.2g}, that of the twentieth in a stream {worst["20th"]:.2g}: the
    oscillators' |lambda| has shrunk by {worst["damping"]:.2g} (+- {worst["+-"]:.1g}; mean over modes and {seeds} runs). Powers of the damping with
    95 % intervals (theory: noise 2, rate 2, time 1): {powers}. The theory has no fitted number. Measured over predicted damping is
    {min(r[2] for r in ratios):.2f} to {max(r[2] for r in ratios):.2f}; for the weights' mean displacement along its predicted part without curvature the
    ratio is {"; ".join(along)}, with standard errors over {seeds} runs. Most of the mean displacement is in
    {"; ".join(f"{name} ({100 * share:.0f} %)" for name, share in heard)}. Rows that name no rate or noise have {compared[0]:g} and {compared[1]:g}."""
    limitations = """The theory describes the start: once the drift has changed curvature and cloud, its speed changes too. Damping is the mean
    of -log |lambda| over all modes, silent ones included, with standard errors over runs. Streams show what one window
    does not, so their loss and boundary differ; batch times windows is nearly that of the other runs. Adam and decay
    have no theory here: decay damps oscillators by itself, as the row without noise shows."""
    return conclusion, limitations


def picture(main: dict, start: Start, top: tuple[float, float], steps: int) -> Figure:
    """The oscillators against time, with theory; the error of a window and of a stream's last against time."""
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for ((rate, noise), runs), colour in zip(main.items(), style.COLOURS, strict=False):
        at, values = damping(runs)
        error = values.std(0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.zeros(len(at))
        left.errorbar(
            at, values.mean(0), error, fmt="o", markersize=4, color=colour, label=f"rate {rate:g}, noise {noise:g}"
        )
        theory = [start.damping(start.displacement(runs[0], int(step))) for step in at]
        left.plot(at, theory, color=colour, linestyle="--", linewidth=1)
    left.plot([], [], color=style.GREY, linestyle="--", linewidth=1, label="theory, nothing fitted")
    left.set(xscale="log", yscale="log", xlabel="step", ylabel="mean of -log |lambda|", title="oscillators are damped")
    left.legend(fontsize=9)
    streams = np.array([start.stream_errors(run)[1:] for run in main[top]])
    for column, label, colour in ((1, f"window {WINDOWS} of a stream", 1), (2, "one window", 0)):
        curves.median_and_range(right, streams[0, :, 0], streams[:, :, column], style.COLOURS[colour], "-", label)
    right.axhline(1, color=style.GREY, linestyle=":", linewidth=1, label="predicting zero")
    right.set(xscale="log", yscale="log", xlabel="step", ylabel="relative error")
    right.set_title(f"rate {top[0]:g}, noise {top[1]:g}")
    right.legend(fontsize=10)
    for ax in (left, right):
        ax.grid(alpha=0.25)
        ax.xaxis.set_minor_formatter(NullFormatter())
    return figure


if __name__ == "__main__":
    study.main(__file__, __doc__, measure)
