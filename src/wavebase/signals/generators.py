"""Synthetic signals, drawn in float64 from a given generator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wavebase.registry import registered


@dataclass(frozen=True)
class _Amplitude:
    """A signal with a positive bound on |x|, for a sum on each component."""

    amplitude: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.amplitude) and self.amplitude > 0):
            raise ValueError(f"signal.amplitude must be positive and finite, got {self.amplitude}; use 1.0")

    @property
    def peak(self) -> float:
        """Bound on |x|."""
        return self.amplitude


@registered
@dataclass(frozen=True)
class WhiteNoise(_Amplitude):
    """Independent samples: uniform on [-amplitude, amplitude], or gaussian with standard deviation amplitude/4, truncated at
    +-amplitude."""

    distribution: Literal["uniform", "gaussian"] = "uniform"

    def sample(self, batch: int, samples: int, generator: torch.Generator, held_out: bool = False) -> Tensor:
        """Draw signals, float64 [batch, samples]."""
        x = torch.empty(batch, samples, dtype=torch.float64)
        if self.distribution == "uniform":
            return x.uniform_(-self.amplitude, self.amplitude, generator=generator)
        a = self.amplitude
        return torch.nn.init.trunc_normal_(x, std=a / 4, a=-a, b=a, generator=generator)


@registered
@dataclass(frozen=True)
class Sinusoids(_Amplitude):
    """A sum of cosines on the bins 1..components of a window of T, with amplitudes U(0, amplitude) and phases U(0, 2 pi).

    The wavebase poster (2018) trained on it with amplitude 0.1 and components = T (bins above T/2 fold back).
    """

    T: int = 8
    components: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.components is not None and not 1 <= self.components <= self.T:
            raise ValueError(f"signal.components must lie in 1..T={self.T}, got {self.components}; use null for T")

    @property
    def peak(self) -> float:
        """Bound on |x|: all components at their largest and in phase."""
        return self.amplitude * (self.components or self.T)

    def sample(self, batch: int, samples: int, generator: torch.Generator, held_out: bool = False) -> Tensor:
        """Draw signals, float64 [batch, samples]."""
        bins = torch.arange(1, (self.components or self.T) + 1, dtype=torch.float64)
        amplitude = self.amplitude * torch.rand(batch, len(bins), 1, generator=generator, dtype=torch.float64)
        phase = 2 * math.pi * torch.rand(batch, len(bins), 1, generator=generator, dtype=torch.float64)
        turn = torch.outer(bins, torch.arange(samples, dtype=torch.float64)).remainder(self.T) / self.T
        return (amplitude * torch.cos(2 * math.pi * turn + phase)).sum(1)


@registered
@dataclass(frozen=True)
class Chirp(_Amplitude):
    """A tone whose frequency glides linearly between two draws from U(lowest, highest), with a uniform phase."""

    lowest: float = 0.0
    highest: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.lowest < self.highest <= 0.5:
            raise ValueError(
                f"signal.lowest and signal.highest must satisfy 0 <= lowest < highest <= 0.5 cycles per sample, "
                f"got {self.lowest} and {self.highest}; use 0 and 0.5"
            )

    def sample(self, batch: int, samples: int, generator: torch.Generator, held_out: bool = False) -> Tensor:
        """Draw signals, float64 [batch, samples]."""
        start, end, phase = torch.rand(3, batch, 1, generator=generator, dtype=torch.float64)
        start, end = (self.lowest + (self.highest - self.lowest) * f for f in (start, end))
        t = torch.arange(samples, dtype=torch.float64)
        turn = start * t + (end - start) * t.square() / (2 * max(samples - 1, 1)) + phase
        return self.amplitude * torch.cos(2 * math.pi * turn)


@registered
@dataclass(frozen=True)
class Impulse(_Amplitude):
    """In each stretch of `spacing` samples one of height U(amplitude/2, amplitude) and random sign; all others are zero."""

    spacing: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spacing < 1:
            raise ValueError(f"signal.spacing must be at least 1 sample, got {self.spacing}; use the window T")

    def sample(self, batch: int, samples: int, generator: torch.Generator, held_out: bool = False) -> Tensor:
        """Draw signals, float64 [batch, samples]."""
        stretches = -(-samples // self.spacing)
        height = self.amplitude * (0.5 + 0.5 * torch.rand(batch, stretches, generator=generator, dtype=torch.float64))
        sign = 2.0 * torch.randint(2, (batch, stretches), generator=generator) - 1
        place = torch.randint(self.spacing, (batch, stretches), generator=generator)
        x = torch.zeros(batch, stretches, self.spacing, dtype=torch.float64)
        x.scatter_(-1, place[..., None], (height * sign)[..., None])
        return x.flatten(1)[:, :samples]


@registered
@dataclass(frozen=True)
class Tones(_Amplitude):
    """One cosine a sequence, on or between the bins of a window of T, with uniform phase and amplitude U(amplitude/2,
    amplitude).

    With off_bin the frequency is (k + U(1/4, 3/4))/T, k = 0..ceil(T/2)-1; without it k/T, k = 0..T//2, DC and Nyquist
    included. Sequences take the bins in turn, so a batch of T//2 + 1 or more holds them all. DC and Nyquist have phase 0,
    because another phase would only be another amplitude.
    """

    T: int = 8
    off_bin: bool = True

    def sample(self, batch: int, samples: int, generator: torch.Generator, held_out: bool = False) -> Tensor:
        """Draw signals, float64 [batch, samples]."""
        height, phase, between = torch.rand(3, batch, 1, generator=generator, dtype=torch.float64)
        height = self.amplitude * (0.5 + 0.5 * height)
        t = torch.arange(samples, dtype=torch.float64)
        if self.off_bin:
            k = torch.arange(batch)[:, None] % -(-self.T // 2) + 0.25 + between / 2
        else:
            k = (torch.arange(batch)[:, None] % (self.T // 2 + 1)).to(torch.float64)
            phase = torch.where((k == 0) | (2 * k == self.T), 0.0, phase)
        return height * torch.cos(2 * math.pi * ((k * t).remainder(self.T) / self.T + phase))
