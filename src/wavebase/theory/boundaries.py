"""The stability boundary of an optimiser: the learning rate from which its linearised dynamics leave a minimum.

Near a minimum each eigendirection of curvature h goes by itself, and one step of the optimiser is a linear map of the
deviation x and the momentum b. It shrinks both as long as its characteristic polynomial z^2 - t z + d satisfies
1 + t + d > 0 (the other two conditions hold at smaller rates already). With g = h x, rate lr and momentum beta:

- SGD: b' = beta b + (1 - dampening) g, x' = x - lr b': lr < 2 (1 + beta) / ((1 - dampening) h). Polyak's boundary;
  2/h without momentum. torch's first step is not dampened, which changes no eigenvalue.
- SGD with nesterov=True as torch has it: b' = beta b + g, x' = x - lr (g + beta b'), so t = 1 + beta - lr h (1 + beta)
  and d = beta (1 - lr h): lr < 2 (1 + beta) / ((1 + 2 beta) h), which falls from 2/h to 4/(3 h) as beta grows.
- Adam: b' = beta1 b + (1 - beta1) g, x' = x - lr b' / P, with P = sqrt(v) + eps changing slowly beside x. In
  coordinates sqrt(P) x this is SGD with dampening beta1 on P^(-1/2) H P^(-1/2), whose largest eigenvalue is lambda_P:
  lr < 2 (1 + beta1) / ((1 - beta1) lambda_P), which is 38/lambda_P for beta1 = 0.9 (Cohen et al. 2022, arXiv
  2207.14484). The first step, with its biases corrected, is x' = x - lr g / (|g| + eps): it overshoots above
  lr = 2/lambda_P with P = |g| + eps.
- RMSprop: x' = x - lr b', b' = momentum b + g / P: lr < 2 (1 + momentum) / lambda_P. Its first step has
  P = sqrt((1 - alpha) g^2) + eps, since no bias is corrected.

Weight decay that is added to the gradient is curvature: h + weight_decay, inside P^(-1/2) (H + weight_decay) P^(-1/2)
where there is a P. Decoupled decay, x' = (1 - lr weight_decay) x - lr b' / P, has
d = beta1 (1 - lr weight_decay): lr < 2 (1 + beta1) / ((1 - beta1) lambda_P + (1 + beta1) weight_decay).

What is above the boundary differs. SGD leaves at an exponential rate. Adam and RMSprop leave too, but larger gradients
enlarge v, with it P, and lower lambda_P: the run oscillates away and comes back, again and again, at lambda_P near the
boundary ("adaptive edge of stability", Cohen et al. 2022). With amsgrad v never falls, so that it settles; its P is at
least the one used here, and the boundary at least the one given.

Under gradient noise the iterate's own wandering adds to v, so that Adam meets no cliff: on h x^2 / 2 with noise s in the
gradient, v / s^2 was 1.2, 2.4, 4.4, 10 and 11 at 0.01, 0.1, 0.3, 0.9 and 1.05 of the boundary (6000 steps). The boundary
is that of the linear map at the start, and compares one optimiser's rates with another's.

v is measured at the start as the mean of squared gradients of `BATCHES` training batches. Where all gradients are zero
(an exact start, no label noise) P is eps, and the boundary as low as it truly is there. Clipping is not counted: a
gradient below its norm is not changed. A schedule only lowers the rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, optim

from wavebase.probes.curvature import Hessian, Loss

BATCHES = 64  # v is then right to about sqrt(2 / 64), P to 9 %
KNOWN = "SGD, Adam, AdamW, RMSprop"


class Moments(NamedTuple):
    """Of the gradients of several batches at one point, [numbers] each: of the first batch, and means over all."""

    first: Tensor
    mean: Tensor
    square: Tensor


@dataclass(frozen=True)
class Preconditioner:
    """What an adaptive optimiser divides a gradient by, and the boundary of its first step.

    Attributes:
        lasting: from `Moments` to P [numbers], once moving averages have settled.
        first: the same in the first step.
        decay: weight decay that is added to the gradient.
        first_offset: decoupled weight decay; the first step's boundary is 2 / (lambda_P + first_offset).
    """

    lasting: Callable[[Moments], Tensor]
    first: Callable[[Moments], Tensor]
    decay: float = 0.0
    first_offset: float = 0.0


@dataclass(frozen=True)
class Rule:
    """lr < reach / (weight * h + offset) at the largest curvature h: lambda_max, or lambda_P where there is a preconditioner."""

    reach: float
    weight: float
    offset: float
    formula: str
    preconditioner: Preconditioner | None = None

    def learning_rate(self, curvature: float) -> float | None:
        """The boundary at a curvature; None where nothing pulls back (a flat loss) or the curvature is not finite."""
        pull = self.weight * curvature + self.offset
        return self.reach / pull if 0 < pull < float("inf") else None

    def curvature(self, learning_rate: float) -> float:
        """Return the curvature whose boundary is this learning rate; infinite where every curvature is stable."""
        if learning_rate <= 0 or self.weight == 0:  # dampening 1: after its first step SGD ignores the gradient
            return float("inf")
        return (self.reach / learning_rate - self.offset) / self.weight


class Curvatures(NamedTuple):
    """Measured at the start, None if not: lambda_max of the Hessian; of an adaptive optimiser lambda_P, lasting and in the
    first step."""

    lambda_max: float | None = None
    preconditioned: float | None = None
    preconditioned_first: float | None = None


class Boundary(NamedTuple):
    """An optimiser's rule (None: not known) at the curvatures that were measured."""

    rule: Rule | None
    curvatures: Curvatures = Curvatures()

    @property
    def learning_rate(self) -> float | None:
        """The largest stable learning rate, or None if it is not known, not measured, or the loss is flat."""
        if self.rule is None:
            return None
        plain, adaptive, _ = self.curvatures
        curvature = adaptive if self.rule.preconditioner else plain
        return None if curvature is None else self.rule.learning_rate(curvature)

    @property
    def first_step(self) -> float | None:
        """The learning rate above which an adaptive optimiser's first step overshoots; None for others."""
        first = self.curvatures.preconditioned_first
        if self.rule is None or self.rule.preconditioner is None or first is None:
            return None
        return Rule(2.0, 1.0, self.rule.preconditioner.first_offset, "").learning_rate(first)

    def reference(self, learning_rate: float) -> dict[str, float]:
        """The curvature whose boundary is this learning rate, by the tag of the curve that it is a limit to. Empty if not known."""
        if self.rule is None:
            return {}
        tag = "preconditioned_boundary" if self.rule.preconditioner else "boundary"
        return {f"curvature/{tag}": self.rule.curvature(learning_rate)}

    def values(self) -> dict[str, float]:
        """What is recorded of the start, by tag."""
        named = zip(("lambda_max", "preconditioned", "preconditioned_first"), self.curvatures, strict=True)
        return {f"curvature/{name}": value for name, value in named if value is not None}

    def summary(self, learning_rate: float) -> dict[str, float | str | None]:
        """Curvatures, boundaries, and a learning rate over the boundary."""
        boundary = self.learning_rate
        return {
            **self.curvatures._asdict(),
            "boundary": boundary,
            "first_step_boundary": self.first_step,
            "lr_over_boundary": None if boundary is None else learning_rate / boundary,
            "formula": self.rule.formula if self.rule else None,
        }


