"""The boundary of each optimiser, held against torch's own optimiser: below it a run stays, above it it leaves."""

import math

import pytest
import torch

from conftest import ONE_PROBE, SMALL
from wavebase.theory import boundaries
from wavebase.theory.boundaries import Boundary, Curvatures

F64 = torch.float64


def sizes(optimizer, weight, gradient, steps):
    """The largest |weight| over the last tenth of a run, and over all of it, over that at the start."""
    start, late, largest = weight.detach().abs().max().item(), 0.0, 0.0
    for step in range(steps):
        weight.grad = gradient(weight.detach(), step)
        optimizer.step()
        size = weight.detach().abs().max().item()
        largest = max(largest, size)
        if step >= 0.9 * steps:
            late = max(late, size)
    return late / start, largest / start


def frozen(optimizer, weight, v):
    """An adaptive optimiser whose moving average of squares stays at v."""
    state = {"step": torch.tensor(1e15), "square_avg": v.clone(), "exp_avg_sq": v.clone(), "max_exp_avg_sq": v.clone()}
    zeros = {name: torch.zeros_like(v) for name in ("exp_avg", "grad_avg", "momentum_buffer")}
    optimizer.state[weight].update({**state, **zeros})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_decay": 2.5},
        {"momentum": 0.9},
        {"momentum": 0.9, "weight_decay": 2.5},
        {"momentum": 0.7, "dampening": 0.6},
        {"dampening": 0.6},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.3, "nesterov": True, "weight_decay": 2.5},
    ],
    ids=str,
)
def test_sgd(settings):
    curvature = torch.tensor([7.0, 3.0, 0.5], dtype=F64)

    def ratio(fraction):
        weight = torch.nn.Parameter(torch.ones(3, dtype=F64))
        optimizer = torch.optim.SGD([weight], lr=1.0, **settings)
        boundary = boundaries.rule_of(optimizer).learning_rate(7.0)
        optimizer.param_groups[0]["lr"] = fraction * boundary
        return sizes(optimizer, weight, lambda w, step: curvature * w, 600)

    assert ratio(0.98)[0] < 1e-4 and ratio(1.02)[1] > 1e4


ADAPTIVE = [
    (torch.optim.Adam, {}),
    (torch.optim.Adam, {"betas": (0.0, 1 - 1e-13)}),
    (torch.optim.Adam, {"weight_decay": 2.5}),
    (torch.optim.Adam, {"amsgrad": True, "betas": (0.6, 1 - 1e-13)}),
    (torch.optim.Adam, {"weight_decay": 9.0, "decoupled_weight_decay": True}),
    (torch.optim.AdamW, {"weight_decay": 0.0}),
    (torch.optim.AdamW, {"weight_decay": 9.0}),
    (torch.optim.RMSprop, {}),
    (torch.optim.RMSprop, {"momentum": 0.8, "weight_decay": 2.5}),
    (torch.optim.RMSprop, {"momentum": 0.5, "centered": True}),
]


@pytest.mark.parametrize("kind,settings", ADAPTIVE, ids=lambda value: getattr(value, "__name__", str(value)))
def test_adaptive_with_its_averages_held(kind, settings):
    """P is held by averages that do not move; everything else is torch's own step. The Hessian is not diagonal in P's axes."""
    hessian = torch.tensor([[7.0, 2.0, 1.0], [2.0, 5.0, 0.5], [1.0, 0.5, 0.4]], dtype=F64)
    v = torch.tensor([0.04, 0.5, 1e-4], dtype=F64)
    settings = {"eps": 1e-3, **settings}
    if kind is torch.optim.RMSprop:
        settings["alpha"] = 1 - 1e-13
    else:
        settings.setdefault("betas", (0.9, 1 - 1e-13))
    # gradients of one size and of either sign have the squares v and no mean
    losses = [lambda sign=sign: (sign * v.sqrt() * weight).sum() for sign in (1, -1)]

    def ratio(fraction):
        optimizer = kind([weight], lr=1.0, **settings)
        frozen(optimizer, weight, v)
        optimizer.param_groups[0]["lr"] = fraction * boundary
        return sizes(optimizer, weight, lambda w, step: hessian @ w, 600)

    weight = torch.nn.Parameter(torch.zeros(3, dtype=F64))  # at zero, so that decay is no part of v
    rule = boundaries.rule_of(kind([weight], lr=1.0, **settings))
    boundary = Boundary(
        rule, boundaries.measure(rule, lambda: weight @ hessian @ weight / 2, [weight], losses)
    ).learning_rate
    found = []
    for fraction in (0.95, 1.05):
        weight.data.fill_(1e-9)  # its own gradients leave the held averages alone
        found.append(ratio(fraction))
    # what leaves grows until its gradients are no longer small beside v, and comes back
    assert found[0][0] < 0.1 and found[1][1] > 1e4, found


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_adaptive_as_it_is(kind):
    """Nothing is held: along the sum of two numbers the slope is constant, so that v stays what it was measured to be,
    while their difference is a quadratic's deviation from its minimum."""
    weight = torch.nn.Parameter(torch.tensor([1e-6, -1e-6], dtype=F64))

    def loss():
        return 0.3 * weight.sum() + 2.5 * (weight[0] - weight[1]).square()

    def differences(fraction):
        weight.data[:] = torch.tensor([1e-6, -1e-6], dtype=F64)
        optimizer, found = kind([weight], lr=0.0, weight_decay=0.0, eps=0.1), []
        for step in range(2000):
            if step == 1000:  # the averages have settled
                optimizer.param_groups[0]["lr"] = fraction * boundary
            apart = (weight.data[0] - weight.data[1]).item()
            weight.grad = torch.tensor([0.3 + 5 * apart, 0.3 - 5 * apart], dtype=F64)  # of the loss
            optimizer.step()
            found.append(abs(apart))
        return found

    rule = boundaries.rule_of(kind([weight], weight_decay=0.0, eps=0.1))
    measured = boundaries.measure(rule, loss, [weight], [loss])
    assert measured.lambda_max == pytest.approx(10) and measured.preconditioned == pytest.approx(10 / 0.4)
    boundary = Boundary(rule, measured).learning_rate
    below, above = differences(0.95), differences(1.05)
    assert max(below[-300:]) < 2e-6 and max(above) > 1e-2


