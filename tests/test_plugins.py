"""An exact algorithm of somebody's own, outside this repository: one Python file, one folder of YAML, and the word trust=[...]."""

import json
import os
import sys
import textwrap

import pytest
import torch

from conftest import ForkedProcess, wait_until
from test_forking import held_run
from wavebase.cli import names, probe, run
from wavebase.records.folder import RunFolder, find_runs
from wavebase.report import __main__ as report

CODE = '''
import torch
from torch import nn

from wavebase.constructions.algorithm import ExactAlgorithm
from wavebase.models.base import NamedModel, draw_uniform
from wavebase.registry import registered
from wavebase.tasks.base import Batch, SquaredErrorTask, constant_losses, relative_errors


@registered
class Products(SquaredErrorTask):
    """The products of neighbouring samples of a signal: [batch, T] to [batch, T - 1]."""

    def __init__(self, signal, T, dtype, device, probe_generator, *, held_out_count=64, label_noise=0.0):
        self.signal, self.T, self.dtype, self.label_noise = signal, T, dtype, label_noise
        self.sizes = {"T": T}
        self.held_out = {"training": self._batch(signal.sample(held_out_count, T, probe_generator, held_out=True))}
        self.held_out["double"] = self._batch(2 * self.held_out["training"].input)
        self.baselines = constant_losses(self.held_out["training"].target)

    def _batch(self, x):
        x = x.to(self.dtype)
        return Batch(x, x[:, 1:] * x[:, :-1])

    def sample_batch(self, batch, generator, step=0):
        x, target = self._batch(self.signal.sample(batch, self.T, generator))
        noise = torch.randn(target.shape, generator=generator, dtype=torch.float64).to(target)
        return Batch(x, target + self.label_noise * noise)

    def metrics(self, output, target):
        return relative_errors(output, target)


def products(weights, x):
    """((a + b)^2 - (a - b)^2) / 4 = a b, with the squares of hidden units."""
    pairs = x.unfold(1, 2, 1)
    return (pairs @ weights["inner.weight"].mT).square() @ weights["outer.weight"][0]


class Squares(NamedModel):
    def __init__(self, weights, algorithm):
        super().__init__()
        self.inner, self.outer = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
        self.to(next(iter(weights.values())).dtype)
        self.load_state_dict(weights)
        self.algorithm = algorithm

    def forward(self, x):
        return products(dict(self.named_parameters()), x)


def swapped(weights):
    """The two units exchanged."""
    return {"inner.weight": weights["inner.weight"].flip(0), "outer.weight": weights["outer.weight"].flip(1)}


def negated(weights):
    """The first unit with the other sign, which its square does not see."""
    sign = torch.tensor([[-1.0], [1.0]]).to(weights["inner.weight"])
    return {**weights, "inner.weight": weights["inner.weight"] * sign}


def other_sign(weights):
    """Share of the output's swing that the second unit takes with the opposite sign of the first: half in the algorithm."""
    one, two = weights["outer.weight"][0]
    return float((2 * min(-one * two, one * one) / (one * one)).clamp(0, 1)) if one * two < 0 else 0.0


@registered
def build(T, dtype, init, *, start="exact"):
    """The two-unit algorithm for products, or random weights in its place."""
    weights = {
        "inner.weight": torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=dtype),
        "outer.weight": torch.tensor([[0.25, -0.25]], dtype=dtype),
    }
    algorithm = ExactAlgorithm(
        weights, tolerance=1e-6, symmetries=(swapped, negated), forward=products,
        blocks={"outer": {"outer.weight": torch.ones(1, 2, dtype=torch.bool)}}, questions={"signs": other_sign},
    )
    net = Squares(weights, algorithm)
    if start == "random":
        draw_uniform(net, 0.5, init)
    return net


@registered
def sharpness(snapshot):
    """A probe of one's own."""
    return {"mine/outer": snapshot.weights["outer.weight"].abs().max().item()}


class NotRegistered:
    pass
'''
WORDS = (
    "model=mine", "task=mine", "T=4", "train.steps=40", "train.batch=8", "probe.curvature_batch=8", "probe.every=20",
    "train.checkpoint_every=10", "probe.figures=[train_loss]", "probe.measure=[function.held_out_error,algorithm.distance,algorithm.questions,gradient.movement,mine.sharpness]",
    "optim.lr=0.002", "optim.lr_over_boundary=null",
)  # fmt: skip
TRUST = "trust=[mine]"


