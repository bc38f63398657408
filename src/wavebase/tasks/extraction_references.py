"""What is known without learning about one tone in a jittered mix: estimators that trained nets stand beside.

Each is causal and takes a mix [samples] to an estimate of every tone, [F, samples], float64. They know the
frequencies and the jitter's mean (`JitteredMix.mean_jitter`), as a net may learn them; only `memoryless` learns.
"""

from __future__ import annotations

import numpy as np

from wavebase.signals.jittered_mix import JitteredMix


def zero(signal: JitteredMix, mix: np.ndarray) -> np.ndarray:
    """Nothing: its mean squared error is the tone's power, 1/2."""
    return np.zeros((len(signal.frequencies), len(mix)))


def memoryless(mix: np.ndarray, seen: np.ndarray, tones: np.ndarray, cells: int = 200) -> np.ndarray:
    """The mean of each tone, in the training data, where the mix had this value: the best function of S(t) alone.

    seen [samples], tones [F, samples]: the training data, in `cells` intervals of S that hold equally many samples.
    """
    edges = np.quantile(seen, np.linspace(0, 1, cells + 1)[1:-1])
    cell, count = np.searchsorted(edges, seen), np.bincount(np.searchsorted(edges, seen), minlength=cells)
    means = np.stack([np.bincount(cell, tone, cells) for tone in tones]) / np.maximum(count, 1)
    return means[:, np.searchsorted(edges, mix)]


def matched_filter(signal: JitteredMix, mix: np.ndarray, window: int) -> np.ndarray:
    """Each tone by correlation of the trailing `window` samples (fewer at the start) with its own cosine and sine.

    Right once the window holds whole periods of all tones, between which correlation then vanishes.
    """
    basis = _basis(signal, len(mix))
    moments = _trailing(basis * mix, window)
    count = np.minimum(np.arange(len(mix)) + 1, window)
    gain = abs(signal.mean_jitter) / len(signal.frequencies)
    return _synthesis(signal, 2 * moments / (count * max(gain, np.finfo(float).tiny)))


def least_squares(signal: JitteredMix, mix: np.ndarray, window: int) -> np.ndarray:
    """All tones together by least squares over the trailing `window` samples (fewer at the start).

    Regularised by what is known before any sample, amplitudes of 1 with unknown phases, against the jitter's own
    variance: without it the first third of a second, where tones cannot be told apart yet, would amplify noise.
    Moments are sums over the window; one 2F x 2F system a sample.
    """
    F = len(signal.frequencies)
    gain = abs(signal.mean_jitter) / F
    basis = gain * _basis(signal, len(mix))
    moments = _trailing(basis * mix, window)
    gram = _trailing((basis[:, None] * basis[None]).reshape(4 * F * F, -1), window).reshape(2 * F, 2 * F, -1)
    prior = max(signal.noise_variance, 1e-12) / 0.5  # noise over a coefficient's variance: that of a cosine's share
    system = np.moveaxis(gram, -1, 0) + prior * np.eye(2 * F)
    return _synthesis(signal, np.linalg.solve(system, moments.T[..., None])[..., 0].T)


def _basis(signal: JitteredMix, samples: int) -> np.ndarray:
    """Sine and cosine of each tone as the jitter leaves them, turned by its mean phase: [2F, samples]."""
    angles = 2 * np.pi * np.asarray(signal.frequencies)[:, None] * signal.times(samples)
    angles += np.angle(signal.mean_jitter)
    return np.concatenate([np.sin(angles), np.cos(angles)])


def _synthesis(signal: JitteredMix, coefficients: np.ndarray) -> np.ndarray:
    """The clean tones of coefficients [2F, samples] that belong to sine and cosine: [F, samples]."""
    angles = 2 * np.pi * np.asarray(signal.frequencies)[:, None] * signal.times(coefficients.shape[1])
    of_sine, of_cosine = np.split(coefficients, 2)
    return of_sine * np.sin(angles) + of_cosine * np.cos(angles)


def _trailing(series: np.ndarray, window: int) -> np.ndarray:
    """Sums over the last `window` samples up to and with each: [..., samples]."""
    sums = np.cumsum(series, -1)
    sums[..., window:] -= sums[..., :-window].copy()
    return sums
