"""The loss that gradient noise causes near a minimum, for any loss and any source of noise, without a fitted number.

Near a minimum L = optimum + z'H z / 2, with z the distance from it. Batches give gradients H z + n, with n of covariance C. Along
each eigenvector of H the distance is then a linear recursion, whose variance after t steps is c_i times that for a unit of noise
(`label_noise.variances`), c_i = v_i'C v_i. The loss exceeds its optimum by the sum of lambda_i (variance_i + bias_i^2) / 2, with
the bias that weight decay causes. H and C are measured at the start, from curvature and from gradients of batches.

For a mean squared loss with label noise C is proportional to H, and this is the law of `label_noise`. For cross-entropy with sampled
labels C = H / N, with N labels a batch. In general C is neither.

The recursion is classical: Mandt, Hoffman and Blei, "Stochastic gradient descent as approximate Bayesian inference" (2017, arXiv
1704.04289), for small rates.

Letters: P trained parameters, K eigenvalues, B batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from wavebase.probes.gradient import gradients
from wavebase.theory.gauss_newton import FLAT
from wavebase.theory.label_noise import UpdateRule, decay_bias, variances


@dataclass(frozen=True)
class GradientNoise:
    """What the law needs of a start: eigenvalues of H [K], the variance c of a batch's gradient along each eigenvector [K], and the
    start's own coordinates along them [K]."""

    eigenvalues: Tensor
    noise: Tensor
    fit: Tensor

    @classmethod
    def of(cls, values: Tensor, vectors: Tensor, batches: Tensor, fit: Tensor) -> GradientNoise:
        """Measure along eigenvectors.

        Args:
            values, vectors: Eigenvalues [K] and orthonormal eigenvectors [P, K] of the loss's Hessian.
            batches: Gradients of independent batches at the start, [B, P].
            fit: The start's parameters, [P].
        """
        kept = values > FLAT * values.max().clamp_min(0)
        vectors = vectors[:, kept]
        return cls(values[kept], (batches @ vectors).var(0), vectors.mT @ fit)

    def excess(self, rule: UpdateRule, steps: int | None = None) -> float:
        """Return the expected loss over the optimum after so many steps from the minimum; None for all time.

        Raises:
            ValueError: For an adaptive rule, whose steps this law does not know.
        """
        if rule.adaptive:
            raise ValueError(f"rule must not be adaptive, got {rule}; use optim=sgd or optim=momentum")
        spread = self.noise * variances(self.eigenvalues, rule, steps)
        bias = decay_bias(self.eigenvalues, self.fit, rule, steps)
        return float((self.eigenvalues * (spread + bias.square())).sum() / 2)


def hessian(loss: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    """Return the matrix of second derivatives of a scalar, [P, P]: one backward pass for each of the P parameters."""
    leaves = list(parameters.values())
    slope = torch.cat([part.flatten() for part in gradients(loss, leaves, create_graph=True)])
    rows = [torch.cat([part.flatten() for part in gradients(one, leaves, retain_graph=True)]).detach() for one in slope]
    found = torch.stack(rows)
    return (found + found.mT) / 2


def batch_gradients(loss: Callable[[int], Tensor], parameters: Mapping[str, Tensor], batches: Iterable[int]) -> Tensor:
    """Return the gradients of losses, [B, P]. loss: maps a batch's number to its loss."""
    leaves = list(parameters.values())
    return torch.stack([torch.cat([part.flatten() for part in gradients(loss(n), leaves)]).detach() for n in batches])
