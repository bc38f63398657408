"""Where does the time of a lone net's training step go? The same step built up part by part, beside JAX's.

    python bench/one_step.py [--seconds 10] [--write]

Each row does what the row above it does and one thing more; all take turns in one process (see recurrence.py, whose step
this is: batch 64, float32, H = 7 T, one thread). Two rows are bounds for anything that torch runs. "torch around an empty
recurrence" has the readout, the loss, the update and one node of autograd that computes nothing and returns stored
gradients. "by hand" has the kernel and torch's operations, and no autograd. --write puts the table into results/one_step.md.
"""

from __future__ import annotations

import argparse
import ctypes
from array import array
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from hydra import compose, initialize_config_dir
from jax_recurrence import RATE, jax_net, load_jax
from omegaconf import OmegaConf
from recurrence import BATCH, Packed, low, machine, take_turns
from torch import Tensor, nn

from wavebase.cli.names import conf_folder
from wavebase.experiment import build
from wavebase.experiment.config import parse
from wavebase.recurrence.lstm import lstm_sequence
from wavebase.recurrence.native import lstm as native
from wavebase.training.trainer import SingleTrainer, TrainState

Program = Callable[[], object]
WORDS = 13 + 9 * 5 + 7  # of `Job` in native/job.hpp
PARTS = {
    "kernel": "the kernel's two calls, forward and backward",
    "wrapped": "+ their buffers, and describing the tensors to them",
    "node": "+ one node of autograd",
    "loss": "+ readout and mean square, forward and backward",
    "step": "+ torch.optim.SGD: the step of recurrence.py",
    "batch": "+ a fresh batch of the task",
}
BOUNDS = {
    "empty": "torch around an empty recurrence",
    "by hand": "the kernel and torch's operations by hand, without autograd",
    "run": "a run's own step: a fresh batch, a matrix a gate, units, the trainer",
    "JAX": "JAX: its whole step, the better of loop and unrolled",
}


class EmptyRecurrence(torch.autograd.Function):
    """Takes and returns tensors of the recurrence's shapes, and computes nothing."""

    @staticmethod
    def forward(ctx, weight_ih, weight_hh, bias, states, *gradients):  # type: ignore[no-untyped-def]
        """Return stored states, keep stored gradients."""
        ctx.save_for_backward(*gradients)
        return states.view_as(states)

    @staticmethod
    def backward(ctx, _):  # type: ignore[no-untyped-def]
        """Return the stored gradients."""
        return *ctx.saved_tensors, None, None, None, None


def kernel_calls(forward: Program, backward: Callable[[object], object]) -> Program:
    """The library's calls that two functions make, alone: their descriptions and buffers are made once."""
    calls, entry = [], native._entry

    def recording(name: str, dtype: torch.dtype) -> Callable[[int], int]:
        def call(address: int) -> int:
            calls.append((entry(name, dtype), array("q", (ctypes.c_int64 * WORDS).from_address(address))))
            return int(calls[-1][0](address))

        return call

    with mock.patch.object(native, "_entry", recording):
        kept = forward()
        held = kept, backward(kept)

    def run() -> object:
        for function, job in calls:
            function(job.buffer_info()[0])
        return held  # their buffers must stay

    return run


