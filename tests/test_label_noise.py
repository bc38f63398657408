"""The law of label noise against simulated least squares, whose every number is known, and against the spectral net."""

import math

import numpy as np
import pytest
import torch
from torch import optim

from wavebase.models.spectral import spectral_lstm
from wavebase.probes.curvature import largest_curvature
from wavebase.spectrum import power_spectrum
from wavebase.theory import gauss_newton, label_noise
from wavebase.theory.gauss_newton import GaussNewton
from wavebase.theory.label_noise import NoiseLaw, UpdateRule

NOISE = 0.1


def least_squares():
    """A linear problem: J [24, 5] whose eigenvalues spread over two decades, its fit [5], and the targets' mean square."""
    g = torch.Generator().manual_seed(0)
    jacobian = torch.randn(24, 5, generator=g, dtype=torch.float64) * torch.tensor([3.0, 1.5, 1, 0.5, 0.3])
    fit = torch.randn(5, generator=g, dtype=torch.float64)
    return jacobian, fit, (jacobian @ fit).square().mean().item()


def simulated(make, steps, averaged, members=400):
    """Relative error, an rms over members and over the last steps, of an optimiser that starts at the fit."""
    jacobian, fit, power = least_squares()
    draw = np.random.default_rng(1)  # three times as fast as torch's
    w = fit.repeat(members, 1).requires_grad_()
    optimizer, errors = make([w]), []
    for step in range(steps):
        residual = (w.detach() - fit) @ jacobian.mT
        if step >= steps - averaged:
            errors.append(residual.square().mean().item() / power)
        noise = NOISE * math.sqrt(power) * torch.from_numpy(draw.standard_normal(residual.shape))
        w.grad = 2 * (residual - noise) @ jacobian / len(jacobian)
        optimizer.step()
    return math.sqrt(sum(errors) / averaged)


def matrix():
    jacobian = least_squares()[0]
    return GaussNewton(jacobian, torch.ones(5, dtype=torch.bool))


TOP = matrix().eigenvalues[0].item()


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.SGD(p, lr=0.2 / TOP),
        lambda p: optim.SGD(p, lr=1.5 / TOP),
        lambda p: optim.SGD(p, lr=0.5 / TOP, momentum=0.9),
        lambda p: optim.SGD(p, lr=0.5 / TOP, momentum=0.9, dampening=0.5),
        lambda p: optim.SGD(p, lr=0.3 / TOP, momentum=0.9, nesterov=True),
        lambda p: optim.SGD(p, lr=1.0 / TOP, weight_decay=0.02),
        lambda p: optim.SGD(p, lr=0.3 / TOP, weight_decay=0.02, momentum=0.5, nesterov=True),
    ],
    ids=["slow", "fast", "momentum", "dampened", "nesterov", "decay", "decay, nesterov"],
)
def test_the_law_of_linear_rules_is_exact(make):
    jacobian, fit, power = least_squares()
    H, rule = matrix(), UpdateRule.of(make([torch.zeros(1)]))
    law = NoiseLaw.of(H, rule, NOISE, len(jacobian), power, fit)
    noise = label_noise.stationary_error(H.eigenvalues, rule, NOISE, len(jacobian))
    assert law.error() > 1.05 * noise if rule.weight_decay else law.error() == pytest.approx(noise)
    assert law.error() == pytest.approx(simulated(make, 800, 200), rel=0.02)


