"""hydra/launcher=stacked: many jobs together, each with the very records that it would have written alone."""

import copy
import json
from dataclasses import dataclass

import pytest
import torch

from conftest import FEW, FULL, ONE_PROBE, SMALL
from wavebase.experiment import build, config, runner, session, stacked
from wavebase.records.folder import RunFolder, find_runs
from wavebase.tasks.power_spectrum import PowerSpectrum
from wavebase.training import interruption, stacks
from wavebase.training.loop import TrainSettings, train
from wavebase.training.optimizers import AdamL1
from wavebase.training.schedule import LearningRate
from wavebase.training.stacking import activation_bytes, stack_key
from wavebase.training.stacks import ELEMENTWISE, make_trainer
from wavebase.training.trainer import TrainState

SWEEP = (
    "T=4",
    "train.batch=8",
    "train.log_every=5",
    "train.checkpoint_every=50",
    "task.held_out_count=8",
    "probe.figures=[]",
    "probe.every=50",
    FEW,
)

FEW_PROBES = ("probe.measure=[function.held_out_error,drift.weight_drift]",)


def listed(composed, folder, *lists):
    return [
        runner.Job(composed(*words), folder / str(n), {"model": "test", "optim": "test"})
        for n, words in enumerate(lists)
    ]


def numbers(folder):
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def refuse(job, error):
    raise error


@pytest.mark.parametrize(
    "base,changes",
    [
        (
            ("model=perturbed",),
            ("seed=0", "model.perturbation.scale=0.001", "optim.lr_over_boundary=0.1", "model.eps=0.01"),
        ),
        (
            ("model=random", "optim=adam"),
            ("seed=0", "optim.lr=0.01", "optim.clip_norm=0.01", "optim.schedule=cosine", "optim=adamw"),
        ),
        (("model=perturbed", "task.training_count=8"), ("seed=0", "seeds.probe=1")),  # each its own training set
        (
            ("experiment=cosine_reconstruction", "T=8", "model.start=perturbed"),
            ("seed=0", "seed=1", "model.frequency_scale=0.2"),
        ),
    ],
)
def test_members_equal_their_runs_alone(base, changes, composed, tmp_path, monkeypatch):
    """After 200 steps in float64, within 1e-6 relative: what docs/sweeps.md promises. Only the first net trains for so long,
    and has every probe: they read the weights, which are compared too."""
    monkeypatch.setattr(stacks, "_needs_no_graph", lambda member: False)  # as one program: test_flat.py has the turns
    whole = FULL or base == ("model=perturbed",)
    steps, half = (200, 100) if whole else (40, 20)
    lengths = (f"train.steps={steps}", f"train.checkpoint_every={half}", f"probe.every={steps}")
    lengths += () if whole else FEW_PROBES
    settings = [(*SWEEP, *base, *lengths, change) for change in changes]
    together = listed(composed, tmp_path / "together", *settings)
    finals = stacked.run_stacked(together, 64, refuse)
    for job, alone, final in zip(together, listed(composed, tmp_path / "alone", *settings), finals, strict=True):
        assert runner.run(alone, single=False) == pytest.approx(final, rel=1e-6) and final < 0.9, "a zero output has 1"
        one, two = RunFolder(job.path), RunFolder(alone.path)
        for ours, theirs in zip(numbers(one), numbers(two), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-12, nan_ok=True)
        assert one.checkpoint_steps() == two.checkpoint_steps() == [0, half, steps]
        summaries = [{k: v for k, v in folder.summary().items() if "seconds" not in k} for folder in (one, two)]
        assert summaries[0].keys() == summaries[1].keys() and summaries[0]["verdict"] == summaries[1]["verdict"]
        ours, theirs = (folder.load_checkpoint(steps) for folder in (one, two))
        for name, weight in ours["net"].items():
            torch.testing.assert_close(weight, theirs["net"][name], rtol=1e-6, atol=1e-12)
        assert ours["optimizer"]["param_groups"] == theirs["optimizer"]["param_groups"]
        assert torch.equal(ours["data"], theirs["data"])
        sizes = [(folder.path / "checkpoints" / f"step_{steps:08d}.pt").stat().st_size for folder in (one, two)]
        assert sizes[0] <= 1.1 * sizes[1], "a member's checkpoint must not hold the whole stack"


