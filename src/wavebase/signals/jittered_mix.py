"""A mean of tones with new amplitudes and phases at every sample, on a grid of seconds."""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wavebase.registry import registered


@registered
@dataclass(frozen=True)
class JitteredMix:
    """S(t) = 1/F sum_i A_i(t) sin(2 pi f_i t + p_i + phi_i(t)).

    A ~ U(1 - amplitude_jitter, 1 + amplitude_jitter) and phi ~ U(0, 2 pi phase_jitter) are independent for every sample and
    tone. The phases p_i are 0 unless given.

    Args:
        frequencies: f_i in hertz, different and below Nyquist.
        duration: Seconds from the first sample to the last.
        samples: Number of grid points, both ends included.
        amplitude_jitter, phase_jitter: In 0..1; phase_jitter in turns.

    Raises:
        ValueError: For a setting out of its range.
    """

    frequencies: tuple[float, ...] = (1.0, 3.0, 5.0, 7.0)
    duration: float = 10.0
    samples: int = 10000
    amplitude_jitter: float = 0.2
    phase_jitter: float = 0.01

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise ValueError(f"signal.samples must be at least 2, got {self.samples}; use 10000")
        if not 0 < self.duration < math.inf:
            raise ValueError(f"signal.duration must be positive and finite seconds, got {self.duration}; use 10")
        nyquist = 0.5 / self.step
        if not self.frequencies or len(set(self.frequencies)) < len(self.frequencies):
            raise ValueError(
                f"signal.frequencies must be different hertz, got {list(self.frequencies)}; use [1, 3, 5, 7]"
            )
        for frequency in self.frequencies:
            if not 0 < frequency < nyquist:
                raise ValueError(
                    f"signal.frequencies must lie between 0 and the grid's Nyquist frequency, {nyquist:.6g} Hz, got {frequency:g}; use more signal.samples"
                )
        if not 0 <= self.amplitude_jitter <= 1:
            raise ValueError(f"signal.amplitude_jitter must lie in 0..1, got {self.amplitude_jitter}; use 0.2")
        if not 0 <= self.phase_jitter <= 1:
            raise ValueError(f"signal.phase_jitter must lie in 0..1 turns, got {self.phase_jitter}; use 0.01")

    @property
    def step(self) -> float:
        """Seconds from one sample to the next: duration / (samples - 1)."""
        return self.duration / (self.samples - 1)

    @property
    def peak(self) -> float:
        """Bound on |S|."""
        return 1 + self.amplitude_jitter

    @property
    def mean_jitter(self) -> complex:
        """E[A exp(i phi)], what the jitter leaves of each tone on average. Its angle is half the largest phi."""
        half = math.pi * self.phase_jitter
        return cmath.exp(1j * half) * (math.sin(half) / half if half else 1.0)

    @property
    def noise_variance(self) -> float:
        """Variance of S about its mean over the jitter, itself averaged over time: (E[A^2] - |mean_jitter|^2) / 2F."""
        return (1 + self.amplitude_jitter**2 / 3 - abs(self.mean_jitter) ** 2) / (2 * len(self.frequencies))

    def times(self, samples: int | None = None) -> np.ndarray:
        """Return the grid in seconds, continued or cut for another number of samples."""
        if samples is None or samples == self.samples:
            return np.linspace(0, self.duration, self.samples)
        return np.arange(samples) * self.step

    def tones(self, shift: float = 0.0, phases: np.ndarray | None = None) -> np.ndarray:
        """Return the clean tones sin(2 pi f_i (t + shift) + p_i), float64 [F, samples].

        Args:
            shift: Seconds.
            phases: p_i in radians, [F], or [F, samples] if interleaved streams have phases of their own.
        """
        angles = 2 * np.pi * np.asarray(self.frequencies)[:, None] * (self.times() + shift)
        return np.sin(angles + (0.0 if phases is None else phases.reshape(len(angles), -1)))

    def mix(
        self,
        random: np.random.RandomState,
        shift: float = 0.0,
        phases: np.ndarray | None = None,
        samples: int | None = None,
    ) -> np.ndarray:
        """Draw one mix, float64 [samples]: for each tone and each sample A, then phi.

        np.random.RandomState(seed), numpy's legacy generator, gives the numbers of np.random.seed(seed) and one call of
        np.random.uniform a number.

        Args:
            random: Source of the jitter.
            shift, phases: As in `tones`.
            samples: None for the grid's own number.
        """
        t = self.times(samples) + shift
        total = np.zeros(len(t))
        low, high = 1 - self.amplitude_jitter, 1 + self.amplitude_jitter
        for i, frequency in enumerate(self.frequencies):
            draws = random.random_sample((len(t), 2))
            amplitude = low + (high - low) * draws[:, 0]
            phase = self.phase_jitter * 2 * np.pi * draws[:, 1]
            own = 0.0 if phases is None else phases[i]
            total += amplitude * np.sin(2 * np.pi * frequency * t + (own + phase))
        return total / len(self.frequencies)

    def sample(self, batch: int, samples: int, generator: torch.Generator, held_out: bool = False) -> Tensor:
        """Draw mixes, float64 [batch, samples], each with its own phases p_i ~ U(0, 2 pi)."""
        seeds = torch.randint(2**32, (batch,), generator=generator).tolist()
        rows = []
        for seed in seeds:
            random = np.random.RandomState(seed)
            phases = random.uniform(0, 2 * np.pi, len(self.frequencies))
            rows.append(self.mix(random, phases=phases, samples=samples))
        return torch.from_numpy(np.stack(rows))
