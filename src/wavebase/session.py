"""One run from a checked configuration to a finished folder: build, resume or start, train, judge, record."""

from __future__ import annotations

import fnmatch
import logging
import math
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from wavebase import config, figures, report
from wavebase.config import ConfigError, RunConfig
from wavebase.constructions.construction import STATE_NAMES
from wavebase.probes import curvature, verdict
from wavebase.probes.snapshot import Probe, Snapshot
from wavebase.records import RecordsError, RunFolder
from wavebase.training import Member, Status, saved_bytes, schedule_factor, stack_key, train

log = logging.getLogger("wavebase")


class Pieces(NamedTuple):
    """What a configuration builds."""

    task: Any
    net: Any
    trained: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    settings: config.OptimSettings
    learning_rate: float
    lambda_max: float | None


class Job(NamedTuple):
    """A resolved configuration, the folder for its records, and the option chosen in each config group."""

    node: dict[str, Any]
    path: Path
    choices: Mapping[str, str]


def run(job: Job, single: bool = True) -> float | None:
    """Run one job; returns the final relative error. single: show progress and a full report on the console.

    A folder with a finished run of the same configuration is left as it is; with an unfinished one, continued from its
    newest readable checkpoint. `resume: false` takes a new folder beside an old one. Raises ConfigError or RecordsError.
    """
    session = _prepare(job, single)
    if isinstance(session, dict):
        return session["relative_error"]["final"]
    return _train_and_finish([session])[0]


def run_stacked(jobs: list[Job], max_stack: int, failed: Callable[[Job, Exception], None]) -> list[float | None]:
    """Run jobs, those that agree in all but numbers together as one program; each leaves what it would have left alone.

    Stacks hold at most `max_stack` members, and at most as many as fit into half of the free memory by the measured
    size of one. A job that cannot run is handed to `failed`, and the others go on.
    """
    errors: dict[int, float | None] = {}
    stacks: dict[Any, list[tuple[int, _Session]]] = {}
    for n, job in enumerate(jobs):
        try:
            session = _prepare(job, single=False)
        except Exception as error:
            failed(job, error)
            continue
        if isinstance(session, dict):
            errors[n] = session["relative_error"]["final"]
        else:
            stacks.setdefault(session.stack_key(n), []).append((n, session))
    for stack in stacks.values():
        size = min(max_stack, _members_that_fit(stack[0][1]))
        for first in range(0, len(stack), size):
            part = stack[first : first + size]
            log.info("training %d of %d jobs as one program", len(part), len(jobs))
            try:
                finals = _train_and_finish([session for _, session in part])
                errors |= {n: final for (n, _), final in zip(part, finals, strict=True)}
            except Exception as error:
                for n, _ in part:
                    failed(jobs[n], error)
    return [errors.get(n) for n in range(len(jobs))]


def _prepare(job: Job, single: bool) -> _Session | dict[str, Any]:
    """Everything up to the first step; or the summary of a finished run. Nothing is written before all is checked."""
    cfg = config.parse(job.node)
    text = OmegaConf.to_yaml(OmegaConf.create({key: value for key, value in job.node.items() if key != "resume"}))
    folder = RunFolder(job.path if cfg.resume else _unused(job.path))
    finished = _same_run_before(folder, text)
    if finished is not None:
        log.info("%s", report.describe(finished, folder.path, short=not single))
        log.info("%s was finished before; resume=false runs it anew", folder.path.name)
        return finished
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = (
        False  # its rounding rivals what we measure
    )
    pieces, state = _build_or_resume(cfg, folder)
    return _Session(cfg, pieces, folder, state, text, job.choices, single)


def _train_and_finish(sessions: list[_Session]) -> list[float | None]:
    """Train sessions that agree in their settings as one program, and write each one's results."""
    first = sessions[0]
    for session in sessions:
        session.open()
    began = time.monotonic()
    with _Interruption() as interruption, first.progress() as steps:
        members = [session.member() for session in sessions]
        outcomes = train(members, first.cfg.train, first.cfg.probe.every, steps, interruption)
    seconds = time.monotonic() - began
    if outcomes[0][0] == "interrupted":
        for session, (_, step) in zip(sessions, outcomes, strict=True):
            session.interrupt(step)
        raise Interrupted(
            f"{first.folder.path} was interrupted at step {outcomes[0][1]}; the same command continues it"
        )
    return [session.finish(*outcome, seconds) for session, outcome in zip(sessions, outcomes, strict=True)]


def _members_that_fit(session: _Session) -> int:
    device = next(session.pieces.net.parameters()).device
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, int(free / 2 / (1 + 2 * saved_bytes(session.member(), session.cfg.train.batch))))


def assemble(cfg: RunConfig, learning_rate: float | None = None, lambda_max: float | None = None) -> Pieces:
    """Build task, net and optimiser; measure the learning rate's boundary unless both are given. Raises ConfigError."""
    device, dtype = cfg.torch_device(), getattr(torch, cfg.dtype)
    source = config.build(cfg.signal, "signal")
    context = {"signal": source, "T": cfg.T, "dtype": dtype, "device": device, "probing": cfg.generator("probe")}
    task = config.build(cfg.task, "task", context)
    context = {**task.sizes, "dtype": dtype, "init": cfg.generator("init"), "perturbing": cfg.generator("perturbation")}
    net = config.build(cfg.model, "model", context).to(device)
    trained = _choose_trained(net, cfg)
    settings, rest = config.optimizer_group(cfg.optim)
    if learning_rate is None:
        if cfg.probe.curvature or settings.lr is None:
            lambda_max = _lambda_max(net, task, cfg, trained)
        learning_rate = settings.lr
        if learning_rate is None:
            if lambda_max is None or not lambda_max > 0:
                raise ConfigError(
                    f"optim.lr_over_boundary needs a positive lambda_max, got {lambda_max}; give optim.lr instead"
                )
            learning_rate = (settings.lr_over_boundary or 0.0) * 2 / lambda_max
    optimizer = config.build(rest, "optim", {"params": list(trained.values()), "lr": learning_rate})
    return Pieces(task, net, trained, optimizer, settings, learning_rate, lambda_max)


