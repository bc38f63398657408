"""What a plain recurrent net does on inputs: energies, clipping, roles, growth of its modes, the margin of its answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wavebase.analysis.cell import Cell
from wavebase.analysis.nulls import Alternative
from wavebase.analysis.simulation import Run
from wavebase.analysis.ties import SPLIT, clusters, levels

ABOUT: dict[str, tuple[Alternative, bool, str]] = {
    "growth": ("two-sided", True, "energy: <|p_t|^2> / <|h_t-1|^2>, geometric mean over steps"),
    "damping": ("two-sided", True, "energy: <|h_t|^2> / <|p_t|^2>"),
    "net_growth": ("two-sided", True, "growth x damping"),
    "clipped_share": ("two-sided", False, "share of units clipped (tanh: |h| > 0.9)"),
    "switch_count": ("two-sided", False, "changes of a unit's clipping over the steps, mean"),
    "backbone_units": ("greater", False, "units that are hardly ever clipped"),
    "active_set_radius": ("two-sided", False, "spectral radius of W among units clipped < 30 %"),
    "centroid_before": ("two-sided", True, "spectral centroid of p, radians a step"),
    "centroid_after": ("two-sided", True, "spectral centroid of h = f(p)"),
    "top_mode_ratio": ("two-sided", True, "top mode: measured growth over |eigenvalue|, a step"),
    "survival_vs_omega": ("less", True, "rank correlation of one-step survival with frequency"),
}
MARGIN_ABOUT: dict[str, tuple[Alternative, bool, str]] = {
    "margin_halfway": ("two-sided", False, "mean margin of the final answer at half time over its end"),
}
ACTIVE = 0.3  # clip rate below which a unit belongs to the mean active set
SATURATED = 0.9
MODE_UNITS = 256
SINGULAR = 1e10  # condition number of the eigenvectors above which mode coordinates mean nothing


@dataclass(frozen=True)
class RoleThresholds:
    """Thresholds of roles by clip rate r and switch count s. The first role that fits is taken: backbone, r < backbone;
    switch, s > switches or switch_low <= r <= switch_high; usually clipped, r > clipped; otherwise mixed."""

    backbone: float = 0.05
    switches: float = 2.0
    switch_low: float = 0.15
    switch_high: float = 0.7
    clipped: float = 0.8

    def role(self, rate: float, switches: float) -> str:
        """Return the role of one unit."""
        if rate < self.backbone:
            return "backbone"
        if switches > self.switches or self.switch_low <= rate <= self.switch_high:
            return "switch"
        return "usually clipped" if rate > self.clipped else "mixed"


@dataclass(frozen=True)
class Trajectory:
    """What a plain net does on its inputs, p = W h + w x + b before the nonlinearity and h after it.

    Modes are by falling |eigenvalue|, and a multiple eigenvalue is one mode. Their lists are empty above 256 units and
    where the eigenvectors are nearly dependent.

    Attributes:
        growth, damping, net: By step: <|p_t|^2> / <|h_{t-1}|^2>, <|h_t|^2> / <|p_t|^2>, and their product.
        clipped: By step: mean number of clipped units.
        margin: By step: mean of `margins`; None without a readout of two outputs or more.
        clip_rate, switch_count, roles: By unit.
        eigenvalues: By mode.
        linear: By mode and s = 1, 2, ...: |lambda|^s.
        measured: rms |c(t+s)| / rms |c(t)|, geometric mean over t, with c the mode's coordinate.
        suppression: measured / linear. For any bounded trajectory it is about |lambda|^-s: compare it with its null.
        survival: By mode: rms |c| after the nonlinearity over rms |c| before it.
    """

    growth: tuple[float, ...]
    damping: tuple[float, ...]
    net: tuple[float, ...]
    clipped: tuple[float, ...]
    margin: tuple[float, ...] | None
    clip_rate: tuple[float, ...]
    switch_count: tuple[float, ...]
    roles: tuple[str, ...]
    eigenvalues: tuple[complex, ...]
    linear: tuple[tuple[float, ...], ...]
    measured: tuple[tuple[float, ...], ...]
    suppression: tuple[tuple[float, ...], ...]
    survival: tuple[float, ...]


def read(cell: Cell, run: Run, thresholds: RoleThresholds, lags: int = 6) -> Trajectory:
    """Describe the run of a relu or tanh cell in balanced coordinates.

    Args:
        cell, run: The cell and its states.
        thresholds: Of the units' roles.
        lags: Largest s.
    """
    growth, damping = _energies(run)
    closed = clipped(cell, run)
    rate, switches = closed.mean((0, 1)), _switches(closed)
    values, before, after = _coordinates(cell, run)
    lags = min(lags, run.hidden.shape[1] - 1)
    size = np.sqrt((after**2).mean(0))  # rms over samples, [steps, modes]
    measured = np.array([_geometric(_ratio(size[s:], size[:-s])) for s in range(1, lags + 1)]).T
    linear = np.abs(values)[:, None] ** np.arange(1, lags + 1)
    survival = _ratio(_rms(after), _rms(before))
    return Trajectory(
        growth=tuple(growth.tolist()),
        damping=tuple(damping.tolist()),
        net=tuple((growth * damping).tolist()),
        clipped=tuple(closed.sum(-1).mean(0).tolist()),
        margin=None if (found := margins(cell, run)) is None else tuple(found.mean(0).tolist()),
        clip_rate=tuple(rate.tolist()),
        switch_count=tuple(switches.tolist()),
        roles=tuple(thresholds.role(r, s) for r, s in zip(rate, switches, strict=True)),
        eigenvalues=tuple(values.tolist()),
        linear=tuple(map(tuple, linear.tolist())),
        measured=tuple(map(tuple, measured.tolist())) if len(values) else (),
        suppression=tuple(map(tuple, _ratio(measured, linear).tolist())) if len(values) else (),
        survival=tuple(survival.tolist()),
    )


def statistics(cell: Cell, run: Run, thresholds: RoleThresholds) -> dict[str, float]:
    """Return the quantities of ABOUT, and of MARGIN_ABOUT if there is a readout."""
    growth, damping = _energies(run)
    closed = clipped(cell, run)
    rate = closed.mean((0, 1))
    active = np.flatnonzero(rate < ACTIVE)
    weight = cell.w_hh["recurrent"]
    inner = np.abs(np.linalg.eigvals(weight[np.ix_(active, active)])).max() if active.size else 0.0
    values, before, after = _coordinates(cell, run)
    omega = np.abs(np.angle(values))
    found = {
        "growth": float(_geometric(growth)),
        "damping": float(_geometric(damping)),
        "net_growth": float(_geometric(growth * damping)),
        "clipped_share": float(closed.mean()),
        "switch_count": float(_switches(closed).mean()),
        "backbone_units": float((rate < thresholds.backbone).sum()),
        "active_set_radius": float(inner),
        "centroid_before": _centroid(omega, before),
        "centroid_after": _centroid(omega, after),
        "top_mode_ratio": math.nan,
        "survival_vs_omega": math.nan,
    }
    if len(values):
        level = levels(np.abs(values))
        size = np.sqrt((after[:, :, level == level.max()] ** 2).mean(0).sum(-1))
        found["top_mode_ratio"] = float(_geometric(_ratio(size[1:], size[:-1])) / max(abs(values[0]), 1e-300))
        found["survival_vs_omega"] = _rank_correlation(_ratio(_rms(after), _rms(before)), omega)
    margin = margins(cell, run)
    if margin is not None:
        mean = margin.mean(0)
        found["margin_halfway"] = float(mean[len(mean) // 2] / mean[-1]) if mean[-1] else math.nan
    return found


def clipped(cell: Cell, run: Run) -> np.ndarray:
    """Return where units are clipped, [samples, steps, H]: p < 0 of a ReLU, |h| > 0.9 of a tanh."""
    assert run.pre is not None
    return run.pre < 0 if cell.activation == "relu" else np.abs(run.hidden) > SATURATED


def margins(cell: Cell, run: Run) -> np.ndarray | None:
    """Return (V[answer] - V[runner-up]) h_t, [samples, steps]; answer and runner-up are the two largest final logits.

    None without a readout of two outputs or more.
    """
    if cell.w_out is None or len(cell.w_out) < 2:
        return None
    order = np.argsort(
        run.hidden[:, -1] @ cell.w_out.T, -1, kind="stable"
    )  # stable: equal logits give the same pair on every processor
    direction = cell.w_out[order[:, -1]] - cell.w_out[order[:, -2]]
    return np.einsum("bth,bh->bt", run.hidden, direction)


def _energies(run: Run) -> tuple[np.ndarray, np.ndarray]:
    assert run.pre is not None
    h, p = ((state**2).sum(-1).mean(0) for state in (run.hidden, run.pre))
    return _ratio(p[1:], h[:-1]), _ratio(h[1:], p[1:])


def _switches(closed: np.ndarray) -> np.ndarray:
    return (closed[:, 1:] != closed[:, :-1]).sum(1).mean(0)


def _coordinates(cell: Cell, run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return eigenvalues by falling modulus, and the size of p and of h in each mode, [samples, steps, modes].

    The size is the norm of the projection onto the eigenspace, because eigenvectors of a multiple eigenvalue are an
    arbitrary basis. Empty for a nearly defective W, and above 256 units, where the nulls would take minutes.
    """
    assert run.pre is not None
    nothing = np.zeros((*run.hidden.shape[:2], 0))
    if cell.hidden_size > MODE_UNITS:
        return np.zeros(0, dtype=complex), nothing, nothing
    values, vectors = np.linalg.eig(cell.w_hh["recurrent"])
    try:
        inverse = np.linalg.inv(vectors)
    except np.linalg.LinAlgError:
        return values[:0], nothing, nothing
    if np.linalg.norm(vectors) * np.linalg.norm(inverse) > SINGULAR:
        return values[:0], nothing, nothing
    label, least = clusters(values), SPLIT * np.abs(values).max()
    coordinates = run.pre @ inverse.T, run.hidden @ inverse.T
    found, before, after = [], [], []
    for n in range(label.max() + 1):
        equal = np.flatnonzero(label == n)
        value = complex(values[equal].mean())
        value = complex(value.real if abs(value) > least else 0, value.imag if abs(value.imag) > least else 0)
        if value.imag >= 0:
            p, h = (_size(c[..., equal], vectors[:, equal]) for c in coordinates)
            for each in {value, value.conjugate()}:  # equal in both for a real run, to the last bit
                found.append(each)
                before.append(p)
                after.append(h)
    order = np.lexsort((np.angle(found), -levels(np.abs(found))))
    return np.array(found)[order], np.stack(before, -1)[..., order], np.stack(after, -1)[..., order]


