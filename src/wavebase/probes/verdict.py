"""Judge a net: is its algorithm preserved, deformed within its class, replaced by another way, or lost?

A verdict is a pure function of the probes' values, measured against the exact algorithm. Its name says how the function is
computed. How precisely is a separate number: one change of one algorithm costs a net that was exact all its digits and an
imprecise one none. Conditions are of four kinds:

    function     the training signal's loss, compared with that of predicting the mean
    off_support  errors on signals that training need not have shown, and the quadratic forms (function and off_support
                 both ignore a constant in each bin, see `function.centred_error`)
    mechanism    modes, masked weights, interchange: how the function is computed
    position     distance of the weights from the exact ones, modulo symmetries that no output can see

    preserved    all conditions hold
    deformed     only position fails
    moved        only position fails, in a net for which no mechanism is known
    drifted      the function holds on the training signal, but off_support or mechanism fails: another function, or
                 another way to compute it
    broken       the function is lost
    diverged     an error is not finite
    unmoved      of a run: no weight changed by more than rounding, so nothing was tested
    no algorithm of a run: neither its start nor its end computes the function
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from wavebase.formatting import number

Kind = Literal["function", "off_support", "mechanism", "position"]
KINDS: tuple[Kind, ...] = ("function", "off_support", "mechanism", "position")
KEPT = ("preserved", "deformed")
NAMES = (*KEPT, "moved", "drifted", "broken", "diverged", "unmoved", "no algorithm")
# signals so weak that a leak of no account elsewhere drowns them: part of the precision, not of the name
WEAK = ("impulses", "half_amplitude")


@dataclass(frozen=True)
class Thresholds:
    """Bounds of the conditions; `docs/verdicts.md` says on which controls and seeds they were calibrated.

    Attributes:
        lost: Training signal's loss over the mean predictor's above which the function is lost: half of the relative
            error of predicting the mean.
        valid: The same at the start, for a net whose mechanism is not known.
        off_support: Relative error on another signal.
        forms: Relative error of the quadratic forms.
        mode: An oscillator's error over a window, in phase (radians) and in modulus.
        masked: Error without the weights between blocks that the algorithm does not connect; it counts only where it is
            more than twice the error with them.
        interchange: Least fraction of its effect that exchanging a block's state must have, and least score of a
            question of an `ExactAlgorithm`.
        distance: Relative distance of the weights from the exact ones modulo the symmetry group, in natural units.
        drift: Relative drift of `weight` where no distance is measured; in a net without a weight of that name, the
            largest drift of any weight.

    Raises:
        ValueError: If a bound is not positive and finite.
    """

    lost: float = 0.25
    valid: float = 0.01
    off_support: float = 0.5
    forms: float = 0.1
    mode: float = 0.05
    masked: float = 0.1
    interchange: float = 0.9
    distance: float = 5e-3
    drift: float = 1e-3
    weight: str = "weight_hh_cell"

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float) and not (math.isfinite(value) and value > 0):
                raise ValueError(f"probe.verdict.{name} must be positive and finite, got {value}; see conf/probe")


@dataclass(frozen=True)
class Condition:
    """One measured number and its bound, an upper one, or a lower one if `least`."""

    kind: Kind
    name: str
    value: float
    bound: float
    least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the number is finite and within its bound."""
        return math.isfinite(self.value) and (self.value >= self.bound if self.least else self.value <= self.bound)

    @property
    def use(self) -> float:
        """Fraction of its bound that the number uses: over 1 where it does not hold."""
        if not math.isfinite(self.value):
            return math.inf
        return (1 - self.value) / max(1 - self.bound, 1e-12) if self.least else self.value / self.bound

    def words(self) -> str:
        """Describe the condition."""
        if not math.isfinite(self.value):
            return f"{self.name} is not finite"
        relation = ("at least" if self.holds else "under") if self.least else ("within" if self.holds else "over")
        return f"{self.name} is {number(self.value)}, {relation} {number(self.bound)}"


