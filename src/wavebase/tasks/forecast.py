"""Continue a signal: the next samples from those before them."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor

from wavebase.registry import registered
from wavebase.signals import Signal
from wavebase.signals.scaled_future import expected, scaled_oracle
from wavebase.statistics import nmse
from wavebase.tasks.base import Batch, require_at_least, require_signal


@registered
class Forecast:
    """Predict the `horizon` samples after `lookback` samples. Evaluation is free-running, however the net is trained.

    `held_out["training"]` is a fixed set, drawn from `probe_generator` alone. With teacher forcing,
    `held_out["teacher_forced"]` shows the net the truth. `baselines` are the losses of two constant predictions: zero, and
    the mean of each step. An output shorter than the target is compared with the target's end.

    Args:
        signal: What is forecast. It must know its components for target=clean and for a curriculum.
        dtype, device, probe_generator: Supplied by the run.
        lookback, horizon: Samples.
        training: free_running, the input is the past alone; teacher_forced, the net also reads the true sample before each
            one that it predicts.
        target: What training aims at. observed, the samples; clean, the samples without their noise; expected, their mean given
            the past and the signal without noise; oracle, the forecast of one that knows the periods, the noise and that the
            largest |x| is 1 (`signals.scaled_future`). All have the same expectation given the past, but for that of clean,
            which ignores the noise's part in the scaling, and less and less variance. The held-out target is always
            observed.
        weights: Weights of the squared errors of the steps h = 1..horizon, equal or falling as 1/h (mean 1).
        curriculum: Training steps over which the greatest number of components rises from the least to the signal's own.
        held_out_count: Number of held-out signals.

    Raises:
        ValueError: For a setting out of range, or one that the signal does not allow.
    """

    mean_over_sequences = True

    def __init__(
        self,
        signal: Signal,
        dtype: torch.dtype,
        device: torch.device,
        probe_generator: torch.Generator,
        *,
        lookback: int = 100,
        horizon: int = 5,
        training: Literal["free_running", "teacher_forced"] = "free_running",
        target: Literal["observed", "clean", "expected", "oracle"] = "observed",
        weights: Literal["equal", "falling"] = "equal",
        curriculum: int = 0,
        held_out_count: int = 2000,
    ):
        least = {"lookback": 2, "horizon": 1, "curriculum": 0, "held_out_count": 2}
        require_at_least(
            least, lookback=lookback, horizon=horizon, curriculum=curriculum, held_out_count=held_out_count
        )
        if (target != "observed" or curriculum) and not hasattr(signal, "draw"):
            raise ValueError(
                f"task.target={target} and task.curriculum={curriculum} need a signal that knows its components, got another; use signal=harmonics"
            )
        if target in ("expected", "oracle") and training == "teacher_forced":
            raise ValueError(
                f"task.target={target} has no past to force, got task.training=teacher_forced; use target=clean"
            )
        self.signal, self.lookback, self.horizon = signal, lookback, horizon
        self.training, self.weights = training, weights
        self.target, self.curriculum, self.dtype, self.device = target, curriculum, dtype, device
        h = torch.arange(1, horizon + 1, dtype=torch.float64)
        step = torch.ones_like(h) if weights == "equal" else (1 / h) / (1 / h).mean()
        self.step_weight = step.to(device, dtype)
        self.sizes: dict[str, Any] = {"lookback": lookback, "horizon": horizon}
        drawn = signal.sample(held_out_count, lookback + horizon, probe_generator, held_out=True).to(device, dtype)
        past, future = drawn[:, :lookback], drawn[:, lookback:]
        self.held_out = {"training": Batch(past, future)}
        if training == "teacher_forced":
            self.held_out["teacher_forced"] = Batch((past, future), drawn[:, 1:])
        zero, mean = torch.zeros_like(future), future.mean(0).expand_as(future)
        losses = {name: self.loss(guess, future).item() for name, guess in (("zero", zero), ("mean", mean))}
        self.baselines = require_signal(losses)

    def sample_batch(self, batch: int, generator: torch.Generator, step: int = 0) -> Batch:
        """Draw a fresh batch of the training signal; `step` is its place in the curriculum."""
        signal: Any = self.signal
        if step < self.curriculum:
            fewest, most = signal.components
            signal = dataclasses.replace(
                signal, components=(fewest, fewest + (most - fewest) * step // self.curriculum)
            )
        samples = self.lookback + self.horizon
        if self.device.type != "cpu" and hasattr(signal, "draw"):  # draw there, from a seed drawn here
            seed = int(torch.randint(2**62, (), generator=generator))
            generator = torch.Generator(self.device).manual_seed(seed)
        if self.target in ("expected", "oracle"):
            drawn = signal.draw(batch, samples, generator)
            past = drawn.signal[:, : self.lookback].to(self.device, self.dtype)
            if self.target == "expected":
                aim = expected(drawn, self.lookback)
            else:
                aim = scaled_oracle(drawn, self.lookback, signal.periods, generator)
            return Batch(past, aim.to(self.device, self.dtype))
        if self.target == "clean":
            drawn = signal.draw(batch, samples, generator)
            x, aim = drawn.signal.to(self.device, self.dtype), drawn.clean.to(self.device, self.dtype)
        else:
            x = aim = signal.sample(batch, samples, generator).to(self.device, self.dtype)
        past = x[:, : self.lookback]
        if self.training == "teacher_forced":
            return Batch((past, x[:, self.lookback :]), aim[:, 1:])
        return Batch(past, aim[:, self.lookback :])

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared error over signals and steps, the steps of the horizon weighted by `weights`."""
        steps = output.shape[-1]
        squares = (output - target[..., -steps:]).square()
        if steps == self.horizon:
            squares = squares * self.step_weight
        return squares.mean()

    def residuals(self, output: Tensor, target: Tensor) -> Tensor:
        """Return numbers whose squares add up to the loss."""
        steps = output.shape[-1]
        errors = output - target[..., -steps:]
        if steps == self.horizon:
            errors = errors * self.step_weight**0.5
        return errors / errors.numel() ** 0.5

    def check_output(self, output: Tensor, target: Tensor) -> None:
        """Check that the output is the target, or its last steps.

        Raises:
            ValueError: For another shape.
        """
        if output.ndim != 2 or len(output) != len(target) or not self.horizon <= output.shape[1] <= target.shape[1]:
            raise ValueError(
                f"the model's output must be {list(target.shape)} or its last {self.horizon} steps or more, got {list(output.shape)}; choose another model="
            )

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """Compare outputs with targets, [signals, steps].

        Returns:
            nmse, sum (output - target)^2 / sum target^2 over signals and steps; nmse_low and nmse_high, its 95 % interval
            (delta method over signals); nmse_1, ... at each step of the horizon; relative_error, its root;
            mean_squared_error.
        """
        target = target[..., -output.shape[-1] :].double()
        errors, sizes = (output.double() - target).square(), target.square()
        found = nmse(errors, sizes)
        values = {
            "relative_error": found.value**0.5,
            "nmse": found.value,
            "nmse_low": found.low,
            "nmse_high": found.high,
            "mean_squared_error": errors.mean().item(),
        }
        if output.shape[-1] == self.horizon:
            steps = (errors.sum(0) / sizes.sum(0)).tolist()
            values |= {f"nmse_{h}": value for h, value in enumerate(steps, 1)}
        return values