def _size(coordinates: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the norm of a sum of eigenvectors of norm 1, given by its coordinates."""
    return np.abs(coordinates[..., 0]) if vectors.shape[1] == 1 else np.linalg.norm(coordinates @ vectors.T, axis=-1)


def _centroid(omega: np.ndarray, coordinates: np.ndarray) -> float:
    power = (coordinates**2).mean((0, 1))
    return float((omega * power).sum() / power.sum()) if power.sum() > 0 else math.nan


def _rms(coordinates: np.ndarray) -> np.ndarray:
    return np.sqrt((coordinates**2).mean((0, 1)))


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)


def _geometric(values: np.ndarray) -> np.ndarray:
    """Return the geometric mean over the first axis: nan if it is empty, 0 if a value is 0."""
    with np.errstate(divide="ignore"):
        return np.exp(np.log(values).mean(0)) if len(values) else np.full(values.shape[1:], np.nan)


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation; numbers equal to rounding are ties. nan if one array is constant."""
    if not np.isfinite(a).all() or not (levels(a).any() and levels(b).any()):
        return math.nan
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of [n], the mean for ties. scipy.stats.rankdata takes half a second to import."""
    level = levels(values)
    count = np.bincount(level)
    return (np.cumsum(count) - (count - 1) / 2)[level]
