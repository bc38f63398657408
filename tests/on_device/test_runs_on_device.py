"""Whole runs on the device: training steps, probes, verdict and resume are those of the CPU; CUDA graphs change no bit."""

import logging
import math
import os
import subprocess
import sys

import pytest
import torch

from conftest import FEW, ROOT, SMALL
from test_continuing import stopped  # noqa: F401  # a fixture
from test_models import EXPERIMENTS, MODELS, native_task, small
from test_recurrence import distance
from test_stacks import listed, numbers, refuse
from wavebase.experiment import build, config, runner, stacked
from wavebase.records.folder import RunFolder
from wavebase.training.graphs import WARM_UP, ReplayedFunction, _tell

STEPS = 8
SHORT = (
    "T=4",
    f"train.steps={STEPS}",
    "train.batch=8",
    "train.log_every=1",
    "train.checkpoint_every=4",
    "task.held_out_count=8",
    "probe.every=4",
    "probe.figures=[]",
    FEW,
)
BOUND = {"float32": 1e-5, "float64": 1e-12}  # of weights, relative to their norm
STARTS = {
    "perturbed, SGD": ("model=perturbed", "model.eps=0.01"),
    "random, Adam": ("model=random", "optim=adam", "optim.lr=0.01"),
    "random, clipped": ("model=random", "optim=momentum", "optim.clip_norm=0.01"),
    "stock LSTM, Adam": ("model=lstm", "optim=adam", "optim.lr=0.01"),
}


def go(node, path):
    runner.run(runner.Job(node, path, {"model": "test", "optim": "test"}), single=False)
    return RunFolder(path)


def weights(folder):
    return {name: tensor.cpu() for name, tensor in folder.newest_checkpoint()["net"].items()}


def apart(one, two):
    """The largest distance of two runs' final weights, each relative to its norm."""
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    return max(distance(first[name].double(), second[name].double()) for name in first)


