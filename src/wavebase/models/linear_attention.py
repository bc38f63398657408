"""One layer of attention without softmax, read at its last token."""

from __future__ import annotations

import torch
from torch import Tensor

from wavebase.constructions.linear_attention import linear_attention_construction
from wavebase.models.handwritten import HandwrittenModel, Start, start_weights
from wavebase.models.unit_scaled import Parametrization
from wavebase.registry import registered


class LinearAttention(HandwrittenModel):
    """The last number that the query's token receives, (1/N) sum over tokens z of (value . z)(z' key_query q).

    Maps tokens [batch, N + 1, d + 1], the query (q, 0) last, to [batch].
    """

    def forward(self, tokens: Tensor) -> Tensor:
        """Predictions for the queries: [batch, N + 1, d + 1] to [batch]."""
        tokens = tokens.to(self.dtype)
        values = tokens @ self.weight("value")
        query = tokens[:, -1, :-1] @ self.weight("key_query").mT
        scores = (tokens @ query.unsqueeze(-1)).squeeze(-1)
        return (values * scores).sum(-1) / (tokens.shape[1] - 1)


@registered
def build(
    examples: int,
    dimension: int,
    dtype: torch.dtype,
    init: torch.Generator,
    perturbation_generator: torch.Generator,
    *,
    start: Start = "exact",
    rate: float | None = None,
    perturbation_scale: float = 0.01,
    parametrization: Parametrization = "auto",
) -> LinearAttention:
    """The net of a run. rate: of the step, None for N/(N + d + 1). parametrization: see `models.unit_scaled`."""
    algorithm = linear_attention_construction(examples, dimension, rate, dtype)
    return LinearAttention(
        algorithm, *start_weights(algorithm, start, parametrization, init, perturbation_generator, perturbation_scale)
    )
