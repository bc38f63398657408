"""A forecaster that learns the prior and leaves the inference exact: a Gaussian process with a spectrum for each signal.

Letters: B signals, N lookback, H horizon, P periods, W width.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from wavebase.models import toeplitz
from wavebase.models.base import NamedModel, build_within_memory, draw_uniform
from wavebase.models.harmonics import check_periods
from wavebase.records.folder import RunFolder
from wavebase.registry import registered
from wavebase.signals.harmonics import sinusoids

LEAST_NOISE = 1e-4  # of the signal's variance: enough to solve 100 samples in float32; longer signals need more


class LearnedPrior(NamedModel):
    """Sparse Bayes, unrolled and learned.

    Every stage has a power gamma_p for each period and one for the noise. It computes the exact solution C^-1 x under
    them, and from it the matched power q_p = |D_p^T C^-1 x|^2 and the posterior amplitude gamma_p^2 q_p of each period.
    A residual block reads these and corrects the logarithms of all powers. The forecast is the posterior mean under the
    last powers, plus a linear readout of the block's state that is zero at the start.

    The powers of the first stage are the same for all signals, so the untrained net is ridge regression on the
    dictionary. With the right powers it would be the forecaster that knows the true periods.
    """

    past_atoms: Tensor
    cosines: Tensor

    def __init__(
        self,
        lookback: int,
        horizon: int,
        periods: tuple[int, int],
        stages: int,
        width: int,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.stages = stages
        atoms = sinusoids(periods, lookback + horizon)
        P = atoms.shape[1]
        self.register_buffer("past_atoms", atoms[..., :lookback].flatten(0, 1).to(dtype))  # [2P, N]
        self.register_buffer("cosines", atoms[0].to(dtype))  # [P, N + H]
        self.log_power = nn.Parameter(torch.full((P,), math.log(0.2 / P), dtype=dtype))
        self.log_noise = nn.Parameter(torch.tensor(math.log(0.02), dtype=dtype))
        self.embed = nn.Linear(lookback, width, dtype=dtype)
        self.read = nn.ModuleList(nn.Linear(2 * P, width, dtype=dtype) for _ in range(stages))
        self.block = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width, dtype=dtype),
                nn.Linear(width, width, dtype=dtype),
                nn.GELU(),
                nn.Linear(width, width, dtype=dtype),
            )
            for _ in range(stages)
        )
        self.correct = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width, dtype=dtype), nn.Linear(width, P + 1, dtype=dtype)) for _ in range(stages)
        )
        self.readout = nn.Linear(width, horizon, dtype=dtype)

    def forward(self, past: Tensor) -> Tensor:
        """Return the forecast [B, H] of a past [B, N]."""
        past = past.to(self.log_power.dtype)
        log_power, log_noise = (
            self.log_power,
            self.log_noise[None],
        )  # the same for all signals; later stages have one of each
        state = self.embed(past)
        for read, block, correct in zip(self.read, self.block, self.correct, strict=True):
            solved, _ = self._solved(log_power, log_noise, past)
            matched = (solved @ self.past_atoms.mT).unflatten(-1, (2, -1)).square().sum(-2)
            amplitude = (2 * log_power).exp() * matched
            seen = torch.cat([(0.01 * matched + 1e-3).log(), (amplitude + 1e-6).log()], -1)
            state = state + read(0.3 * seen)
            state = state + block(state)
            change = correct(state)
            log_power = (log_power + change[..., :-1]).clamp(-14, 2)
            log_noise = (log_noise + change[..., -1:]).clamp(-8, 0)
        solved, correlation = self._solved(log_power, log_noise, past)
        return toeplitz.forecast(correlation, solved) + self.readout(state)

    def _solved(self, log_power: Tensor, log_noise: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return C^-1 x [B, N], and the correlations of the signal without noise at lags 0..N+H-1, [..., N + H]."""
        correlation = log_power.exp() @ self.cosines
        N = past.shape[-1]
        power = correlation[..., :1]
        least = max(LEAST_NOISE, toeplitz.least_noise(N, past.dtype))
        column = torch.cat([power * (1 + least) + log_noise.exp(), correlation[..., 1:N]], -1)
        if log_power.ndim == 1:  # one covariance for all signals is factorised once
            factor = torch.linalg.cholesky(toeplitz.covariance(column))
            return torch.cholesky_solve(past.mT, factor).mT, correlation.expand(len(past), -1)
        return toeplitz.solve(column, past), correlation


@registered
def build(
    lookback: int,
    horizon: int,
    dtype: torch.dtype,
    init: torch.Generator,
    *,
    periods: tuple[int, int] = (2, 99),
    stages: int = 2,
    width: int = 512,
    weights: str | None = None,
) -> LearnedPrior:
    """Build the net of a run. At the start it is ridge regression on the dictionary; all dtypes start alike.

    Args:
        periods: Shortest and longest of the dictionary, samples.
        stages: Corrections of the powers.
        width: Units of each stage's residual block, W.
        weights: A run's folder whose last checkpoint is the start.

    Raises:
        ValueError: For sizes below 1, and for a folder without checkpoints of a net of these sizes.
    """
    check_periods(periods)
    for name, value in (("stages", stages), ("width", width)):
        if value < 1:
            raise ValueError(f"model.{name} must be at least 1, got {value}; use {2 if name == 'stages' else 512}")
    net = build_within_memory(
        lambda: LearnedPrior(lookback, horizon, periods, stages, width, dtype), "use a smaller T or model.width"
    )
    zero_at_start = [net.readout]
    for part in (*net.block, *net.correct):
        zero_at_start.append(list(part.children())[-1])
    for module in net.modules():
        if isinstance(module, nn.Linear):
            bound = 0.0 if module in zero_at_start else module.in_features**-0.5
            draw_uniform(module, bound, init)
    if weights is not None:
        run = RunFolder(Path(weights))
        steps = run.checkpoint_steps()
        if not steps:
            raise ValueError(f"model.weights must be a run's folder with checkpoints, got {weights}; use null")
        try:
            net.load_state_dict(run.load_checkpoint(steps[-1])["net"])
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:  # torch's, for other names and shapes
            raise ValueError(
                f"model.weights must be a run of model=learned_prior with the same T, horizon, periods, stages and width, got {weights} with others; use null"
            ) from error
    return net