@dataclass(frozen=True)
class Precision:
    """How precisely a net computes its function, as relative errors; predicting zero has 1.

    Attributes:
        training: On the training signal.
        off_support: The largest on any other signal.
        worst: The name of that signal; "" if there is none.
    """

    training: float
    off_support: float
    worst: str

    def words(self) -> str:
        """Describe it in decimal digits and errors."""
        if self.worst == "":
            return f"to {digits(self.training)} digits on the training signal (error {number(self.training)})"
        return (
            f"to {digits(self.training)} digits on the training signal (error {number(self.training)}), {digits(self.off_support)} "
            f"at worst ({number(self.off_support)}, {self.worst.replace('_', ' ')})"
        )


@dataclass(frozen=True)
class Verdict:
    """What became of a net's algorithm.

    Attributes:
        name: One of the names at the top of this module.
        reasons: The measured numbers that decide, as text.
        conditions: All that could be checked.
        weight: The weight whose drift is shown.
        precision: None where the function is lost.
    """

    name: str
    reasons: list[str]
    conditions: list[Condition]
    weight: str
    precision: Precision | None = None


def digits(error: float) -> str:
    """Return the decimal digits that a relative error leaves, at least 0, as text."""
    return f"{max(0.0, -math.log10(error)):.1f}" if error > 0 else "all"


def judge(now: Mapping[str, float], thresholds: Thresholds) -> Verdict:
    """Judge a net: preserved, deformed, moved, drifted, broken or diverged.

    Args:
        now: The probes' values, by name.
        thresholds: Bounds of the conditions.
    """
    weight = _watched(now, thresholds.weight)
    every = conditions(now, thresholds, weight)
    errors = {name.removeprefix("error/"): _number(now, name) for name in now if name.startswith("error/")}
    gone = [f"error/{name} is not finite" for name, value in errors.items() if not math.isfinite(value)]
    if gone:
        return Verdict("diverged", gone[:1], every, weight)
    kinds = {kind: [c for c in every if c.kind == kind] for kind in KINDS}
    if not kinds["function"]:
        return Verdict(
            "not judged", ["probe.measure has no function.held_out_error, so the loss was not measured"], every, weight
        )
    failed = {kind: [c for c in members if not c.holds] for kind, members in kinds.items()}
    if failed["function"]:
        lost = failed["function"] + failed["mechanism"]
        return Verdict("broken", [_with_bin(c, now) for c in lost], every, weight)
    training = errors.pop("training", math.nan)
    worst = max(errors, key=lambda name: errors[name], default="")
    precision = Precision(training, errors.get(worst, math.nan), worst)
    if failed["off_support"] or failed["mechanism"]:
        name, decisive = "drifted", failed["off_support"] + failed["mechanism"]
    else:
        moved = "deformed" if kinds["mechanism"] else "moved"
        name = moved if failed["position"] else "preserved"
        # of each kind, the condition nearest to its bound
        decisive = [max(members, key=lambda c: c.use) for members in kinds.values() if members]
    return Verdict(name, [_with_bin(c, now) for c in decisive], every, weight, precision)


def judge_run(start: Mapping[str, float], end: Mapping[str, float], thresholds: Thresholds) -> Verdict:
    """Judge a run by its net at the end; "no algorithm" and "unmoved" replace that verdict where they apply.

    Args:
        start, end: The probes' values at step 0 and at the end.
        thresholds: Bounds of the conditions.
    """
    verdict = judge(end, thresholds)
    if verdict.name in ("diverged", "not judged"):
        return verdict
    begun, loss = judge(start, thresholds), _number(start, "loss/relative")
    if any(c.kind == "mechanism" for c in begun.conditions):
        had, bound = begun.name not in ("broken", "diverged"), thresholds.lost
        loss = next((c.value for c in begun.conditions if c.kind == "function"), loss)
    else:
        had, bound = loss <= thresholds.valid, thresholds.valid
    if not had and (verdict.name not in KEPT or begun.name == verdict.name):
        words = f"the start's loss is {number(loss)} of the mean predictor's, over {number(bound)}"
        return replace(verdict, name="no algorithm", reasons=[words])
    if end.get("moved/changed") == 0:
        words = f"none of {end.get('moved/trained', 0):.0f} trained weights changed by more than rounding"
        return replace(verdict, name="unmoved", reasons=[words, *verdict.reasons])
    return verdict