def recorded(checkpoint: Mapping[str, Any]) -> Curvatures:
    """The curvatures that a checkpoint holds; one of version 0.1 has lambda_max alone. Raises TypeError for what is none."""
    kept = checkpoint.get("curvatures")
    found = Curvatures(checkpoint.get("lambda_max")) if kept is None else Curvatures(**kept)
    if not all(value is None or isinstance(value, float) for value in found):
        raise TypeError("curvatures are numbers")
    return found


def rule_of(optimizer: optim.Optimizer) -> Rule | None:
    """The boundary of a torch optimiser with its settings, or None if it is not known. The learning rate plays no part."""
    rules: dict[type, Callable[[dict[str, Any]], Rule]] = {
        optim.SGD: _sgd,
        optim.Adam: _adam,
        optim.AdamW: _adam,
        optim.RMSprop: _rmsprop,
    }
    settings = optimizer.param_groups[0]
    rule = rules.get(type(optimizer))
    if rule is None or len(optimizer.param_groups) > 1 or settings["maximize"]:
        return None
    return rule(settings)


def measure(
    rule: Rule | None,
    loss: Loss | Sequence[Loss],
    parameters: Iterable[Tensor],
    batch_losses: Iterable[Callable[[], Tensor]],
    known: Curvatures = Curvatures(),  # noqa: B008  an immutable value
) -> Curvatures:
    """The curvatures at which a rule's boundary is taken.

    Args:
        loss: whose Hessian it is.
        parameters: those under training.
        batch_losses: the losses of training batches, the first one of the first step; evaluated if the rule has a preconditioner.
        known: what has been measured before, which is not measured again.
    """
    preconditioner = rule.preconditioner if rule else None
    if known.lambda_max is not None and (preconditioner is None or known.preconditioned is not None):
        return known
    trained = [p for p in parameters if p.requires_grad]
    # before the Hessian's graph, whose saved weights torch.nn.LSTM would count as changed
    moments = _moments(batch_losses, trained, preconditioner.decay) if preconditioner else None
    hessian = Hessian(loss, trained)
    lambda_max = hessian.largest() if known.lambda_max is None else known.lambda_max
    if preconditioner is None or moments is None:
        return Curvatures(lambda_max)
    return Curvatures(
        lambda_max,
        *(
            _preconditioned(hessian, p(moments), preconditioner.decay)
            for p in (preconditioner.lasting, preconditioner.first)
        ),
    )


