"""How exact are the handwritten algorithms, and what does exactness cost in curvature, gradient and robustness?

    python bench/zoo.py            prints four tables and writes bench/results/zoo.md

Errors: the largest of 256 inputs, in the units of the construction's `error_bound`; beside it what zero outputs and the best constant
have. lambda_max: the loss's largest curvature at the exact weights, in natural units and in the weights themselves. moved: the relative
error when every entry is moved by 1e-3 of its unit (`perturbed_weights`).
"""

import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import wavebase
from wavebase.constructions.counter import counter_construction
from wavebase.constructions.handwritten import perturbed_weights
from wavebase.constructions.linear_attention import best_rate, gradient_step, linear_attention_construction
from wavebase.constructions.modular_addition import modular_addition_construction
from wavebase.constructions.spectral_gru import spectral_gru_construction
from wavebase.constructions.state_space import eigenvalues, state_space_construction
from wavebase.models.counter import CounterLSTM
from wavebase.models.linear_attention import LinearAttention
from wavebase.models.modular_addition import ModularAddition
from wavebase.models.spectral_gru import SpectralGRU
from wavebase.models.state_space import StateSpace
from wavebase.probes.curvature import largest_curvature
from wavebase.signals.generators import WhiteNoise
from wavebase.tasks.counting import Counting
from wavebase.tasks.in_context_regression import InContextRegression
from wavebase.tasks.modular_addition import ModularAddition as Addition
from wavebase.tasks.power_spectrum import PowerSpectrum

CPU = torch.device("cpu")
DTYPES = (torch.float64, torch.float32)
Row = dict[str, Any]


def generator(seed: int = 0) -> torch.Generator:
    """Random numbers of a seed."""
    return torch.Generator().manual_seed(seed)


def measure(
    name: str,
    make: Callable[..., Any],
    task: Any,
    inputs: Tensor,
    target: Tensor,
    size: Any = 1.0,
    logits: bool = False,
) -> Row:
    """One row of the table of errors. make: (weights, unit_scaled) to a net."""
    exact = make()
    algorithm, dtype = exact.exact, exact.dtype

    def worst(output: Tensor) -> float:
        return ((output.double() - target).abs() / size).max().item()

    def outputs(net: Any) -> Tensor:
        with torch.no_grad():
            return net(inputs).softmax(-1) if logits else net(inputs)

    mean = target.flatten(0, -2).mean(0) if target.ndim > 1 else target.mean()
    row = {
        "algorithm": name,
        "dtype": str(dtype).removeprefix("torch."),
        "weights": sum(weight.numel() for weight in algorithm.weights.values()),
        "error": worst(outputs(exact)),
        "bound": algorithm.error_bound,
        "zero": worst(torch.zeros_like(target)),
        "mean": worst(mean.expand_as(target)),
    }
    if dtype == torch.float64:
        x, y = task.sample_batch(64, generator(2))
        for label, unit_scaled in (("lambda_max", True), ("raw", False)):
            net = make(None, unit_scaled)
            row[label] = largest_curvature(lambda net=net: task.loss(net(x), y), net.parameters())
        moved = make(perturbed_weights(algorithm, 1e-3, generator(3)))
        row["moved"] = ((outputs(moved) - target).norm() / target.norm()).item()
    return row


def spectrum(name: str, T: int, dtype: torch.dtype, algorithm: Any, model: Any, per_window: bool) -> Row:
    """A net for power spectra."""
    task = PowerSpectrum(WhiteNoise(), T, dtype, CPU, generator(), normalisation="power", held_out_count=256)
    inputs = task.held_out["training"].input
    target = wavebase.power_spectrum(inputs, T)
    size = T * inputs.double().square().sum(-1)[:, None, None] if per_window else T**2
    return measure(
        name, lambda w=None, u=False: model(algorithm, T, weights=w, unit_scaled=u), task, inputs, target, size
    )


def errors() -> list[Row]:
    """Every member in both dtypes."""
    rows = []
    for dtype in DTYPES:
        for letters, name in ((2, "counter, a^n b^n"), (3, "counter, a^n b^n c^n")):
            task = Counting(32, dtype, CPU, generator(), letters=letters, longest=256, held_out_count=2)
            algorithm = counter_construction(letters, task.stop, longest=256, dtype=dtype)
            x, y = task.held_out["lengths"]
            rows.append(
                measure(name, lambda w=None, u=False, a=algorithm: CounterLSTM(a, w, u), task, x, y.double(), 1.0, True)
            )
        for T in (16, 64):
            for kind in ("complex", "lru", "s4d"):
                algorithm = state_space_construction(T, eigenvalue=kind, dtype=dtype)
                rows.append(spectrum(f"state space, {kind}, T = {T}", T, dtype, algorithm, StateSpace, True))
        for T, orders in ((8, 1), (8, 2), (8, 3), (8, 4), (16, 1)):
            algorithm = spectral_gru_construction(T, orders=orders, dtype=dtype)
            rows.append(spectrum(f"GRU, m = {orders}, T = {T}", T, dtype, algorithm, SpectralGRU, False))
        for N, d in ((16, 4), (64, 8)):
            task = InContextRegression(N, dtype, CPU, generator(), dimension=d, held_out_count=256)
            algorithm, tokens = linear_attention_construction(N, d, dtype=dtype), task.held_out["training"].input
            x, y, query = (part.double() for part in (tokens[:, :-1, :-1], tokens[:, :-1, -1], tokens[:, -1, :-1]))
            size = best_rate(N, d) / N * (y.abs() * x.norm(dim=-1)).sum(1) * query.norm(dim=-1)
            oracle = gradient_step(tokens, best_rate(N, d))
            rows.append(
                measure(
                    f"attention, N = {N}, d = {d}",
                    lambda w=None, u=False, a=algorithm: LinearAttention(a, w, u),
                    task,
                    tokens,
                    oracle,
                    size,
                )
            )
        for p in (5, 11, 23):
            task, algorithm = Addition(dtype, CPU, generator(), p=p), modular_addition_construction(p, dtype)
            x, y = task.held_out["training"]
            rows.append(
                measure(
                    f"addition modulo {p}",
                    lambda w=None, u=False, a=algorithm: ModularAddition(a, w, u),
                    task,
                    x,
                    y.double(),
                )
            )
    return rows