def differences(one, two, relative, absolute):
    """The recorded numbers of two runs that differ by more: (step, name, one, two)."""
    found = []
    for ours, theirs in zip(numbers(one), numbers(two), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            other = theirs[name]
            if value == other or (isinstance(value, float) and math.isnan(value) and math.isnan(other)):
                continue
            if not math.isclose(value, other, rel_tol=relative, abs_tol=absolute):
                found.append((ours["step"], name, value, other))
    return found


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_training_steps_probes_and_verdict_are_the_cpus(start, dtype, composed, tmp_path):
    settings = (*SHORT, *start, f"dtype={dtype}")
    there = go(composed(*settings, "device=cuda"), tmp_path / "cuda")
    here = go(composed(*settings, "device=cpu"), tmp_path / "cpu")
    assert there.summary()["parts"][0]["device"] == "cuda"
    begun = there.load_checkpoint(0)["net"]
    assert any(not torch.equal(begun[name].cpu(), end) for name, end in weights(there).items()), "nothing moved"
    assert apart(there, here) < BOUND[dtype]
    assert there.summary()["verdict"] == here.summary()["verdict"]
    # what rounding alone makes of a zero is compared in absolute terms
    bound = 1e-9 if dtype == "float64" else 2e-3
    assert not differences(there, here, bound, 1e-12 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_runs_there_with_the_cpus_numbers(experiment, composed, tmp_path):
    settings = (*small(experiment), f"train.steps={STEPS}", "train.log_every=1", "dtype=float64")
    if experiment == "harmonic_forecast":  # without noise a covariance has no inverse but for rounding
        settings = (*settings, "signal.noise=0.1")
    there = go(composed(*settings, "device=cuda"), tmp_path / "cuda")
    here = go(composed(*settings, "device=cpu"), tmp_path / "cpu")
    losses = [[line["loss/train"] for line in numbers(folder) if "loss/train" in line] for folder in (there, here)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-8, abs=1e-25)
    assert there.summary()["verdict"] == here.summary()["verdict"]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_computes_there_what_it_does_on_the_cpu(model, composed):
    """To 1e-11, or 1000 times what rounding the last digit of its input changes: some solve systems that are nearly singular."""
    outputs, quantiles = {}, {}
    for device in ("cuda", "cpu"):
        cfg = config.parse(composed(*native_task(model), "dtype=float64", f"device={device}"))
        components = build.build_components(cfg, learning_rate=1e-3)
        inputs = components.task.sample_batch(4, cfg.generator("data")).input
        with torch.no_grad():
            outputs[device] = components.net(inputs).cpu()
        if getattr(components.net, "probabilistic", False):
            quantiles[device] = components.net.quantiles(inputs, (0.1, 0.9)).cpu()
    rounding = 0.0
    if isinstance(inputs, torch.Tensor) and inputs.is_floating_point():
        sign = torch.randint(2, inputs.shape, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
        with torch.no_grad():
            rounding = distance(components.net(inputs * (1 + 2e-16 * sign)), outputs["cpu"])
    assert outputs["cpu"].any() or model in ("zero", "random_scaled")  # the latter begins with a readout of zero
    for found in (outputs, quantiles):
        # chains accept or reject by comparison: rounding makes other chains of the same distribution
        bound = 1e-2 if model == "bayes" else max(1e-11, 1000 * rounding)
        assert not found or distance(found["cuda"], found["cpu"]) <= bound


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_replayed_steps_are_the_steps_launched_one_by_one(start, members, composed, tmp_path, monkeypatch):
    replays = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: replays.append(1) or replay(graph))

    def folders(name, *more):
        words = [(*SHORT, *start, *more, "device=cuda", f"seed={seed}") for seed in range(members)]
        jobs = listed(composed, tmp_path / name, *words)
        stacked.run_stacked(jobs, 64, refuse)
        return [RunFolder(job.path) for job in jobs]

    recorded = folders("recorded")
    expected = 0 if "model=lstm" in start else STEPS - WARM_UP  # torch.nn.LSTM cannot be given other parameters
    assert len(replays) == expected
    plain = folders("plain", "train.cuda_graphs=false")
    assert len(replays) == expected
    for one, two in zip(recorded, plain, strict=True):
        assert apart(one, two) == 0 and not differences(one, two, 0, 0)


def test_a_run_is_continued_there_bit_for_bit(composed, stopped, tmp_path):  # noqa: F811
    node = composed(*SHORT, "model=random", "optim=adam", "optim.lr=0.01", "device=cuda")
    whole = go(node, tmp_path / "whole")
    stopped(node, tmp_path / "parts", at=6)
    parts = go(node, tmp_path / "parts")
    assert len(parts.summary()["parts"]) == 2
    assert apart(whole, parts) == 0 and not differences(whole, parts, 0, 0)


def test_a_run_of_the_cpu_is_continued_there_and_says_so(composed, stopped, tmp_path):  # noqa: F811
    settings = (*SHORT, "model=random", "optim=adam", "optim.lr=0.01")
    whole = go(composed(*settings, "device=cpu"), tmp_path / "whole")
    stopped(composed(*settings, "device=cpu"), tmp_path / "parts", at=6)
    parts = go(composed(*settings, "device=cuda"), tmp_path / "parts")
    assert [part["device"] for part in parts.summary()["parts"]] == ["cpu", "cuda"]
    assert apart(whole, parts) < 1e-12


def test_what_waits_for_the_device_is_launched_one_by_one_and_said(caplog):
    weight = torch.ones(4, device="cuda")

    def waits(x):
        return (weight * x * x.sum().item(),)

    def comes_from_the_host(x):
        return (weight * x + torch.ones(4).cuda(),)

    def fine(x):
        return (weight * x,)

    for function, replayed in ((waits, False), (comes_from_the_host, False), (fine, True)):
        _tell.cache_clear()
        caplog.clear()
        again = ReplayedFunction(function)
        with caplog.at_level(logging.WARNING, "wavebase"):
            for n in range(7):
                x = torch.full((4,), float(n), device="cuda")
                assert torch.equal(again(x)[0], function(x)[0])
        assert (again.graph is not None) == replayed == ("launched one by one" not in caplog.text)
    weight.mul_(2)  # what is read besides the arguments may change in place
    assert torch.equal(again(x)[0], 2 * x)
    assert torch.equal(again(x.repeat(2, 1))[0], 2 * x.repeat(2, 1)), "another shape is computed anew"


def test_memory_bounds_a_stack_there(composed, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**20, 2**20))
    part = stacked._Part([], 1000, None, None)
    session = runner.prepare(runner.Job(composed(*SHORT, "device=cuda"), tmp_path / "run", {"model": "test"}))
    assert 1 <= part._members_that_fit(session) < 40


def test_a_sweep_on_the_cpu_forks_beside_a_device(tmp_path):
    """torch's Adam asks for CUDA in every step, which a fork of a process that has started CUDA cannot answer."""
    words = ["-m", "hydra/launcher=stacked", "hydra.launcher.processes=2", f"hydra.sweep.dir={tmp_path}/sweep", *SMALL]
    command = [sys.executable, "-m", "wavebase.run", *words, "device=cpu", "optim=adam", "model=random", "seed=0,1,2,3"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0 and "4 runs, 0 failed" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("device", ["cuda:99", "tpu"])
def test_a_device_that_is_not_there_is_one_line(device, composed):
    with pytest.raises(config.ConfigError, match="device"):
        config.parse(composed(*SMALL, f"device={device}")).torch_device()


def test_the_documented_bench_measures(tmp_path):
    command = [sys.executable, str(ROOT / "bench" / "stack_on_cuda.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "one by one" in (tmp_path / "cuda.md").read_text()
