"""How fast is the recurrence? Beside torch.nn.LSTM, JAX, TorchScript cell loops and the eager loop, in one process.

    python bench/recurrence.py [--quick] [--out bench/results]

There are two kinds of step: "autograd", as one would write it with `lstm_sequence`, torch.optim and, for a stack, torch.func.vmap;
and "trainer", as wavebase takes it in a run, where the gradient needs no graph and the nets of a stack take turns.
All contenders of a row take turns, round after round, each warm (one call goes before those that count, unless it
takes a tenth of a second), and the tenth percentile of the rounds stands for each. On one thread the time is the
process's processor time, which is wall time on an idle machine and leaves out what other programs take on a busy one;
on several it is wall time. What others do to caches and memory is in it all the same, so ratios are what is quoted. A
training step is forward, backward and SGD of the recurrence and a linear readout of its last state, batch 64,
float32, H = 7 T units, T steps of one input. torch.nn.LSTM has a sigmoid where the others have a tanh input gate.
TorchScript comes twice: with the four gates packed into one product, and with one Linear a gate. A stack trains its
members as one program through torch.func.vmap, and JAX through jax.vmap; the others can only run member after member,
so their cost per member is that of one net. JAX is optional (`pip install -c constraints.txt -e '.[bench]'`), on one
thread, once with lax.scan as a loop and once unrolled; the better of the two stands in the table, without the seconds
that it compiles first. GFLOP/s count the products of H x 4H alone (8 B T H^2 forward, 24 B T H^2 a step); the ceiling
is torch's own matrix product of [64, H] by [H, 4H], in the same rounds.
Writes recurrence.csv, recurrence.md and recurrence.png.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from jax_recurrence import jax_net, load_jax
from torch import Tensor, nn

from wavebase.recurrence.lstm import lstm_sequence, plain, read_sequence
from wavebase.recurrence.native.lstm import vectors
from wavebase.tasks.base import Batch, SquaredErrorTask
from wavebase.training.stacks import make_trainer
from wavebase.training.trainer import TrainState

Contender = tuple[str, int]  # its name and its members
BATCH = 64
CEILING: Contender = ("torch.mm", 1)
OURS = {"recurrence": "autograd", "trainer": "trainer"}
LABELS = {"recurrence": "ours, autograd", "trainer": "ours, trainer"}
CONTENDERS = ("recurrence", "nn.LSTM", "TorchScript, gates packed", "TorchScript, one Linear a gate", "eager loop")
JAX = ("JAX, loop", "JAX, unrolled")


class Packed(nn.Module):
    """Weights of one LSTM, or of a stack: [..., 4H, *]."""

    def __init__(self, H: int, stack: tuple[int, ...] = ()):
        super().__init__()
        bound = H**-0.5
        for name, shape in (("weight_ih", (4 * H, 1)), ("weight_hh", (4 * H, H)), ("bias", (4 * H,))):
            self.register_parameter(name, nn.Parameter(torch.empty(*stack, *shape).uniform_(-bound, bound)))

    def forward(self, signal: Tensor) -> Tensor:
        """The last hidden state, of the one net that vmap leaves to see."""
        zero = signal.new_zeros(len(signal), self.weight_hh.shape[-1])
        weights = self.weight_ih, self.weight_hh, self.bias
        return lstm_sequence(signal, zero, zero, *weights, at=slice(-1, None))[0][..., 0, :]


class Eager(Packed):
    def forward(self, signal: Tensor) -> Tensor:
        with plain():
            return super().forward(signal)


class Gates(nn.Module):
    """One LSTM and its readout of the last state, a matrix a gate, as the nets of a run have them."""

    returns_reading = True

    def __init__(self, H: int, T: int):
        super().__init__()
        shapes = [shape for shape in ((H, 1), (H, H), (H,), (H,)) for _ in range(4)]
        parts = (nn.Parameter(torch.empty(shape).uniform_(-(H**-0.5), H**-0.5)) for shape in shapes)
        self.held, self.readout, self.zero = nn.ParameterList(parts), nn.Linear(H, T), torch.zeros(BATCH, H)
        self.parts, self.pair = [*self.held], [self.readout.weight, self.readout.bias]

    def forward(self, signal: Tensor) -> Tensor:
        return read_sequence(signal, self.zero, self.zero, self.parts, self.pair, (), "tanh", slice(-1, None))


class Stock(nn.Module):
    def __init__(self, H: int):
        super().__init__()
        self.lstm = nn.LSTM(1, H, batch_first=True)

    def forward(self, signal: Tensor) -> Tensor:
        return self.lstm(signal)[0][:, -1]


class PackedCell(nn.Module):
    """The custom LSTM cell of torch's benchmarks/fastrnns, with a tanh input gate."""

    def __init__(self, H: int):
        super().__init__()
        self.H, bound = H, H**-0.5
        self.weight_ih = nn.Parameter(torch.empty(4 * H, 1).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(torch.empty(4 * H, H).uniform_(-bound, bound))
        self.bias_ih, self.bias_hh = nn.Parameter(torch.zeros(4 * H)), nn.Parameter(torch.zeros(4 * H))

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        pre = torch.mm(x, self.weight_ih.t()) + self.bias_ih + torch.mm(hidden, self.weight_hh.t()) + self.bias_hh
        i, f, g, o = pre.chunk(4, 1)
        cell = torch.sigmoid(f) * cell + torch.tanh(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell


class GateCell(nn.Module):
    """A cell with a Linear of the input and one of the state for each gate."""

    def __init__(self, H: int):
        super().__init__()
        self.H = H
        self.input_i, self.input_f, self.input_g, self.input_o = (nn.Linear(1, H) for _ in range(4))
        self.hidden_i, self.hidden_f, self.hidden_g, self.hidden_o = (nn.Linear(H, H) for _ in range(4))

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        i = torch.tanh(self.input_i(x) + self.hidden_i(hidden))
        f = torch.sigmoid(self.input_f(x) + self.hidden_f(hidden))
        g = torch.tanh(self.input_g(x) + self.hidden_g(hidden))
        o = torch.sigmoid(self.input_o(x) + self.hidden_o(hidden))
        cell = f * cell + i * g
        return o * torch.tanh(cell), cell


class CellLoop(nn.Module):
    def __init__(self, cell: nn.Module):
        super().__init__()
        self.cell, self.H = cell, int(cell.H)

    def forward(self, signal: Tensor) -> Tensor:
        hidden = torch.zeros(signal.size(0), self.H, device=signal.device)
        cell = torch.zeros(signal.size(0), self.H, device=signal.device)
        outputs: list[Tensor] = []
        for step in range(signal.size(1)):
            hidden, cell = self.cell(signal[:, step], hidden, cell)
            outputs.append(hidden)
        return torch.stack(outputs, 1)[:, -1]


def contender(name: str, H: int) -> nn.Module:
    if name.startswith("TorchScript"):
        return torch.jit.script(CellLoop((PackedCell if "packed" in name else GateCell)(H)))
    return {"recurrence": Packed, "nn.LSTM": Stock, "eager loop": Eager}[name](H)


def one_net(name: str, T: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Its forward pass without gradients, and its training step."""
    H = 7 * T
    net, readout = contender(name, H), nn.Linear(H, T)
    signal, target = torch.randn(BATCH, T, 1), torch.randn(BATCH, T)
    optimizer = torch.optim.SGD([*net.parameters(), *readout.parameters()], lr=1e-3)

    def forward() -> Tensor:
        with torch.no_grad():
            return net(signal)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.mse_loss(readout(net(signal)), target).backward()
        optimizer.step()

    return forward, step


def trainers_step(T: int, members: int = 1) -> Callable[[], object]:
    """The step of a net in a run, or of the nets of a stack."""
    nothing = lambda *_: None  # noqa: E731

    def member() -> TrainState:
        net = Gates(7 * T, T)
        trained = dict(net.named_parameters())
        optimizer = torch.optim.SGD(trained.values(), lr=1e-3)
        state = net, SquaredErrorTask(), trained, optimizer, lambda _: 1e-3, None, torch.Generator()
        return TrainState(*state, nothing, nothing, nothing)  # type: ignore[arg-type]

    trainer = make_trainer([member() for _ in range(members)])
    batches = [Batch(torch.randn(BATCH, T, 1), torch.randn(BATCH, 1, T)) for _ in range(members)]

    def step() -> None:
        trainer.losses(batches)
        trainer.update(0)

    return step


def stack_of(members: int, T: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """The same for a stack of this recurrence, each member with its own signal, as one program."""
    H = 7 * T
    net = nn.Sequential(Packed(H), nn.Linear(H, T))
    stacks = [Packed(H, (members,)), nn.Linear(H, T)]
    weights = {f"0.{name}": p for name, p in stacks[0].named_parameters()}
    weights |= {
        f"1.{n}": nn.Parameter(p.detach().expand(members, *p.shape).clone()) for n, p in stacks[1].named_parameters()
    }
    signal, target = torch.randn(members, BATCH, T, 1), torch.randn(members, BATCH, T)
    optimizer = torch.optim.SGD(weights.values(), lr=1e-3)

    def member_loss(own: dict[str, Tensor], signal: Tensor, target: Tensor) -> Tensor:
        return nn.functional.mse_loss(torch.func.functional_call(net, own, signal), target)

    def forward() -> Tensor:
        with torch.no_grad():
            return torch.vmap(lambda own, x: torch.func.functional_call(net[0], own, x))(of_recurrence, signal)

    def step() -> None:
        optimizer.zero_grad()
        torch.vmap(member_loss)(weights, signal, target).sum().backward()
        optimizer.step()

    of_recurrence = dict(stacks[0].named_parameters())
    return forward, step


def ceiling(T: int) -> Callable[[], object]:
    """T products of [B, H] by [H, 4H]."""
    H = 7 * T
    a, b, out = torch.randn(BATCH, H), torch.randn(H, 4 * H), torch.empty(BATCH, 4 * H)

    def products() -> None:
        for _ in range(T):
            torch.mm(a, b, out=out)

    return products


def take_turns(programs: dict[Contender, Callable[[], object]], seconds: float) -> dict[Contender, list[float]]:
    """Seconds of one call of each, round after round, for about so many seconds, at least five rounds."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    repeats, warmed = {}, {}
    for name, program in programs.items():
        for _ in range(4):  # TorchScript compiles in its first calls
            program()
        began = time.perf_counter()
        program()
        taken = time.perf_counter() - began
        repeats[name] = max(1, int(0.005 / taken))  # a turn takes 5 ms or more
        warmed[name] = taken < 0.1
    times: dict[Contender, list[float]] = {name: [] for name in programs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < 5:
        for name, program in programs.items():
            if warmed[name]:
                program()
            began = clock()
            for _ in range(repeats[name]):
                program()
            times[name].append((clock() - began) / repeats[name])
    return times


def low(series: list[float]) -> float:
    return sorted(series)[len(series) // 10]


def measure(sizes: list[int], stacks: list[int], seconds: float) -> list[dict[str, object]]:
    """One row for each threads, T, kind of pass and contender."""
    rows: list[dict[str, object]] = []
    everything, jax = torch.get_num_threads(), load_jax()
    if jax is None:
        print("jax is not installed, so its columns are left out; pip install -c constraints.txt -e '.[bench]'")
    for threads in sorted({1, everything}):
        torch.set_num_threads(threads)
        for T in sizes:
            singles = {(name, 1): one_net(name, T) for name in CONTENDERS}
            # a stack's step at T = 64 takes gigabytes and shows nothing new
            larger = {("recurrence", n): stack_of(n, T) for n in stacks if n * T**3 <= 64 * 16**3}
            if jax is not None and threads == 1:
                sizes_of_stacks = [n for _, n in larger]
                for name, unroll in zip(JAX, (1, T), strict=True):
                    singles[name, 1] = jax_net(jax, BATCH, T, unroll)
                    larger |= {(name, n): jax_net(jax, BATCH, T, unroll, n) for n in sizes_of_stacks}
            for index, kind in enumerate(("forward", "training step")):
                # stacks take turns of their own, for they empty the caches: with the others, whose rows stay the first's
                for group in ({}, larger) if larger else ({},):
                    pairs = {**singles, **group}
                    programs = {**{k: pair[index] for k, pair in pairs.items()}, CEILING: ceiling(T)}
                    if index:
                        programs |= {("trainer", n): trainers_step(T, n) for n in sorted({n for _, n in group} or {1})}
                    times = take_turns(programs, seconds)
                    flop = (8, 24)[index] * BATCH * T * (7 * T) ** 2
                    top = 8 * BATCH * T * (7 * T) ** 2 / low(times[CEILING])
                    own = {name: low(times[name, 1]) for name in CONTENDERS}
                    best_jax = {n: min(low(times[name, n]) / n for name in JAX) for name, n in pairs if name == JAX[0]}
                    for name, members in [k for k in programs if k != CEILING and (k not in singles or not group)]:
                        series = times[name, members]
                        each = low(series) / members
                        row = {
                            "threads": threads,
                            "T": T,
                            "H": 7 * T,
                            "pass": kind,
                            "contender": name,
                            "stack": members,
                        }
                        row |= {"ms_per_member": 1e3 * each, "median_ms": 1e3 * statistics.median(series) / members}
                        row |= {"minimum_ms": 1e3 * min(series) / members, "rounds": len(series)}
                        row |= {
                            "gflops": flop / each / 1e9,
                            "ceiling_gflops": top / 1e9,
                            "of_ceiling": flop / each / top,
                        }
                        row |= {f"x {other}": own[other] / each for other in CONTENDERS[1:]}
                        row["x JAX"] = best_jax[members] / each if members in best_jax else ""
                        rows.append(row)
                        print(f"{threads} threads, T={T}, {kind}, {name} x{members}: {1e3 * each:.3f} ms", flush=True)
    torch.set_num_threads(everything)
    return rows


def machine() -> str:
    """Processor, versions and date; no names of hosts."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return (
        f"{processor}, recurrence {vectors()}, torch's own {torch.backends.cpu.get_cpu_capability()}; torch {torch.__version__}, "
        f"python {platform.python_version()}; {datetime.date.today()}"
    )


def table(rows: list[dict[str, object]]) -> str:
    """Ratios first: how many times as fast as each other contender the recurrence is, per member."""
    head = [
        "threads",
        "T",
        "H",
        "stack",
        "step by",
        "ms",
        "of ceiling",
        *(f"x {name}" for name in CONTENDERS[1:]),
        "x JAX",
    ]
    lines = ["# The recurrence beside others", "", machine(), ""]
    lines += [
        "Batch 64, float32. ms: the recurrence, per member, tenth percentile of interleaved rounds. x: times as fast as",
        "the other run one net at a time (JAX: a stack of the same size), per member. of ceiling: its products at its speed",
        "over torch's own matrix product, above 1 where they are faster. step by: autograd, a loop of one's own, whose stacks",
        "are torch.func.vmap's; or the trainer of a run, which needs no graph, and in whose stacks nets take turns on one thread.",
    ]
    for kind in ("training step", "forward"):
        lines += ["", f"## {kind}", "", "| " + " | ".join(head) + " |", "|" + "---:|" * len(head)]
        for row in sorted(rows, key=lambda row: (row["threads"], row["T"], row["stack"])):  # type: ignore[arg-type,return-value]
            if row["pass"] == kind and row["contender"] in OURS:
                values = [str(row[name]) for name in ("threads", "T", "H", "stack")]
                values.append(OURS[str(row["contender"])] if kind == "training step" else "")
                values += [f"{row['ms_per_member']:.3f}", f"{row['of_ceiling']:.2f}"]
                values += [f"{row[f'x {name}']:.2f}" for name in CONTENDERS[1:]]
                values.append(f"{row['x JAX']:.2f}" if row["x JAX"] else "")
                lines.append("| " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, object]], path: Path) -> None:
    """Training steps on one thread: milliseconds over T, and per member over the size of the stack."""
    rows = [row for row in rows if row["threads"] == 1 and row["pass"] == "training step"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name in (*OURS, *CONTENDERS[1:], *JAX):
        series = [row for row in rows if row["contender"] == name and row["stack"] == 1]
        left.loglog(
            [r["T"] for r in series],
            [r["ms_per_member"] for r in series],
            "o-",
            label=LABELS.get(name, name),
            markersize=4,
        )
    single = [row for row in rows if row["contender"] == "recurrence" and row["stack"] == 1]
    bound = [24 * BATCH * r["T"] * r["H"] ** 2 / r["ceiling_gflops"] / 1e6 for r in single]
    left.loglog([r["T"] for r in single], bound, "k:", label="products alone, torch.mm")
    left.set(xlabel="window T (H = 7T units, T steps)", ylabel="training step, ms")
    sizes = sorted({row["T"] for row in rows})
    left.set_xticks(sizes, [str(T) for T in sizes], minor=False)
    left.minorticks_off()
    left.legend(fontsize=8, frameon=False)
    for n, T in enumerate(sizes):
        for name, line in zip(OURS, ("o-", "o--"), strict=True):
            series = sorted(
                (r["stack"], r["x nn.LSTM"])
                for r in rows
                if r["contender"] == name and r["T"] == T  # type: ignore[type-var]
            )
            if len(series) > 1:
                label = f"T = {T}" + ("" if line == "o-" else ", trainer")
                right.plot(*zip(*series, strict=True), line, color=f"C{n}", label=label, markersize=4)
    right.axhline(1, color="k", linestyle=":", linewidth=1)
    right.set_xscale("log", base=4)
    stacks = sorted({row["stack"] for row in rows})
    right.set_xticks(stacks, [str(n) for n in stacks])
    right.set(xlabel="members of the stack", ylabel="times as fast as torch.nn.LSTM, per member")
    right.set_ylim(top=1.3 * right.get_ylim()[1])
    right.legend(fontsize=8, frameon=False, ncols=2, loc="upper left")
    figure.suptitle("Batch 64, float32, one thread", fontsize=11)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="T = 5 and 16, stacks of 16, a second each")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    rows = measure([5, 16], [16], 1.0) if chosen.quick else measure([5, 8, 16, 32, 64], [4, 16, 64], 6.0)
    chosen.out.mkdir(parents=True, exist_ok=True)
    with (chosen.out / "recurrence.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    (chosen.out / "recurrence.md").write_text(table(rows))
    plot(rows, chosen.out / "recurrence.png")
    print(table(rows))


if __name__ == "__main__":
    main()