@pytest.fixture
def outside(tmp_path):
    """A folder of somebody's own with a package-less Python file and two YAML files; the commands run there."""
    (tmp_path / "mine.py").write_text(CODE)
    for group, target in (("model", "mine.build"), ("task", "mine.Products")):
        (tmp_path / "myconf" / group).mkdir(parents=True)
        (tmp_path / "myconf" / group / "mine.yaml").write_text(f"_target_: {target}\n")
    (tmp_path / "myconf" / "model" / "mine.yaml").write_text("_target_: mine.build\nstart: exact\n")
    (tmp_path / "myconf" / "task" / "mine.yaml").write_text(
        "_target_: mine.Products\nheld_out_count: 32\nlabel_noise: 0.05\n"
    )
    return tmp_path


def started(main, outside, *words):
    return ForkedProcess(main, *words, folder=outside, environment={"PYTHONPATH": str(outside)})


def with_path(main):
    """The command with its working directory on the path, as `python -m` has it."""

    def command():
        sys.path.insert(0, os.getcwd())
        main()

    return command


def finished(main, outside, *words):
    process = started(with_path(main), outside, *words)
    out, err = process.communicate()
    return process.returncode, out, err


CONF = "--config-dir=myconf"


def test_it_runs_is_judged_and_recorded(outside):
    status, _, err = finished(run.main, outside, CONF, *WORDS, TRUST, "hydra.run.dir=one")
    assert status == 0, err
    summary = RunFolder(outside / "one").summary()
    assert (
        summary["verdict"] == "preserved"
        and summary["relative_error"]["initial"] < 1e-14 < summary["relative_error"]["final"]
    )
    assert list(summary["trusted"]) == ["mine"] and len(summary["trusted"]["mine"]) == 64
    assert RunFolder(outside / "one").config()["trust"] == ["mine"]
    values = summary["probes"]["final"]
    assert values["mine/outer"] > 0 and values["mechanism/question_signs"] > 0.9 and "position/block_outer" in values
    kinds = {condition["kind"] for condition in summary["conditions"].values()}
    assert kinds == {"function", "off_support", "mechanism", "position"}


def test_a_random_start_is_no_algorithm(outside):
    status, _, err = finished(run.main, outside, CONF, *WORDS, TRUST, "model.start=random", "hydra.run.dir=one")
    assert status == 0, err
    summary = RunFolder(outside / "one").summary()
    assert summary["verdict"] == "no algorithm" and summary["relative_error"]["initial"] > 0.5


def test_a_path_to_the_file_does_as_well(outside):
    status, _, err = finished(
        run.main, outside.parent, f"--config-dir={outside}/myconf", *WORDS, f"trust=[{outside}/mine.py]",
        f"hydra.run.dir={outside}/one",
    )  # fmt: skip
    assert status == 0, err
    assert RunFolder(outside / "one").summary()["status"] == "done"


def test_a_stacked_sweep_is_killed_resumed_probed_and_reported(outside):
    words = (
        "-m", CONF, *WORDS, TRUST, "seed=0,1,2,3", "hydra/launcher=stacked", "hydra.launcher.processes=1",
        "hydra.sweep.dir=sweep", "train.steps=60",
    )  # fmt: skip
    process = started(with_path(held_run), outside, *words)
    wait_until(lambda: len(list(outside.glob("sweep/*/checkpoints/step_00000020.pt"))) == 4, process)
    process.kill()
    process.communicate()
    assert not list(outside.glob("sweep/*/summary.json"))
    status, out, err = finished(run.main, outside, *words)
    assert status == 0, err
    runs = find_runs(outside / "sweep")
    assert [one.summary()["status"] for one in runs] == ["done"] * 4 and "continues from step" in out
    assert (outside / "sweep" / "report.html").is_file()
    status, out, err = finished(report.main, outside, "sweep")
    assert status == 0 and "4 runs, 0 failed" in out
    status, out, err = finished(probe.main, outside, str(runs[0].path), TRUST)
    assert status == 0 and "verdict at step 60" in out, err


def test_without_trust_nothing_of_it_is_imported(outside):
    (outside / "mine.py").write_text(CODE + "\nopen('imported', 'w').close()\n")
    status, _, err = finished(run.main, outside, CONF, *WORDS, "hydra.run.dir=one")
    assert status == 1 and err.count("\n") == 1
    assert "got 'mine.Products'; if you trust the code of mine, add trust=[mine] to the command line" in err
    assert not (outside / "imported").exists() and not (outside / "one").exists()


