"""What does recording cost? The same training with everything on, and its steps alone: time for time, in one process.

    python bench/overhead.py [steps]

All take turns, several times; the ratios of the medians are what counts. "recorded" is everything between the first and
the last step of a run: probes, metrics, events, checkpoints, log lines. "steps alone" are the trainer's steps of the same
run, and "autograd's loop" is the loop that one would write in a notebook. Start-up, the measurement of the learning
rate's boundary and the figures at the end are listed apart: they do not grow with the number of steps. The clock is the
process's own time, which is wall time on an idle machine.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from wavebase.cli.names import conf_folder
from wavebase.experiment import build, runner
from wavebase.experiment.config import RunConfig, parse
from wavebase.training.loop import train
from wavebase.training.trainer import TrainState


def notebook(components: build.Components, cfg: RunConfig) -> None:
    """The updates alone, as one would write them in a notebook."""
    data = cfg.generator("data")
    for _ in range(cfg.train.steps):
        inputs, target = components.task.sample_batch(cfg.train.batch, data)
        loss = components.task.loss(components.net(inputs), target)
        components.optimizer.zero_grad()
        loss.backward()
        components.optimizer.step()


def steps_alone(components: build.Components, cfg: RunConfig) -> None:
    """The trainer's steps, with nothing recorded."""
    rate, nothing = components.optimizer.param_groups[0]["lr"], lambda *_: None
    state = components.net, components.task, components.trained, components.optimizer, lambda _: rate, None
    member = TrainState(*state, cfg.generator("data"), nothing, nothing, nothing)
    train([member], cfg.train, cfg.train.steps, range(cfg.train.steps + 1))


def taken(program: Callable[[build.Components, RunConfig], None], node: dict) -> float:
    """Seconds of one program on fresh parts."""
    cfg = parse(node)
    components = build.build_components(cfg)
    began = time.process_time()
    program(components, cfg)
    return time.process_time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", type=int, nargs="?", default=500)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", [f"train.steps={steps}", "hydra.run.dir=unused"])
    node = OmegaConf.to_container(cfg, resolve=True)
    times: dict[str, list[float]] = {name: [] for name in ("autograd's loop", "steps alone", "recorded", "once")}
    loop = runner.train

    def timed(*given, **named):  # type: ignore[no-untyped-def]
        began = time.process_time()
        try:
            return loop(*given, **named)
        finally:
            times["recorded"].append(time.process_time() - began)

    for turn in range(5):
        times["autograd's loop"].append(taken(notebook, node))
        times["steps alone"].append(taken(steps_alone, node))
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(runner, "train", timed):
            began = time.process_time()
            runner.run(runner.Job(node, Path(folder) / str(turn), {"model": "spectral"}), single=False)
            times["once"].append(time.process_time() - began - times["recorded"][-1])
    median = {name: statistics.median(series) for name, series in times.items()}
    print(
        ", ".join(f"{name} {seconds:.2f} s" for name, seconds in median.items() if name != "once"), f"({steps} steps)"
    )
    for name in ("steps alone", "autograd's loop"):
        print(f"recorded / {name}: {median['recorded'] / median[name]:.3f}")
    print(f"once a run: {median['once']:.2f} s for start-up, lambda_max, four figures and the summary")


if __name__ == "__main__":
    main()
