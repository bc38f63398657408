"""Every optimiser of torch.optim and of our own: trains, goes on bit for bit, and is the same in a stack as alone."""

import inspect
import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from conftest import FULL, SMALL
from wavebase.constructions.alignment import natural_units
from wavebase.constructions.spectral import spectral_construction
from wavebase.experiment import runner, stacked
from wavebase.models.spectral import SpectralLSTM
from wavebase.records.folder import RunFolder
from wavebase.recurrence.cells import GATES
from wavebase.spectrum import power_spectrum
from wavebase.training.flat import FlatOptimizer, can_be_flat
from wavebase.training.optimizers import ELEMENTWISE, AdamL1, GaussNewton, MuonWithAdamW, load_state, needs_closure
from wavebase.training.stacks import make_trainer
from wavebase.training.trainer import TrainState

EVERY = sorted(
    name for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind not in (torch.optim.Optimizer, torch.optim.SparseAdam)
)  # fmt: skip
OWN = {"Adafactor": "adafactor", "Adagrad": "adagrad", "Adam": "adam", "AdamW": "adamw", "LBFGS": "lbfgs", "NAdam": "nadam", "RMSprop": "rmsprop"}  # fmt: skip
PLAIN = ("~optim.momentum", "~optim.weight_decay", "optim.lr=0.01", "optim.lr_over_boundary=null")
CHOICES = [
    *((name, (f"optim={OWN[name]}",) if name in OWN else (*PLAIN, f"optim._target_=torch.optim.{name}")) for name in EVERY if name != "Muon"),
    ("muon", ("optim=muon",)),
    ("gauss_newton", ("optim=gauss_newton",)),
    ("adam_l1", ("optim=adam_l1",)),
    ("matrices by torch's Muon", (*PLAIN, "optim._target_=torch.optim.Muon", "train.parameters=['weight_*']")),
]  # fmt: skip
WORDS = (
    *SMALL,
    "model.preset=trainable",
    "probe.measure=[function.held_out_error]",
    "train.steps=3",
    "train.checkpoint_every=1",
    "train.log_every=1",
)


def same(one, two):
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


@pytest.mark.parametrize("name,words", CHOICES, ids=[name for name, _ in CHOICES])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_trains_and_goes_on_bit_for_bit(name, words, dtype, composed, tmp_path):
    if dtype == "float32" and name in EVERY and name not in ("SGD", "Adam", "Adafactor", "LBFGS") and not FULL:
        pytest.skip("torch's own, and one of each kind is tried in float32: all with WAVEBASE_FULL=1")
    node = composed(*WORDS, *words, f"dtype={dtype}", "optim.schedule=cosine")
    whole, cut = (runner.Job(node, tmp_path / where, {}) for where in ("whole", "cut"))
    runner.run(whole, single=False)
    losses = RunFolder(whole.path).metrics()["loss/train"][1]
    assert len(losses) == 3 and (losses > 0).all()
    first, last = (RunFolder(whole.path).load_checkpoint(step) for step in (0, 3))
    assert not same(first["net"], last["net"])
    shutil.copytree(whole.path, cut.path)
    folder = RunFolder(cut.path)
    (cut.path / "summary.json").unlink()
    for step in (2, 3):
        (cut.path / "checkpoints" / f"step_{step:08d}.pt").unlink()
    runner.run(cut, single=False)
    again = folder.load_checkpoint(3)
    assert same(again["net"], last["net"]) and same(again["optimizer"], last["optimizer"])


@pytest.mark.parametrize("kind", ELEMENTWISE, ids=lambda kind: kind.__name__)
def test_elementwise_is_what_it_says(kind):
    """A column of a matrix goes where it goes alone."""
    gradients = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    whole, part = torch.nn.Parameter(torch.ones(4, 3)), torch.nn.Parameter(torch.ones(4, 1))
    one, two = kind([whole], lr=0.1), kind([part], lr=0.1)
    for gradient in gradients:
        whole.grad, part.grad = gradient, gradient[:, :1].clone()
        one.step()
        two.step()
    torch.testing.assert_close(whole[:, :1], part)


def test_no_other_of_torchs_is_elementwise():
    assert {kind.__name__ for kind in ELEMENTWISE} == set(EVERY) - {"Adafactor", "LBFGS", "Muon"} | {"AdamL1"}


