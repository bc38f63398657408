"""How fast is a stack on a CUDA device? 256 nets at T = 16 as one program, beside TorchScript cell loops run one by one.

    python bench/stack_on_cuda.py [--members 256] [--T 16] [--seconds 10]

The programs are those of bench/recurrence.py: training steps in float32, batch 64, H = 7 T units. The stack runs by the
device's kernel and, as a control, by the plain loop; a TorchScript loop costs each member as much as one net. Programs take
turns, each timed to the end of its work on the device; the median of the rounds stands for each.
Writes bench/results/cuda.md. Without a device, or where the kernel does not run on it, it says so and exits with status 1.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from recurrence import BATCH, CONTENDERS, one_net, stack_of

from wavebase.recurrence.cells import plain_sequence
from wavebase.recurrence.lstm import plain
from wavebase.recurrence.native import triton_lstm


def in_turns(programs: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Seconds of one call of each, round after round, for about so many seconds, at least five rounds."""

    def once(make_trainer: Callable[[], object]) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        make_trainer()
        torch.cuda.synchronize()
        return time.perf_counter() - began

    for make_trainer in programs.values():
        for _ in range(4):  # kernels and TorchScript compile in their first calls
            once(make_trainer)
    times: dict[str, list[float]] = {name: [] for name in programs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < 5:
        for name, make_trainer in programs.items():
            times[name].append(once(make_trainer))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=256)
    parser.add_argument("--T", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0)
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench/stack_on_cuda.py wants a CUDA device, and there is none; bench/recurrence.py measures the CPU")
    torch.set_default_device("cuda")
    torch.manual_seed(0)
    members, T = chosen.members, chosen.T
    if not triton_lstm.available(torch.zeros(1, 1, 1), 7 * T, True, plain_sequence):
        sys.exit("the kernel does not run on this device; the warning above says why")
    step = stack_of(members, T)[1]

    def looped() -> None:
        with plain():
            step()

    stack, loop = f"stack of {members}, one launch", f"stack of {members}, plain loop"
    programs = {stack: step, loop: looped}
    programs |= {name: one_net(name, T)[1] for name in CONTENDERS if name.startswith("TorchScript")}
    each = {}
    for name, series in in_turns(programs, chosen.seconds).items():
        each[name] = statistics.median(series) / (members if name in (stack, loop) else 1)
    properties = torch.cuda.get_device_properties(0)
    lines = ["# A stack on a CUDA device", ""]
    lines += [f"{properties.name}; torch {torch.__version__}, CUDA {torch.version.cuda}; {datetime.date.today()}", ""]
    lines += [f"T = {T}, H = {7 * T}, batch {BATCH}, float32, training steps; the median of interleaved rounds.", ""]
    lines += [f"| program | ms a member | steps a second of all {members} | times as slow |", "|---|---:|---:|---:|"]
    for name, own in each.items():
        lines.append(f"| {name} | {1e3 * own:.4f} | {1 / own / members:.3g} | {own / each[stack]:.1f} |")
    table = "\n".join(lines) + "\n"
    (Path(__file__).parent / "results" / "cuda.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
