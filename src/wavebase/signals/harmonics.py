"""Sums of a few sinusoids with whole periods, scaled to a largest |x| of 1: signals with a known future.

The forecasting problem is that of the public project "Predicting a signal composed of a finite set of harmonics"
(github.com/daniele-roncaglioni/predicting-sum-of-periodic-components).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from wavebase.registry import registered


class Drawn(NamedTuple):
    """Signals and what they are made of.

    Attributes:
        signal, clean: With and without noise, on the same scale, float64 [batch, samples].
        components: Number of components, int64 [batch].
        periods: int64 [batch, most], 0 beyond the number of components.
        noise: Standard deviation of the noise in units of `signal`, float64 [batch].
    """

    signal: Tensor
    clean: Tensor
    components: Tensor
    periods: Tensor
    noise: Tensor


@registered
@dataclass(frozen=True)
class Harmonics:
    """x(t) = sum_k a_k sin(2 pi t / p_k + phi_k), t = 0..samples-1, divided by its largest |x|.

    phi_k is U[0, 2 pi); a_k is U[0, 1) divided by the sum of all.

    Args:
        components: The least and the greatest number of terms, all equally likely.
        periods: The shortest and the longest period. p_k is drawn with replacement from the whole numbers between.
        noise: Standard deviation of white noise added to the scaled signal. The sum is divided by its largest |x| again.
        modulated: Whether each term has an envelope: linear from 1 at the first sample to r, U(0.5, 2), at a random one, and
            back to 1 at the last.

    Raises:
        ValueError: For a wrong range or a negative noise.
    """

    components: tuple[int, int] = (3, 6)
    periods: tuple[int, int] = (2, 99)
    noise: float = 0.0
    modulated: bool = False

    def __post_init__(self) -> None:
        ends = {"components": self.components, "periods": self.periods}
        for (name, pair), least, words in zip(ends.items(), (1, 2), ("component", "samples"), strict=True):
            if len(pair) != 2 or not least <= pair[0] <= pair[1]:
                raise ValueError(
                    f"signal.{name} must be two whole numbers, {least} {words} <= least <= greatest, got {list(pair)}; "
                    f"use [{', '.join(map(str, (3, 6) if name == 'components' else (2, 99)))}]"
                )
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ValueError(f"signal.noise must be a standard deviation of at least 0, got {self.noise}; use 0.1")

    @property
    def peak(self) -> float:
        """Bound on |x|."""
        return 1.0

    def sample(self, batch: int, samples: int, generator: torch.Generator, held_out: bool = False) -> Tensor:
        """Draw signals, float64 [batch, samples]."""
        return self.draw(batch, samples, generator).signal

    def draw(self, batch: int, samples: int, generator: torch.Generator) -> Drawn:
        """Draw signals together with what they are made of, on the generator's device."""
        device = generator.device
        (fewest, most), (shortest, longest) = self.components, self.periods
        count = torch.randint(fewest, most + 1, (batch, 1), generator=generator, device=device)
        present = torch.arange(most, device=device) < count
        period = torch.randint(shortest, longest + 1, (batch, most), generator=generator, device=device)
        amplitude, turn = torch.rand(2, batch, most, generator=generator, dtype=torch.float64, device=device)
        amplitude = amplitude * present / (amplitude * present).sum(1, keepdim=True)
        # a sin(w t + phi) = a sin(phi) cos(w t) + a cos(phi) sin(w t)
        of_cos, of_sin = amplitude * (2 * math.pi * turn).sin(), amplitude * (2 * math.pi * turn).cos()
        # terms of equal period add up: one product with the sinusoids of all periods, however many terms there are
        weights = torch.zeros(batch, 2, longest - shortest + 1, dtype=torch.float64, device=device)
        weights[:, 0].scatter_add_(1, period - shortest, of_cos)
        weights[:, 1].scatter_add_(1, period - shortest, of_sin)
        clean = weights.flatten(1) @ _sinusoids(self.periods, samples, device)
        if self.modulated:
            ratio = 0.5 + 1.5 * torch.rand(batch, most, generator=generator, dtype=torch.float64, device=device)
            turning = torch.randint(samples, (batch, most), generator=generator, device=device)
            row = (period - shortest) * samples + turning
            rows = torch.cat([row, row + (longest - shortest + 1) * samples], 1)
            change = torch.cat([(ratio - 1) * of_cos, (ratio - 1) * of_sin], 1)
            both, starts = present.repeat(1, 2), 2 * (count.cumsum(0) - count)[:, 0]
            swells = _swelling_sinusoids(self.periods, samples).to(device)
            clean += embedding_bag(rows[both], swells, starts, per_sample_weights=change[both], mode="sum")
        clean = clean / clean.abs().amax(1, keepdim=True)
        noise = torch.full((batch,), self.noise, dtype=torch.float64, device=device)
        signal = clean
        if self.noise:
            white = torch.randn(batch, samples, generator=generator, dtype=torch.float64, device=device)
            signal = clean + self.noise * white
            top = signal.abs().amax(1, keepdim=True)
            signal, clean, noise = signal / top, clean / top, noise / top[:, 0]
        return Drawn(signal, clean, count[:, 0], period * present, noise)


def sinusoids(periods: tuple[int, int], samples: int, first: int = 0) -> Tensor:
    """Return cos and sin of 2 pi t / p for all whole periods p of a range, float64 [2, periods, samples].

    t = first..first+samples-1. The turn t / p is reduced in whole numbers, so the angle is exact to rounding.
    """
    p = torch.arange(periods[0], periods[1] + 1)[:, None]
    angle = 2 * math.pi * (torch.arange(first, first + samples).remainder(p) / p.to(torch.float64))
    return torch.stack([angle.cos(), angle.sin()])


@lru_cache(maxsize=4)
def _sinusoids(periods: tuple[int, int], samples: int, device: torch.device) -> Tensor:
    """Return `sinusoids` on a device, [2 * periods, samples]."""
    return sinusoids(periods, samples).flatten(0, 1).to(device)


@lru_cache(maxsize=2)
def _swelling_sinusoids(periods: tuple[int, int], samples: int) -> Tensor:
    """Return `sinusoids` times a triangle, 0 at both ends and 1 at a turning point: float64 [2 * periods * samples, samples],
    a row for each of cos and sin, period and turning point."""
    t = torch.arange(samples, dtype=torch.float64)
    turning, last = t[:, None], samples - 1
    triangle = torch.where(t <= turning, t / turning.clamp_min(1), (last - t) / (last - turning).clamp_min(1))
    triangle[0] = (last - t) / max(last, 1)
    return (sinusoids(periods, samples)[:, :, None] * triangle).flatten(0, 2)
