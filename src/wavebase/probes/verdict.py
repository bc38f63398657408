"""A first verdict on a run: did its net keep computing what it computed at the start, and did its weights stay?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """valid_loss: a start counts as an algorithm if its loss is at most this share of the mean predictor's.
    error_factor, error_floor: the function is kept while each error is at most max(factor * its start, floor).
    drift: the weights stayed while the relative drift of `weight` is at most this; in a net without a weight of that
    name, the largest drift of any weight is watched."""

    valid_loss: float = 0.01
    error_factor: float = 3.0
    error_floor: float = 0.01
    drift: float = 1e-3
    weight: str = "weight_hh_cell"

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float) and not (math.isfinite(value) and value > 0):
                raise ValueError(f"probe.verdict.{name} must be positive and finite, got {value}; see conf/probe")


@dataclass(frozen=True)
class Verdict:
    """name: kept | moved | lost | diverged | no algorithm; reasons: what was measured, in words and numbers; weight: the
    one whose drift was watched."""

    name: str
    reasons: list[str]
    weight: str


def judge(start: Mapping[str, float], end: Mapping[str, float], thresholds: Thresholds) -> Verdict:
    """The verdict from the probes' values at step 0 and at the end.

    diverged: a value is no longer finite. no algorithm: the start does not compute the function, so nothing can be
    kept. lost: some error/<signal> left its bound. moved: the function holds and the watched weight drifted. kept: neither.
    """
    errors = [name for name in start if name.startswith("error/")]
    weight = _watched(end, thresholds.weight)
    broken = [name for name in errors if not math.isfinite(end.get(name, math.nan))]
    if broken:
        return Verdict("diverged", [f"{broken[0]} is no longer finite"], weight)
    if not start["loss/relative"] <= thresholds.valid_loss:
        return Verdict(
            "no algorithm",
            [
                f"the start's loss is {start['loss/relative']:.3g} of the mean predictor's, over {thresholds.valid_loss:g}"
            ],
            weight,
        )
    bounds = {name: max(thresholds.error_factor * start[name], thresholds.error_floor) for name in errors}
    lost = [f"{name} is {end[name]:.3g}, over {bounds[name]:.3g}" for name in errors if end[name] > bounds[name]]
    if lost:
        return Verdict("lost", lost, weight)
    worst = max(errors, key=lambda name: end[name] / bounds[name])
    function = f"the largest error for its bound is {worst} = {end[worst]:.3g}, within {bounds[worst]:.3g}"
    drift = end.get(f"drift/{weight}", math.inf)
    name, relation = ("moved", "over") if drift > thresholds.drift else ("kept", "within")
    return Verdict(name, [function, f"{weight} drifted by {drift:.3g}, {relation} {thresholds.drift:g}"], weight)


def _watched(values: Mapping[str, float], wanted: str) -> str:
    """The weight asked for, or where the net has none of that name, the one that drifted most."""
    drifts = {name: value for name, value in values.items() if name.startswith("drift/") and name.count("/") == 1}
    if f"drift/{wanted}" in drifts or not drifts:
        return wanted
    return max(drifts, key=lambda name: drifts[name]).removeprefix("drift/")
