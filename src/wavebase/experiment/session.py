"""One run while it runs: what it holds, what it records at a step, and how it ends."""

from __future__ import annotations

import dataclasses
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wavebase import console
from wavebase.experiment.build import Components, measure, snapshot
from wavebase.experiment.config import RunConfig
from wavebase.experiment.summary import describe
from wavebase.figures.common import png
from wavebase.figures.weights import weight_image
from wavebase.probes import verdict
from wavebase.records import provenance
from wavebase.records.folder import RunFolder
from wavebase.training.loop import Status
from wavebase.training.optimizers import load_state
from wavebase.training.schedule import LearningRate
from wavebase.training.stacking import stack_key, unstackable_reason
from wavebase.training.trainer import TrainState

log = logging.getLogger("wavebase")


class Session:
    """The state of one run while it runs."""

    def __init__(
        self,
        cfg: RunConfig,
        components: Components,
        folder: RunFolder,
        state: dict[str, Any] | None,
        text: str,
        choices: Mapping[str, str],
        single: bool,
    ):
        self.cfg, self.components, self.folder, self.choices, self.single = cfg, components, folder, choices, single
        self.began, self.seconds_before = time.monotonic(), 0.0
        self.start_weights = {name: weight.clone() for name, weight in components.net.named_weights().items()}
        self.before = self._example()
        self.data = cfg.generator("data")
        self.first_step, kept = 0, 0
        self.ended: Status | None = None  # training had ended, but not all of its results were written
        self.values: dict[str, float] = {}
        self.start_values: dict[str, float] = {}
        if state is not None:
            components.net.load_state_dict(state["net"])
            load_state(components.optimizer, state["optimizer"])
            self.data.set_state(state["data"])
            self.first_step, kept, self.seconds_before = state["step"], state["metrics_bytes"], state["seconds"]
            self.values, self.start_values = dict(state["values"]), dict(state["start_values"])
            self.ended = state["ended"]
            log.info("%s continues from step %d", folder.path, self.first_step)
        self.probes = cfg.probe.functions("measure")
        self.figures = cfg.probe.functions("figures")
        self.text, self.kept = text, kept
        construction = components.net.construction
        self.blocks = dict(construction.blocks) if construction else {}

    def stack_key(self, number: int) -> Any:
        """What sessions must share to be trained as one program; a net that cannot be stacked shares with none."""
        reason = getattr(self.components.net, "stacks_not_because", None) or unstackable_reason(
            self.components.optimizer
        )
        if reason:
            log.info("%s runs alone: %s", self.folder.path.name, reason)
            return number
        return stack_key(self.member()), self.cfg.train, self.cfg.probe.every, self.cfg.threads

    def open(self) -> None:
        """Start writing records."""
        self.folder.start(self.text, self.kept)
        try:
            self.folder.log_text("parameters", self.first_step, parameter_table(self.components.net))
            self._image("weights/weight_hh_cell", self.first_step)
            if self.start_values:
                self._lay_out()
        except BaseException:
            self.folder.abandon()
            raise

    def member(self) -> TrainState:
        """This run as the training loop sees it."""
        cfg, components = self.cfg, self.components
        settings = components.settings

        return TrainState(
            net=components.net, task=components.task, trained=components.trained, optimizer=components.optimizer,
            learning_rate=LearningRate(components.learning_rate, settings.schedule, cfg.train.steps, settings.warmup),
            clip_norm=settings.clip_norm, data=self.data, record=self.folder.log, observe=self._observe, save=self._save,
        )  # fmt: skip

    def interrupt(self, step: int) -> None:
        """Say that the run is not finished; its checkpoint is written."""
        self.folder.finish(
            {"choices": dict(self.choices), "status": "interrupted", "steps": step, "seed": self.cfg.seed}
        )

    def _observe(self, step: int) -> None:
        """Give a snapshot to every probe and record what they say."""
        self.values = measure(self.probes, snapshot(self.components, self.start_weights, step))
        if step == 0:
            self.values = {**self.components.boundary.values(), **self.values}
            if self.components.noise_error is not None:
                self.values["noise/predicted_error"] = self.components.noise_error
            self.start_values = dict(self.values)
            self._lay_out()
        self.folder.log(step, {**self.values, **self._references()})

    def _references(self) -> dict[str, float]:
        """What the values are to be seen beside: the losses of constant predictions, the curvature that is still stable."""
        references = {f"baseline/{name}": loss for name, loss in self.components.task.baselines.items()}
        rate = self.components.optimizer.param_groups[0]["lr"]
        if self.components.boundary.curvatures.lambda_max is not None or "curvature/lambda_max" in self.values:
            references |= self.components.boundary.reference(rate)
        return references

    def _lay_out(self) -> None:
        self.folder.log_charts([*self.start_values, *self._references()])

    def end(self, status: Status, step: int) -> None:
        """Save that training has ended, with its last observation: a run continued from here has only to finish."""
        self._save(step, status)

    def _save(self, step: int, ended: Status | None = None) -> None:
        layout = {name: [units.start, units.stop] for name, units in self.blocks.items()}
        self.folder.save_checkpoint(
            step,
            {
                "net": self.components.net.state_dict(),
                "weights": self.components.net.named_weights(),
                "blocks": layout,
                "optimizer": self.components.optimizer.state_dict(),
                "data": self.data.get_state(),
                "learning_rate": self.components.learning_rate,
                "curvatures": self.components.boundary.curvatures._asdict(),
                "seconds": self._seconds(),
                "values": self.values,
                "start_values": self.start_values,
                "ended": ended,
            },
        )

    def finish(self, status: Status, step: int, seconds: float) -> float | None:
        """Judge, draw and write summary.json; returns the final relative error."""
        cfg, components, folder = self.cfg, self.components, self.folder
        judgement = verdict.judge_run(self.start_values, self.values, cfg.probe.verdict)
        if status == "diverged" or judgement.name == "diverged":
            status, judgement = "diverged", dataclasses.replace(judgement, name="diverged")
        signal, target = components.task.held_out["training"]
        rows = {"signal": signal, "target": target, "before": self.before, "after": self._example()}
        kept = (
            components.task.examples(rows)
            if hasattr(components.task, "examples")
            else {k: v[:4] for k, v in rows.items()}
        )
        folder.save_examples({name: part.cpu().numpy() for name, part in kept.items()})
        self._image("weights/weight_hh_cell", step)
        folder.log_text("verdict", step, f"**{judgement.name}**: " + "; ".join(judgement.reasons))
        error = {"initial": self.start_values["error/training"], "final": self.values["error/training"]}
        summary = {
            "choices": dict(self.choices),
            "status": status,
            "verdict": judgement.name,
            "reasons": judgement.reasons,
            "precision": None if judgement.precision is None else dataclasses.asdict(judgement.precision),
            "label_noise": self._noise(error["final"]),
            "moved": {n.removeprefix("moved/"): int(v) for n, v in self.values.items() if n.startswith("moved/")},
            "conditions": {
                c.name: {"kind": c.kind, "value": c.value, "bound": c.bound, "holds": c.holds}
                for c in judgement.conditions
            },
            "metrics": {
                name.removeprefix("task/"): value for name, value in self.values.items() if name.startswith("task/")
            },
            "steps": step,
            "seconds": round(self._seconds(), 3),
            "training_seconds": round(seconds, 3),
            "seed": cfg.seed,
            "loss": {"initial": self.start_values["loss/held_out"], "final": self.values["loss/held_out"]},
            "relative_loss": {"initial": self.start_values["loss/relative"], "final": self.values["loss/relative"]},
            "relative_error": error,
            "baseline": dict(components.task.baselines),
            "drift": {
                n.removeprefix("drift/"): v
                for n, v in self.values.items()
                if n.startswith("drift/") and n.count("/") == 1
            },
            "watched_weight": judgement.weight,
            "optim": {
                "lr": components.learning_rate,
                **components.boundary.summary(components.learning_rate),
            },
            "probes": {"initial": self.start_values, "final": self.values},
            "parameters": sum(p.numel() for p in components.net.parameters()),
            "device": str(next(components.net.parameters()).device),
            "versions": provenance.versions(),
            "git": provenance.git_state(),
        }
        folder.log_hparams(
            self._hparams(),
            {
                "final/relative_error": error["final"],
                "final/drift_weight_hh_cell": self.values.get("drift/weight_hh_cell", math.nan),
            },
        )
        folder.close()
        for draw in self.figures:
            if (figure := draw(folder, summary)) is not None:
                folder.save_figure(draw.__name__, png(figure))
        folder.finish(summary)
        log.info("%s", describe(summary, folder.path, short=not self.single))
        return error["final"]

    def _noise(self, error: float) -> dict[str, float] | None:
        """The error that label noise alone was to cause, and its share of the squared error; None where no law is known."""
        expected = self.start_values.get("noise/predicted_error")
        if expected is None or not error > 0:
            return None
        return {"expected_error": expected, "share": min(1.0, (expected / error) ** 2)}

    def _hparams(self) -> dict[str, Any]:
        cfg = self.cfg
        over = self.components.boundary.summary(self.components.learning_rate)["lr_over_boundary"]
        return {
            **{group: self.choices.get(group, "") for group in ("model", "signal", "task", "optim")},
            "preset": cfg.model.get("preset", ""),
            "T": cfg.T,
            "seed": cfg.seed,
            "dtype": cfg.dtype,
            "lr": self.components.learning_rate,
            "lr_over_boundary": math.nan if over is None else over,
            "steps": cfg.train.steps,
        }

    def _image(self, tag: str, step: int) -> None:
        weights = self.components.net.named_weights()
        if "weight_hh_cell" in weights and self.figures:
            image = weight_image(weights["weight_hh_cell"].cpu().numpy(), self.blocks, f"{tag} at step {step}")
            self.folder.log_image(tag, step, image)

    def _example(self) -> Tensor:
        with torch.no_grad():
            return self.components.net(self.components.task.held_out["training"][0])

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.began

    def progress(self) -> Any:
        """The steps to take, as a context: a bar on a terminal, a log line every few seconds elsewhere."""
        steps = range(self.first_step, self.cfg.train.steps + 1)
        if self.single and sys.stderr.isatty():
            from tqdm import tqdm

            return tqdm(steps, unit="step", leave=False, ncols=min(79, console.width(sys.stderr) - 1))
        return _LoggedProgress(steps, self.folder.path.name, lambda: self.values)


