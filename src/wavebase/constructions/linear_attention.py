"""One layer of linear attention that takes one step of gradient descent on the regression that its prompt holds.

Tokens (x_i, y_i), i = 1..N, and a query (q, 0), x and q of d numbers. The query's output, without softmax, is

    sum over tokens z of (value . z) (z' key_query q) / N,      key_query [d + 1, d], value [d + 1]

With key_query = (M, 0)' and value = (0, .., 0, 1) this is q' M' (1/N) sum_i y_i x_i: the prediction of the linear model after
one step from zero on the loss (1/2N) sum (w'x_i - y_i)^2, preconditioned by M; with M = eta I one plain step of rate eta. For
w ~ N(0, I), x ~ N(0, Lambda) and no noise the best M is

    M = ((N + 1)/N Lambda + trace(Lambda)/N)^-1,      so eta = N/(N + d + 1) for Lambda = I.

Every one-layer minimiser is of this form. For Lambda other than a multiple of I it is not a plain step.

Sources: von Oswald et al., "Transformers learn in-context by gradient descent" (2022, arXiv 2212.07677), the step; Mahankali,
Hashimoto and Ma, "One step of gradient descent is provably the optimal in-context learner with one layer of linear
self-attention" (2023, arXiv 2307.03576), and Zhang, Frei and Bartlett, "Trained transformers learn linear models in-context"
(2023, arXiv 2306.09927), the minimiser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from wavebase.constructions.algorithm import Weights
from wavebase.constructions.handwritten import Handwritten, row_units


def best_rate(count: int, dimension: int) -> float:
    """Return N/(N + d + 1), the best rate of a single step for isotropic inputs and labels without noise."""
    return count / (count + dimension + 1)


def best_preconditioner(count: int, variances: Sequence[float]) -> Tensor:
    """Return the eigenvalues of the best M for inputs of these variances along its axes, float64 [d]."""
    variance = torch.tensor(variances, dtype=torch.float64)
    return 1 / ((count + 1) / count * variance + variance.sum() / count)


def gradient_step(tokens: Tensor, rate: float | Tensor) -> Tensor:
    """Return what linear models predict after one step of gradient descent from zero: the oracle.

    Args:
        tokens: [batch, N + 1, d + 1], rows (x, y) and the query (q, 0) last.
        rate: eta, or the diagonal of a preconditioner, [d].

    Returns:
        Predictions for the queries, float64 [batch].
    """
    tokens = tokens.double()
    x, y, query = tokens[:, :-1, :-1], tokens[:, :-1, -1], tokens[:, -1, :-1]
    gradient = -torch.einsum("bn,bnd->bd", y, x) / x.shape[1]  # at w = 0
    return (-rate * gradient * query).sum(-1)


def linear_attention_construction(
    count: int, dimension: int, rate: float | Sequence[float] | None = None, dtype: torch.dtype = torch.float64
) -> Handwritten:
    """Return exact weights for one step of gradient descent.

    Args:
        count: N, examples in a prompt.
        dimension: d.
        rate: eta, or the d eigenvalues of a diagonal preconditioner; None for N/(N + d + 1).

    Returns:
        key_query [d + 1, d], value [d + 1]; no hidden units. `error_bound` bounds |output - step| over
        largest |rate| / N * sum_i |y_i| |x_i| |q| of a prompt.

    Raises:
        ValueError: If count or dimension is less than 1, or a rate is not positive and finite.
    """
    if count < 1 or dimension < 1:
        raise ValueError(f"T and task.dimension must be at least 1, got {count} and {dimension}; use 8 and 4")
    given = best_rate(count, dimension) if rate is None else rate
    rates = torch.as_tensor(given, dtype=torch.float64).expand(dimension)
    if not (rates.isfinite().all() and (rates > 0).all()):
        raise ValueError(f"model.rate must be positive and finite, got {rate}; use null")
    weights = {
        "key_query": torch.cat([torch.diag(rates), torch.zeros(1, dimension, dtype=torch.float64)]),
        "value": torch.cat([torch.zeros(dimension, dtype=torch.float64), torch.ones(1, dtype=torch.float64)]),
    }
    # a product of three factors of a token, and sums of d, d + 1 and N + 1 terms
    bound = (count + 2 * dimension + 8) * torch.finfo(dtype).eps / 2 * dimension**0.5
    return Handwritten(
        weights={name: weight.to(dtype) for name, weight in weights.items()},
        unit_scale={
            "key_query": row_units(weights["key_query"].abs().sum(1), 1.0),
            "value": torch.ones(dimension + 1, dtype=torch.float64),
        },
        blocks={},
        error_bound=bound,
        questions={"plain_step": lambda found: _along(found, weights)},
        generators={"scale": _scale},
        reflections={"sign": _sign},
    )


def _along(found: Weights, exact: Weights) -> float:
    """Return 1 - sin of the angle between the layer's cubic form and the exact one: 0 for a form that shares nothing with it.

    The form, value times key_query, is all that the output depends on. The best preconditioner for variances that differ by
    4 scores 0.64 against a plain step, and that for variances that differ by 1.4 scores 0.9.
    """
    form, wanted = (torch.outer(w["value"].double(), w["key_query"].double().flatten()) for w in (found, exact))
    size = form.norm() * wanted.norm()
    cosine = float((form * wanted).sum() / size) if size > 0 else 0.0
    return 1 - math.sqrt(max(0.0, 1 - cosine**2)) if cosine > 0 else 0.0


def _scale(weights: Weights, t: float) -> dict[str, Tensor]:
    """key_query e^t times and value e^-t times as large: only their product is read."""
    return {"key_query": weights["key_query"] * math.exp(t), "value": weights["value"] * math.exp(-t)}


def _sign(weights: Weights) -> dict[str, Tensor]:
    """Both of the opposite sign."""
    return {name: -weight for name, weight in weights.items()}