def _preconditioned(hessian: Hessian, preconditioner: Tensor, decay: float) -> float:
    values = preconditioner.double().cpu().numpy()
    if not np.isfinite(values).all():
        return float("nan")
    if not (values > 0).all():  # eps=0 and no gradient: any curvature is infinite
        return float("inf")
    return hessian.largest(values**-0.5, decay)


def _moments(losses: Iterable[Callable[[], Tensor]], trained: Sequence[Tensor], decay: float) -> Moments:
    """Squares are taken in the parameters' dtype, as optimisers do."""
    values = torch.cat([p.detach().flatten() for p in trained])
    first, mean, square, count = values, torch.zeros_like(values), torch.zeros_like(values), 0
    for loss in losses:
        parts = torch.autograd.grad(loss(), trained, allow_unused=True, materialize_grads=True)
        gradient = torch.cat([part.flatten() for part in parts]) + decay * values
        first = first if count else gradient
        mean, square, count = mean + gradient, square + gradient.square(), count + 1
    return Moments(first, mean / count, square / count)


def _sgd(settings: dict[str, Any]) -> Rule:
    beta, dampening, decay = settings["momentum"], settings["dampening"], settings["weight_decay"]
    reach = "2(1 + momentum)" if beta else "2"
    curvature = "(lambda_max + weight_decay)" if decay else "lambda_max"
    if settings["nesterov"]:
        weight, formula = 1 + 2 * beta, f"{reach}/((1 + 2 momentum) {curvature})"
    elif beta and dampening:
        weight, formula = 1 - dampening, f"{reach}/((1 - dampening) {curvature})"
    else:  # torch reads dampening with momentum only
        weight, formula = 1.0, f"{reach}/{curvature}"
    return Rule(2 * (1 + beta), weight, weight * decay, formula)


def _adam(settings: dict[str, Any]) -> Rule:
    (beta, _), eps, decay = settings["betas"], settings["eps"], settings["weight_decay"]
    decoupled = decay if settings["decoupled_weight_decay"] else 0.0
    formula = "2(1 + beta1)/((1 - beta1) lambda_P" + (" + (1 + beta1) weight_decay)" if decoupled else ")")
    preconditioner = Preconditioner(
        lambda moments: moments.square.sqrt() + eps,
        lambda moments: moments.first.square().sqrt() + eps,
        decay - decoupled,
        decoupled,
    )
    return Rule(2 * (1 + beta), 1 - beta, (1 + beta) * decoupled, formula, preconditioner)


def _rmsprop(settings: dict[str, Any]) -> Rule:
    beta, alpha, eps = settings["momentum"], settings["alpha"], settings["eps"]
    centered = settings["centered"]

    def lasting(moments: Moments) -> Tensor:
        spread = moments.square - moments.mean.square() if centered else moments.square
        return spread.clamp_min(0).sqrt() + eps

    def first(moments: Moments) -> Tensor:
        share = (1 - alpha) * (alpha if centered else 1)
        return (share * moments.first.square()).sqrt() + eps

    formula = "2(1 + momentum)/lambda_P" if beta else "2/lambda_P"
    return Rule(2 * (1 + beta), 1.0, 0.0, formula, Preconditioner(lasting, first, settings["weight_decay"]))
