"""A tree of runs as the report reads it: each fault of a record becomes one line, and the rest is used."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from wavebase.formatting import is_number, yaml_word
from wavebase.probes import verdict
from wavebase.records.atomic import RecordsError
from wavebase.records.folder import RunFolder
from wavebase.records.reader import FINISHED, STATUSES

if TYPE_CHECKING:
    from wavebase.figures.sweeps import Point

# numbers of summary.json that cannot be negative, by their first key
NOT_NEGATIVE = ("relative_error", "loss", "relative_loss", "drift", "moved", "seconds", "steps")
NUISANCE_KEYS = (
    "seed",
    "seeds.",
    "model.torch_seed",
    "resume",
    "threads",
    "device",
)  # settings in which repetitions of a run differ
GROUPS = ("model", "signal", "task", "optim", "train", "probe")


class Run:
    """One run's records.

    Attributes:
        status: The summary's; "unfinished" without a summary, "unreadable" if it or config.yaml is broken.
        verdict: The summary's; the status without one, "unknown" for one that wavebase does not give.
        shown_verdict: The same; "-" where no verdict is defined, as for a forecaster without a known algorithm.
        problems: One line for each file that could not be read, or that holds an impossible value.
        summary, config: The files' content, the configuration flat; empty if unreadable.
        choices: The option chosen in each config group.
    """

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self.problems: list[str] = []
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.status = "unfinished"
        try:
            self.config = flatten(folder.config())
            self.summary = folder.summary() or {}
            self.status = self.summary.get("status", "unfinished")
            if "config_sha256" in self.summary:
                folder.finished(folder.config_bytes().decode())
        except (RecordsError, UnicodeDecodeError) as error:
            self.problems.append(str(error))
            self.status = "unreadable"
        choices = self.summary.get("choices", {})
        self.choices: dict[str, str] = (
            {str(k): str(v) for k, v in choices.items()} if isinstance(choices, Mapping) else {}
        )
        self.verdict = str(self.summary.get("verdict", self.status))
        if self.verdict not in (*verdict.NAMES, *STATUSES, "unfinished", "unreadable"):
            self._problem(f"hold a verdict that wavebase gives, got {self.verdict[:40]!r}")
            self.verdict = "unknown"
        self.ended = self.status in ("done", "diverged", "failed")
        self.shown_verdict = self.verdict if verdict.is_defined(self.summary) else "-"

    def value(self, *path: str) -> float | None:
        """Return the number at a path of keys in the summary; None if it is missing, no number or out of range."""
        node: Any = self.summary
        for depth, key in enumerate(path):
            if node is not None and not isinstance(node, Mapping):
                self._problem(f"hold an object as {'.'.join(path[:depth])}, got {str(node)[:40]!r}")
                return None
            node = None if node is None else node.get(key)
        if node is None:
            return None
        if isinstance(node, bool) or not isinstance(node, int | float) or not math.isfinite(node):
            self._problem(f"hold a number as {'.'.join(path)}, got {str(node)[:40]!r}")
            return None
        if node < 0 and path[0] in NOT_NEGATIVE:
            self._problem(f"hold a number of at least 0 as {'.'.join(path)}, got {node}")
            return None
        return node

    def baselines(self) -> dict[str, float] | None:
        """Return the losses of the constant predictions by name; None if they are missing or broken."""
        node = self.summary.get("baseline")
        if node is None:
            return None
        found = {str(name): self.value("baseline", str(name)) for name in node} if isinstance(node, Mapping) else {}
        losses = {name: loss for name, loss in found.items() if loss is not None and loss >= 0}
        if "mean" not in losses or len(losses) < len(found):
            self._problem(f"hold losses as baseline, that of the mean among them, got {str(node)[:40]!r}")
            return None
        return losses

    def point(self, keys: Iterable[str], value: str) -> Point:
        """Return the run as figures of sweeps take it: the values of some keys, and the number of summary.json at `value`."""
        from wavebase.figures.sweeps import Point  # matplotlib, which no run needs to start

        losses = self.baselines()
        mean = (losses["mean"] / losses["zero"]) ** 0.5 if losses and losses.get("zero") else None
        named = self.shown_verdict if self.status in FINISHED and self.shown_verdict != "-" else ""
        return Point({key: self.setting(key) for key in keys}, self.value(*value.split(".")), self.status, named, mean)

    def reasons(self) -> list[str]:
        """Return the measurements behind the verdict as sentences; none where no verdict is defined."""
        found = self.summary.get("reasons")
        return [str(line) for line in found] if isinstance(found, list) and self.shown_verdict != "-" else []

    def _problem(self, wanted: str) -> None:
        """Record the first fault of summary.json."""
        file = f"{self.folder.path}/summary.json"
        if not any(line.startswith(file) for line in self.problems):
            self.problems.append(f"{file} must {wanted}; delete it to run again")

    def series(self) -> dict[str, Any]:
        """Return every recorded series as (steps, values), by tag; none if metrics.jsonl is broken."""
        try:
            found = self.folder.metrics()
            if not found and self.status in FINISHED:
                raise RecordsError(
                    f"{self.folder.path}/metrics.jsonl must hold the curves of a finished run, got none; they are missing from the figures"
                )
        except RecordsError as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))
            return {}
        return found

    def setting(self, key: str) -> Any:
        """Return the option chosen in a group, or the value at a dotted key; None if the run has neither."""
        return self.choices[key] if key in self.choices else self.config.get(key)

    def reason(self) -> str:
        """Return why a run failed or is not finished, in one line."""
        if self.status == "failed":
            return " ".join(str(self.summary.get("error")).split())
        try:
            steps = self.folder.checkpoint_steps()
        except RecordsError as error:
            self.problems.append(str(error))
            return "its checkpoints cannot be read"
        where = f"a checkpoint of step {steps[-1]}" if steps else "no checkpoint yet"
        writer = self.folder.writer()
        who = f"written now by {writer}" if writer else "no process writes it; the same command continues it"
        return f"{where} of {self.config.get('train.steps', '?')}, {who}"

    def flat(self) -> dict[str, Any]:
        """Return the run's line of runs.csv: choices, configuration and results."""
        unwanted = ("choices", "probes", "versions", "reasons", "details")
        results = {key: value for key, value in self.summary.items() if key not in unwanted}
        return {
            "folder": str(self.folder.path),
            "state": self.status,
            **self.choices,
            **self.config,
            **flatten(results, "result."),
        }