def test_l1_takes_its_share():
    """Of (x - 1)^2 / 2 and (x - 0.1)^2 / 2 with 0.3 |x| the minima are 0.7 and 0."""
    x = torch.nn.Parameter(torch.tensor([1.0, 0.1], dtype=torch.float64))
    optimizer = AdamL1([x], lr=1e-3, l1=0.3)
    for _ in range(1000):
        x.grad = gradient = x.detach() - torch.tensor([1.0, 0.1])
        optimizer.step()
        assert x.grad is gradient
    torch.testing.assert_close(x.detach(), torch.tensor([0.7, 0.0], dtype=torch.float64), atol=5e-3, rtol=0)
    with pytest.raises(ValueError, match="must be at least 0 and finite, got -1"):
        AdamL1([x], l1=-1)


@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_parameters_stepped_as_one_move_as_they_do_one_by_one(kind):
    """Values and state after steps alone, together, and alone again, as a run that is interrupted takes them."""
    shapes, draw = [(3, 4), (5,), (3, 4), (1,)], torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
    settings = {"momentum": 0.9} if kind in (torch.optim.SGD, torch.optim.RMSprop) else {}
    alone, together = ([torch.nn.Parameter(part.clone()) for part in start] for _ in range(2))
    optimizers = [kind(parameters, lr=0.1, **settings) for parameters in (alone, together)]
    flat = None
    for step in range(6):
        gradients = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
        for parameters in (alone, together):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
        optimizers[0].step()
        if step == 2:
            assert can_be_flat(optimizers[1])
            flat = FlatOptimizer(optimizers[1])
        if 2 <= step < 5:
            flat.step()
            flat.sync()
        else:
            optimizers[1].step()
    moved = [(a.detach() - b).norm() for a, b in zip(alone, start, strict=True)]
    assert min(moved) > 1e-3
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
    first, second = (optimizer.state_dict() for optimizer in optimizers)
    torch.testing.assert_close(first["state"], second["state"], rtol=1e-13, atol=1e-13)


class Half(torch.nn.Module):
    """Two parameters, one of which the loss does not depend on."""

    def __init__(self, start):
        super().__init__()
        self.used, self.unused = torch.nn.Parameter(torch.full((2, 2), start)), torch.nn.Parameter(torch.ones(2, 2))

    def forward(self, x):
        return x @ self.used


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adafactor])
@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_a_parameter_without_gradient_is_left_alone_in_a_stack_too(kind, clip_norm):
    task = SimpleNamespace(loss=lambda output, target: (output - target).square().mean())

    def member(start):
        net = Half(start)
        trained = dict(net.named_parameters())
        optimizer = kind(list(trained.values()), lr=0.1, weight_decay=0.5)
        return TrainState(net, task, trained, optimizer, CONSTANT, clip_norm, None, None, None, None)

    def trained(members):
        together = make_trainer(members)
        for step in range(3):
            together.losses([(torch.ones(3, 2), torch.zeros(3, 2))] * len(members))
            together.update(step)
        together.sync_optimizer_state()
        return members

    stack, alone = trained([member(1.0), member(2.0)]), [trained([member(start)])[0] for start in (1.0, 2.0)]
    for one, two in zip(stack, alone, strict=True):
        torch.testing.assert_close(one.net.used, two.net.used)
        assert torch.equal(two.net.unused, torch.ones(2, 2)) and torch.equal(one.net.unused, two.net.unused)
        assert one.optimizer.state_dict()["state"].keys() == two.optimizer.state_dict()["state"].keys()


def CONSTANT(step):
    return 0.1


def test_several_evaluations_of_a_batch_cannot_be_stacked(composed, tmp_path, caplog):
    listed = [runner.Job(composed(*WORDS, "optim=lbfgs", f"seed={n}"), tmp_path / str(n), {}) for n in range(2)]
    with caplog.at_level("INFO", "wavebase"):
        finals = stacked.run_stacked(listed, 8, None)
    assert "LBFGS evaluates a batch several times a step" in caplog.text and all(0 < final < 1 for final in finals)


