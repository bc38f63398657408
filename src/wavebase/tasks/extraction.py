"""Extract the tone that a selector names from a jittered mix, sample by sample: a stream, cut for training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from wavebase.registry import registered
from wavebase.signals.jittered_mix import JitteredMix
from wavebase.tasks import extraction_references as references
from wavebase.tasks.base import Batch, SquaredErrorTask


@dataclass(frozen=True)
class Lanes:
    """How series of F tones by `samples` become B lanes of N steps, which a net reads side by side.

    Args:
        tones, samples: F, and the samples of each tone.
        lanes: B.
        selectors: blocked, the tones follow each other in one stream of F * samples, so that each lane meets every selector;
            interleaved, every tone has its own lanes (B a multiple of F) and all are read at once.
        layout: strided, neighbouring samples go to neighbouring lanes, so that a lane sees every B-th (of its tone's lanes);
            contiguous, a lane is one stretch of the stream.

    Raises:
        ValueError: For numbers that do not divide.
    """

    tones: int
    samples: int
    lanes: int
    selectors: Literal["blocked", "interleaved"] = "interleaved"
    layout: Literal["strided", "contiguous"] = "strided"

    def __post_init__(self) -> None:
        streams = self.streams
        if self.lanes < 1 or self.lanes % streams:
            raise ValueError(
                f"train.batch must be a positive multiple of the {streams} streams that are read at once, got {self.lanes}; use {streams * max(1, self.lanes // streams)}"
            )
        stream = self.tones * self.samples // streams
        if stream % (self.lanes // streams):
            raise ValueError(
                f"signal.samples must make streams of whole lanes, got a stream of {stream} samples for {self.lanes // streams} lanes; use another train.batch"
            )

    @property
    def streams(self) -> int:
        """Number of streams read at once: 1 if selectors are blocked, F if interleaved."""
        return 1 if self.selectors == "blocked" else self.tones

    @property
    def of_a_tone(self) -> int:
        """Number of lanes that share the samples of one tone; 1 if selectors are blocked, because a lane meets all tones."""
        return 1 if self.selectors == "blocked" else self.lanes // self.tones

    @property
    def stride(self) -> int:
        """Number of samples from one step of a lane to the next."""
        return self.lanes // self.streams if self.layout == "strided" else 1

    @property
    def steps(self) -> int:
        """Number N of steps of a lane."""
        return self.tones * self.samples // self.lanes

    def rows(self, series: Tensor) -> Tensor:
        """Cut series [..., F, samples] into rows [..., B, N]."""
        streams = series.flatten(-2)[..., None, :] if self.selectors == "blocked" else series
        if self.layout == "strided":
            return streams.unflatten(-1, (self.steps, -1)).mT.flatten(-3, -2)
        return streams.unflatten(-1, (-1, self.steps)).flatten(-3, -2)

    def series(self, rows: Tensor) -> Tensor:
        """Join rows [..., B, N] to series [..., F, samples], the inverse of `rows`."""
        streams = rows.unflatten(-2, (self.streams, -1))
        streams = (streams.mT if self.layout == "strided" else streams).flatten(-2)
        return streams.flatten(-2).unflatten(-1, (self.tones, self.samples))


@registered
class Extraction(SquaredErrorTask):
    """Extract a clean tone, with its own phase, from a sample of the mix and a one-hot selector.

    Training reads the mix of `train_seed` along `lanes` in order, `unroll` steps at a time, without end. The state is carried
    from one batch to the next, detached, and reset where the stream starts again (an epoch).

    `held_out` sets are [rows, steps, 1 + F] and read from rest: training, the mix of `test_seed` in the lanes of training;
    seen, that of `train_seed`; shifted, `test_seed` and the tones `shift` seconds later; random_phases, `held_out_count`
    mixes with random phases; stream, `test_seed` sample by sample, one row a tone. `baselines` are mean squared errors on
    the set training: zero, mean (of each tone), and those of `extraction_references`.

    Args:
        signal: `JitteredMix` of F tones.
        T: Samples of the trailing window of the references. Errors after it are also counted alone (`_after`). 1000 samples
            are one second of the default grid.
        dtype, device, probe_generator: Supplied by the run.
        lanes: train.batch; with `layout` and `selectors` see `Lanes`.
        unroll: Steps of a batch.
        selected: Numbers of the tones that are asked for; None: all.
        phases: fixed, all tones have phase 0 and every epoch is the same; random, every epoch draws jitter, and phases of
            each lane of a tone, from the generator's seed and the epoch's number alone.
        train_seed, test_seed: Of the two mixes.
        shift: Seconds.
        held_out_count: Mixes in random_phases.

    Raises:
        ValueError: For another signal, and for settings out of range or that do not divide.
    """

    def __init__(
        self,
        signal: Any,
        T: int,
        dtype: torch.dtype,
        device: torch.device,
        probe_generator: torch.Generator,
        lanes: int,
        *,
        unroll: int = 1,
        layout: Literal["strided", "contiguous"] = "strided",
        selectors: Literal["blocked", "interleaved"] = "interleaved",
        selected: list[int] | None = None,
        phases: Literal["fixed", "random"] = "fixed",
        train_seed: int = 1,
        test_seed: int = 2,
        shift: float = 0.37,
        held_out_count: int = 32,
    ):
        if not isinstance(signal, JitteredMix):
            raise ValueError(
                f"task=extraction must have signal=jittered_mix, whose tones are known, got {type(signal).__name__}; set it"
            )
        F, samples = len(signal.frequencies), signal.samples
        self.selected = list(range(F)) if selected is None else selected
        if not self.selected or len(set(self.selected)) < len(self.selected) or not set(self.selected) <= set(range(F)):
            raise ValueError(
                f"task.selected must be different numbers of tones in 0..{F - 1}, got {selected}; use null"
            )
        asked = len(self.selected)
        self.lanes, self.whole = Lanes(asked, samples, lanes, selectors, layout), Lanes(asked, samples, asked)
        _check_lanes(self.lanes, signal, unroll)
        if not 1 <= T < samples:
            raise ValueError(f"T must lie in 1..{samples - 1}, a window within the mix, got {T}; use T=1000")
        for name, seed in (("train_seed", train_seed), ("test_seed", test_seed)):
            if not 0 <= seed < 2**32:
                raise ValueError(f"task.{name} must lie in 0..2^32-1, got {seed}; use 1")
        if held_out_count < 1:
            raise ValueError(f"task.held_out_count must be at least 1, got {held_out_count}; use 32")
        self.signal, self.T, self.unroll, self.phases = signal, T, unroll, phases
        self.dtype, self.device = dtype, device
        self.sizes: dict[str, Any] = {"T": T, "signal": signal, "lanes": lanes, "unroll": unroll}

        seen, test = (signal.mix(np.random.RandomState(seed)) for seed in (train_seed, test_seed))
        tones = signal.tones()[self.selected]
        self._seen = seen, tones
        later = signal.mix(np.random.RandomState(test_seed), shift)
        seeds = torch.randint(2**32, (held_out_count,), generator=probe_generator).tolist()
        mixes, drawn = (np.stack(part) for part in zip(*map(self._draw, seeds), strict=True))
        self.held_out = {
            "training": self._pair(test, tones),
            "seen": self._pair(seen, tones),
            "shifted": self._pair(later, signal.tones(shift)[self.selected]),
            "random_phases": self._pair(mixes, drawn),
            "stream": self._pair(test, tones, self.whole),
        }
        self._epoch: tuple[tuple[int, int] | None, Batch] = (None, self.held_out["seen"])
        self.baselines = {name: whole for name, (whole, _) in self.reference_errors("training").items()}

    def sample_batch(self, batch: int, generator: torch.Generator, step: int = 0) -> Batch:
        """Return the `unroll` steps of every lane that this step of training reads.

        Raises:
            ValueError: For another batch than the lanes.
        """
        if batch != self.lanes.lanes:
            raise ValueError(
                f"a batch must be the {self.lanes.lanes} lanes of train.batch, got {batch}; use probe.curvature_batch=${{train.batch}}"
            )
        epoch, part = divmod(step, self.lanes.steps // self.unroll)
        if self.phases == "random" and self._epoch[0] != (generator.initial_seed(), epoch):
            words = np.random.SeedSequence([generator.initial_seed(), epoch]).generate_state(1)
            self._epoch = (generator.initial_seed(), epoch), self._pair(*self._draw(int(words[0]), self.lanes))
        now = slice(part * self.unroll, (part + 1) * self.unroll)
        rows, target = (tensor[:, now] for tensor in self._epoch[1])
        return Batch((rows, torch.tensor(float(part > 0), dtype=self.dtype, device=self.device)), target)

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """Compare outputs with targets, both [rows, steps, 1].

        Returns:
            relative_error, ||output - target|| / ||target||; mean_squared_error; the same from sample T on (_after); and
            that of each tone (such as _3Hz).
        """
        square = self._series(output - target, self._in_time(target)).square()
        tones = [self.signal.frequencies[n] for n in self.selected]
        return {
            "relative_error": (square.mean() / target.double().square().mean()).sqrt().item(),
            "mean_squared_error": square.mean().item(),
            "mean_squared_error_after": square[..., self.T :].mean().item(),
            **{f"mean_squared_error_{tone:g}Hz": square[:, n].mean().item() for n, tone in enumerate(tones)},
        }

    def reference_errors(self, name: str) -> dict[str, tuple[float, float]]:
        """Return the mean squared errors of each reference on a held-out set, whole and from sample T on."""
        rows, target = self.held_out[name]
        series = (self._series(part, name == "stream").cpu().numpy() for part in (rows[..., :1], target))
        mixes, tones = next(series)[:, 0], next(series)
        estimates = {
            "zero": np.zeros_like(tones),
            "mean": np.broadcast_to(tones.mean(-1, keepdims=True), tones.shape),
            "memoryless": np.stack([references.memoryless(mix, *self._seen) for mix in mixes]),
        }
        for reference in (references.matched_filter, references.least_squares):
            found = [reference(self.signal, mix, self.T)[self.selected] for mix in mixes]
            estimates[reference.__name__] = np.stack(found)
        squares = {name: np.square(estimate - tones) for name, estimate in estimates.items()}
        return {name: (float(s.mean()), float(s[..., self.T :].mean())) for name, s in squares.items()}

    def examples(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what a run stores of the set training for its figures, in time.

        Returns:
            signal, the mix [samples]; target, before, after and least_squares, [tones, samples]; seconds [samples]; hertz
            [tones].
        """
        kept = {name: self._series(part[..., :1])[0].cpu() for name, part in rows.items()}
        mix = kept["signal"] = kept["signal"][0]
        estimate = references.least_squares(self.signal, mix.numpy(), self.T)[self.selected]
        hertz = torch.tensor([self.signal.frequencies[n] for n in self.selected])
        return {
            **kept,
            "least_squares": torch.from_numpy(estimate),
            "seconds": torch.from_numpy(self.signal.times()),
            "hertz": hertz,
        }

    def _series(self, rows: Tensor, in_time: bool = False) -> Tensor:
        """Put one channel [rows, steps, 1] in the order of time: float64 [mixes, tones, samples]."""
        lanes = self.whole if in_time else self.lanes
        return lanes.series(rows.double().squeeze(-1).unflatten(0, (-1, lanes.lanes)))

    def _in_time(self, target: Tensor) -> bool:
        """Whether rows are whole tones in time, as in the set stream, and not lanes.

        The length of the rows decides. One lane a tone is as long as the tone; if these lanes are cut otherwise (strided
        and blocked), the values decide.
        """
        if target.shape[1] != self.whole.steps or self.lanes.steps != self.whole.steps:
            return target.shape[1] == self.whole.steps
        stream = self.held_out["stream"].target
        return target.shape == stream.shape and torch.equal(target.to(stream), stream)

    def _draw(self, seed: int, lanes: Lanes | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draw a mix [samples] with random phases, and its selected tones [tones, samples].

        With `lanes` each lane of a tone has its own phases, as if it were cut from another mix.
        """
        random = np.random.RandomState(seed)
        phases = random.uniform(0, 2 * np.pi, (len(self.signal.frequencies), 1 if lanes is None else lanes.of_a_tone))
        if lanes is not None:
            share = self.signal.samples // lanes.of_a_tone
            phases = np.tile(phases, share) if lanes.layout == "strided" else np.repeat(phases, share, 1)
        return self.signal.mix(random, phases=phases), self.signal.tones(phases=phases)[self.selected]

    def _pair(self, mix: np.ndarray, tones: np.ndarray, lanes: Lanes | None = None) -> Batch:
        """Cut mixes [..., samples] and their tones [..., tones, samples] into rows."""
        lanes = lanes or self.lanes
        target = torch.from_numpy(tones)
        one_hot = torch.eye(len(self.signal.frequencies), dtype=torch.float64)[self.selected].mT
        channels = [torch.from_numpy(mix)[..., None, :].expand_as(target)]
        channels += [which[:, None].expand_as(target) for which in one_hot]
        rows, target = lanes.rows(torch.stack(channels)).movedim(0, -1), lanes.rows(target)[..., None]
        return Batch(*(part.flatten(0, -3).to(self.device, self.dtype).contiguous() for part in (rows, target)))


def _check_lanes(lanes: Lanes, signal: JitteredMix, unroll: int) -> None:
    nyquist = 0.5 / (signal.step * lanes.stride)
    if max(signal.frequencies) >= nyquist:
        raise ValueError(
            f"signal.frequencies must lie below the lanes' Nyquist frequency, {nyquist:.4g} Hz, got {max(signal.frequencies):g}; use a smaller train.batch"
        )
    if unroll < 1 or lanes.steps % unroll:
        raise ValueError(
            f"task.unroll must be at least 1 and divide the lane length of {lanes.steps} steps, got {unroll}; use 1"
        )