@pytest.mark.parametrize(
    ("kind", "decay", "rate"),
    [(optim.AdamW, 0.0, 3e-3), (optim.AdamW, 0.1, 3e-3), (optim.RMSprop, 0.0, 3e-3), (optim.AdamW, 0.0, 3e-2)],
)
def test_the_law_of_adaptive_rules(kind, decay, rate):
    jacobian, fit, power = least_squares()
    arguments = {"alpha": 0.999} if kind is optim.RMSprop else {"weight_decay": decay}

    def make(p):
        return kind(p, lr=rate, **arguments)

    rule = UpdateRule.of(make([torch.zeros(1)]))
    law = NoiseLaw.of(matrix(), rule, NOISE, len(jacobian), power, fit)
    noise = label_noise.stationary_error(law.eigenvalues, rule, NOISE, len(jacobian))
    assert decay == 0 or law.error() > 1.1 * noise
    measured = simulated(make, 3000, 500, 300)
    assert law.error() == pytest.approx(measured, rel=0.05)
    if rate > 1e-2:  # where the distance from the fit adds to the gradients: the noise's alone would not do
        scale = label_noise.adaptive_scale(matrix(), rule, NOISE, len(jacobian), power, rounds=0)
        alone = label_noise.stationary_error(matrix().scaled(scale).eigenvalues, rule, NOISE, len(jacobian))
        assert alone > 1.1 * measured


def test_the_law_in_time_is_that_of_each_direction():
    def make(p):
        return optim.SGD(p, lr=1.2 / TOP, momentum=0.5)

    values, rule = matrix().eigenvalues, UpdateRule.of(make([torch.zeros(1)]))
    late = label_noise.stationary_error(values, rule, NOISE, 24)
    for steps in (1, 3, 10, 30):
        found = label_noise.stationary_error(values, rule, NOISE, 24, steps)
        assert found == pytest.approx(simulated(make, steps + 1, 1, 6000), rel=0.03) and found < late
    assert label_noise.stationary_error(values, rule, NOISE, 24, 10**5) == pytest.approx(late, rel=1e-9)
    assert label_noise.stationary_error(values, rule, NOISE, 24, 0) == 0
    _, fit, _ = least_squares()
    decayed = UpdateRule(0.2 / TOP, weight_decay=0.1)
    whole, some = (label_noise.decay_bias(values, fit, decayed, steps) for steps in (None, 7))
    shrunk = 1 - decayed.lr * (values + decayed.weight_decay)
    torch.testing.assert_close(some, whole * (1 - shrunk**7))


def test_plain_descent_is_the_textbook_sum_and_a_wrong_law_is_told_apart():
    values, rule = matrix().eigenvalues, UpdateRule(1.5 / TOP)
    steps = rule.lr * values
    law = NOISE * math.sqrt((steps / (2 - steps)).sum() / 24)
    assert label_noise.stationary_error(values, rule, NOISE, 24) == pytest.approx(law, rel=1e-12)
    wrong = NOISE * math.sqrt((steps / 2).sum() / 24)
    measured = simulated(lambda p: optim.SGD(p, lr=rule.lr), 400, 200)
    assert law == pytest.approx(measured, rel=0.02) and wrong < 0.8 * measured
    assert label_noise.stationary_error(values, rule, 0.0, 24) == 0


@pytest.mark.parametrize(
    "rule", [UpdateRule(1.0), UpdateRule(1.0, 0.9), UpdateRule(1.0, 0.9, nesterov=True), UpdateRule(1.0, 0.9, 0.9)]
)
def test_the_boundary_is_where_the_variance_ends(rule):
    around = torch.tensor([0.99, 1.01], dtype=torch.float64) * rule.boundary
    assert label_noise.variances(around, rule).isfinite().tolist() == [True, False]
    assert label_noise.stationary_error(around, rule, NOISE, 24) == math.inf


def test_what_the_law_does_not_know_is_refused():
    p = [torch.zeros(2, requires_grad=True)]
    for optimizer in (optim.Adagrad(p, lr=1), optim.Adam(p, amsgrad=True), optim.RMSprop(p, centered=True)):
        with pytest.raises(ValueError, match="the law is known for SGD"):
            UpdateRule.of(optimizer)
    with pytest.raises(ValueError, match="one group of parameters, got 2"):
        UpdateRule.of(optim.SGD([{"params": p}, {"params": [torch.zeros(1)]}], lr=1))
    coupled = UpdateRule.of(optim.Adam(p, weight_decay=0.1))
    for rule in (coupled, UpdateRule(0.1)):
        with pytest.raises(ValueError, match="rule must be adaptive and its decay decoupled"):
            label_noise.adaptive_scale(matrix(), rule, NOISE, 24, 1.0)


