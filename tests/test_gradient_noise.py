"""The law of gradient noise: simulated, equal to the law of label noise where both hold, and for cross-entropy."""

import math

import pytest
import torch
from torch import optim

from wavebase.theory import gradient_noise, label_noise
from wavebase.theory.gradient_noise import GradientNoise
from wavebase.theory.label_noise import UpdateRule

F64 = torch.float64


def quadratic():
    """H [4, 4] without common axes with C [4, 4], both positive."""
    g = torch.Generator().manual_seed(0)
    root, factor = torch.randn(2, 4, 4, generator=g, dtype=F64)
    return root @ root.mT + 0.1 * torch.eye(4, dtype=F64), factor


@pytest.mark.parametrize(
    "make",
    [
        lambda p, top: optim.SGD(p, lr=1.0 / top),
        lambda p, top: optim.SGD(p, lr=0.3 / top, momentum=0.8),
        lambda p, top: optim.SGD(p, lr=0.5 / top, weight_decay=0.2),
    ],
)
@pytest.mark.parametrize("steps", [3, 60])
def test_simulated_descent_has_the_laws_loss(make, steps):
    H, factor = quadratic()
    values, vectors = torch.linalg.eigh(H)
    g, members = torch.Generator().manual_seed(1), 20_000
    fit = torch.tensor([1.0, -0.5, 2.0, 0.3], dtype=F64)
    w = fit.repeat(members, 1).requires_grad_()
    optimizer = make([w], values[-1].item())
    for _ in range(steps):
        noise = torch.randn(members, 4, generator=g, dtype=F64) @ factor.mT
        w.grad = (w.detach() - fit) @ H + noise
        optimizer.step()
    apart = w.detach() - fit
    measured = torch.einsum("bi,ij,bj->b", apart, H, apart).mean().item() / 2
    batches = torch.randn(20_000, 4, generator=g, dtype=F64) @ factor.mT
    law = GradientNoise.of(values, vectors, batches, fit)
    assert law.excess(UpdateRule.of(optimizer), steps) == pytest.approx(measured, rel=0.06)


def test_with_label_noise_it_is_the_law_of_label_noise():
    g = torch.Generator().manual_seed(0)
    jacobian = torch.randn(24, 5, generator=g, dtype=F64)
    H = 2 * jacobian.mT @ jacobian / 24
    values, vectors = torch.linalg.eigh(H)
    noise = 0.1 * torch.randn(40_000, 24, generator=g, dtype=F64)
    law = GradientNoise.of(values, vectors, -2 * noise @ jacobian / 24, torch.zeros(5, dtype=F64))
    rule = UpdateRule(1 / values[-1].item())
    for steps in (2, None):
        squared = label_noise.stationary_error(values, rule, 0.1, 24, steps) ** 2
        assert law.excess(rule, steps) == pytest.approx(squared, rel=0.03)


def test_of_sampled_labels_the_noise_is_the_curvature():
    """Cross-entropy with labels drawn from the net's own probabilities: C = H / N."""
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(64, 3, generator=g, dtype=F64), torch.randn(3, 3, generator=g, dtype=F64).requires_grad_()
    true = (x @ w).detach().softmax(-1)
    H = gradient_noise.hessian(torch.nn.functional.cross_entropy(x @ w, true), {"w": w})
    torch.testing.assert_close(
        H, torch.autograd.functional.hessian(lambda w: torch.nn.functional.cross_entropy(x @ w, true), w).reshape(9, 9)
    )

    def loss(_):
        return torch.nn.functional.cross_entropy(x @ w, torch.multinomial(true, 1, generator=g)[:, 0])

    slopes = gradient_noise.batch_gradients(loss, {"w": w}, range(4000))
    values, vectors = torch.linalg.eigh(H)
    law = GradientNoise.of(values, vectors, slopes, w.detach().flatten())
    assert len(law.eigenvalues) == 6  # one logit is free
    torch.testing.assert_close(law.noise, law.eigenvalues / 64, rtol=0.15, atol=0)


def test_what_the_law_does_not_know_is_refused():
    law = GradientNoise(torch.ones(1), torch.ones(1), torch.zeros(1))
    with pytest.raises(ValueError, match="rule must not be adaptive"):
        law.excess(UpdateRule(1e-3, adaptive=True))
    assert math.isinf(law.excess(UpdateRule(2.5)))


@pytest.mark.parametrize("model", ["modular_addition", "cosine_reconstruction"])
def test_label_noise_is_foretold_for_every_net_that_fits(ran, model):
    """It was for spectral LSTMs alone. The closed form is that of the whole set's Jacobian."""
    shared = (f"experiment={model}", "T=8", "train.steps=1", "threads=1", "probe.measure=[function.held_out_error]")
    found = ran(*shared, "task.label_noise=0.1", name="noisy").summary()["label_noise"]
    assert found is not None and 0.005 < found["expected_error"] < 0.1
    assert ran(*shared, "task.label_noise=0.1", "model.start=random", name="random").summary()["label_noise"] is None