class Carrying(torch.nn.Module):
    """A net that goes on from a state of its own, as `models.stateful` does, and notes where each evaluation began."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((2, 2), 0.3))
        self.register_buffer("state", torch.zeros(2))
        self.begun = []

    def forward(self, x):
        self.begun.append(self.state.tolist())
        state = torch.tanh(x @ self.weight + self.state)
        self.state.copy_(state[-1].detach())
        return state


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, GaussNewton])
def test_a_closure_reads_the_batch_from_the_state_that_it_began_in(kind):
    net = Carrying()
    task = SimpleNamespace(
        loss=lambda output, target: (output - target).square().sum(), residuals=lambda output, target: output - target
    )
    trained = dict(net.named_parameters())
    alone = make_trainer(
        [TrainState(net, task, trained, kind(net.parameters()), CONSTANT, None, None, None, None, None)]
    )
    begun = [[0.0, 0.0]]
    for step in range(2):
        net.begun.clear()
        alone.losses([(torch.ones(3, 2), torch.full((3, 2), 0.9))])
        alone.update(step)
        assert len(net.begun) > 2 and all(state == begun[-1] for state in net.begun)
        begun.append(net.state.tolist())
    assert begun[1] != begun[0]


def test_muon_steps_matrices_as_torch_does_and_the_rest_as_adamw():
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((4, 3), (4,), (2, 2))]
    ours, theirs = ([torch.nn.Parameter(tensor.clone()) for tensor in start] for _ in range(2))
    both = MuonWithAdamW(ours, lr=0.1, weight_decay=0.3)
    muon = torch.optim.Muon([theirs[0], theirs[2]], lr=0.1, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW([theirs[1]], lr=0.1, weight_decay=0.3)
    for step in range(4):
        if step == 2:
            saved = both.state_dict()
            both = MuonWithAdamW(ours, lr=0.7)
            load_state(both, saved)
        for group in [*both.param_groups, *muon.param_groups, *adamw.param_groups]:
            group["lr"] = 0.1 / (step + 1)
        for one, two in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            two.grad = one.grad.clone()
        for optimizer in (both, muon, adamw):
            optimizer.step()
        assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("count", [3, 40], ids=["fewer residuals than numbers", "more"])
def test_gauss_newton_solves_least_squares_and_knows_when_to_stop(count):
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(count, 6, dtype=torch.float64, generator=generator)
    target = torch.randn(count, dtype=torch.float64, generator=generator)
    weight = torch.nn.Parameter(torch.zeros(6, dtype=torch.float64))
    optimizer = GaussNewton([weight])
    for _ in range(12):
        optimizer.step(lambda: design @ weight - target)
    exact = torch.linalg.lstsq(design, target[:, None], driver="gelsd").solution.flatten()
    torch.testing.assert_close(weight.detach(), exact, rtol=1e-6, atol=1e-8)
    before = weight.detach().clone()
    optimizer.step(lambda: torch.stack([1 + 0 * weight.sum(), 2 + 0 * weight.sum()]))
    assert torch.equal(weight, before), "nothing to be gained: taken back"


def test_gauss_newton_repairs_an_exact_net():
    """Every weight of an exact net moved by 1 % of its unit (what its row is driven by, over its column's largest state): five
    steps on a fixed set take the error on other signals from 0.2 to under 1e-3."""
    construction = spectral_construction(3, dtype=torch.float64)
    net, units = SpectralLSTM(construction), natural_units(construction)
    size = construction.hidden_size
    scale = {"readout.weight": 1 / units.readout[:, :size], "readout.bias": 1 / units.readout[:, size]}
    for gate, unit in zip(GATES, 1 / units.gates, strict=True):
        scale[f"weight_hh_{gate}"], scale[f"weight_ih_{gate}"] = unit[:, :size], unit[:, size : size + 1]
        scale[f"bias_ih_{gate}"] = unit[:, size + 1]
    generator = torch.Generator().manual_seed(5)
    weights = {}
    for name, unit in scale.items():
        value = dict(net.named_parameters())[name].detach() / unit
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        weights[name] = torch.nn.Parameter(value + 0.01 * noise / (value.shape[-1] ** 0.5 if value.ndim == 2 else 1))

    def residuals(x, y):
        moved = {name: value * scale[name] for name, value in weights.items()}
        return (torch.func.functional_call(net, moved, (x,)) - y) / y.norm()

    def signals(count, seed):
        x = torch.rand(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
        return x, power_spectrum(x, 3)

    def error():
        with torch.no_grad():
            return residuals(*signals(256, 1)).norm().item()

    optimizer, before = GaussNewton(weights.values()), error()
    for _ in range(5):
        optimizer.step(lambda: residuals(*signals(64, 0)))
    assert 0.1 < before < 1 and error() < 1e-3


@pytest.mark.parametrize("task", ["power_spectrum", "reconstruction", "forecast_b", "extraction"])
def test_residuals_add_up_to_the_loss(task, composed):
    from wavebase.experiment import build, config

    experiment = {"reconstruction": "cosine_reconstruction", "forecast_b": "harmonic_forecast", "extraction": "frequency_extraction"}  # fmt: skip
    words = [
        "probe.curvature=false",
        "optim.lr=0.1",
        "train.batch=4",
        "task.held_out_count=4",
        *([f"experiment={experiment[task]}"] if task in experiment else []),
    ]
    cfg = config.parse(composed(*words))
    components = build.build_components(cfg)
    inputs, target = components.task.sample_batch(cfg.train.batch, cfg.generator("data"))
    output = components.net(inputs)
    output = output + 0.1 * torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(0))
    residuals = components.task.residuals(output, target)
    torch.testing.assert_close(residuals.square().sum(), components.task.loss(output, target))


def test_who_needs_a_closure():
    weight = [torch.nn.Parameter(torch.ones(2, 2))]
    kinds = [kind for name in EVERY if needs_closure((kind := getattr(torch.optim, name))(weight))]
    assert (
        kinds == [torch.optim.LBFGS] and needs_closure(GaussNewton(weight)) and not needs_closure(MuonWithAdamW(weight))
    )


@pytest.mark.parametrize(
    "words,complaint",
    [
        ([*PLAIN, "optim._target_=torch.optim.SparseAdam"], "must take dense gradients"),
        ([*PLAIN, "optim._target_=torch.optim.Optimizer"], "must name what is registered for it"),
        ([*PLAIN, "optim._target_=torch.optim.lr_scheduler.StepLR"], "must name what is registered for it"),
        ([*PLAIN, "optim._target_=torch.nn.Identity"], "must name what is registered for it"),
        ([*PLAIN, "optim._target_=torch.optim.Muon"], "Muon only supports 2D parameters"),
        (
            ["optim=muon", "train.parameters=['bias_*']"],
            "optim=muon needs a matrix to train, got none; use optim=adamw",
        ),
        (["optim=muon", "optim.momentum=1.5"], "optim.momentum must lie in"),
        (["optim=muon", "optim.lr_over_boundary=0.5"], "got MuonWithAdamW; give optim.lr instead"),
        (["optim=lbfgs", "optim.clip_norm=1"], "optim.clip_norm must be null with LBFGS"),
        (["optim=gauss_newton", "optim.damping=0"], "optim.damping must be positive"),
        (["optim=gauss_newton", "train.batch=1000000000"], "lower train.batch"),
        (["experiment=second_argmax", "optim=gauss_newton", "~optim.weight_decay"], "loss is a sum of squares"),
        (["optim=adam", "optim.betas=[0.9,-0.1]"], "optim.betas must lie in"),
    ],
)
def test_wrong_choices_end_in_one_line(words, complaint, cli, tmp_path):
    status, out, err = cli(*SMALL, *words)
    assert status == 1 and complaint in err and len(err.strip().splitlines()) == 1 and not out, err
    assert not list(tmp_path.iterdir())


def test_gauss_newton_counts_its_memory():
    optimizer = GaussNewton([torch.nn.Parameter(torch.zeros(10**4))])
    optimizer.check(10)
    with pytest.raises(ValueError, match="free memory"):
        optimizer.check(10**12)


def test_lion_is_optional(composed, cli, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lion_pytorch", None)
    status, _, err = cli(*SMALL, "optim=lion")
    assert (
        status == 1
        and err == "wavebase: optim=lion needs the package lion-pytorch, got none; pip install lion-pytorch\n"
    )


def test_lion_trains(composed, tmp_path):
    pytest.importorskip("lion_pytorch")
    job = runner.Job(composed(*WORDS, "optim=lion"), tmp_path / "run", {})
    runner.run(job, single=False)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "done"