def test_one_program_is_really_one(composed, tmp_path, caplog):
    few = (*SMALL, ONE_PROBE)
    settings = [(*few, "model=perturbed", f"seed={seed}") for seed in range(5)] + [(*few, "model=lstm")]
    with caplog.at_level("INFO", "wavebase"):
        stacked.run_stacked(listed(composed, tmp_path, *settings), 4, refuse)
    said = [record.message for record in caplog.records]
    assert [line for line in said if line.startswith("training")] == [
        "training 4 jobs together, 0 of 6 jobs done",
        "training 1 job, 4 of 6 jobs done",
        "training 1 job, 5 of 6 jobs done",
    ]
    assert any("runs alone: torch.nn.LSTM has no batching rule" in line for line in said)


def test_training_sets_of_their_own_do_not_keep_members_apart(composed, tmp_path, caplog):
    settings = [(*SWEEP, "train.steps=1", "task.training_count=8", f"seeds.probe={n}") for n in range(2)]
    with caplog.at_level("INFO", "wavebase"):
        stacked.run_stacked(listed(composed, tmp_path, *settings), 4, refuse)
    assert "training 2 jobs together" in caplog.text


@pytest.mark.parametrize("place", ["first loss", "a probe", "a figure"])
def test_a_member_that_raises_fails_alone(place, composed, tmp_path, monkeypatch):
    figures = "probe.figures=[train_loss]" if place == "a figure" else "probe.figures=[]"
    few = (ONE_PROBE, "optim.lr=1e-3", "optim.lr_over_boundary=null")
    settings = [(*SMALL, *few, "model=perturbed", figures, f"seed={seed}") for seed in range(4)]
    jobs = listed(composed, tmp_path, *settings)
    failed = []

    def broken(inner, culprit):
        def act(*given, **named):
            if culprit(*given):
                raise ZeroDivisionError("planted")
            return inner(*given, **named)

        return act

    if place == "first loss":
        draws = PowerSpectrum.sample_batch
        bad = config.parse(jobs[2].node).generator("data").initial_seed()
        monkeypatch.setattr(
            PowerSpectrum, "sample_batch", broken(draws, lambda _, __, data, *a: data.initial_seed() == bad)
        )
    elif place == "a probe":
        observe = session.Session._observe
        monkeypatch.setattr(
            session.Session, "_observe", broken(observe, lambda one, step: one.cfg.seed == 2 and step > 0)
        )
    else:
        finish = session.Session.finish
        monkeypatch.setattr(session.Session, "finish", broken(finish, lambda one, *a: one.cfg.seed == 2))
    finals = stacked.run_stacked(jobs, 64, lambda job, error: failed.append((job.node["seed"], str(error))))
    assert failed == [(2, "planted")] and [final is None for final in finals] == [False, False, True, False]
    assert [RunFolder(job.path).summary() is None for job in jobs] == [False, False, True, False]
    monkeypatch.undo()
    assert None not in stacked.run_stacked(jobs, 64, refuse), "the same command goes on"


def test_jobs_are_built_as_they_are_trained(composed, tmp_path, monkeypatch):
    """What a kill can lose, and what memory holds, is a few stacks, however many jobs there are."""
    waiting = []
    train = stacked._Part._train

    def watched(part, stack):
        waiting.append(len(stack) + sum(map(len, part.waiting.values())))
        return train(part, stack)

    monkeypatch.setattr(stacked._Part, "_train", watched)
    rate = ("probe.measure=[]", "optim.lr=1e-3", "optim.lr_over_boundary=null")  # nothing to measure
    jobs = listed(composed, tmp_path, *[(*SMALL, *rate, "model=perturbed", "train.steps=1")] * 30)
    for n, job in enumerate(jobs):
        job.node["seed"], job.node["train"]["batch"] = n, 4 + n % 7
    stacked.run_stacked(jobs, 2, refuse)
    assert len(waiting) > 14 and max(waiting) <= stacked.MOST_WAITING * 2