def swept(runs: Iterable[Run]) -> list[str]:
    """Return the groups and dotted keys in which runs differ.

    Leaves out seeds, and keys that follow from others. Returns ["case"] if each run is a case of an experiment and each
    case is one setting.
    """
    runs = list(runs)
    cases: dict[str, set[str]] = {}
    for run in runs:
        settings = sorted((key, str(value)) for key, value in run.config.items() if not key.startswith(NUISANCE_KEYS))
        cases.setdefault(str(run.choices.get("case")), set()).add(str(settings))
    if len(cases) > 1 and "None" not in cases and all(len(settings) == 1 for settings in cases.values()):
        return ["case"]
    chosen = [key for key in GROUPS if len({run.choices.get(key) for run in runs}) > 1]
    varying = []
    for key in sorted({key for run in runs for key in run.config}):
        if key.startswith(NUISANCE_KEYS):
            continue
        group = key.split(".")[0]
        # compare within one choice of its group: a key that differs only because the choice does adds nothing
        pools: dict[str | None, set[str]] = {}
        for run in runs:
            pools.setdefault(run.choices.get(group) if group in chosen else "", set()).add(str(run.config.get(key)))
        if any(len(values) > 1 for values in pools.values()) and not _made_from_seed(key, runs):
            varying.append(key)
    return chosen + [key for key in varying if not _follows(key, varying, runs)]


def grouped(runs: Iterable[Run], keys: Iterable[str] | None = None) -> dict[str, list[Run]]:
    """Group runs that agree in the keys.

    Args:
        keys: Groups and dotted keys; by default those of `swept`.

    Returns:
        The runs by a label that names the values, those with the best starts first.
    """
    runs = list(runs)
    names = swept(runs) if keys is None else list(keys)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        words = [
            str(run.choices.get(key, "?")) if key in (*GROUPS, "case") else f"{key}={yaml_word(run.setting(key))}"
            for key in names
            if key in (*GROUPS, "case") or key in run.config
        ]
        groups.setdefault(" ".join(words) or "all runs", []).append(run)

    def start_error(members: list[Run]) -> float:
        errors = [run.value("relative_error", "initial") for run in members]
        return min((error for error in errors if error is not None), default=math.inf)

    first: dict[str, float] = {}  # by the label's first word, so that a model's groups stay together
    for label, members in groups.items():
        model = label.split(" ")[0]
        first[model] = min(first.get(model, math.inf), start_error(members))
    return dict(sorted(groups.items(), key=lambda group: (first[group[0].split(" ")[0]], group[0])))


def _follows(key: str, varying: list[str], runs: list[Run]) -> bool:
    """Return whether a nested key equals a top-level one in all runs, as the interpolation signal.T equals T."""
    name = key.split(".")[-1]
    return (
        name != key
        and name in varying
        and all(run.config.get(key, run.config.get(name)) == run.config.get(name) for run in runs)
    )


def _made_from_seed(key: str, runs: list[Run]) -> bool:
    """Return whether a key only repeats the seed.

    That is another seed by its name, or a text, such as a path, that differs between runs in the seed's number alone. A
    setting that merely varies together with the seed is a setting.
    """
    if "seed" in key.rpartition(".")[2]:
        return True
    texts = set()
    for run in runs:
        value, seed = run.config.get(key), run.config.get("seed")
        if not isinstance(value, str) or is_number(value):
            return False
        text, count = re.subn(rf"(?<![\d.]){re.escape(str(seed))}(?![\d.]*\d)", "<seed>", value)
        if not count:
            return False
        texts.add(text)
    return len(texts) == 1


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat
