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


class Stage(nn.Module):
    """A residual block that reads what the solution under some powers says of each period, and corrects the powers.

    Args:
        P: Periods.
        width: Of the state, W.
    """

    scale: Tensor
    floor: Tensor

    def __init__(self, P: int, width: int, dtype: torch.dtype):
        super().__init__()
        for name, (of_matched, of_amplitude) in {"scale": (0.01, 1.0), "floor": (1e-3, 1e-6)}.items():
            self.register_buffer(name, torch.tensor([of_matched] * P + [of_amplitude] * P, dtype=dtype))
        self.read = nn.Linear(2 * P, width, bias=False, dtype=dtype)
        self.norm = nn.LayerNorm(width, dtype=dtype)
        self.inner = nn.Linear(width, width, dtype=dtype)
        self.outer = nn.Linear(width, width, bias=False, dtype=dtype)
        self.last_norm = nn.LayerNorm(width, dtype=dtype)
        self.correct = nn.Linear(width, P + 1, dtype=dtype)

    def forward(self, state: Tensor, matched: Tensor, amplitude: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state [B, W] and the change of the logarithms of powers and noise [B, P + 1]."""
        seen = torch.addcmul(self.floor, torch.cat([matched, amplitude], -1), self.scale).log()
        state = torch.addmm(state, seen, self.read.weight.T)
        inner = nn.functional.silu(self.inner(self.norm(state)))
        state = torch.addmm(state, inner, self.outer.weight.T)
        return state, self.correct(self.last_norm(state))


class LearnedPrior(RobustForecaster):
    """Sparse Bayes, unrolled and learned.

    Every stage has a power gamma_p for each period and one for the noise. It computes the exact solution C^-1 x under
    them, and from it the matched power q_p = |D_p^T C^-1 x|^2 and the posterior amplitude gamma_p^2 q_p of each period.
    A residual block reads these and corrects the logarithms of all powers. The posterior mean under the last powers is
    the forecast, plus a correction that a last layer reads off it and off the blocks' state: the law of the future that
    a largest |x| of 1 implies is not Gaussian. The correction is zero at the start.

    The powers of the first stage are the same for all signals, so the untrained net is ridge regression on the
    dictionary. With the right powers it would be the forecaster that knows the true periods.

    A signal alone costs as many calls of torch as a batch does, so these are few and large.
    """

    probabilistic = True
    basis: Tensor
    covariances: Tensor
    reduced: Tensor
    future: Tensor
    energies: Tensor
    least: Tensor
    most: Tensor

    def __init__(
        self,
        space: Subspace,
        stages: int,
        width: int,
        dtype: torch.dtype = torch.float32,
        robust: bool = False,
    ):
        super().__init__(robust)
        P, n = space.reduced.shape[1:]
        N = space.basis.shape[2]
        H = space.atoms.shape[2] - N
        eye = space.reduced.new_zeros(n, n).fill_diagonal_(1).flatten().expand(2, n * n)
        # the covariances of a unit power of each period, even and odd block, and of the noise
        units = torch.cat([space.squares.movedim(0, 1) + LEAST_NOISE * eye, eye[None]]).flatten(1)
        self.register_buffer("basis", space.basis.flatten(0, 1).mT.to(dtype).contiguous())  # [N, 2n]
        self.register_buffer("covariances", units.to(dtype))  # [P + 1, 2 n n]
        self.register_buffer("reduced", torch.block_diag(*space.reduced).mT.to(dtype).contiguous())  # [2n, 2P]
        self.register_buffer("future", space.atoms[..., -H:].flatten(0, 1).to(dtype))  # [2P, H]
        # the energy outside of the sinusoids' space and all energy, of the squares of a signal and its coordinates
        energies = torch.tensor([[200 / N, 5 / N]] * N + [[-200 / N, 0.0]] * 2 * n, dtype=dtype)
        self.register_buffer("energies", energies, persistent=False)  # [N + 2n, 2]
        for name, (of_power, of_noise) in {"least": (-14, -8), "most": (2, 0)}.items():
            self.register_buffer(name, torch.tensor([of_power] * P + [of_noise], dtype=dtype))
        start = [math.log(0.2 / P)] * P + [math.log(0.02)]
        self.log_power = nn.Parameter(torch.tensor(start, dtype=dtype))  # the last is the noise's
        self.embed = nn.Linear(2 * n + 3, width, dtype=dtype)
        self.stages = nn.ModuleList(Stage(P, width, dtype) for _ in range(stages))
        self.last = nn.Sequential(
            nn.Linear(width + H, width // 2, dtype=dtype), nn.SiLU(), nn.Linear(width // 2, H, dtype=dtype)
        )

    def forecast(self, past: Tensor) -> Tensor:
        """Return the forecast [B, H] of a past [B, N] without gaps, offset or trend, of the generator's size."""
        power, x, state = self._powers(past)
        return self._mean(power, self._matched(self._covariance(power), x), state)

    def distribution(self, past: Tensor, levels: Tensor) -> Tensor:
        """Return quantiles of the Gaussian process with the chosen powers, whose common scale is the past's most likely one.

        Training does not see that scale: the forecast is the same for all.
        """
        power, x, state = self._powers(past)
        C, n = self._covariance(power), x.shape[-2]
        mean = self._mean(power, self._matched(C, x), state)
        power, noise = power.split([power.shape[-1] - 1, 1], -1)
        across = (self.future.mT * power.repeat(1, 2)[:, None]) @ self.reduced.mT  # of future and past, [B, H, 2n]
        across = across.unflatten(-1, (2, n)).movedim(-2, 1)
        explained = (across * torch.linalg.solve(C, across.mT).mT).sum((1, -1))
        rest = past.square().sum(-1) - x.square().sum((1, 2, 3))
        scale = ((x * torch.linalg.solve(C, x)).sum((1, 2, 3)) + rest / noise[:, 0]) / past.shape[-1]
        variance = power.sum(-1, keepdim=True) - explained + noise
        return gaussian_quantiles(mean, scale[:, None] * variance, levels, self.spread)

    def _powers(self, past: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return powers [B, P + 1], coordinates [B, 2, n, 1] and the last block's state, normalised, [B, W]."""
        coordinates = past @ self.basis
        x = coordinates.unflatten(-1, (2, -1, 1))
        # three numbers that a linear layer cannot compute, about 1 in size; the last is how far the largest |x| is from 1
        energies = torch.cat([past, coordinates], -1).square() @ self.energies
        peak = (past.abs().amax(-1, keepdim=True) - 1) * 20
        state = self.embed(torch.cat([coordinates, energies.clamp_min(2e-6).log(), peak], -1))
        log_power = self.log_power  # the same for all signals in the first stage
        for stage in self.stages:
            power = log_power.exp()
            even, odd = self._matched(self._covariance(power), x).square().chunk(2, -1)
            matched = even + odd
            state, change = stage(state, matched, power[..., :-1].square() * matched)
            log_power = (log_power + change).clamp(self.least, self.most)
        return log_power.exp(), x, nn.functional.layer_norm(state, state.shape[-1:])

    def _covariance(self, power: Tensor) -> Tensor:
        """Return the past's covariance in the sinusoids' space, [B, 2, n, n], or [2, n, n] for one set of powers."""
        n = self.basis.shape[-1] // 2
        return (power @ self.covariances).unflatten(-1, (2, n, n))

    def _matched(self, C: Tensor, x: Tensor) -> Tensor:
        """Return d_p^T C^-1 x for cosines and then for sines of all periods, [B, 2P]."""
        if C.ndim == 3:  # one covariance for all signals is factorised once
            solved = torch.linalg.solve_ex(C, x[..., 0].movedim(0, -1))[0].movedim(-1, 0)
        else:
            solved = torch.linalg.solve_ex(C, x)[0]
        return solved.flatten(1) @ self.reduced

    def _mean(self, power: Tensor, matched: Tensor, state: Tensor) -> Tensor:
        """Return the posterior mean of the future under these powers, corrected, [B, H]."""
        mean = (matched * power[:, :-1].repeat(1, 2)) @ self.future
        return mean + self.last(torch.cat([state, mean], -1))


@registered
def build(
    lookback: int,
    horizon: int,
    dtype: torch.dtype,
    init: torch.Generator,
    *,
    periods: tuple[int, int] = (2, 99),
    stages: int = 3,
    width: int = 384,
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
            raise ValueError(f"model.{name} must be at least 1, got {value}; use {3 if name == 'stages' else 384}")
    space = subspace(periods, lookback, horizon)
    net = build_within_memory(
        lambda: LearnedPrior(space, stages, width, dtype, robust), "use a smaller T or model.width"
    )
    # the logarithms that a stage reads are several times larger than the other inputs
    weaker = {stage.read: 0.3 for stage in net.stages}
    zero = {net.last[-1]: 0.0} | {layer: 0.0 for stage in net.stages for layer in (stage.outer, stage.correct)}
    for module in net.modules():
        if isinstance(module, nn.Linear):
            draw_uniform(module, (weaker | zero).get(module, 1.0) * module.in_features**-0.5, init)
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