def test_a_member_that_diverges_stops_alone(composed, tmp_path):
    base = (*SWEEP, ONE_PROBE, "model=random", "train.steps=20", "train.log_every=1", "probe.curvature=false")
    settings = [(*base, "optim.lr=0.1"), (*base, "optim.lr=1e300"), (*base, "optim.lr=0.1", "seed=1")]
    stacked.run_stacked(listed(composed, tmp_path / "a", *settings), 64, refuse)
    summaries = [RunFolder(tmp_path / "a" / str(n)).summary() for n in range(3)]
    assert [s["status"] for s in summaries] == ["done", "diverged", "done"] and summaries[1]["steps"] < 20
    runner.run(listed(composed, tmp_path / "b", settings[2])[0], single=False)
    alone = RunFolder(tmp_path / "b" / "0").summary()
    assert summaries[2]["relative_error"]["final"] == pytest.approx(alone["relative_error"]["final"], rel=1e-9)


def test_jobs_that_cannot_run_are_named_and_the_others_go_on(cli, tmp_path):
    status, out, _ = cli(
        "-m", *SMALL, ONE_PROBE, "hydra/launcher=stacked", "T=4,1", "model=spectral,perturbed", "hydra.sweep.dir=sweep"
    )
    assert status == 1 and out.count("failed: ") == 2 and "4 runs, 2 failed" in out
    assert sorted(folder.summary()["status"] for folder in find_runs(tmp_path / "sweep")) == [
        "done",
        "done",
        "failed",
        "failed",
    ]


def test_jobs_of_one_kind_are_composed_once(cli, monkeypatch):
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    composed = []
    compose = ConfigLoaderImpl.load_sweep_config
    monkeypatch.setattr(
        ConfigLoaderImpl,
        "load_sweep_config",
        lambda self, master_config, sweep_overrides: (
            composed.append(tuple(sweep_overrides)) or compose(self, master_config, sweep_overrides)
        ),
    )
    status, out, _ = cli("-m", *SMALL, ONE_PROBE, "hydra/launcher=stacked", "seed=3,4,3", "hydra.sweep.dir=sweep")
    assert status == 0 and "2 runs, 0 failed" in out
    assert len(composed) == 1, "jobs that differ in a plain value are composed once"


@pytest.mark.parametrize(
    "wrong,said",
    [
        ("max_stack=0", "max_stack must be at least 1, got 0; use 64"),
        ("processes=-1", "processes must be at least 1, got -1; use null"),
    ],
)
def test_a_stack_needs_room_for_one(wrong, said, cli):
    status, _, err = cli("-m", *SMALL, "hydra/launcher=stacked", f"hydra.launcher.{wrong}", "hydra.sweep.dir=sweep")
    assert status == 1 and err == f"wavebase: hydra.launcher.{said}\n"


def test_interrupted_stacks_continue(composed, tmp_path, monkeypatch):
    settings = [
        (*SWEEP, *FEW_PROBES, "model=perturbed", "train.steps=10", "train.checkpoint_every=4", f"seed={seed}")
        for seed in range(2)
    ]
    with monkeypatch.context() as patch:
        answers = iter([False] * 6 + [True])
        patch.setattr(interruption.Interruption, "__call__", lambda self: next(answers, False))
        with pytest.raises(interruption.Interrupted, match="step 6"):
            stacked.run_stacked(listed(composed, tmp_path / "cut", *settings), 64, refuse)
    stacked.run_stacked(listed(composed, tmp_path / "cut", *settings), 64, refuse)
    stacked.run_stacked(listed(composed, tmp_path / "whole", *settings), 64, refuse)
    for n in range(2):
        assert numbers(RunFolder(tmp_path / "cut" / str(n))) == numbers(RunFolder(tmp_path / "whole" / str(n)))