def test_noise_of_the_targets_counts():
    """v is the second moment of the gradients, not the square of their mean."""
    weight = torch.nn.Parameter(torch.zeros(4, dtype=F64))
    draws = 0.3 * torch.randn(boundaries.BATCHES, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    losses = [lambda draw=draw: (draw * weight).sum() for draw in draws]
    for kind in (torch.optim.Adam, torch.optim.RMSprop):
        rule = boundaries.rule_of(kind([weight], **({"centered": True} if kind is torch.optim.RMSprop else {})))
        measured = boundaries.measure(rule, lambda: 2 * weight.square().sum(), [weight], losses)
        assert measured.preconditioned == pytest.approx(4 / 0.3, rel=0.3)


@pytest.mark.parametrize("kind,settings", [(torch.optim.Adam, {}), (torch.optim.AdamW, {"weight_decay": 5.0}), (torch.optim.RMSprop, {}), (torch.optim.RMSprop, {"centered": True})])  # fmt: skip
def test_the_first_step_overshoots_above_its_own_boundary(kind, settings):
    """A step along an eigenvector of the linear map ends farther away than it began, or not: torch's own first step,
    differentiated in the start of one number while its gradient's size is held."""
    weight = torch.nn.Parameter(torch.tensor([0.2], dtype=F64))
    rule = boundaries.rule_of(kind([weight], lr=1.0, **settings))
    found = Boundary(rule, boundaries.measure(rule, lambda: 1.5 * weight.square().sum(), [weight], [lambda: 1.5 * weight.square().sum()]))  # fmt: skip
    for fraction in (0.95, 1.05):
        weight.data.fill_(0.2)
        optimizer = kind([weight], lr=fraction * found.first_step, **settings)
        weight.grad = 3 * weight.detach()
        optimizer.step()
        assert (abs(weight.item()) > 0.2) == (fraction > 1)


def test_a_rule_and_its_inverse_agree():
    weight = torch.nn.Parameter(torch.zeros(2))
    for kind, settings in [*ADAPTIVE, (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1})]:
        rule = boundaries.rule_of(kind([weight], lr=1.0, **settings))
        assert rule.curvature(rule.learning_rate(20.0)) == pytest.approx(20.0)
        assert rule.learning_rate(math.inf) is None and rule.learning_rate(math.nan) is None
    assert boundaries.rule_of(torch.optim.SGD([weight])).learning_rate(0.0) is None


def test_no_gradient_at_all_is_a_boundary_set_by_eps():
    weight = torch.nn.Parameter(torch.zeros(5, dtype=F64))

    def loss():
        return 3 * weight.square().sum()

    for eps, expected in ((1e-8, 6e8), (0.0, math.inf)):
        rule = boundaries.rule_of(torch.optim.Adam([weight], eps=eps))
        measured = boundaries.measure(rule, loss, [weight], [loss])
        assert measured.preconditioned == measured.preconditioned_first == pytest.approx(expected, rel=1e-3)
        assert Boundary(rule, measured).learning_rate == (None if eps == 0 else pytest.approx(38 / 6e8, rel=1e-3))


def test_only_what_is_unknown_is_measured():
    weight = torch.nn.Parameter(torch.zeros(2))

    def fail():
        raise AssertionError("measured again")

    rule = boundaries.rule_of(torch.optim.Adam([weight]))
    known = Curvatures(1.0, 2.0, 3.0)
    assert boundaries.measure(rule, fail, [weight], [fail], known) == known
    rule = boundaries.rule_of(torch.optim.SGD([weight]))
    assert boundaries.measure(rule, fail, [weight], [fail], Curvatures(1.0)) == Curvatures(1.0)


