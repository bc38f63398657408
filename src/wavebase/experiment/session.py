"""One run while it runs: what it consists of, what it records at a step, and how it ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wavebase.experiment import parts
from wavebase.experiment.build import Components, measure, snapshot
from wavebase.experiment.config import RunConfig
from wavebase.experiment.drawing import WeightImages, draw_figures
from wavebase.experiment.progress import steps_shown
from wavebase.experiment.restoring import check_content, restore
from wavebase.experiment.summary import describe, objective, summarize
from wavebase.probes import verdict
from wavebase.records.folder import RunFolder
from wavebase.training.loop import Status
from wavebase.training.schedule import LearningRate
from wavebase.training.stacking import stack_key, unstackable_reason
from wavebase.training.trainer import TrainState

log = logging.getLogger("wavebase")
FRESH = 400  # signals to which intervals are fitted, so that chance moves an 80 % interval by 2 %
EXAMPLES = 4  # held-out signals whose outputs a checkpoint and examples.npz keep


class Session:
    """The state of one run.

    Args:
        cfg: The checked configuration; text: what config.yaml holds of it.
        components: Task, model and optimiser, as built.
        folder: Where the records go. Nothing is written before `open`.
        state: The checkpoint to continue from, or None.
        choices: The option chosen in each config group.
        single: Whether to show progress and a full summary on the console.
        settings: What the command line or a sweep sets, by key: the run's row in TensorBoard's HParams.
    """

    def __init__(
        self,
        cfg: RunConfig,
        components: Components,
        folder: RunFolder,
        state: dict[str, Any] | None,
        text: str,
        choices: Mapping[str, str],
        single: bool,
        settings: Mapping[str, Any] | None = None,
    ):
        self.cfg, self.components, self.folder, self.choices, self.single = cfg, components, folder, choices, single
        self.settings = dict(settings or {})
        self.began, self.seconds_before = time.monotonic(), 0.0
        self.start_weights = {name: weight.clone() for name, weight in components.net.named_weights().items()}
        self.before = self._example()
        self.data = cfg.generator("data")
        self.first_step, kept, self.parts = 0, 0, list[parts.Part]()
        self.ended: Status | None = None  # training had ended, but not all of its results were written
        self.values: dict[str, float] = {}
        self.start_values: dict[str, float] = {}
        if state is not None:
            self._restore(state)
            kept = state["metrics_bytes"]
            log.info("%s continues from step %d", folder.path, self.first_step)
        self.parts.append(
            parts.this_part(self.first_step, next(components.net.parameters()).device, self.start_weights)
        )
        for change in parts.changes(self.parts[-2:]):
            log.warning("%s: %s", folder.path.name, change)
        self.probes = cfg.probe.functions("measure")
        cfg.probe.check_figures()
        self.draws = bool(cfg.probe.figures) and (single if cfg.probe.draw is None else cfg.probe.draw)
        self.text, self.kept = text, kept
        construction = components.net.construction
        self.blocks = dict(construction.blocks) if construction else {}
        self.images = WeightImages(folder, self.blocks, self.draws)
        folder.dashboard = None if cfg.probe.dashboard == "all" else self._main_tags()

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        check_content(self.cfg, state, self.folder)
        restore(self.components.net, self.components.optimizer, self.data, state, self.folder)
        self.first_step, self.seconds_before = state["step"], state["seconds"]
        self.values, self.start_values = dict(state["values"]), dict(state["start_values"])
        self.ended = state["ended"]
        self.parts = list(state.get("parts", []))  # version 0.1 had none

    def stack_key(self, number: int) -> Any:
        """Return what sessions must share to be trained together: `number`, which is shared with none, for a model
        that cannot be stacked."""
        reason = getattr(self.components.net, "unstackable_reason", None) or unstackable_reason(
            self.components.optimizer
        )
        if reason:
            log.info("%s runs alone: %s", self.folder.path.name, reason)
            return number
        return stack_key(self.train_state()), self.cfg.train, self.cfg.probe.every, self.cfg.threads

    def open(self) -> None:
        """Lock the folder and start writing records."""
        self.folder.start(self.text, self.kept)
        try:
            self.folder.events.start_session(self.settings)
            # after the tag "verdict" in the alphabet, in which TensorBoard lists texts
            self.folder.events.text("weights/parameters", self.first_step, parameter_table(self.components.net))
            self.images.keep(self.first_step, self.components.net.named_weights())
            if self.start_values:
                self._lay_out()
        except BaseException:
            self.folder.abandon()
            raise

    def train_state(self) -> TrainState:
        """Return this run as the training loop sees it."""
        cfg, built = self.cfg, self.components
        rate = LearningRate(built.learning_rate, built.settings.schedule, cfg.train.steps, built.settings.warmup)
        return TrainState(
            net=built.net, task=built.task, trained=built.trained, optimizer=built.optimizer, learning_rate=rate,
            clip_norm=built.settings.clip_norm, data=self.data, record=self.folder.log, observe=self._observe,
            save=self._save,
        )  # fmt: skip

    def progress(self, members: int = 1, name: str | None = None) -> Any:
        """Return the steps to take, as a context that shows how far they are.

        Args:
            members: Runs that are trained together with this one, itself included.
            name: What progress lines call them; the folder's name by default, and nothing for a single run.
        """
        steps = range(self.first_step, self.cfg.train.steps + 1)
        if name is None:
            name = "" if self.single else self.folder.path.name
            name += f" and {members - 1} more" if members > 1 else ""
        return steps_shown(steps, name, self.single, lambda: self.values)

    def interrupt(self, step: int) -> None:
        """Record that the run is not finished; its checkpoint is written."""
        self.folder.finish(
            {"choices": dict(self.choices), "status": "interrupted", "steps": step, "seed": self.cfg.seed}
        )

    def end(self, status: Status, step: int) -> None:
        """Save that training has ended, with its last observation: a run continued from here has only to finish."""
        self._save(step, status)

    def finish(self, status: Status, step: int, seconds: float) -> float | None:
        """Judge, draw and write summary.json.

        Args:
            status: How training ended, at `step`, after `seconds` in this process.

        Returns:
            The value of the run; see `summary.objective`.
        """
        judgement = verdict.judge_run(self.start_values, self.values, self.cfg.probe.verdict)
        if status == "diverged" or judgement.name == "diverged":
            status, judgement = "diverged", verdict.stopped(judgement)
        self._save_examples()
        self.images.draw()
        self.images.keep(step, self.components.net.named_weights())
        self.images.draw()
        self.folder.events.text("verdict", step, f"**{judgement.name}**: " + "; ".join(judgement.reasons))
        summary = summarize(
            self.cfg, self.components, self.choices, status, judgement, self.start_values, self.values, step,
            seconds, self._seconds(), self.parts,
        )  # fmt: skip
        self.folder.events.end_session(status == "done")
        self.folder.close()
        if self.draws:
            draw_figures(self.cfg.probe, self.folder, summary)
        self.folder.finish(summary)
        log.info("%s", describe(summary, self.folder.path, short=not self.single))
        return objective(summary)

    def _main_tags(self) -> list[str]:
        """Return the tags that TensorBoard shows of this run beside those of `events.MAIN`: drift, whole and of intended blocks."""
        weight = self.cfg.probe.verdict.weight
        construction = self.components.net.construction
        mask = construction.mask.get(weight) if construction else None
        pairs = [(a, b) for a in self.blocks for b in self.blocks] if mask is not None else []
        wanted = [(a, b) for a, b in pairs if mask[self.blocks[a], self.blocks[b]].any()]  # type: ignore[index]
        return [f"drift/{weight}", *(f"drift/{weight}/{to}_from_{source}" for to, source in wanted)]

    def _observe(self, step: int) -> None:
        """Give a snapshot to every probe and record their values."""
        self.values = measure(self.probes, snapshot(self.components, self.start_weights, step))
        if step == 0:
            self.values = {**self.components.boundary.values(), **self.values}
            if self.components.noise_error is not None:
                self.values["noise/predicted_error"] = self.components.noise_error
            self.start_values = dict(self.values)
            self._lay_out()
        self.folder.log(step, {**self.values, **self._references()})

    def _references(self) -> dict[str, float]:
        """Return what the values are compared with: losses of constant predictions, and the curvature still stable."""
        references = {f"baseline/{name}": loss for name, loss in self.components.task.baselines.items()}
        rate = self.components.optimizer.param_groups[0]["lr"]
        if self.components.boundary.curvatures.lambda_max is not None or "curvature/lambda_max" in self.values:
            references |= self.components.boundary.reference(rate)
        return references

    def _lay_out(self) -> None:
        tags = [*self.start_values, *self._references(), "loss/train", "optim/lr"]
        self.folder.events.charts(tags, self.cfg.probe.verdict.weight)

    def _save(self, step: int, ended: Status | None = None) -> None:
        built = self.components
        if step > self.first_step:
            self.images.draw()
        self.folder.save_checkpoint(
            step,
            {
                "net": built.net.state_dict(),
                "weights": built.net.named_weights(),
                "blocks": {name: [units.start, units.stop] for name, units in self.blocks.items()},
                "optimizer": built.optimizer.state_dict(),
                "data": self.data.get_state(),
                "learning_rate": built.learning_rate,
                "curvatures": built.boundary.curvatures._asdict(),
                "seconds": self._seconds(),
                "values": self.values,
                "start_values": self.start_values,
                "ended": ended,
                "parts": self.parts,
                "recording_sha256": built.recording,
                "start_sha256": built.start,
                "example": None if hasattr(built.task, "examples") else self._example(EXAMPLES),  # what `look` shows
            },
            self.cfg.train.keep_checkpoints,
        )

    def _save_examples(self) -> None:
        """Store the first rows of the held-out set, or what the task chooses, for the figures."""
        task = self.components.task
        signal, target = task.held_out["training"]
        rows = {"signal": signal, "target": target, "before": self.before, "after": self._example()}
        kept = (
            task.examples(rows) if hasattr(task, "examples") else {name: part[:EXAMPLES] for name, part in rows.items()}
        )
        if getattr(self.components.net, "probabilistic", False):
            kept["interval"] = self._interval(signal[:EXAMPLES])
        self.folder.save_examples({name: part.cpu().numpy() for name, part in kept.items()})

    def _interval(self, past: Tensor) -> Tensor:
        """Return 95 % intervals of a probabilistic forecaster, fitted to fresh signals, [B, 2, H]."""
        net, task = self.components.net, self.components.task
        fresh = task.signal.sample(FRESH, task.lookback + task.horizon, self.cfg.generator("perturbation")).to(past)
        net.fit_spread(fresh[:, : task.lookback], fresh[:, task.lookback :])
        return net.quantiles(past, (0.025, 0.975)).movedim(0, 1)

    def _example(self, most: int | None = None) -> Tensor:
        """Return the outputs on the held-out training signals, or on the first `most` of them."""
        with torch.no_grad():
            return self.components.net(self.components.task.held_out["training"][0][:most])

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.began


def parameter_table(net: nn.Module) -> str:
    """Return every parameter's shape and count, whether it is trained, and the sum, as a Markdown table."""
    rows = [
        f"| {name} | {' x '.join(map(str, p.shape)) or '1'} | {p.numel()} | {'yes' if p.requires_grad else 'no'} |"
        for name, p in net.named_parameters()
    ]
    total = sum(p.numel() for p in net.parameters())
    return "\n".join(["| parameter | shape | count | trained |", "|---|---|---|---|", *rows, f"| all | | {total} | |"])
