"""Classical estimators of the tones in a jittered mix, which trained nets are compared with.

Each is causal and maps a mix [samples] to an estimate of every tone, float64 [F, samples]. They know the frequencies and
the jitter's mean (`JitteredMix.mean_jitter`), which a net may learn; only `memoryless` learns.
"""

from __future__ import annotations

import numpy as np

from wavebase.signals.jittered_mix import JitteredMix


def zero(signal: JitteredMix, mix: np.ndarray) -> np.ndarray:
    """Estimate zero. The mean squared error is the tone's power, 1/2."""
    return np.zeros((len(signal.frequencies), len(mix)))


def memoryless(mix: np.ndarray, seen: np.ndarray, tones: np.ndarray, cells: int = 200) -> np.ndarray:
    """Estimate each tone by its mean in the training data where the mix had this value: the best function of S(t) alone.

    Args:
        mix: [samples].
        seen, tones: The training data, [samples] and [F, samples].
        cells: Intervals of S, which hold equally many samples.
    """
    edges = np.quantile(seen, np.linspace(0, 1, cells + 1)[1:-1])
    cell, count = np.searchsorted(edges, seen), np.bincount(np.searchsorted(edges, seen), minlength=cells)
    means = np.stack([np.bincount(cell, tone, cells) for tone in tones]) / np.maximum(count, 1)
    return means[:, np.searchsorted(edges, mix)]


def matched_filter(signal: JitteredMix, mix: np.ndarray, window: int) -> np.ndarray:
    """Estimate each tone by correlating the trailing `window` samples (fewer at the start) with its cosine and sine.

    It is correct once the window holds whole periods of all tones, because they are then uncorrelated.
    """
    basis = _basis(signal, len(mix))
    moments = _trailing(basis * mix, window)
    count = np.minimum(np.arange(len(mix)) + 1, window)
    gain = abs(signal.mean_jitter) / len(signal.frequencies)
    return _synthesis(signal, 2 * moments / (count * max(gain, np.finfo(float).tiny)))


def least_squares(signal: JitteredMix, mix: np.ndarray, window: int) -> np.ndarray:
    """Estimate all tones together by least squares over the trailing `window` samples (fewer at the start).

    The prior (amplitudes of 1, unknown phases) is weighed against the jitter's variance. Without it the first third of a
    second, in which tones cannot be separated yet, would amplify noise. Each sample is one 2F x 2F system of sums over the
    window.
    """
    F = len(signal.frequencies)
    gain = abs(signal.mean_jitter) / F
    basis = gain * _basis(signal, len(mix))
    moments = _trailing(basis * mix, window)
    gram = _trailing((basis[:, None] * basis[None]).reshape(4 * F * F, -1), window).reshape(2 * F, 2 * F, -1)
    prior = max(signal.noise_variance, 1e-12) / 0.5  # noise over a coefficient's variance
    system = np.moveaxis(gram, -1, 0) + prior * np.eye(2 * F)
    return _synthesis(signal, np.linalg.solve(system, moments.T[..., None])[..., 0].T)


def _basis(signal: JitteredMix, samples: int) -> np.ndarray:
    """Return sine and cosine of each tone, turned by the jitter's mean phase: [2F, samples]."""
    angles = 2 * np.pi * np.asarray(signal.frequencies)[:, None] * signal.times(samples)
    angles += np.angle(signal.mean_jitter)
    return np.concatenate([np.sin(angles), np.cos(angles)])


def _synthesis(signal: JitteredMix, coefficients: np.ndarray) -> np.ndarray:
    """Return the clean tones [F, samples] of coefficients [2F, samples] of sine and cosine."""
    angles = 2 * np.pi * np.asarray(signal.frequencies)[:, None] * signal.times(coefficients.shape[1])
    of_sine, of_cosine = np.split(coefficients, 2)
    return of_sine * np.sin(angles) + of_cosine * np.cos(angles)


def _trailing(series: np.ndarray, window: int) -> np.ndarray:
    """Return sums over the last `window` samples up to and including each: [..., samples]."""
    sums = np.cumsum(series, -1)
    sums[..., window:] -= sums[..., :-window].copy()
    return sums
