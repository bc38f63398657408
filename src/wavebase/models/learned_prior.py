"""A forecaster that learns the prior and leaves the inference exact: a Gaussian process with a spectrum for each signal.

Letters: B signals, N lookback, H horizon, P periods, n dimensions that the sinusoids span (`signals.subspace`), W width.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from wavebase.models.base import build_within_memory, draw_uniform
from wavebase.models.harmonics import check_periods
from wavebase.models.preparation import RobustForecaster, gaussian_quantiles
from wavebase.records import checkpoints
from wavebase.records.folder import RunFolder
from wavebase.registry import registered
from wavebase.signals.subspace import Subspace, subspace

LEAST_NOISE = 1e-4  # of the signal's variance: enough to solve in float32


class LearnedPrior(RobustForecaster):
    """Sparse Bayes, unrolled and learned.

    Every stage has a power gamma_p for each period and one for the noise. It computes the exact solution C^-1 x under
    them, and from it the matched power q_p = |D_p^T C^-1 x|^2 and the posterior amplitude gamma_p^2 q_p of each period.
    A residual block reads these and corrects the logarithms of all powers. The forecast is the posterior mean under the
    last powers, plus a linear readout of the block's state that is zero at the start.

    The powers of the first stage are the same for all signals, so the untrained net is ridge regression on the
    dictionary. With the right powers it would be the forecaster that knows the true periods.
    """

    probabilistic = True
    basis: Tensor
    reduced: Tensor
    squares: Tensor
    future: Tensor

    def __init__(
        self,
        space: Subspace,
        stages: int,
        width: int,
        dtype: torch.dtype = torch.float32,
        robust: bool = False,
    ):
        super().__init__(robust)
        self.stages = stages
        P, n = space.reduced.shape[1:]
        self.register_buffer("basis", space.basis.flatten(0, 1).mT.to(dtype).contiguous())  # [N, 2n]
        self.register_buffer("reduced", space.reduced.to(dtype))  # [2, P, n]
        self.register_buffer("squares", space.squares.to(dtype))  # [2, P, n n]
        self.register_buffer("future", space.atoms[..., space.basis.shape[2] :].to(dtype))  # [2, P, H]
        self.log_power = nn.Parameter(torch.full((P,), math.log(0.2 / P), dtype=dtype))
        self.log_noise = nn.Parameter(torch.tensor(math.log(0.02), dtype=dtype))
        self.embed = nn.Linear(2 * n + 3, width, dtype=dtype)
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
        self.readout = nn.Linear(width, self.future.shape[2], dtype=dtype)

    def forecast(self, past: Tensor) -> Tensor:
        """Return the forecast [B, H] of a past [B, N] without gaps, offset or trend, of the generator's size."""
        log_power, log_noise, x, state = self._powers(past)
        response = log_power.exp() * self._matched(log_power, log_noise, x)
        return (response @ self.future).sum(0) + self.readout(state)

    def distribution(self, past: Tensor, levels: Tensor) -> Tensor:
        """Return quantiles of the Gaussian process with the chosen powers, whose common scale is the past's most likely one.

        Training does not see that scale: the forecast is the same for all.
        """
        log_power, log_noise, x, state = self._powers(past)
        power, C = log_power.exp(), self._covariance(log_power, log_noise, x.shape[-1])
        mean = ((power * (torch.linalg.solve(C, x) @ self.reduced.mT)) @ self.future).sum(0) + self.readout(state)
        across = torch.einsum("bp,iph,ipn->ibhn", power, self.future, self.reduced)  # between future and past
        explained = (across * torch.linalg.solve(C, across.mT).mT).sum((0, -1))
        rest = past.square().sum(-1) - x.square().sum((0, -1))
        scale = ((x * torch.linalg.solve(C, x)).sum((0, -1)) + rest / log_noise[:, 0].exp()) / past.shape[-1]
        variance = power.sum(-1, keepdim=True) - explained + log_noise.exp()
        return gaussian_quantiles(mean, scale[:, None] * variance, levels)

    def _powers(self, past: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return log powers [B, P], log noise [B, 1], coordinates [2, B, n] and the last block's state [B, W]."""
        log_power, log_noise = self.log_power, self.log_noise[None]  # the same for all signals in the first stage
        coordinates = past @ self.basis
        x = coordinates.unflatten(-1, (2, -1)).movedim(-2, 0)  # [2, B, n]
        state = self.embed(torch.cat([coordinates, self._sizes(past, coordinates)], -1))
        for read, block, correct in zip(self.read, self.block, self.correct, strict=True):
            matched = self._matched(log_power, log_noise, x).square().sum(0)
            amplitude = (2 * log_power).exp() * matched
            seen = torch.cat([(0.01 * matched + 1e-3).log(), (amplitude + 1e-6).log()], -1)
            state = state + read(0.3 * seen)
            state = state + block(state)
            change = correct(state)
            log_power = (log_power + change[..., :-1]).clamp(-14, 2)
            log_noise = (log_noise + change[..., -1:]).clamp(-8, 0)
        return log_power, log_noise, x, state

    def _sizes(self, past: Tensor, coordinates: Tensor) -> Tensor:
        """Return three numbers that a linear layer cannot compute: the energy outside of the sinusoids' space, which is
        noise; all energy; and how far the largest |x| is from 1. About 1 in size, [B, 3]."""
        energy = past.square().sum(-1, keepdim=True)
        rest = (energy - coordinates.square().sum(-1, keepdim=True)).clamp_min(1e-6)
        N = past.shape[-1]
        return torch.cat(
            [(200 * rest / N).log(), (5 * energy / N + 1e-6).log(), 20 * (past.abs().amax(-1, keepdim=True) - 1)], -1
        )

    def _matched(self, log_power: Tensor, log_noise: Tensor, x: Tensor) -> Tensor:
        """Return d_p^T C^-1 x for all periods, [2, B, P], where C is the covariance under these powers."""
        C = self._covariance(log_power, log_noise, x.shape[-1])
        # one covariance for all signals is factorised once
        solved = torch.linalg.solve(C, x.mT).mT if log_power.ndim == 1 else torch.linalg.solve(C, x)
        return solved @ self.reduced.mT

    def _covariance(self, log_power: Tensor, log_noise: Tensor, n: int) -> Tensor:
        """Return the past's covariance in the sinusoids' space, [2, B, n, n], or [2, n, n] for one set of powers."""
        power = log_power.exp()
        noise = log_noise.exp() + LEAST_NOISE * power.sum(-1, keepdim=True)
        return (power @ self.squares).unflatten(-1, (n, n)) + torch.diag_embed(noise.expand(*noise.shape[:-1], n))


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
    robust: bool = False,
) -> LearnedPrior:
    """Build the net of a run. At the start it is ridge regression on the dictionary; all dtypes start alike.

    Args:
        periods: Shortest and longest of the dictionary, samples.
        stages: Corrections of the powers.
        width: Units of each stage's residual block, W.
        weights: A run's folder whose last checkpoint is the start, or a checkpoint.
        robust: See `models.harmonics.HarmonicForecaster`.

    Raises:
        ValueError: For sizes below 1, and for a folder without checkpoints of a net of these sizes.
    """
    check_periods(periods)
    for name, value in (("stages", stages), ("width", width)):
        if value < 1:
            raise ValueError(f"model.{name} must be at least 1, got {value}; use {2 if name == 'stages' else 512}")
    space = subspace(periods, lookback, horizon)
    net = build_within_memory(
        lambda: LearnedPrior(space, stages, width, dtype, robust), "use a smaller T or model.width"
    )
    zero_at_start = [net.readout]
    for part in (*net.block, *net.correct):
        zero_at_start.append(list(part.children())[-1])
    for module in net.modules():
        if isinstance(module, nn.Linear):
            bound = 0.0 if module in zero_at_start else module.in_features**-0.5
            draw_uniform(module, bound, init)
    if weights is not None:
        run, file = RunFolder(Path(weights)), Path(weights)
        if not file.is_file():
            steps = run.checkpoint_steps()
            if not steps:
                raise ValueError(f"model.weights must be a run's folder with checkpoints, got {weights}; use null")
            file = run.checkpoint_file(steps[-1])
        try:
            found = checkpoints.load(file)["net"]
            if not all(found[name].is_floating_point() for name in net.state_dict()):
                raise TypeError("torch would cast them")
            net.load_state_dict(found)
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:  # torch's, for other names and shapes
            raise ValueError(
                f"model.weights must be a run of model=learned_prior with the same T, horizon, periods, stages and width, got {weights} with others; use null"
            ) from error
    return net
