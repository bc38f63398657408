"""What label noise does to a net that interpolates its task: the stationary error, as a law without a fitted number.

Near weights that fit exactly, the mean squared loss is L = |J z|^2 / n, with z the distance from them and J the Jacobian of
the n outputs of a batch. Independent noise of standard deviation s on the targets adds to the gradient a noise whose
covariance is proportional to the curvature: 2 s^2 / N times H = 2 E[J'J] / n, with N = batch x outputs a sequence. Every
eigendirection of H is then a linear recursion of its own, whose stationary variance is known in closed form. Gradient
descent with rate eta ends at

    relative error = label_noise * sqrt(1/N sum_i eta lambda_i / (2 - eta lambda_i)),

with label_noise in units of the targets' rms, as `task.label_noise` is. H has the coordinates that are trained; lambda_i are
all its eigenvalues. What follows at second order, the drift along directions without curvature, is `slow_drift`.

Letters: P trained parameters, R rows of the Jacobian (one an output), K eigenvalues.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, optim

from wavebase.theory.gauss_newton import GaussNewton


@dataclass(frozen=True)
class UpdateRule:
    """An optimiser as a linear map of a parameter, its momentum and its gradient.

    A step is m <- momentum m + (1 - dampening) g; w <- (1 - lr decoupled_decay) w - lr m (Nesterov: g + momentum m in the
    place of m), with g the gradient plus weight_decay w. adaptive: steps are divided by sqrt(E g^2) + eps, entry by entry.
    """

    lr: float
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    decoupled_decay: float = 0.0
    adaptive: bool = False
    eps: float = 0.0

    @classmethod
    def of(cls, optimizer: optim.Optimizer) -> UpdateRule:
        """That of SGD, Adam, AdamW or RMSprop, with one group of parameters. Raises ValueError for others."""
        if len(optimizer.param_groups) != 1:
            raise ValueError(
                f"an update rule must have one group of parameters, got {len(optimizer.param_groups)}; use one"
            )
        group = optimizer.param_groups[0]
        lr, decay = float(group["lr"]), group.get("weight_decay", 0.0)
        if type(optimizer) is optim.SGD:
            return cls(lr, group["momentum"], group["dampening"], group["nesterov"], decay)
        if type(optimizer) in (optim.Adam, optim.AdamW) and not group["amsgrad"]:
            beta, decoupled = group["betas"][0], group["decoupled_weight_decay"]
            coupled, apart = (0.0, decay) if decoupled else (decay, 0.0)
            return cls(lr, beta, beta, False, coupled, apart, True, group["eps"])
        if type(optimizer) is optim.RMSprop and not group["centered"]:
            return cls(lr, group["momentum"], 0.0, False, decay, 0.0, True, group["eps"])
        raise ValueError(
            f"the law is known for SGD, Adam, AdamW and RMSprop, got {type(optimizer).__name__}; use optim=sgd"
        )

    @property
    def boundary(self) -> float:
        """The largest eigenvalue of H, or of the scaled one if adaptive, at which a step without decay is stable."""
        gain, b = self.lr * (1 - self.dampening), self.momentum
        return 2 * (1 + b) / (gain * (1 + 2 * b if self.nesterov else 1))

    def maps(self, eigenvalues: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A step along each eigendirection, for the state (distance from the fit, momentum).

        Returns:
            The step's map [K, 2, 2], what a unit of gradient noise adds [2], and what a unit of the fit's own coordinate
            adds through decay [2].
        """
        b, slope = self.momentum, eigenvalues + self.weight_decay
        one = torch.ones_like(slope)
        of_gradient = slope.new_tensor([-self.lr * (1 - self.dampening), 1 - self.dampening])
        of_momentum = slope.new_tensor([-self.lr * b, b])
        if self.nesterov:
            of_gradient[0] = -self.lr * (1 + b * (1 - self.dampening))
            of_momentum[0] = -self.lr * b * b
        kept = torch.stack([one * (1 - self.lr * self.decoupled_decay), 0 * one], -1)
        columns = [kept + slope[:, None] * of_gradient, one[:, None] * of_momentum]
        pull = self.weight_decay * of_gradient
        pull[0] -= self.lr * self.decoupled_decay
        return torch.stack(columns, -1), of_gradient, pull


def variances(eigenvalues: Tensor, rule: UpdateRule, steps: int | None = None) -> Tensor:
    """Variance of the distance from the fit along each eigendirection, for a unit of gradient noise a step.

    Solves S = A S A' + b b' exactly, A the map of a step (`UpdateRule.maps`). Infinite where A is not stable.

    Args:
        eigenvalues: Of H, positive, [K].
        rule: The optimiser.
        steps: After so many from the fit; None for the stationary variance.
    """
    A, b, _ = rule.maps(eigenvalues)
    product = torch.einsum("kij,klm->kiljm", A, A).reshape(-1, 4, 4)
    stable = torch.linalg.eigvals(A).abs().amax(-1) < 1
    product[~stable] = 0
    sources = torch.outer(b, b).flatten().expand(len(A), 4)
    S = torch.linalg.solve(torch.eye(4).to(A) - product, sources).reshape(-1, 2, 2)
    if steps is not None:
        power = torch.linalg.matrix_power(A, steps)
        S = S - power @ S @ power.mT
    return torch.where(stable, S[:, 0, 0], torch.inf)


