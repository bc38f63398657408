"""How fast is a stack on a CUDA device? Beside torch.nn.LSTM (cuDNN), TorchScript cell loops and the eager loop, one by one.

    python bench/stack_on_cuda.py [--quick] [--seconds 6] [--out bench/results]

The programs are those of bench/recurrence.py: training steps in float32 (forward, backward, SGD), batch 64, H = 7 T units.
A stack runs by the device's kernels and is replayed as a CUDA graph, as in a run; beside it are the same kernels launched one by one,
and the plain loop. The others train one net after the other, so a step of all members costs them one net's
time for each. Programs take turns, each timed to the end of its work on the device; the median of the rounds stands for
each. A member's step counts 24 B T H^2 operations (the products of H x 4H alone), and the limit is a float32 product of
8192 x 8192 matrices on the same device, without TF32.
Writes cuda.md. Without a device, or where the kernel does not run on it, it says so and exits with status 1.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from recurrence import BATCH, CONTENDERS, Packed, one_net
from torch import Tensor, nn

from wavebase.recurrence.cells import plain_sequence
from wavebase.recurrence.lstm import plain
from wavebase.recurrence.native import triton_lstm
from wavebase.training.graphs import ReplayedFunction

SIZES = ((16, 5), (64, 5), (1024, 5), (256, 8), (256, 16))  # members, T
QUICK = ((3, 2),)
STACK = "stack, CUDA graph"
STACKS = (STACK, "stack, launched one by one", "stack, plain loop")
REFERENCE = "TorchScript, gates packed"


def stack_of(members: int, T: int, recorded: bool) -> Callable[[], object]:
    """The training step of a stack, as `wavebase.training.stacks` takes it."""
    H = 7 * T
    net = nn.Sequential(Packed(H), nn.Linear(H, T))
    weights = {f"0.{name}": p.detach() for name, p in Packed(H, (members,)).named_parameters()}
    weights |= {f"1.{name}": p.detach().expand(members, *p.shape).clone() for name, p in net[1].named_parameters()}
    leaves = {name: weight.requires_grad_() for name, weight in weights.items()}
    signal, target = torch.randn(members, BATCH, T, 1), torch.randn(members, BATCH, T)
    optimizer = torch.optim.SGD(leaves.values(), lr=1e-3)

    def member_loss(own: dict[str, Tensor], signal: Tensor, target: Tensor) -> Tensor:
        return nn.functional.mse_loss(torch.func.functional_call(net, own, signal), target)

    def gradients(signal: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        losses = torch.vmap(member_loss)(leaves, signal, target)
        return torch.autograd.grad(losses.sum(), list(leaves.values()))

    evaluate = ReplayedFunction(gradients, recorded)

    def step() -> None:
        for leaf, gradient in zip(leaves.values(), evaluate(signal, target), strict=True):
            leaf.grad = gradient
        optimizer.step()

    return step


def looped(step: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        with plain():
            step()

    return run


def in_turns(programs: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """The median of each one's seconds, over rounds for about so many seconds, at least five rounds."""

    def once(program: Callable[[], object], repeats: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(repeats):
            program()
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / repeats

    repeats = {}
    for name, program in programs.items():
        once(program, 5)  # kernels and TorchScript compile in their first calls
        repeats[name] = max(1, int(0.03 / once(program, 2)))
    times: dict[str, list[float]] = {name: [] for name in programs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < 5:
        for name, program in programs.items():
            times[name].append(once(program, repeats[name]))
    return {name: statistics.median(series) for name, series in times.items()}


def limit(size: int = 8192) -> float:
    """Operations a second of a large product in float32."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / in_turns({"product": lambda: a @ b}, 0.5)["product"]


def driver() -> str:
    """The driver's version, as its own tool gives it."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def measured(members: int, T: int, seconds: float) -> dict[str, float]:
    """Seconds of a step of all members, by program."""
    launched = stack_of(members, T, recorded=False)
    programs = dict(zip(STACKS, (stack_of(members, T, True), launched, looped(launched)), strict=True))
    programs |= {name: one_net(name, T)[1] for name in CONTENDERS}
    taken = in_turns(programs, seconds)
    return {name: own * (1 if name in STACKS else members) for name, own in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one tiny stack, to see that everything runs")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each size")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench/stack_on_cuda.py wants a CUDA device, and there is none; bench/recurrence.py measures the CPU")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_default_device("cuda")
    torch.manual_seed(0)
    most = limit(512 if chosen.quick else 8192)
    about = f"{torch.cuda.get_device_properties(0).name}, driver {driver()}; torch {torch.__version__}, CUDA {torch.version.cuda}"
    lines = [
        "# Stacks on a CUDA device",
        "",
        f"`python bench/stack_on_cuda.py --seconds {chosen.seconds:g}`: {about}; {datetime.date.today()}.",
        "",
    ]
    lines += [
        "Training steps, H = 7 T, batch 64, float32; medians of interleaved rounds. Programs that are not stacks train one by one.",
        "",
    ]
    lines += [
        f"The limit: {most / 1e12:.1f} Tflop/s, a product of matrices in float32. A member's step counts 24 B T H^2 operations.",
        "",
    ]
    for members, T in QUICK if chosen.quick else SIZES:
        if not triton_lstm.available(torch.zeros(1, 1, 1), 7 * T, True, plain_sequence):
            sys.exit("the kernel does not run on this device; the warning above says why")
        taken = measured(members, T, 0.1 if chosen.quick else chosen.seconds)
        lines += [f"## {members} members, T = {T}", ""]
        lines += [
            "| program | ms a step of all | member-steps a second | as fast as TorchScript | of the limit |",
            "|---|---:|---:|---:|---:|",
        ]
        for name, own in taken.items():
            share = 24 * BATCH * T * (7 * T) ** 2 * members / own / most
            label = name if name in STACKS else f"{name}, one by one"
            lines.append(
                f"| {label} | {1e3 * own:.3f} | {members / own:,.0f} | {taken[REFERENCE] / own:.1f} | {share:.1%} |"
            )
        lines.append("")
        print("\n".join(lines[-len(taken) - 4 :]), flush=True)
    (chosen.out / "cuda.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
