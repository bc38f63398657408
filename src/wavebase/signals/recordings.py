"""A recording from disk as a signal."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from wavebase.registry import registered
from wavebase.signals.recording_files import content_sha256, read_recording

LEAST_T = 2  # samples of the shortest window


@registered
class Recording:
    """Random stretches of one recording, scaled so that its largest |x| is `amplitude`.

    Training samples the first part of the recording alone, and held-out sets sample the rest alone.

    Args:
        path: A .wav, .npy or .csv file, or `wavebase:NAME` for one that ships; see `read_recording`.
        T: Samples of a window. Both parts must be at least this long.
        channel: Channel of a .wav, column of a two-dimensional .npy or of a .csv; a .csv column also by name.
        amplitude: Largest |x| after scaling.
        held_out_fraction: Proportion of the recording, at its end, that is held out.
        remove_mean: Whether to subtract the mean of the training part before scaling. An offset would otherwise hold most
            of the energy. conf/signal/file.yaml sets it; stored configurations of older runs lack it and keep the offset.

    Raises:
        ValueError: For a wrong setting, and for a file that cannot be read, is too short, holds samples that are not
            finite, or is silent (with remove_mean: constant) in either part.
    """

    def __init__(
        self,
        path: str,
        T: int,
        channel: int | str = 0,
        amplitude: float = 1.0,
        held_out_fraction: float = 0.2,
        remove_mean: bool = False,
    ):
        if not (math.isfinite(amplitude) and amplitude > 0):
            raise ValueError(f"signal.amplitude must be positive and finite, got {amplitude}; use 1.0")
        if not 0 < held_out_fraction < 1:
            raise ValueError(f"signal.held_out_fraction must lie between 0 and 1, got {held_out_fraction}; use 0.2")
        samples, self.sample_rate = read_recording(path, channel)
        self.sha256 = content_sha256(path)
        if not np.isfinite(samples).all():
            bad = int(np.flatnonzero(~np.isfinite(samples))[0])
            raise ValueError(
                f"signal.path must hold finite samples, got {samples[bad]} at sample {bad} of {path}; clean the file"
            )
        if not samples.any():
            raise ValueError(
                f"signal.path must hold a signal, got only zeros in {path}; choose another channel or file"
            )
        split = int(len(samples) * (1 - held_out_fraction))
        shortest = min(split, len(samples) - split)
        if shortest < T:
            smaller = f"T={shortest} or less, or " if shortest >= LEAST_T else ""
            raise ValueError(
                f"T must fit both parts of the recording, got T={T} for {split} training and {len(samples) - split} "
                f"held-out samples of {path}; use {smaller}a longer recording"
            )
        for part, use in ((samples[:split], "trained on"), (samples[split:], "held out")):
            _check_not_silent(part, use, path, remove_mean)
        if remove_mean:
            samples = samples - samples[:split].mean()
        scaled = torch.from_numpy(np.ascontiguousarray(samples)) * (amplitude / float(np.abs(samples).max()))
        self._training, self._held_out = scaled[:split], scaled[split:]
        self.peak = amplitude

    def sample(self, batch: int, samples: int, generator: torch.Generator, held_out: bool = False) -> Tensor:
        """Draw stretches that start anywhere in the training part or the held-out part.

        Returns:
            float64 [batch, samples].

        Raises:
            ValueError: If the part is shorter than `samples`.
        """
        part = self._held_out if held_out else self._training
        if samples > len(part):
            raise ValueError(
                f"samples must fit the recording's part of {len(part)}, got {samples}; use fewer task.windows"
            )
        starts = torch.randint(len(part) - samples + 1, (batch, 1), generator=generator)
        return part[starts + torch.arange(samples)]


def _check_not_silent(part: np.ndarray, use: str, path: str, remove_mean: bool) -> None:
    if not part.any():
        raise ValueError(
            f"signal must not be silent where it is {use}, got only zeros in {len(part)} samples of {path}; cut them off"
        )
    if remove_mean and np.ptp(part) == 0:
        raise ValueError(
            f"signal must vary where it is {use}, got only {part[0]:g} in {len(part)} samples of {path}; use signal.remove_mean=false"
        )