def task_and_run(T: int) -> tuple[Callable[[], tuple[Tensor, Tensor]], Program]:
    """What draws a batch of the default task, and the step that a run of the default model takes in float32."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        words = [f"T={T}", "dtype=float32", f"train.batch={BATCH}", f"optim.lr={RATE}", "hydra.run.dir=unused"]
        cfg = parse(OmegaConf.to_container(compose("config", words), resolve=True))  # type: ignore[arg-type]
    parts, data = build.build_components(cfg, learning_rate=RATE), cfg.generator("data")
    rest = {"record": lambda *_: None, "observe": lambda _: None, "save": lambda _: None}
    trainer = SingleTrainer(
        TrainState(parts.net, parts.task, parts.trained, parts.optimizer, lambda _: RATE, None, data, **rest)  # type: ignore[arg-type]
    )

    def step() -> None:
        trainer.losses([parts.task.sample_batch(BATCH, data, 0)])
        trainer.update(0)

    return lambda: parts.task.sample_batch(BATCH, data, 0), step


def programs(T: int) -> dict[str, Program]:
    """All rows of one size but JAX's."""
    H, at = 7 * T, range(T - 1, T)
    signal, target, slope = torch.randn(BATCH, T, 1), torch.randn(BATCH, T), torch.randn(BATCH, 1, H)
    zero = torch.zeros(BATCH, H)

    def parts_of_a_net() -> tuple[list[Tensor], torch.optim.Optimizer]:
        net, readout = Packed(H), nn.Linear(H, T)
        parameters = [net.weight_ih, net.weight_hh, net.bias, readout.weight, readout.bias]
        return parameters, torch.optim.SGD(parameters, lr=RATE)

    still = [parameter.detach() for parameter in parts_of_a_net()[0]]
    nets = {name: parts_of_a_net() for name in ("node", "loss", "step", "batch", "empty")}
    sample, run = task_and_run(T)

    def forward(weights: list[Tensor] = still[:3]) -> tuple[Tensor, ...]:
        return native.forward(signal, zero, zero, *weights, at, True, True)

    def backward(kept: tuple[Tensor, ...], slope: Tensor = slope, weights: list[Tensor] = still[:3]) -> tuple:
        given = signal, zero, zero, *weights, *kept[3:], slope, None, None
        return native.backward(*given, at, True, False, False)

    stored = lstm_sequence(signal, zero, zero, *still[:3], at=slice(-1, None))[0], *map(torch.randn_like, still[:3])

    def cleared(name: str) -> tuple[list[Tensor], torch.optim.Optimizer]:
        nets[name][1].zero_grad()
        return nets[name]

    def states(weights: list[Tensor], signal: Tensor = signal) -> Tensor:
        return lstm_sequence(signal, zero, zero, *weights, at=slice(-1, None))[0]

    def descend(states: Tensor, parameters: list[Tensor], target: Tensor = target) -> None:
        nn.functional.mse_loss(nn.functional.linear(states[:, 0], *parameters[3:]), target).backward()

    def node() -> None:
        states(cleared("node")[0][:3]).backward(slope)

    def loss() -> None:
        parameters, _ = cleared("loss")
        descend(states(parameters[:3]), parameters)

    def step() -> None:
        parameters, optimizer = cleared("step")
        descend(states(parameters[:3]), parameters)
        optimizer.step()

    def batch() -> None:
        parameters, optimizer = cleared("batch")
        drawn, wanted = sample()
        descend(states(parameters[:3], drawn.reshape(BATCH, T, 1)), parameters, wanted.reshape(BATCH, T))
        optimizer.step()

    def empty() -> None:
        parameters, optimizer = cleared("empty")
        descend(EmptyRecurrence.apply(*parameters[:3], *stored), parameters)
        optimizer.step()

    weights = parts_of_a_net()[0]
    own = [parameter.detach() for parameter in weights]

    def by_hand() -> Tensor:
        kept = forward(own[:3])
        hidden = kept[0][:, 0]
        error = torch.addmm(own[4], hidden, own[3].t()).sub_(target)
        loss = error.square().mean()
        error.mul_(2 / error.numel())
        of_readout = error.t().mm(hidden), error.sum(0)
        of_weights = backward(kept, error.mm(own[3])[:, None], own[:3])[3:]
        torch._foreach_add_(own, [*of_weights, *of_readout], alpha=-RATE)
        return loss

    return {
        "kernel": kernel_calls(forward, backward),  # type: ignore[arg-type]
        "wrapped": lambda: backward(forward()),
        **{"node": node, "loss": loss, "step": step, "batch": batch},
        **{"empty": empty, "by hand": by_hand, "run": run},
    }


def measure(T: int, seconds: float) -> dict[str, float]:
    """Milliseconds of each row."""
    contenders, jax = programs(T), load_jax()
    if jax is not None:
        contenders |= {f"JAX {unroll}": jax_net(jax, BATCH, T, unroll)[1] for unroll in (1, T)}
    times = take_turns({(name, 1): program for name, program in contenders.items()}, seconds)
    found = {name: 1e3 * low(series) for (name, _), series in times.items()}
    of_jax = [found.pop(name) for name in [*found] if name.startswith("JAX")]
    return found | ({"JAX": min(of_jax)} if of_jax else {})


def table(sizes: dict[int, dict[str, float]]) -> str:
    """Milliseconds, what each part adds, and the share of JAX's step."""
    lines = ["# Where a lone training step's time goes", "", machine(), ""]
    lines += ["Batch 64, float32, H = 7 T, one thread: milliseconds, tenth percentile of interleaved rounds.", ""]
    lines += ["| | " + " | ".join(f"T = {T}, ms | adds" for T in sizes) + " |", "|---|" + "---:|---:|" * len(sizes)]
    before = dict.fromkeys(sizes, 0.0)
    for name, words in (PARTS | BOUNDS).items():
        if all(name in found for found in sizes.values()):
            cells = [f"{found[name]:.3f} | {found[name] - before[T]:.3f}" for T, found in sizes.items()]
            if name in BOUNDS:
                cells = [cell.split(" | ")[0] + " | " for cell in cells]
            lines.append(f"| {words} | {' | '.join(cells)} |")
            before = {T: found[name] for T, found in sizes.items()}
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and, if asked, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="for each size")
    parser.add_argument("--write", action="store_true", help="write results/one_step.md")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = table({T: measure(T, asked.seconds) for T in (5, 8)})
    if asked.write:
        (Path(__file__).parent / "results" / "one_step.md").write_text(found)
    print(found)


if __name__ == "__main__":
    main()