def test_memory_of_one_forward_pass_is_measured(composed):
    def member(batch):
        cfg = config.parse(composed("T=4", "probe.curvature=false", "optim.lr=0.1"))
        components = build.build_components(cfg)
        made = session.Session(cfg, components, RunFolder("unused"), None, "", {}, False).train_state()
        return made, activation_bytes(made, batch)

    made, small = member(8)
    _, large = member(64)
    # at least the states of every step: batch * steps * units * 8 bytes; and no more than a few dozen such
    states = 56 * 6 * 28 * 8
    assert states < large - small < 40 * states
    assert make_trainer([made]).losses([made.task.sample_batch(8, torch.Generator())]).shape == (1,)


class Leaky(torch.nn.Module):
    """A net that carries a state from step to step; its input is a pair."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))
        self.register_buffer("state", torch.zeros(3))

    def forward(self, inputs):
        signal, keep = inputs
        now = keep * self.state + self.gain * signal
        self.state.copy_(now.detach())
        return now


class Ramp:
    """Its batches follow a fixed order: the step's place in it."""

    def sample_batch(self, batch, generator, step=0):
        signal = torch.rand(3, generator=generator) + step
        return (signal, torch.tensor(0.5)), 2 * signal

    def loss(self, output, target):
        return (output - target).square().mean()


def test_a_carried_state_and_inputs_of_several_tensors_stack():
    def member(seed, net):
        noted = []
        return TrainState(
            net, Ramp(), dict(net.named_parameters()), torch.optim.SGD(net.parameters(), 0.01), lambda step: 0.01, None,
            torch.Generator().manual_seed(seed), lambda step, values: noted.append(values["loss/train"]),
            lambda step: None, lambda step: None,
        ), noted  # fmt: skip

    settings = TrainSettings(steps=6, log_every=1)
    alone, together = ([member(seed, Leaky()) for seed in range(3)] for _ in range(2))
    for made, _ in alone:
        train([made], settings, 100, range(7))
    train([made for made, _ in together], settings, 100, range(7))
    for (one, losses), (other, others) in zip(alone, together, strict=True):
        assert losses == pytest.approx(others, rel=1e-6) and losses[0] > 0.1
        assert torch.allclose(one.net.state, other.net.state) and one.net.state.min() > 1
        assert torch.allclose(one.net.gain, other.net.gain) and (one.net.gain != 1).all()


OPTIMIZERS = {kind.__name__: {} for kind in ELEMENTWISE} | {"Adafactor": {}, "SGD": {"momentum": 0.9, "nesterov": True}}


class Line(torch.nn.Module):
    """y = x W^T + b."""

    def __init__(self, seed):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(torch.randn(2, 3, generator=draw, dtype=torch.float64))
        self.bias = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x):
        return x @ self.weight.mT + self.bias