KEPT = [word for word in SMALL if word != "probe.curvature=false"]


def test_a_run_reports_the_boundary_of_its_optimiser(ran):
    words = (*KEPT, "model.preset=trainable", "task.label_noise=0.1")
    plain, fast, adaptive, other = (
        ran(*words, *optim, name=str(n))
        for n, optim in enumerate(
            (
                ("optim=sgd",),
                ("optim=momentum",),
                ("optim=adam", "optim.lr=null", "optim.lr_over_boundary=0.5"),
                ("optim=adam", "optim._target_=torch.optim.NAdam"),
            )
        )
    )
    optim = [folder.summary()["optim"] for folder in (plain, fast, adaptive, other)]
    assert len({each["lambda_max"] for each in optim}) == 1, "the Hessian's, whatever the optimiser"
    assert optim[0]["boundary"] == pytest.approx(2 / optim[0]["lambda_max"])
    assert optim[1]["boundary"] == pytest.approx(3.8 / optim[1]["lambda_max"])
    assert optim[2]["boundary"] == pytest.approx(38 / optim[2]["preconditioned"])
    assert optim[2]["first_step_boundary"] == pytest.approx(2 / optim[2]["preconditioned_first"])
    assert all(each["lr"] == pytest.approx(each["boundary"] / 2) for each in optim[:3])
    assert optim[3]["boundary"] is None and optim[3]["lr_over_boundary"] is None
    metrics = [folder.metrics() for folder in (plain, fast, adaptive, other)]
    for series, beta in zip(metrics[:2], (0, 0.9), strict=True):
        assert series["curvature/boundary"][1][0] == pytest.approx(
            2 * series["curvature/lambda_max"][1][0] / (1 + 0 * beta)
        )
    assert metrics[2]["curvature/preconditioned_boundary"][1][0] == pytest.approx(2 * optim[2]["preconditioned"])
    assert "curvature/boundary" not in metrics[2] and not any("boundary" in name for name in metrics[3])


@pytest.mark.parametrize("optim", ["sgd", "momentum"])
def test_a_net_stays_below_and_leaves_above(optim, ran):
    words = (*KEPT, "T=4", "model.preset=trainable", "task.training_count=64", "train.batch=64", "train.steps=150", "probe.every=150",
             "probe.curvature_batch=64", "train.log_every=1", ONE_PROBE, f"optim={optim}")  # fmt: skip
    below, above = (
        ran(*words, f"optim.lr_over_boundary={rate}", name=str(rate)).metrics()["loss/train"][1] for rate in (0.9, 1.2)
    )
    assert below[-1] < below[0] and (max(above) > 10 * above[0] or not all(map(math.isfinite, above)))


@pytest.mark.parametrize(
    "words,complaint",
    [
        (["optim=adam", "optim._target_=torch.optim.NAdam", "optim.lr_over_boundary=0.5"], "got NAdam; give optim.lr instead"),
        (["+optim.maximize=true"], "got SGD; give optim.lr instead"),
        (["optim=adam", "optim.lr=0.1", "optim.lr_over_boundary=0.5"], "got 0.1 and 0.5 from the command line; set one"),
        (["optim.momentum=1.5"], "optim.momentum must lie in 0 <= momentum < 1, got 1.5"),
        (["optim=momentum", "+optim.dampening=2"], "optim.dampening must lie in"),
        (["optim=adam", "optim.betas=[0.9,1]"], "optim.betas must lie in"),
        (["optim=adam", "optim.betas=[0.9,nan]"], "optim.betas must be finite"),
        (["optim=rmsprop", "optim.alpha=1.1"], "optim.alpha must lie in"),
        (["optim=rmsprop", "optim.momentum=1"], "optim.momentum must lie in"),
        (["optim.weight_decay=-1"], "optim.weight_decay must be at least 0"),
        (["+optim.differentiable=true"], "optim.differentiable must be false"),
    ],
)  # fmt: skip
def test_wrong_settings_end_in_one_line(words, complaint, cli, tmp_path):
    status, out, err = cli(*SMALL, *words)
    assert status == 1 and complaint in err and len(err.strip().splitlines()) == 1 and not out, err
    assert not list(tmp_path.iterdir())


def test_a_default_rate_yields_to_the_fraction_that_is_asked_for(cli, tmp_path):
    status, out, err = cli(
        *SMALL, "optim=adam", "optim.lr_over_boundary=0.5", "model.preset=trainable", "hydra.run.dir=here"
    )
    assert status == 0 and "0.5 of the boundary" in " ".join(out.split()), err
    lines = out.splitlines()
    assert len(next(line for line in lines if line.startswith("learning rate"))) <= 80


def test_a_gradient_that_is_dampened_away_has_no_boundary():
    weight = torch.nn.Parameter(torch.ones(1))
    rule = boundaries.rule_of(torch.optim.SGD([weight], 0.1, momentum=0.9, dampening=1.0))
    assert rule.learning_rate(5.0) is None and rule.curvature(0.1) == float("inf")