def decay_bias(eigenvalues: Tensor, fit: Tensor, rule: UpdateRule, steps: int | None = None) -> Tensor:
    """How far weight decay holds each eigendirection from the fit, [K]. fit: the fit's own coordinates, [K]."""
    if not (rule.weight_decay or rule.decoupled_decay):
        return torch.zeros_like(fit)
    A, _, pull = rule.maps(eigenvalues)
    bias = torch.linalg.solve(torch.eye(2).to(A) - A, fit[:, None] * pull)
    if steps is not None:
        bias = bias - (torch.linalg.matrix_power(A, steps) @ bias[..., None]).squeeze(-1)
    return bias[:, 0]


def stationary_error(
    eigenvalues: Tensor,
    rule: UpdateRule,
    label_noise: float,
    count: int,
    steps: int | None = None,
    seen: Tensor | None = None,
) -> float:
    """Relative error at which training with label noise ends: an rms over steps.

    For decay this is the noise's part; `decay_bias` adds sqrt(sum_i lambda_i bias_i^2 / (2 <y^2>)) in quadrature.

    Args:
        eigenvalues: Of H, or for an adaptive rule those of `adapted`, [K].
        rule: The optimiser.
        label_noise: Standard deviation of the noise on targets, in units of their rms.
        count: Outputs a step, batch x windows x bins.
        steps: After so many from the fit; None for all time.
        seen: v'H v along the same eigenvectors, with H of the sequences on which the error is measured, where these are few,
            [K] (`GaussNewton.along`); None where they are as those trained on.

    Returns:
        ||output - target|| / ||target||; infinite above the boundary of stability.
    """
    seen = eigenvalues if seen is None else seen
    return label_noise * float(((seen * eigenvalues * variances(eigenvalues, rule, steps)).sum() / count).sqrt())


def adaptive_scale(
    matrix: GaussNewton, rule: UpdateRule, label_noise: float, count: int, power: float, rounds: int = 12
) -> Tensor:
    """The scale [P] of coordinates in which an adaptive optimiser takes steps of one size.

    Steps are divided by p_i = sqrt(E g_i^2) + eps, and with p held still, parameters times sqrt(p) follow plain momentum under
    p^-1/2 H p^-1/2. The gradient is noise, 2 (s^2 + excess) / N H_ii with the loss in excess of the noise's, and the pull of the
    distance from the fit, (H S H)_ii; p and S are found together, by iteration. What this does not know: p's own scatter,
    and that a coordinate's p has not been met yet, early in training.

    Args:
        matrix: That of the trained coordinates.
        rule: The optimiser, adaptive, without coupled decay, which has no such coordinates (ValueError).
        label_noise: In units of the targets' rms.
        count: Outputs a step.
        power: The targets' mean square.
        rounds: Of the iteration; 0 leaves the noise's own gradient, for steps that are small.

    Returns:
        1/sqrt(p), for `GaussNewton.scaled`.
    """
    if rule.weight_decay or not rule.adaptive:
        raise ValueError(f"rule must be adaptive and its decay decoupled, got {rule}; use optim=adamw")
    variance = label_noise**2 * power
    size = (2 * variance / count * matrix.diagonal).sqrt() + rule.eps
    for _ in range(rounds):
        there = matrix.scaled(size.rsqrt())
        unstable = there.eigenvalues[0] / (0.95 * rule.boundary)
        if unstable > 1:
            size = size * unstable
            continue
        values = there.eigenvalues
        spread = 2 * variance / count * values * variances(values, rule)
        excess = (values * spread).sum() / 2
        pull = size * (there.eigenvectors.square() @ (values.square() * spread))
        met = (2 * (variance + excess) / count * matrix.diagonal + pull).sqrt() + rule.eps
        size = (size * met).sqrt()  # damped: larger p, smaller S
    return size.rsqrt()


@dataclass(frozen=True)
class NoiseLaw:
    """The error of training from a fit, step by step: the noise's part and decay's.

    eigenvalues, seen: of H, and along its eigenvectors on the sequences on which the error is measured, [K], in the
    rule's own coordinates (`adaptive_scale`); fit: the fit's coordinates there, [K]; label_noise, count, power: as above.
    """

    eigenvalues: Tensor
    seen: Tensor
    fit: Tensor
    rule: UpdateRule
    label_noise: float
    count: int
    power: float

    @classmethod
    def of(
        cls,
        matrix: GaussNewton,
        rule: UpdateRule,
        label_noise: float,
        count: int,
        power: float,
        fit: Tensor,
        held_out: GaussNewton | None = None,
    ) -> NoiseLaw:
        """From the Gauss-Newton matrix at the fit [P]; held_out: that of the sequences on which the error is measured."""
        scale = torch.ones_like(fit)
        if rule.adaptive:
            scale = adaptive_scale(matrix, rule, label_noise, count, power)
            matrix = matrix.scaled(scale)
        vectors = matrix.eigenvectors
        seen = matrix.eigenvalues if held_out is None else held_out.scaled(scale).along(vectors)
        return cls(matrix.eigenvalues, seen, vectors.mT @ (fit / scale), rule, label_noise, count, power)

    def error(self, steps: int | None = None) -> float:
        """||output - target|| / ||target|| after so many steps, an rms; None for the stationary one."""
        noise = stationary_error(self.eigenvalues, self.rule, self.label_noise, self.count, steps, self.seen)
        bias = decay_bias(self.eigenvalues, self.fit, self.rule, steps)
        return float((noise**2 + self.seen @ bias.square() / (2 * self.power)) ** 0.5)