@pytest.mark.parametrize("how", ["a file", "a sweeper's parameters", "a stored run"])
def test_a_file_cannot_ask_to_be_trusted(how, outside):
    marked = CODE + "\nopen('imported', 'w').close()\n"
    if how == "a stored run":
        assert finished(run.main, outside, CONF, *WORDS, TRUST, "hydra.run.dir=one")[0] == 0
        (outside / "mine.py").write_text(marked)
        status, _, err = finished(probe.main, outside, "one")
        assert status == 1 and err.count("\n") == 1 and "add trust=[mine] to the command line" in err
    else:
        (outside / "mine.py").write_text(marked)
        (outside / "myconf" / "experiment").mkdir()
        text = "# @package _global_\n" + (
            "trust: [mine]\n" if how == "a file" else "hydra: {sweeper: {params: {trust: mine}}}\n"
        )
        (outside / "myconf" / "experiment" / "sneaky.yaml").write_text(text)
        flags = ("-m",) if "sweeper" in how else ()
        folder = "hydra.sweep.dir=one" if flags else "hydra.run.dir=one"
        status, _, err = finished(run.main, outside, *flags, CONF, *WORDS, "experiment=sneaky", folder)
        assert status == 1 and "trust must be given on the command line" in err
    assert not (outside / "imported").exists()


@pytest.mark.parametrize(
    "words,said",
    [
        (("trust=[nothing_of_this_name]",), "trust must name modules that can be imported"),
        (("trust=[./absent.py]",), "trust must name modules or .py files that exist"),
        ((TRUST, "model._target_=mine.NotRegistered"), "; mark it @registered in mine"),
        ((TRUST, "model._target_=mine.absent.build"), "; mark it @registered in mine"),
    ],
)
def test_what_cannot_be_trusted_is_one_line(words, said, outside):
    status, _, err = finished(run.main, outside, CONF, *WORDS, *words, "hydra.run.dir=one")
    assert status == 1 and err.count("\n") == 1 and said in err
    assert not (outside / "one").exists()


def test_claims_that_do_not_hold_are_one_line(outside):
    for wrong, said in (
        ("0.25, -0.25", "0.3, -0.25|exact to its tolerance 1e-06, got a relative error of 0."),
        ('"outer.weight": torch.ones(1, 2', '"outer.weight": torch.ones(1, 3|must fit weights, whose outer.weight is [1, 2], got [1, 3]'),
    ):  # fmt: skip
        (outside / "mine.py").write_text(CODE.replace(wrong, said.split("|")[0]))
        status, _, err = finished(run.main, outside, CONF, *WORDS, TRUST, "hydra.run.dir=one")
        assert status == 1 and said.split("|")[1] in err and err.count("\n") == 1, err


def test_words_of_the_command_line():
    assert names.trust_words(["a=1", "trust=[a.b, '/x/y.py']"]) == ["a.b", "/x/y.py"]
    assert names.trust_words(["trust=a", "trust=[]"]) == [] and names.trust_words(["x.trust=a"]) == []


class TestContract:
    """The contract by itself, with the file above as a module."""

    @pytest.fixture
    def mine(self):
        namespace = {}
        exec(compile(textwrap.dedent(CODE).replace("@registered\n", ""), "mine", "exec"), namespace)
        return namespace

    def test_symmetries_are_found_and_rivals_are_not(self, mine):
        from wavebase.experiment.judge import algorithm_verdict
        from wavebase.signals.generators import WhiteNoise

        generator = torch.Generator().manual_seed(0)
        net = mine["build"](4, torch.float64, generator)
        task = mine["Products"](WhiteNoise(1.0), 4, torch.float64, torch.device("cpu"), generator)
        exact = net.algorithm
        for weights in (exact.weights, mine["swapped"](exact.weights), mine["negated"](mine["swapped"](exact.weights))):
            assert exact.aligned(weights)[1] == 0 and algorithm_verdict(weights, exact, task).name == "preserved"
        scaled = {"inner.weight": 2 * exact.weights["inner.weight"], "outer.weight": exact.weights["outer.weight"] / 4}
        assert algorithm_verdict(scaled, exact, task).name == "deformed", "the same function from other weights"
        silent = {name: 0 * weight for name, weight in exact.weights.items()}
        assert exact.distance(silent) == pytest.approx(1) and algorithm_verdict(silent, exact, task).name == "broken"
        same_sign = {**exact.weights, "outer.weight": exact.weights["outer.weight"].abs()}
        assert algorithm_verdict(same_sign, exact, task).name == "broken"

    def test_units_are_measured_from_activations(self, mine):
        from wavebase.constructions.algorithm import activation_units

        net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=True, dtype=torch.float64))
        with torch.no_grad():
            net[0].weight.copy_(torch.tensor([[3.0, 0.0]]))
            net[0].bias.zero_()
        units = activation_units(net, torch.tensor([[2.0, 0.0], [-1.0, 0.0]], dtype=torch.float64))
        assert units["0.weight"].tolist() == [[3.0, 6.0]] and units["0.bias"].tolist() == [6.0]


def test_the_record_of_a_run_says_what_was_trusted_and_0_1_folders_have_none(outside):
    assert json.dumps(names.trust_words([])) == "[]"
