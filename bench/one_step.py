"""Where does the time of a lone net's training step go? The same step built up part by part, beside JAX's.

    python bench/one_step.py [--seconds 10] [--write]

Each row does what the row above it does and one thing more; all take turns in one process (see recurrence.py, whose step
this is: batch 64, float32, H = 7 T, one thread). "torch around an empty recurrence" is a bound for anything with autograd:
the readout, the loss, the update and one node that computes nothing and returns stored gradients. The trainer does the
same step without autograd. --write puts the table into results/one_step.md.
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
from recurrence import BATCH, Packed, low, machine, take_turns, trainers_step
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
    "step": "+ torch.optim.SGD: what one writes with `lstm_sequence`",
}
BOUNDS = {
    "empty": "torch around an empty recurrence",
    "trainer": "the trainer's step of the same net, a matrix a gate, without autograd",
    "run": "a run's step: the trainer's, a fresh batch, units, a window and its latency",
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


def runs_step(T: int) -> Program:
    """The step that a run of the default model takes in float32."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        words = [f"T={T}", "dtype=float32", f"train.batch={BATCH}", f"optim.lr={RATE}", "hydra.run.dir=unused"]
        cfg = parse(OmegaConf.to_container(compose("config", words), resolve=True))  # type: ignore[arg-type]
    parts, data, nothing = build.build_components(cfg, learning_rate=RATE), cfg.generator("data"), lambda *_: None
    state = parts.net, parts.task, parts.trained, parts.optimizer, lambda _: RATE, None, data
    trainer = SingleTrainer(TrainState(*state, nothing, nothing, nothing))

    def step() -> None:
        trainer.losses([parts.task.sample_batch(BATCH, data, 0)])
        trainer.update(0)

    return step


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
    nets = {name: parts_of_a_net() for name in ("node", "loss", "step", "empty")}

    def forward() -> tuple[Tensor, ...]:
        return native.forward(signal, zero, zero, *still[:3], at, True, True)

    def backward(kept: tuple[Tensor, ...]) -> tuple:
        given = signal, zero, zero, *still[:3], *kept[3:], slope, None, None
        return native.backward(*given, at, True, False, False)

    stored = lstm_sequence(signal, zero, zero, *still[:3], at=slice(-1, None))[0], *map(torch.randn_like, still[:3])

    def cleared(name: str) -> tuple[list[Tensor], torch.optim.Optimizer]:
        nets[name][1].zero_grad()
        return nets[name]

    def states(weights: list[Tensor]) -> Tensor:
        return lstm_sequence(signal, zero, zero, *weights, at=slice(-1, None))[0]

    def descend(states: Tensor, parameters: list[Tensor]) -> None:
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

    def empty() -> None:
        parameters, optimizer = cleared("empty")
        descend(EmptyRecurrence.apply(*parameters[:3], *stored), parameters)
        optimizer.step()

    return {
        "kernel": kernel_calls(forward, backward),  # type: ignore[arg-type]
        "wrapped": lambda: backward(forward()),
        **{"node": node, "loss": loss, "step": step},
        **{"empty": empty, "trainer": trainers_step(T), "run": runs_step(T)},
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
