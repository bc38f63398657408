"""The drift under label noise against a product of two numbers, simulated, and against automatic third derivatives."""

import numpy as np
import pytest
import torch
from torch import nn

from wavebase.models.spectral import spectral_lstm
from wavebase.theory import gauss_newton, slow_drift
from wavebase.theory.label_noise import UpdateRule

BATCH, PLAIN = 8, UpdateRule(0.1)
ALONG = (
    torch.tensor([[-4.0, 1.0], [1.0, 4.0]], dtype=torch.float64) / 17**0.5
)  # down the hyperbola from (2, 1/2); across


class Product(nn.Module):
    """a b x, which fits x along the hyperbola a b = 1, flattest at a = b."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))

    def forward(self, signal):
        return self.a * self.b * signal


def simulated(rate, momentum, noise, steps, members=20000):
    """Mean displacement of (a, b) down the hyperbola and across it, with standard errors, on signals of ones."""
    draws = np.random.default_rng(0)  # three times as fast as torch's
    w = torch.tensor([2.0, 0.5], dtype=torch.float64).repeat(members, 1)
    moving = torch.zeros_like(w)
    for _ in range(steps):
        draw = torch.from_numpy(draws.standard_normal(members)) * noise / BATCH**0.5
        residual = w.prod(1) - 1 - draw
        moving = momentum * moving + 2 * residual[:, None] * w.flip(1)
        w = w - rate * moving
    moved = (w - torch.tensor([2.0, 0.5])) @ ALONG.mT
    return moved.mean(0), moved.std(0) / members**0.5


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("rate", [0.02, 0.15])
def test_the_mean_motion_is_the_simulated_one(rate, momentum):
    net, signal = Product(), torch.ones(BATCH, 1, dtype=torch.float64)
    trained = dict(net.named_parameters())
    H = gauss_newton.gauss_newton(net, trained, signal)
    third = slow_drift.third_derivatives(net, trained, signal, H.eigenvectors)
    noise, steps = 0.05, 400
    rule = UpdateRule(rate * (1 - momentum), momentum)
    found = ALONG @ slow_drift.mean_displacement(H, third, rule, noise, BATCH, 1.0, steps)
    measured, error = simulated(rule.lr, momentum, noise, steps)
    assert measured[0] > 50 * error[0]
    assert found[0].item() == pytest.approx(measured[0].item(), rel=0.06)
    assert (found - measured)[1].abs() < 4 * error[1] + 0.05 * measured[1].abs()


def test_the_drift_begins_from_nothing_and_needs_noise():
    net, signal = Product(), torch.ones(BATCH, 1, dtype=torch.float64)
    trained = dict(net.named_parameters())
    H = gauss_newton.gauss_newton(net, trained, signal)
    third = slow_drift.third_derivatives(net, trained, signal, H.eigenvectors)

    def go(noise, steps, rule=PLAIN):
        return slow_drift.mean_displacement(H, third, rule, noise, BATCH, 1.0, steps)

    assert not go(0.0, 100).any() and go(0.1, 0).norm() < 1e-15
    assert go(0.1, 1).norm() < 1e-12  # the cloud is not there yet
    torch.testing.assert_close(go(0.2, 300), 4 * go(0.1, 300))
    for rule in (UpdateRule(0.1, weight_decay=0.1), UpdateRule(0.1, adaptive=True)):
        with pytest.raises(ValueError, match="rule must be SGD without decay"):
            go(0.1, 10, rule)


def test_finite_differences_are_the_third_derivatives_of_the_spectral_net():
    net = spectral_lstm(2, dtype=torch.float64)
    trained = {"weight_hh_cell": net.weight_hh_cell, "weight_ih_cell": net.weight_ih_cell}
    signal = 2 * torch.rand(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    vectors = gauss_newton.gauss_newton(net, trained, signal).eigenvectors[:, :3]
    found = slow_drift.third_derivatives(net, trained, signal, vectors)
    start = torch.cat([p.detach().flatten() for p in trained.values()])
    sizes = [p.numel() for p in trained.values()]
    with torch.no_grad():
        target = net(signal)

    def loss(w):
        named = {name: part.view_as(trained[name]) for name, part in zip(trained, w.split(sizes), strict=True)}
        return nn.functional.mse_loss(torch.func.functional_call(net, named, (signal,)), target)

    for v, column in zip(vectors.mT, found.mT, strict=True):
        along = start.clone().requires_grad_()
        (first,) = torch.autograd.grad(loss(along), along, create_graph=True)
        (second,) = torch.autograd.grad(first @ v, along, create_graph=True)
        (exact,) = torch.autograd.grad(second @ v, along)
        assert column.norm() > 0
        torch.testing.assert_close(column, exact / 2, rtol=1e-4, atol=1e-4 * column.abs().max().item())
