"""What does recording cost? The same training with everything on, and as a bare loop: time for time, in one process.

    python bench/overhead.py [steps]

Both trainings are taken in turns, several times; the ratio of the medians is what counts. "recorded" is everything
between the first and the last step of a run: probes, metrics, events, checkpoints, log lines. Start-up, the measurement
of the learning rate's boundary and the figures at the end are listed apart: they do not grow with the number of steps.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from wavebase.cli.names import conf_folder
from wavebase.experiment import build, runner
from wavebase.experiment.config import parse


def bare_loop(components: build.Components, node: dict) -> float:
    """The updates alone, as one would write them in a notebook."""
    cfg = parse(node)
    data = cfg.generator("data")
    began = time.perf_counter()
    for _ in range(cfg.train.steps):
        inputs, target = components.task.sample_batch(cfg.train.batch, data)
        loss = components.task.loss(components.net(inputs), target)
        components.optimizer.zero_grad()
        loss.backward()
        components.optimizer.step()
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    torch.set_num_threads(1)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", [f"train.steps={steps}", "hydra.run.dir=unused"])
    node = OmegaConf.to_container(cfg, resolve=True)
    bare, recorded, once = [], [], []
    for turn in range(5):
        components = build.build_components(parse(node))
        bare.append(bare_loop(components, node))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / str(turn)
            began = time.perf_counter()
            runner.run(runner.Job(node, path, {"model": "spectral"}), single=False)
            total = time.perf_counter() - began
            recorded.append(json.loads((path / "summary.json").read_text())["training_seconds"])
        once.append(total - recorded[-1])
    ratio = statistics.median(recorded) / statistics.median(bare)
    print(
        f"{steps} steps: bare loop {statistics.median(bare):.2f} s, recorded {statistics.median(recorded):.2f} s, ratio {ratio:.3f}"
    )
    print(f"once a run: {statistics.median(once):.2f} s for lambda_max, four figures and the summary")


if __name__ == "__main__":
    main()