class _Session:
    """The state of one run while it runs."""

    def __init__(
        self,
        cfg: RunConfig,
        pieces: Pieces,
        folder: RunFolder,
        state: dict[str, Any] | None,
        text: str,
        choices: Mapping[str, str],
        single: bool,
    ):
        self.cfg, self.pieces, self.folder, self.choices, self.single = cfg, pieces, folder, choices, single
        self.began, self.seconds_before = time.monotonic(), 0.0
        self.start_weights = {name: weight.clone() for name, weight in pieces.net.named_weights().items()}
        self.before = self._example()
        self.data = cfg.generator("data")
        self.first_step, kept = 0, 0
        self.values: dict[str, float] = {}
        self.start_values: dict[str, float] = {}
        if state is not None:
            pieces.net.load_state_dict(state["net"])
            pieces.optimizer.load_state_dict(state["optimizer"])
            self.data.set_state(state["data"])
            self.first_step, kept, self.seconds_before = state["step"], state["metrics_bytes"], state["seconds"]
            self.values, self.start_values = dict(state["values"]), dict(state["start_values"])
            log.info("%s continues from step %d", folder.path, self.first_step)
        self.probes: list[Probe] = cfg.probe.functions("measure")
        self.figures = cfg.probe.functions("figures")
        self.text, self.kept = text, kept
        construction = pieces.net.construction
        self.blocks = dict(construction.blocks) if construction else {}
        device = next(pieces.net.parameters()).device
        self.mask = {name: mask.to(device) for name, mask in construction.mask.items()} if construction else {}

    def stack_key(self, number: int) -> Any:
        """What sessions must share to be trained as one program; a net that cannot be stacked shares with none."""
        reason = getattr(self.pieces.net, "stacks_not_because", None)
        if reason:
            log.info("%s runs alone: %s", self.folder.path.name, reason)
            return number
        return stack_key(self.member()), self.cfg.train, self.cfg.probe.every, self.first_step, self.cfg.threads

    def open(self) -> None:
        """Start writing records."""
        self.folder.start(self.text, self.kept)
        self._image("weights/weight_hh_cell", self.first_step)

    def member(self) -> Member:
        """This run as the training loop sees it."""
        cfg, pieces = self.cfg, self.pieces
        settings = pieces.settings

        def learning_rate(step: int) -> float:
            return pieces.learning_rate * schedule_factor(settings.schedule, step, cfg.train.steps, settings.warmup)

        return Member(
            net=pieces.net, task=pieces.task, trained=pieces.trained, optimizer=pieces.optimizer, learning_rate=learning_rate,
            clip_norm=settings.clip_norm, data=self.data, record=self.folder.log, observe=self._observe, save=self._save,
        )  # fmt: skip

    def interrupt(self, step: int) -> None:
        """Say that the run is not finished; its checkpoint is written."""
        self.folder.finish(
            {"choices": dict(self.choices), "status": "interrupted", "steps": step, "seed": self.cfg.seed}
        )

    def _observe(self, step: int) -> None:
        """Give a snapshot to every probe and record what they say."""
        snapshot = self._snapshot(step)
        self.values = {name: value for probe in self.probes for name, value in probe(snapshot).items()}
        if step == 0:
            if self.pieces.lambda_max is not None:
                self.values["curvature/lambda_max"] = self.pieces.lambda_max
            self.start_values = dict(self.values)
        self.folder.log(step, self.values)

    def _snapshot(self, step: int) -> Snapshot:
        net, task = self.pieces.net, self.pieces.task

        def predict(signal: Tensor) -> Tensor:
            with torch.no_grad():
                return net(signal)

        def trace(signal: Tensor) -> Any:
            with torch.no_grad():
                return net.trace(signal) if hasattr(net, "trace") else None

        return Snapshot(
            step=step,
            weights=net.named_weights(),
            start=self.start_weights,
            blocks=self.blocks,
            mask=self.mask,
            held_out=task.held_out,
            predict=predict,
            trace=trace,
            metrics=task.metrics,
            baselines=task.baselines,
            forward=net,
            loss=task.loss,
            trained=self.pieces.trained,
            learning_rate=self.pieces.optimizer.param_groups[0]["lr"],
        )

    def _save(self, step: int) -> None:
        layout = {name: [units.start, units.stop] for name, units in self.blocks.items()}
        self.folder.save_checkpoint(
            step,
            {
                "net": self.pieces.net.state_dict(),
                "weights": self.pieces.net.named_weights(),
                "blocks": layout,
                "optimizer": self.pieces.optimizer.state_dict(),
                "data": self.data.get_state(),
                "learning_rate": self.pieces.learning_rate,
                "lambda_max": self.pieces.lambda_max,
                "seconds": self._seconds(),
                "values": self.values,
                "start_values": self.start_values,
            },
        )

    def finish(self, status: Status, step: int, seconds: float) -> float | None:
        """Judge, draw and write summary.json; returns the final relative error."""
        cfg, pieces, folder = self.cfg, self.pieces, self.folder
        judgement = verdict.judge(self.start_values, self.values, cfg.probe.verdict)
        if status == "diverged" or judgement.name == "diverged":
            status, judgement = "diverged", verdict.Verdict("diverged", judgement.reasons, judgement.weight)
        signal, target = (part[:4] for part in pieces.task.held_out["training"])
        folder.save_examples(
            {
                "signal": signal.cpu().numpy(),
                "target": target.cpu().numpy(),
                "before": self.before.cpu().numpy(),
                "after": self._example().cpu().numpy(),
            }
        )
        self._image("weights/weight_hh_cell", step)
        folder.log_text("verdict", step, f"**{judgement.name}**: " + "; ".join(judgement.reasons))
        boundary = None if pieces.lambda_max is None else 2 / pieces.lambda_max
        error = {"initial": self.start_values["error/training"], "final": self.values["error/training"]}
        summary = {
            "choices": dict(self.choices),
            "status": status,
            "verdict": judgement.name,
            "reasons": judgement.reasons,
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
            "baseline": dict(pieces.task.baselines),
            "drift": {
                n.removeprefix("drift/"): v
                for n, v in self.values.items()
                if n.startswith("drift/") and n.count("/") == 1
            },
            "watched_weight": judgement.weight,
            "optim": {
                "lr": pieces.learning_rate,
                "lambda_max": pieces.lambda_max,
                "boundary": boundary,
                "lr_over_boundary": None if boundary is None else pieces.learning_rate / boundary,
            },
            "probes": {"initial": self.start_values, "final": self.values},
            "parameters": sum(p.numel() for p in pieces.net.parameters()),
            "device": str(next(pieces.net.parameters()).device),
            "versions": _versions(),
            "git": _git(),
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
                folder.save_figure(draw.__name__, figures.png(figure))
        folder.finish(summary)
        log.info("%s", report.describe(summary, folder.path, short=not self.single))
        return error["final"]

    def _hparams(self) -> dict[str, Any]:
        cfg = self.cfg
        return {
            **{group: self.choices.get(group, "") for group in ("model", "signal", "task", "optim")},
            "preset": cfg.model.get("preset", ""),
            "T": cfg.T,
            "seed": cfg.seed,
            "dtype": cfg.dtype,
            "lr": self.pieces.learning_rate,
            "lr_over_boundary": self.pieces.learning_rate * (self.pieces.lambda_max or math.nan) / 2,
            "steps": cfg.train.steps,
        }

    def _image(self, tag: str, step: int) -> None:
        weights = self.pieces.net.named_weights()
        if "weight_hh_cell" in weights and self.figures:
            png = figures.weight_image(weights["weight_hh_cell"].cpu().numpy(), self.blocks, f"{tag} at step {step}")
            self.folder.log_image(tag, step, png)

    def _example(self) -> Tensor:
        with torch.no_grad():
            return self.pieces.net(self.pieces.task.held_out["training"][0][:4])

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.began

    def progress(self) -> Any:
        """The steps to take, as a context: a bar on a terminal, a log line every few seconds elsewhere."""
        steps = range(self.first_step, self.cfg.train.steps + 1)
        if self.single and sys.stderr.isatty():
            from tqdm import tqdm

            return tqdm(steps, unit="step", leave=False, ncols=79)
        return _LoggedProgress(steps, self.folder.path.name, lambda: self.values)


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and has saved what it needs to go on."""


class _Interruption:
    """True once SIGINT, SIGTERM or SIGUSR2 came; the previous handlers come back (and SIGUSR2's is called) afterwards."""

    SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR2") if hasattr(signal, name))

    def __init__(self) -> None:
        self.received: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> _Interruption:
        try:
            self.previous = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        except ValueError:  # not the main thread: whoever owns the signals stops us
            self.previous = {}
        return self

    def __call__(self) -> bool:
        return self.received is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        handler = self.previous.get(self.received or 0)
        if self.received == getattr(signal, "SIGUSR2", None) and callable(handler):
            handler(self.received, None)


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


def _choose_trained(net: nn.Module, cfg: RunConfig) -> dict[str, nn.Parameter]:
    """Freeze all but the chosen parameters; patterns are matched against the net's own names."""
    everything = dict(net.named_parameters())
    wanted = cfg.train.parameters
    patterns = ["*"] if wanted == "all" else [wanted] if isinstance(wanted, str) else wanted
    for pattern in patterns:
        if not fnmatch.filter(everything, pattern):
            raise ConfigError(config.unknown_key(f"train.parameters={pattern}", pattern, everything))
    for name, parameter in everything.items():
        chosen = any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        state = name in STATE_NAMES
        parameter.requires_grad_(cfg.train.initial_state or name in patterns if state else chosen)
    trained = {name: parameter for name, parameter in everything.items() if parameter.requires_grad}
    if not trained:
        raise ConfigError(f"train.parameters must leave something to train, got {wanted!r}; use all")
    return trained


def _lambda_max(net: nn.Module, task: Any, cfg: RunConfig, trained: Mapping[str, nn.Parameter]) -> float:
    """Largest Hessian eigenvalue of the training loss at the start, on a batch of its own generator."""
    signal, target = task.sample_batch(cfg.probe.curvature_batch, cfg.generator("probe"))
    with torch.backends.cudnn.flags(enabled=False):  # the fused kernel has no second derivative
        return curvature.largest_curvature(lambda: task.loss(net(signal), target), trained.values())


def _same_run_before(folder: RunFolder, text: str) -> dict[str, Any] | None:
    """The summary of a finished run of this configuration, if that is what the folder holds. Raises RecordsError."""
    file = folder.path / "config.yaml"
    if file.is_file() and file.read_text() != text:
        raise RecordsError(
            f"{folder.path} must be new or hold this very configuration, got another run's; use resume=false or another hydra.run.dir"
        )
    summary = folder.summary()
    return summary if summary is not None and summary["status"] in ("done", "diverged") else None


def _build_or_resume(cfg: RunConfig, folder: RunFolder) -> tuple[Pieces, dict[str, Any] | None]:
    for step in reversed(folder.checkpoint_steps()):
        try:
            state = folder.load_checkpoint(step)
        except RecordsError as error:
            log.warning("%s", error)
            continue
        return assemble(cfg, state["learning_rate"], state["lambda_max"]), state
    return assemble(cfg), None


def _unused(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that holds no run."""
    candidate, number = path, 1
    while (candidate / "config.yaml").exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _versions() -> dict[str, str]:
    names = ("torch", "numpy", "hydra-core", "omegaconf", "tensorboard", "wavebase")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _git() -> dict[str, Any] | None:
    """Commit and whether the tree had changes, of the source this package was imported from; None outside git."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5, check=True
        )
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