def net_and_signal(T, batch):
    net = spectral_lstm(T, dtype=torch.float64)
    trained = {name: p for name, p in net.named_parameters() if name not in ("hidden_0", "cell_0")}
    g = torch.Generator().manual_seed(0)
    return net, trained, 2 * torch.rand(batch, T, generator=g, dtype=torch.float64) - 1


@pytest.mark.parametrize("batch", [20, 300], ids=["fewer rows than parameters", "more"])
def test_gauss_newton_is_the_hessian_of_an_exact_net(batch):
    net, trained, signal = net_and_signal(3, batch)
    H = gauss_newton.gauss_newton(net, trained, signal)
    target = power_spectrum(signal, 3)
    hessian = largest_curvature(
        lambda: torch.nn.functional.mse_loss(net(signal), target), trained.values(), tolerance=1e-9
    )
    assert H.eigenvalues[0].item() == pytest.approx(hessian, rel=1e-6)
    vectors = H.eigenvectors
    other = gauss_newton.gauss_newton(net, trained, -signal[:7])
    law = NoiseLaw.of(H, UpdateRule(1e-3), NOISE, 9, 1.0, H.diagonal, other)
    torch.testing.assert_close(law.seen, other.along(vectors))
    assert vectors.shape == (sum(p.numel() for p in trained.values()), len(H.eigenvalues))
    torch.testing.assert_close(vectors.mT @ vectors, torch.eye(len(H.eigenvalues)).to(vectors), rtol=0, atol=1e-6)
    torch.testing.assert_close(H.along(vectors), H.eigenvalues, rtol=1e-6, atol=1e-9)
    assert H.diagonal.sum().item() == pytest.approx(H.eigenvalues.sum().item())


def test_the_law_holds_for_the_spectral_net():
    T, batch, steps, members = 2, 32, 180, 12
    net, trained, _ = net_and_signal(T, 1)
    g = torch.Generator().manual_seed(3)
    draw = lambda *shape: 2 * torch.rand(*shape, T, generator=g, dtype=torch.float64) - 1  # noqa: E731
    H = gauss_newton.gauss_newton(net, trained, draw(1000))
    rule = UpdateRule(1.0 / H.eigenvalues[0].item())
    predicted = label_noise.stationary_error(H.eigenvalues, rule, NOISE, batch * T)
    held_out = draw(500)
    target = power_spectrum(held_out, T)
    scale = NOISE * target.square().mean().sqrt()
    fixed = {name: b.detach() for name, b in [*net.named_buffers(), *net.named_parameters()] if name not in trained}
    weights = {name: p.detach().repeat(members, *[1] * p.ndim) for name, p in trained.items()}

    def loss(weights, signal, target):
        output = torch.func.functional_call(net, {**weights, **fixed}, (signal,))
        return torch.nn.functional.mse_loss(output, target)

    gradient = torch.func.vmap(torch.func.grad(loss))
    everywhere = torch.func.vmap(loss, (0, None, None))
    errors = []
    for step in range(steps):
        signal = draw(members, batch)
        noisy = power_spectrum(signal.flatten(0, 1), T).unflatten(0, (members, batch))
        noisy = noisy + scale * torch.randn(noisy.shape, generator=g, dtype=torch.float64)
        slopes = gradient(weights, signal, noisy)
        weights = {name: w - rule.lr * slopes[name] for name, w in weights.items()}
        if step >= 60 and step % 5 == 0:
            errors.append(everywhere(weights, held_out, target).mean() / target.square().mean())
    assert torch.stack(errors).mean().sqrt().item() == pytest.approx(predicted, rel=0.05)
