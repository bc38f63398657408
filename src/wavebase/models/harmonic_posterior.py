"""The posterior of sums of sinusoids with whole periods, sampled: which periods are there, and with what amplitudes.

The prior is that of `signals.harmonics.Harmonics`. A signal is x = (v / max|v| + noise) / M with
v(t) = sum_k u_k sin(w_k t + phi_k) and u_k ~ U(0, 1) (the division by their sum cancels). M is the largest value over all
N + H samples. Write c for the part of x without noise, b_k for its amplitudes and g for the scale b_k / u_k. Then

- M = 1 / max|c|, and the noise in x has the standard deviation noise / M: c determines both;
- the density of the components and of log g is prod_k 1 / (2 pi b_k g) for b_k < g, in the plane of cosine and sine;
- the past has the density M^N exp(-|x - c|^2 M^2 / 2 noise^2), times a factor for where the largest |x| lies. If it lies in
  the past, all future samples are smaller: prod_h P(|x_h| < 1). If it does not, the largest future |x_h| is 1.

Letters: R rows (signals times chains), N lookback, H horizon, P periods, K components, n dimensions that the sinusoids span.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from wavebase.signals.scaled_future import FULL, ScaledFuture
from wavebase.signals.subspace import subspace

# (b cos phi, b sin phi) with b ~ U(0, 1), as a mixture of Gaussians: standard deviations and weights. The weights that
# correct it to the exact law have a second moment of 1.22.
SPREADS, WEIGHTS = (0.46, 0.045), (0.91, 0.09)
TINY = 1e-30


@dataclass
class State:
    """Chains, one a row. Lengths are in units of the assumed noise.

    Attributes:
        count: Components K, [R].
        period, spread: Index of each component's period and of its Gaussian, [R, most]; the first K of a row are there.
        scale: g, [R].
        shape, error: Standard normal numbers that turn into amplitudes, [2, R, most], and into noise, [2, R, n].
        inverse: Inverse covariance C^-1 of the past x given `period`, `spread` and `scale`, even and odd part, [2, R, n, n].
        energy, matched: d_p^T C^-1 d_p and d_p^T C^-1 x of the atoms d_p of all periods, [2, R, P].
        clean: c, [R, N + H], a posterior draw made of all these.
        correction: Logarithm of the exact density over the Gaussian one, [R].
    """

    count: Tensor
    period: Tensor
    spread: Tensor
    scale: Tensor
    shape: Tensor
    error: Tensor
    inverse: Tensor
    energy: Tensor
    matched: Tensor
    clean: Tensor
    correction: Tensor


class HarmonicPosterior:
    """Metropolis sampler for many signals and chains at once.

    With a mixture of Gaussians for the amplitudes, a fixed noise and no scaling, the amplitudes can be integrated out. A
    collapsed sampler of that model changes periods, the number of components and the scale. It is the proposal: a
    posterior draw of all amplitudes, made of random numbers that change little (Matheron's rule), is then accepted with
    the ratio of the exact to the Gaussian density. The stationary distribution is the exact posterior.

    The middle of the past is the origin of time. Cosines are then even, sines odd, and the covariance has two blocks.

    Args:
        past: Signals, [signals, N].
        horizon: H, samples.
        periods, components: Their least and greatest.
        noise: Standard deviation before the second scaling, positive; one for each signal, or for all.
        chains: Chains of each signal; consecutive rows.
        generator: Of all random numbers.
        scaled: Whether the largest |x| over the N + H samples is known to be 1. Otherwise the scale is unknown: its
            logarithm has a flat prior.
        uniform: Whether the Metropolis ratio also turns the mixture of Gaussians into the exact law U(0, 1) of amplitudes.
            Chains then move several times more slowly.
        dtype: Of the arithmetic.
    """

    def __init__(
        self,
        past: Tensor,
        horizon: int,
        periods: tuple[int, int],
        components: tuple[int, int],
        noise: float | Tensor,
        chains: int,
        generator: torch.Generator,
        scaled: bool = True,
        uniform: bool = False,
        dtype: torch.dtype = torch.float64,
    ):
        N = past.shape[1]
        noise = torch.as_tensor(noise, dtype=torch.float64).expand(len(past))
        self.lookback, self.components, self.scaled, self.uniform = N, components, scaled, uniform
        self.noise = noise.repeat_interleave(chains).to(dtype)  # [R]
        self.generator, self.dtype = generator, dtype
        self.full = (past.abs().amax(1) >= FULL).repeat_interleave(chains)
        space = subspace(periods, N, horizon)
        self.P, n = space.reduced.shape[1:]
        x = space.coordinates(past.double())  # [2, signals, n]
        rest = past.double().square().sum(1) - x.square().sum((0, 2))
        usual = (0.85 * noise * (1.0 if scaled else past.double().abs().amax(1))) ** 2
        trust = 5  # samples
        deviation = ((rest + trust * usual) / (max(N - 2 * n, 0) + trust)).sqrt()  # [signals]
        self.deviation = deviation.repeat_interleave(chains).to(dtype)
        self.past = past.to(dtype).repeat_interleave(chains, 0)
        self.x = (x / deviation[:, None]).to(dtype).repeat_interleave(chains, 1)  # [2, R, n]
        self.atoms = space.atoms.to(dtype).flatten(0, 1)  # [2P, N + H]
        self.reduced = space.reduced.to(dtype)  # [2, P, n]
        self.squares = space.squares.transpose(1, 2).to(dtype).contiguous()  # [2, n n, P]
        self.variances = torch.tensor(SPREADS, dtype=dtype).square()
        self.log_weights = torch.tensor(WEIGHTS, dtype=dtype).log()
        self.state = self._start()

    # ---- the Gaussian model ----

    def _start(self) -> State:
        """Start chains far apart: every other one with the fewest components, the others from the prior."""
        (fewest, most), R, n, dtype, generator = self.components, *self.x.shape[1:], self.dtype, self.generator
        count = torch.randint(fewest, most + 1, (R,), generator=generator)
        count[::2] = fewest
        period = torch.randint(self.P, (R, most), generator=generator)
        spread = torch.zeros(R, most, dtype=torch.long)
        scale = self.past.abs().amax(1) / self.deviation / count.to(dtype).sqrt()
        shape = torch.randn(2, R, most, generator=generator, dtype=dtype)
        error = torch.randn(2, R, n, generator=generator, dtype=dtype)
        state = State(count, period, spread, scale, shape, error, scale, scale, scale, scale, scale)
        self._renew(state, self._inverse(state, state.scale)[0])
        self._complete(state)
        return state

    def _powers(self, state: State, scale: Tensor) -> Tensor:
        """Return the amplitudes' variances, 0 for components that are not there, [R, most]."""
        there = torch.arange(state.period.shape[1]) < state.count[:, None]
        return self.variances[state.spread] * scale[:, None].square() * there

    def _inverse(self, state: State, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inverse covariance, [2, R, n, n], and the log likelihood of the past, [R]."""
        power = self.x.new_zeros(len(scale), self.P).scatter_add_(1, state.period, self._powers(state, scale))
        n = self.x.shape[-1]
        covariance = (power @ self.squares.mT).unflatten(-1, (n, n))
        covariance.diagonal(dim1=-2, dim2=-1).add_(1)
        factor = torch.linalg.cholesky(covariance)
        inverse = torch.cholesky_inverse(factor)
        fit = torch.einsum("irn,irnm,irm->r", self.x, inverse, self.x)
        return inverse, -0.5 * fit - factor.diagonal(dim1=-2, dim2=-1).log().sum((0, 2))

    def _renew(self, state: State, inverse: Tensor) -> None:
        """Set the inverse and what is computed from it."""
        state.inverse, state.energy = inverse, inverse.flatten(2) @ self.squares
        state.matched = torch.einsum("irnm,irm->irn", inverse, self.x) @ self.reduced.mT

    def _change_component(self, state: State) -> None:
        """Replace, add or remove one component of every chain, in place: reversible in the Gaussian model."""
        (fewest, most), R = self.components, len(state.count)
        row, draw = torch.arange(R), torch.rand(4, R, generator=self.generator, dtype=self.dtype)
        birth, death = draw[0] < 0.25, draw[0] > 0.75
        k = torch.minimum((draw[1] * state.count).long(), state.count - 1)
        k = torch.where(birth, state.count.clamp_max(most - 1), k)
        scale2 = state.scale.square()
        old = state.period[row, k], state.spread[row, k]
        old_power = self.variances[old[1]] * scale2 * ~birth
        self._add(state, old[0], -old_power)
        # single precision is enough to choose: only the covariance loses digits from change to change
        power = (self.variances * scale2[:, None])[..., None].float()  # [R, S, 1]
        gain = 1 + power * state.energy.float()[:, :, None]  # [2, R, S, P]
        square = state.matched.float().square()[:, :, None]
        logits = (square[0] / gain[0]).add_(square[1] / gain[1]).mul_(power).sub_((gain[0] * gain[1]).log_()).mul_(0.5)
        logits += self.log_weights[:, None].float()
        peak = logits.amax((1, 2))
        running = (logits.flatten(1) - peak[:, None]).exp_().cumsum(1)
        evidence = (running[:, -1] / self.P).log() + peak  # of one more component
        chosen = torch.searchsorted(running, (draw[2].float() * running[:, -1])[:, None])[:, 0].clamp_max(
            running.shape[1] - 1
        )

        added = birth & (draw[3].log() < evidence) & (state.count < most)
        removed = death & (draw[3].log() < -evidence) & (state.count > fewest)
        keeps = (death & ~removed) | (birth & ~added)
        new = chosen % self.P, chosen // self.P
        new = torch.where(keeps, old[0], new[0]), torch.where(keeps, old[1], new[1])
        new_power = self.variances[new[1]] * scale2 * ~removed * ~(birth & ~added)
        self._add(state, new[0], new_power)
        last = torch.where(removed, state.count - 1, k)  # takes the place of the one removed
        fresh = torch.randn(2, R, generator=self.generator, dtype=self.dtype)
        state.period[row, k] = torch.where(removed, state.period[row, last], new[0])
        state.spread[row, k] = torch.where(removed, state.spread[row, last], new[1])
        kept = torch.where(keeps, state.shape[:, row, k], fresh)
        state.shape[:, row, k] = torch.where(removed, state.shape[:, row, last], kept)
        state.count += added.long() - removed.long()

    def _add(self, state: State, period: Tensor, power: Tensor) -> None:
        """Add a component of this power to the covariance: a change of rank one of each block of its inverse."""
        u = (state.inverse @ self.reduced[:, period, :, None])[..., 0]
        across, at = u @ self.reduced.mT, period.expand(2, -1)[..., None]
        factor = -power[:, None] / (1 + power[:, None] * state.energy.gather(2, at))  # [2, R, 1]
        state.matched.addcmul_(factor * state.matched.gather(2, at), across)
        state.energy.addcmul_(factor * across, across)
        n = u.shape[-1]
        state.inverse.view(-1, n, n).baddbmm_((factor * u).view(-1, n, 1), u.view(-1, 1, n))

    def _change_scale(self, state: State) -> None:
        """Change the scale of every chain, in place: reversible in the Gaussian model. Renews the inverse."""
        draw = torch.randn(len(state.scale), generator=self.generator, dtype=self.dtype)
        proposed = state.scale * (1.5 * draw / (3 + state.count)).exp()
        inverse, before = self._inverse(state, state.scale)
        changed, after = self._inverse(state, proposed)
        accepted = torch.rand(len(draw), generator=self.generator, dtype=self.dtype).log() < after - before
        state.scale = torch.where(accepted, proposed, state.scale)
        self._renew(state, torch.where(accepted[:, None, None], changed, inverse))

    # ---- the exact model ----

    def _complete(self, state: State) -> None:
        """Draw the amplitudes that the state's random numbers stand for; set `clean` and `correction`."""
        R, most = state.period.shape
        power = self._powers(state, state.scale)
        guess = power.sqrt() * state.shape  # [2, R, most], a draw from the prior
        index = state.period.expand(2, -1, -1)
        weight = self.x.new_zeros(2, R, self.P).scatter_add_(2, index, guess)
        missing = self.x - state.error - weight @ self.reduced
        response = torch.einsum("irnm,irm->irn", state.inverse, missing) @ self.reduced.mT  # [2, R, P]
        amplitude = guess + power * response.gather(2, index)
        weight += self.x.new_zeros(R, self.P).scatter_add_(1, state.period, power) * response
        state.clean = weight.transpose(0, 1).flatten(1) @ self.atoms * self.deviation[:, None]

        state.correction = self._likelihood(state.clean)
        if not self.uniform:
            return
        ratio2 = amplitude.square().sum(0) / state.scale[:, None].square()
        bell = self.log_weights.exp() / self.variances * (-ratio2[..., None] / (2 * self.variances)).exp()
        ratio2 = ratio2.clamp_min(TINY)
        outside = (ratio2.sqrt() - 1).clamp_min(0)
        law = -0.5 * ratio2.log() - bell.sum(-1).clamp_min(TINY).log() - (outside > 0) * (50 + 1e3 * outside)
        there = torch.arange(most) < state.count[:, None]
        state.correction = state.correction + torch.where(there, law, 0.0).sum(1)

    def _likelihood(self, clean: Tensor) -> Tensor:
        """Return the logarithm of the exact likelihood over the Gaussian model's, up to a constant of each signal, [R]."""
        N = self.lookback
        top = clean.abs().amax(1).clamp_min(TINY)
        errors = (self.past - clean[:, :N]).square().sum(1)
        value = -N * top.log() - errors / 2 * (1 / (self.noise * top).square() - 1 / self.deviation.square())
        if not self.scaled:
            return value
        return value + self._future(clean).log_chance(self.full)

    def update(self, changes: int = 4, step: float = 0.3, scale: bool = False, gaussian: bool = False) -> Tensor:
        """Propose changes of all kinds at once; return which chains accepted them, [R].

        Args:
            changes: Components changed.
            step: Proportion of the variance of `shape` and `error` that is drawn anew.
            scale: Change the scale instead of components, and renew what rounding has worn.
        """
        before = self.state
        if scale:
            self._renew(before, self._inverse(before, before.scale)[0])
            self._complete(before)
        state = State(*(getattr(before, field.name).clone() for field in fields(State)))
        if scale:
            self._change_scale(state)
        else:
            for _ in range(changes):
                self._change_component(state)
        for normal in (state.shape, state.error):
            fresh = torch.randn(normal.shape, generator=self.generator, dtype=self.dtype)
            normal.mul_((1 - step) ** 0.5).add_(fresh, alpha=step**0.5)
        self._complete(state)
        uniform = torch.rand(len(state.count), generator=self.generator, dtype=self.dtype)
        accepted = (uniform.log() < state.correction - before.correction) | gaussian
        for field in fields(State):
            old, new = getattr(before, field.name), getattr(state, field.name)
            axis = int(new.ndim > 2)
            mask = accepted.view(*(1,) * axis, -1, *(1,) * (new.ndim - axis - 1))
            setattr(self.state, field.name, torch.where(mask, new, old))
        return accepted

    # ---- forecasts ----

    def forecast(self) -> Tensor:
        """Return E[x_h] given each chain's components, [R, H]."""
        future = self._future(self.state.clean)
        return future.mean(self.full) if self.scaled else future.centre

    def draw(self) -> Tensor:
        """Draw a future given each chain's components, [R, H]."""
        future = self._future(self.state.clean)
        if self.scaled:
            return future.draw(self.full, self.generator)
        centre = future.centre
        return centre + future.deviation * torch.randn(centre.shape, generator=self.generator, dtype=self.dtype)

    def _future(self, clean: Tensor) -> ScaledFuture:
        return ScaledFuture(clean[:, self.lookback :], (self.noise * clean.abs().amax(1))[:, None].clamp_min(TINY))