class Sines:
    """Fresh targets at every step."""

    def sample_batch(self, batch, generator, step=0):
        x = torch.randn(batch, 3, generator=generator, dtype=torch.float64)
        return x, torch.sin(x[:, :2])

    def loss(self, output, target):
        return (output - target).square().mean()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_equal_settings_are_stepped_together(name, clip_norm, monkeypatch):
    """Rates 0.01, 0.02, 0.01, 0.02, 0.01: two groups. With every optimiser, across a checkpoint, and a net that diverges."""
    kind, steps = {**vars(torch.optim), "AdamL1": AdamL1}[name], []
    saved = {}

    def member(n, key):
        net, rate = Line(n), LearningRate((0.01, 0.02)[n % 2], "cosine", 20, 2)
        optimizer = kind(net.parameters(), lr=rate.base, **OPTIMIZERS[name])
        if n == 4:
            net.bias.data += 1e200  # its squares are not finite
        return TrainState(
            net, Sines(), dict(net.named_parameters()), optimizer, rate, clip_norm, torch.Generator().manual_seed(n),
            lambda step, values: None, lambda step: None,
            lambda step: saved.setdefault((key, n), []).append(copy.deepcopy(optimizer.state_dict())),
        )  # fmt: skip

    settings = TrainSettings(steps=20, batch=4, log_every=5, checkpoint_every=10)
    alone, together = ([member(n, key) for n in range(5)] for key in ("alone", "together"))
    ends = [train([made], settings, 100, range(21))[0] for made in alone]
    step = kind.step
    monkeypatch.setattr(kind, "step", lambda self, closure=None: steps.append(self) or step(self, closure))
    assert train(together, settings, 100, range(21)) == ends == [("done", 20)] * 4 + [("diverged", 1)]
    groups = 2 if kind in ELEMENTWISE else 5
    assert len(steps) == groups + 19 * (2 if kind in ELEMENTWISE else 4)
    for one, other in zip(alone[:4], together[:4], strict=True):
        for name, parameter in one.trained.items():
            torch.testing.assert_close(parameter, other.trained[name], rtol=1e-12, atol=0)
            assert not torch.equal(parameter, Line(0).get_parameter(name))
    for n in range(4):
        for one, other in zip(saved["alone", n], saved["together", n], strict=True):
            assert one["param_groups"] == other["param_groups"]
            torch.testing.assert_close(one["state"], other["state"], rtol=1e-12, atol=0)


def state_of(net, task):
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    return TrainState(
        net, task, dict(net.named_parameters()), optimizer, lambda step: 0.01, None, torch.Generator().manual_seed(0),
        lambda step, values: None, lambda step: None, lambda step: None,
    )  # fmt: skip


@dataclass(frozen=True)
class Tone:
    amplitude: float


class Scaled(Sines):
    """Its loss reads a nested setting."""

    def __init__(self, amplitude, data=0):
        self.signal, self.fixed, self.baselines = Tone(amplitude), torch.full((2,), float(data)), {"zero": float(data)}

    def loss(self, output, target):
        return (output - self.signal.amplitude * target).square().mean()


def leaky(slope):
    return torch.nn.Sequential(Line(0), torch.nn.Sequential(torch.nn.LeakyReLU(slope)))


def with_activation(function):
    net = Line(0)
    net.options = {"activations": [function]}
    return net


def with_offset(value):
    net = Line(0)
    net.offset = torch.tensor([value])
    return net


@pytest.mark.parametrize(
    "one,other,equal",
    [
        ((leaky(0.1), Sines()), (leaky(0.1), Sines()), True),
        ((leaky(0.1), Sines()), (leaky(0.3), Sines()), False),
        ((Line(0), Scaled(1.0)), (Line(1), Scaled(1.0)), True),
        ((Line(0), Scaled(1.0)), (Line(0), Scaled(2.0)), False),
        ((Line(0), Scaled(1.0, data=1)), (Line(0), Scaled(1.0, data=2)), True),
        ((with_activation(torch.relu), Sines()), (with_activation(torch.tanh), Sines()), False),
        ((with_offset(1.0), Sines()), (with_offset(2.0), Sines()), False),
        ((with_offset(1.0), Sines()), (with_offset(1.0), Sines()), True),
    ],
    ids=["same slope", "slope", "weights", "signal", "own data", "function", "tensor attribute", "same tensor"],
)
def test_what_forward_and_loss_read_keeps_members_apart(one, other, equal):
    """A stack runs the first member's forward and loss."""
    assert (stack_key(state_of(*one)) == stack_key(state_of(*other))) == equal
    assert hash(stack_key(state_of(*one))) == hash(stack_key(state_of(*one)))
