"""Sums of a few sinusoids with whole periods, scaled to a largest |x| of 1: signals whose future is known.

The forecasting problem of the public project "Predicting a signal composed of a finite set of harmonics"
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
    """signal and clean, float64 [batch, samples]: with and without noise, on the same scale; components: how many each
    has, int64 [batch]; periods: int64 [batch, most], 0 where there is none; noise: its standard deviation in units of
    `signal`, float64 [batch]."""

    signal: Tensor
    clean: Tensor
    components: Tensor
    periods: Tensor
    noise: Tensor


@registered
@dataclass(frozen=True)
class Harmonics:
    """x(t) = sum_k a_k sin(2 pi t / p_k + phi_k), t = 0..samples-1, divided by its largest |x|.

    components: the least and the greatest number of terms, each as likely. periods: the shortest and the longest; p_k is
    drawn with replacement from the whole numbers between. phi_k: U[0, 2 pi); a_k: U[0, 1) divided by their sum.
    modulated: each term times an envelope that goes in a line from 1 at the first sample to r, U(0.5, 2), at a random
    sample, and in a line back to 1 at the last. noise: standard deviation of white noise that is added to the scaled
    signal; the sum is divided by its largest |x| again.
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
        """float64 [batch, samples]."""
        return self.draw(batch, samples, generator).signal

    def draw(self, batch: int, samples: int, generator: torch.Generator) -> Drawn:
        """Signals with what they are made of."""
        (fewest, most), (shortest, longest) = self.components, self.periods
        count = torch.randint(fewest, most + 1, (batch, 1), generator=generator)
        present = torch.arange(most) < count
        period = torch.randint(shortest, longest + 1, (batch, most), generator=generator)
        amplitude, turn = torch.rand(2, batch, most, generator=generator, dtype=torch.float64)
        amplitude = amplitude * present / (amplitude * present).sum(1, keepdim=True)
        # a sin(w t + phi) = a sin(phi) cos(w t) + a cos(phi) sin(w t)
        of_cos, of_sin = amplitude * (2 * math.pi * turn).sin(), amplitude * (2 * math.pi * turn).cos()
        # terms of equal period add up: one product with all periods' sinusoids, whatever the number of terms
        weights = torch.zeros(batch, 2, longest - shortest + 1, dtype=torch.float64)
        weights[:, 0].scatter_add_(1, period - shortest, of_cos)
        weights[:, 1].scatter_add_(1, period - shortest, of_sin)
        clean = weights.flatten(1) @ sinusoids(self.periods, samples).flatten(0, 1)
        if self.modulated:
            ratio = 0.5 + 1.5 * torch.rand(batch, most, generator=generator, dtype=torch.float64)
            turning = torch.randint(samples, (batch, most), generator=generator)
            row = (period - shortest) * samples + turning
            rows = torch.cat([row, row + (longest - shortest + 1) * samples], 1)
            change = torch.cat([(ratio - 1) * of_cos, (ratio - 1) * of_sin], 1)
            both, starts = present.repeat(1, 2), 2 * (count.cumsum(0) - count)[:, 0]
            swells = _swelling_sinusoids(self.periods, samples)
            clean += embedding_bag(rows[both], swells, starts, per_sample_weights=change[both], mode="sum")
        clean = clean / clean.abs().amax(1, keepdim=True)
        noise = torch.full((batch,), self.noise, dtype=torch.float64)
        signal = clean
        if self.noise:
            signal = clean + self.noise * torch.randn(batch, samples, generator=generator, dtype=torch.float64)
            top = signal.abs().amax(1, keepdim=True)
            signal, clean, noise = signal / top, clean / top, noise / top[:, 0]
        return Drawn(signal, clean, count[:, 0], period * present, noise)


def sinusoids(periods: tuple[int, int], samples: int, first: int = 0) -> Tensor:
    """cos and sin of 2 pi t / p for the whole periods p between two, t = first..first+samples-1: float64 [2, periods,
    samples]. The turn t / p is reduced in whole numbers, so that the angle is right to rounding."""
    p = torch.arange(periods[0], periods[1] + 1)[:, None]
    angle = 2 * math.pi * (torch.arange(first, first + samples).remainder(p) / p.to(torch.float64))
    return torch.stack([angle.cos(), angle.sin()])


@lru_cache(maxsize=2)
def _swelling_sinusoids(periods: tuple[int, int], samples: int) -> Tensor:
    """`sinusoids` times a triangle that rises from 0 at the first sample to 1 at a turning point and falls to 0 at the
    last, one row for each of cos and sin, period and turning point: float64 [2 * periods * samples, samples]."""
    t = torch.arange(samples, dtype=torch.float64)
    turning, last = t[:, None], samples - 1
    triangle = torch.where(t <= turning, t / turning.clamp_min(1), (last - t) / (last - turning).clamp_min(1))
    triangle[0] = (last - t) / max(last, 1)
    return (sinusoids(periods, samples)[:, :, None] * triangle).flatten(0, 2)
