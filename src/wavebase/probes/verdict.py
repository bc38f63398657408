"""The verdict on a run: was the algorithm preserved, deformed within its class, left for another, or broken?

A pure function of what the probes said at the start and at the end. Conditions are of four kinds:

    training     the error on the training signal
    off_support  the errors on signals that training need not have shown, and the quadratic forms
    mechanism    modes, masked weights, interchange: how the function is computed
    position     how far the weights are from their start, modulo what no output can see

preserved: all hold. deformed: only position fails. drifted: the training signal's errors hold, off-support ones or the
mechanism fail: another function, or another way to compute it. broken: the training signal's error fails. diverged: an
error is no longer finite. no algorithm: the start did not compute the function, so nothing can be kept. A start for which no
mechanism is known can be preserved (nothing moved) but not be called deformed: then it has `moved`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["training", "off_support", "mechanism", "position"]
KINDS: tuple[Kind, ...] = ("training", "off_support", "mechanism", "position")


@dataclass(frozen=True)
class Thresholds:
    """valid_loss: a start counts as an algorithm if its loss is at most this share of the mean predictor's.
    error_factor, error_floor: an error holds while it is at most max(factor * its start, floor), where its start counts as
    no less than the training signal's: of a net that is 3 % wrong there, 1 % elsewhere is chance.
    forms: of the quadratic forms (as an error, above its start). mode: of a mode's phase and modulus, T times the change.
    masked_factor: the error without the weights outside the mask, as a multiple of the error with them (or of error_floor).
    interchange: the least share of the effect that each exchange of a block's state must have, of that at the start.
    distance: of the weights from their start modulo the symmetry group, relative, where that is measured. drift: relative
    drift of `weight` where it is not; in a net without a weight of that name, the largest drift of any weight."""

    valid_loss: float = 0.01
    error_factor: float = 3.0
    error_floor: float = 0.01
    forms: float = 0.05
    mode: float = 0.05
    masked_factor: float = 2.0
    interchange: float = 0.95
    distance: float = 1e-3
    drift: float = 1e-3
    weight: str = "weight_hh_cell"

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float) and not (math.isfinite(value) and value > 0):
                raise ValueError(f"probe.verdict.{name} must be positive and finite, got {value}; see conf/probe")


@dataclass(frozen=True)
class Condition:
    """One measured number and its bound: an upper bound, or a lower one for `least`."""

    kind: Kind
    name: str
    value: float
    bound: float
    least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the number is within its bound; one that is not finite never is."""
        return math.isfinite(self.value) and (self.value >= self.bound if self.least else self.value <= self.bound)

    @property
    def use(self) -> float:
        """How much of its bound it uses up: over 1 where it does not hold."""
        if not math.isfinite(self.value):
            return math.inf
        return (1 - self.value) / max(1 - self.bound, 1e-12) if self.least else self.value / self.bound

    def words(self) -> str:
        """The condition as text."""
        if not math.isfinite(self.value):
            return f"{self.name} is not finite"
        relation = ("at least" if self.holds else "under") if self.least else ("within" if self.holds else "over")
        return f"{self.name} is {self.value:.3g}, {relation} {self.bound:.3g}"


@dataclass(frozen=True)
class Verdict:
    """name: as above; reasons: what was measured, in words and numbers; conditions: all of them; weight: the one whose drift
    is shown."""

    name: str
    reasons: list[str]
    conditions: list[Condition]
    weight: str


def judge(start: Mapping[str, float], end: Mapping[str, float], thresholds: Thresholds) -> Verdict:
    """The verdict from the probes' values at step 0 and at the end."""
    weight = _watched(end, thresholds.weight)
    every = conditions(start, end, thresholds, weight)
    errors = [c for c in every if c.name.startswith("error/")]
    gone = [c.words() for c in errors if not math.isfinite(c.value)]
    if gone:
        return Verdict("diverged", gone[:1], every, weight)
    if not start["loss/relative"] <= thresholds.valid_loss:
        words = (
            f"the start's loss is {start['loss/relative']:.3g} of the mean predictor's, over {thresholds.valid_loss:g}"
        )
        return Verdict("no algorithm", [words], every, weight)
    kinds = {kind: [c for c in every if c.kind == kind] for kind in KINDS}
    failed = {kind: [c for c in members if not c.holds] for kind, members in kinds.items()}
    if failed["training"]:
        name, told = "broken", failed["training"]
    elif failed["off_support"] or failed["mechanism"]:
        name, told = "drifted", failed["off_support"] + failed["mechanism"]
    else:
        moved = "deformed" if kinds["mechanism"] else "moved"
        name = moved if failed["position"] else "preserved"
        # all hold, so of each kind the one nearest to its bound says most
        told = [max(members, key=lambda c: c.use) for members in kinds.values() if members]
    return Verdict(name, [c.words() for c in told], every, weight)


def conditions(
    start: Mapping[str, float], end: Mapping[str, float], thresholds: Thresholds, weight: str
) -> list[Condition]:
    """Every condition that the values allow to check; a value that the start has and the end lacks does not hold."""

    def at_end(name: str) -> float:
        value = end.get(name, math.nan)
        return math.nan if value is None else value

    def error_bound(name: str) -> float:
        return max(thresholds.error_factor * max(start[name], start["error/training"]), thresholds.error_floor)

    found = [
        Condition("training" if name == "error/training" else "off_support", name, at_end(name), error_bound(name))
        for name in start
        if name.startswith("error/")
    ]
    name = "function/quadratic_form_error"
    if name in start:
        found.append(Condition("off_support", name, at_end(name), start[name] + thresholds.forms))
    for name in ("mechanism/mode_phase", "mechanism/mode_modulus"):
        if name in start:
            found.append(Condition("mechanism", name, at_end(name), start[name] + thresholds.mode))
    name = "mechanism/masked_error"
    if name in start:
        bound = thresholds.masked_factor * max(at_end("error/training"), thresholds.error_floor)
        found.append(Condition("mechanism", name, at_end(name), bound))
    for name in start:
        if name.startswith("mechanism/interchange_"):
            bound = thresholds.interchange * start[name]
            found.append(Condition("mechanism", name, at_end(name), bound, least=True))
    distance, drift = "position/distance", f"drift/{weight}"
    if distance in start:
        found.append(Condition("position", distance, at_end(distance), thresholds.distance))
    else:
        found.append(Condition("position", drift, at_end(drift), thresholds.drift))
    return found


def first_failures(
    series: Mapping[int, Mapping[str, float]], start: Mapping[str, float], thresholds: Thresholds
) -> dict[str, int | None]:
    """The first step at which each condition did not hold, from the values of several steps; None where it always did."""
    first: dict[str, int | None] = {}
    for step in sorted(series):
        for c in conditions(start, series[step], thresholds, _watched(series[step], thresholds.weight)):
            if first.setdefault(c.name, None) is None and not c.holds:
                first[c.name] = step
    return first


def _watched(values: Mapping[str, float], wanted: str) -> str:
    """The weight asked for, or where the net has none of that name, the one that drifted most."""
    drifts = {name: value for name, value in values.items() if name.startswith("drift/") and name.count("/") == 1}
    if f"drift/{wanted}" in drifts or not drifts:
        return wanted
    return max(drifts, key=lambda name: drifts[name]).removeprefix("drift/")