def parameter_table(net: nn.Module) -> str:
    """Every parameter's shape and count, whether it is trained, and the sum, as a markdown table."""
    rows = [
        f"| {name} | {' x '.join(map(str, p.shape)) or '1'} | {p.numel()} | {'yes' if p.requires_grad else 'no'} |"
        for name, p in net.named_parameters()
    ]
    total = sum(p.numel() for p in net.parameters())
    return "\n".join(["| parameter | shape | count | trained |", "|---|---|---|---|", *rows, f"| all | | {total} | |"])


class _LoggedProgress:
    """The steps, with a log line every few seconds where no progress bar can be seen."""

    def __init__(self, steps: range, name: str, values: Callable[[], Mapping[str, float]], every: float = 5.0):
        self.steps, self.name, self.values, self.every = steps, name, values, every

    def __enter__(self) -> Iterator[int]:
        return self._iterate()

    def __exit__(self, *exception: object) -> None:
        pass

    def _iterate(self) -> Iterator[int]:
        said = time.monotonic()
        for step in self.steps:
            if time.monotonic() - said > self.every:
                said = time.monotonic()
                error = self.values().get("error/training", math.nan)
                log.info("%s step %d of %d, relative error %.3g", self.name, step, self.steps.stop - 1, error)
            yield step
