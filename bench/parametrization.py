"""What do unit-scaled coordinates cost? Whole training steps of the exact net in both parametrisations, by turns in one process.

    python bench/parametrization.py [--rounds 40] [--out bench/results]

A step is forward, backward and plain SGD on a fixed batch of 64, on one thread; a stack of 16 goes through torch.func.vmap as
a sweep's does. Times are processor seconds; the ratio is the median over rounds of the ratio of neighbouring timings.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import wavebase
from wavebase.constructions.construction import STATE_NAMES
from wavebase.models.spectral import SpectralLSTM


def step_of(T: int, dtype: torch.dtype, unit_scaled: bool, members: int) -> Callable[[], None]:
    """One training step of an exact net, or of a stack of them."""
    construction = wavebase.spectral_construction(T, dtype=dtype)
    net = SpectralLSTM(construction, unit_scaled=unit_scaled)
    trained = {name: p for name, p in net.named_parameters() if name not in STATE_NAMES}
    for name in STATE_NAMES:
        net.get_parameter(name).requires_grad_(False)
    signal = torch.rand(64, T, dtype=dtype) * 2 - 1
    target = wavebase.power_spectrum(signal, T)
    if members == 1:
        optimizer = torch.optim.SGD(trained.values(), lr=1e-30)

        def one() -> None:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(net(signal), target).backward()
            optimizer.step()

        return one
    every = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    stacked = {name: tensor.detach().expand(members, *tensor.shape).clone() for name, tensor in every.items()}
    leaves = {name: stacked.pop(name).requires_grad_() for name in trained}
    together = torch.optim.SGD(leaves.values(), lr=1e-30)

    def loss(leaf: dict[str, torch.Tensor], fixed: dict[str, torch.Tensor]) -> torch.Tensor:
        output = torch.func.functional_call(net, {**leaf, **fixed}, (signal,))
        return torch.nn.functional.mse_loss(output, target)

    def many() -> None:
        together.zero_grad()
        torch.func.vmap(loss)(leaves, stacked).sum().backward()
        together.step()

    return many


def timed(act: Callable[[], None], repeats: int) -> float:
    began = time.process_time()
    for _ in range(repeats):
        act()
    return (time.process_time() - began) / repeats


def main() -> None:
    """Measure, print, and write parametrization.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    out = options.out
    torch.set_num_threads(1)
    rows = ["| T | dtype | members | raw, ms | unit-scaled, ms | ratio |", "|---:|---|---:|---:|---:|---:|"]
    for T, dtype, members in ((5, torch.float32, 1), (8, torch.float32, 1), (8, torch.float64, 1), (16, torch.float64, 1), (8, torch.float64, 16)):  # fmt: skip
        raw, scaled = (step_of(T, dtype, scaled, members) for scaled in (False, True))
        timed(raw, 5), timed(scaled, 5)
        repeats = max(1, int(0.03 / timed(raw, 3)))
        pairs = [(timed(raw, repeats), timed(scaled, repeats)) for _ in range(options.rounds)]
        ratio = statistics.median(b / a for a, b in pairs)
        before, after = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
        name = str(dtype).removeprefix("torch.")
        rows.append(f"| {T} | {name} | {members} | {before:.3f} | {after:.3f} | {ratio:.3f} |")
        print(rows[-1], flush=True)
    note = f"`python bench/parametrization.py` on {platform.processor() or platform.machine()}, torch {torch.__version__}, one thread."
    out.mkdir(parents=True, exist_ok=True)
    (out / "parametrization.md").write_text("\n".join([note, "", *rows]) + "\n")


if __name__ == "__main__":
    main()