def decays() -> list[Row]:
    """LRU's trade: exactness against the gradient of the modulus, T = 64."""
    rows = []
    T, x = 64, WhiteNoise().sample(256, 64, generator())
    power = wavebase.power_spectrum(x, T)
    for nu in (-40.0, -30.0, -20.0, -15.0, -10.0, -5.0):
        algorithm = state_space_construction(T, eigenvalue="lru", log_decay=nu)
        with torch.no_grad():
            output = StateSpace(algorithm, T)(x)
        free = {name: weight.clone().requires_grad_() for name, weight in algorithm.weights.items()}
        real, imag = eigenvalues(free)
        (slope,) = torch.autograd.grad((real**2 + imag**2).sqrt()[1], free["nu"])
        error = ((output - power).norm() / power.norm()).item()
        rows.append({"nu": nu, "error": error, "T exp(nu)": T * math.exp(nu), "d|lambda|/d nu": slope[1].item()})
    return rows


def gains() -> list[Row]:
    """The GRU's trade: truncation against rounding, and what both cost in curvature, T = 8."""
    task = PowerSpectrum(WhiteNoise(), 8, torch.float64, CPU, generator(), normalisation="power_per_sample")
    x, y = task.sample_batch(64, generator(2))
    rows = []
    for orders in (1, 2, 4):
        for gain in (None, 1e-6, 1e-4, 1e-2, 1e-1, 1.0):
            algorithm = spectral_gru_construction(8, scale=1 / 8, orders=orders, gain=gain)
            net = SpectralGRU(algorithm, 8, unit_scaled=True)
            error = task.metrics(net(x).detach(), y)["relative_error"]
            curvature = largest_curvature(lambda net=net: task.loss(net(x), y), net.parameters())
            rows.append({"m": orders, "G": "best" if gain is None else gain, "error": error, "lambda_max": curvature})
    return rows


def lengths() -> list[Row]:
    """The counter: the longest string that is right, the share of W_ih that has a gradient, and curvature, by gain."""
    rows = []
    for dtype in DTYPES:
        for gain in (3.0, 5.0, 10.0, 20.0, 40.0, 127.0):
            task = Counting(32, dtype, CPU, generator(), longest=1000, held_out_count=2)
            net = CounterLSTM(counter_construction(2, task.stop, gain=gain, dtype=dtype))
            x, y = task.held_out["lengths"]
            with torch.no_grad():
                n = task.metrics(net(x), y)["largest_n"]
            batch = task.sample_batch(256, generator(2))
            task.loss(net(batch.input), batch.target).backward()
            parts = [p.grad for name, p in net.named_parameters() if name.startswith("weight_ih")]
            alive = sum(int((part != 0).sum()) for part in parts) / sum(part.numel() for part in parts)  # type: ignore[union-attr]
            scaled = CounterLSTM(net.exact, None, True)
            curvature = largest_curvature(
                lambda net=scaled, batch=batch, task=task: task.loss(net(batch.input[:64]), batch.target[:64]),
                scaled.parameters(),
            )
            leak = 1 - torch.tensor(gain).double().sigmoid().item()
            foretold = (0.6 / leak) ** 0.5 if leak else math.inf
            rows.append(
                {
                    "dtype": str(dtype).removeprefix("torch."),
                    "G": gain,
                    "right to n": int(n),
                    "foretold": foretold,
                    "W_ih with a gradient": alive,
                    "lambda_max": curvature,
                }
            )
    return rows


def main() -> None:
    """Measure, print and write."""
    text = [f"Measured with `python bench/zoo.py`, torch {torch.__version__}, Python {platform.python_version()}.\n"]
    for title, table in (("Errors", errors), ("LRU", decays), ("GRU", gains), ("Counter", lengths)):
        rows = [{name: f"{v:.1e}" if isinstance(v, float) else str(v) for name, v in row.items()} for row in table()]
        names = list(max(rows, key=len))
        text += [f"## {title}\n", "| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
        text += ["| " + " | ".join(row.get(name, "") for name in names) + " |" for row in rows] + [""]
        print("\n".join(text[-len(rows) - 4 :]), flush=True)
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "zoo.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