def stopped(verdict: Verdict) -> Verdict:
    """Return the verdict on a run that stopped at a training loss that is not finite: diverged, however finite its net."""
    if verdict.name == "diverged":
        return verdict
    reasons = ["the training loss is not finite", *verdict.reasons]
    return replace(verdict, name="diverged", reasons=reasons, precision=None)


def is_defined(summary: Mapping[str, Any]) -> bool:
    """Return whether a run's summary holds a verdict that says anything: not if its net had no known algorithm and reached none."""
    known = summary.get("conditions")
    kinds = [c.get("kind") for c in known.values() if isinstance(c, Mapping)] if isinstance(known, Mapping) else []
    return summary.get("verdict") != "no algorithm" or "mechanism" in kinds


def conditions(now: Mapping[str, float], thresholds: Thresholds, weight: str) -> list[Condition]:
    """List every condition that can be checked with these values; `weight` is the one whose drift counts."""
    found = []
    loss = "centred/loss" if "centred/loss" in now else "loss/relative"
    if loss in now:
        found.append(Condition("function", loss, _number(now, loss), thresholds.lost))
    for signal in [name.removeprefix("error/") for name in now if name.startswith("error/")]:
        name = f"centred/{signal}" if f"centred/{signal}" in now else f"error/{signal}"
        if signal not in ("training", *WEAK):
            found.append(Condition("off_support", name, _number(now, name), thresholds.off_support))
    name = "function/quadratic_form_error"
    if name in now:
        found.append(Condition("off_support", name, _number(now, name), thresholds.forms))
    for name in ("mechanism/mode_phase", "mechanism/mode_modulus"):
        if name in now:
            found.append(Condition("mechanism", name, _number(now, name), thresholds.mode))
    name = "mechanism/masked_error"
    if name in now:
        own = _number(now, "centred/training" if "centred/training" in now else "error/training")
        bound = max(2 * own, thresholds.masked)
        found.append(Condition("mechanism", name, _number(now, name), bound))
    for name in now:
        if name.startswith(("mechanism/interchange_", "mechanism/question_")):
            found.append(Condition("mechanism", name, _number(now, name), thresholds.interchange, least=True))
    distance, drift = "position/distance", f"drift/{weight}"
    if distance in now:
        found.append(Condition("position", distance, _number(now, distance), thresholds.distance))
    elif drift in now:
        found.append(Condition("position", drift, _number(now, drift), thresholds.drift))
    return found


def first_failures(series: Mapping[int, Mapping[str, float]], thresholds: Thresholds) -> dict[str, int | None]:
    """Find the first step at which each condition does not hold, None where it always holds.

    Args:
        series: The probes' values by step.
        thresholds: Bounds of the conditions.
    """
    first: dict[str, int | None] = {}
    for step in sorted(series):
        for c in conditions(series[step], thresholds, _watched(series[step], thresholds.weight)):
            if first.setdefault(c.name, None) is None and not c.holds:
                first[c.name] = step
    return first


def _number(values: Mapping[str, float], name: str) -> float:
    """Return a value, nan where it is missing or None: JSON stores what is not finite as null."""
    value = values.get(name)
    return math.nan if value is None else value


def _with_bin(condition: Condition, now: Mapping[str, float]) -> str:
    """Describe the condition, with the bin of the oscillator that is furthest off."""
    bin_ = now.get(f"{condition.name}_bin") if not condition.holds else None
    return condition.words() + ("" if bin_ is None else f" (bin {bin_:.0f})")


def _watched(values: Mapping[str, float], wanted: str) -> str:
    """Return the wanted weight, or the one that drifted most if the net has none of that name."""
    drifts = {name: value for name, value in values.items() if name.startswith("drift/") and name.count("/") == 1}
    if f"drift/{wanted}" in drifts or not drifts:
        return wanted
    return max(drifts, key=lambda name: drifts[name]).removeprefix("drift/")
