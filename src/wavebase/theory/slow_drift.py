"""Where label noise slowly takes a net that interpolates its task: the mean motion of its weights, at second order.

Noise keeps the weights in a cloud around the fit (`label_noise`), of covariance S = sum_k s_k v_k v_k'. The mean gradient over
that cloud is not zero: it is g(S) = 1/2 sum_k s_k L'''[v_k, v_k]. Along directions without curvature this is half of the
gradient of tr(H(w) S), S held still, and nothing opposes it: descent under noise drifts to where the loss is flatter (Blanc
et al. 2020; Damian, Ma and Lee 2021, arXiv 2106.06530; Li, Wang and Arora 2022, arXiv 2110.06914). With S ~ eta c / 2 the speed
is proportional to the squares of rate and noise. Along v_j the mean m_j relaxes against the curvature,

    m_j(t + 1) = (1 - eta lambda_j) m_j(t) - eta g_j(S(t)),        s_k(t) = s_k (1 - (1 - eta lambda_k)^(2 t)),

which is summed here in closed form: small curvatures are neither zero nor relaxed, and a hard projection would miss them.
Letters: P trained parameters, K eigenvalues.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from wavebase.theory.gauss_newton import GaussNewton
from wavebase.theory.label_noise import UpdateRule, variances

AT_ONCE = 64  # nets in one stack
REACH = 1e-4  # of the finite differences, in trained coordinates, where weights are of order one


def third_derivatives(
    net: nn.Module, trained: Mapping[str, Tensor], signal: Tensor, vectors: Tensor, reach: float = REACH
) -> Tensor:
    """L'''[v, v] / 2 for each column v, of the mean squared loss whose targets are the net's own outputs: [P, K].

    By central differences of the gradient, (g(w + h v) + g(w - h v)) / 2 h^2: at the fit the first-order terms cancel.

    Args:
        net, trained, signal: As for `label_noise.gauss_newton`.
        vectors: Columns [P, K].
        reach: h.
    """
    everything = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    fixed = {name: tensor.detach() for name, tensor in everything.items() if name not in trained}
    start = torch.cat([parameter.detach().flatten() for parameter in trained.values()])
    sizes = [parameter.numel() for parameter in trained.values()]
    with torch.no_grad():
        target = net(signal)

    def loss(weights: Tensor) -> Tensor:
        parts = zip(trained.items(), weights.split(sizes), strict=True)
        named = {name: part.view(parameter.shape) for (name, parameter), part in parts}
        return nn.functional.mse_loss(torch.func.functional_call(net, {**named, **fixed}, (signal,)), target)

    def gradients(weights: Tensor) -> Tensor:
        weights = weights.detach().requires_grad_()
        return torch.autograd.grad(torch.func.vmap(loss)(weights).sum(), weights)[0]

    found = []
    for part in vectors.mT.split(AT_ONCE // 2):
        both = gradients(torch.cat([start + reach * part, start - reach * part]))
        found.append(both[: len(part)] + both[len(part) :])
    return torch.cat(found).mT / (2 * reach**2)


def mean_displacement(
    matrix: GaussNewton,
    third: Tensor,
    rule: UpdateRule,
    label_noise: float,
    count: int,
    power: float,
    steps: int,
) -> Tensor:
    """The weights' mean distance from the fit at which training with label noise began, [P].

    To first order in the drift itself: S, the eigenvectors and the third derivatives stay those of the start.

    Args:
        matrix: Gauss-Newton matrix at the fit.
        third: `third_derivatives` along its eigenvectors, [P, K].
        rule: SGD, with momentum or without (ValueError for others).
        label_noise: In units of the targets' rms.
        count: Outputs a step.
        power: The targets' mean square.
        steps: After so many from the fit.
    """
    if rule.adaptive or rule.weight_decay or rule.decoupled_decay:
        raise ValueError(f"rule must be SGD without decay, got {rule}; use optim=sgd or optim=momentum")
    values, vectors = matrix.eigenvalues, matrix.eigenvectors
    rate = rule.lr * (1 - rule.dampening) / (1 - rule.momentum)
    noise = 2 * label_noise**2 * power / count
    spread = noise * values * variances(values, rule)
    # directions that relax within a step or two count as relaxed at once
    kept = (1 - rate * values).clamp(0, 1)
    building = kept.square()
    flat = spread * (steps - (1 - building**steps) / (1 - building).clamp_min(1e-15))
    apart = kept[:, None] - building
    equal = apart.abs() < 1e-9
    met = torch.where(
        equal, steps * kept[:, None] ** (steps - 1), (kept[:, None] ** steps - building**steps) / apart.where(~equal, 1)
    )
    curved = spread * (((1 - kept**steps) / (1 - kept).clamp_min(1e-15))[:, None] - met)
    within = vectors.mT @ third
    return -rate * (third @ flat + vectors @ ((within * curved).sum(1) - within @ flat))
