"""The lock-in in a stateful LSTM with a signed input gate, whose start is exact, perturbed or random."""

from __future__ import annotations

from typing import Any, Literal

import torch

from wavebase.constructions.lock_in import lock_in_construction
from wavebase.constructions.options import refuse_ignored
from wavebase.constructions.perturbation import Perturbation, perturb
from wavebase.models.starts import random_weights
from wavebase.models.stateful import StatefulLSTM
from wavebase.models.unit_scaled import Parametrization, is_unit_scaled
from wavebase.registry import registered


@registered
def build(
    signal: Any,
    T: int,
    lanes: int,
    unroll: int,
    dtype: torch.dtype,
    init: torch.Generator,
    perturbation_generator: torch.Generator,
    *,
    start: Literal["exact", "perturbed", "random"] = "exact",
    input_gate: Literal["tanh"] = "tanh",
    eps: float = 2.0**-7,
    margin: float = 40.0,
    perturbation: Perturbation | None = None,
    parametrization: Parametrization = "raw",
) -> StatefulLSTM:
    """Build the net of a run: the lock-in for the task's signal and a window of T samples.

    It works on lanes that hold every sample (train.batch of one a tone, or layout contiguous).

    Args:
        start: The algorithm as it is, perturbed, or with random weights in its place.
        input_gate: Products need a signed one.
        eps: Largest argument of the tanhs that must stay linear; see `lock_in_construction`, as for `margin`.
        perturbation: With start=perturbed only.
        parametrization: What is trained, see `models.unit_scaled`. Configurations of version 0.1 lack it.

    Raises:
        ValueError: For what cannot be built, and for options that would have no effect.
    """
    unit_scaled = is_unit_scaled(parametrization, start)
    if start != "perturbed":
        refuse_ignored(
            "unless model.start=perturbed", "use model=lock_in_perturbed", ("perturbation", perturbation, None)
        )
    if start == "random" and not unit_scaled:
        refuse_ignored(
            "with model.start=random, whose weights do not depend on it",
            "leave it out",
            ("eps", eps, 2.0**-7),
            ("margin", margin, 40.0),
        )
    construction = lock_in_construction(signal, T, dtype=dtype, eps=eps, margin=margin)
    weights = construction.weights
    if start == "perturbed":
        weights = perturb(construction, perturbation or Perturbation(), perturbation_generator).weights
    elif start == "random":
        weights = random_weights(construction, init, unit_scaled)
    net = StatefulLSTM(
        1 + len(signal.frequencies), construction.hidden_size, 1, lanes,
        input_gate=construction.input_gate, unroll=unroll, dtype=dtype,
    )  # fmt: skip
    net.load(construction, weights, unit_scaled)
    return net
