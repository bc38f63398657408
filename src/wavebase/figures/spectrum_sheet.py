"""The figure sheet of a spectrum report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wavebase.analysis.nonnormality import pseudospectrum
from wavebase.analysis.report_text import number
from wavebase.analysis.spectrum_report import Report
from wavebase.figures.style import COLOURS, GREY

PSEUDOSPECTRUM_UNITS = 128
LARGE = 40  # units over which single ones are not labelled
SERIES = "series"  # among names of panels: the figure of `movement`, whole


def named_panels(text: str) -> list[str]:
    """Return the panels that a list with commas names.

    Raises:
        ValueError: For a name that no panel has.
    """
    names = text.split(",") if text else []
    for name in names:
        if name not in (*PANELS, SERIES):
            raise ValueError(
                f"panels must be some of {', '.join((*PANELS, SERIES))}, got {name!r}; leave them out for all"
            )
    return names


def sheet(report: Report, shown: Sequence[str] = ()) -> Figure:
    """Draw panels of `PANELS`, three a row.

    Args:
        report: What is drawn.
        shown: Names of panels; one without content says so. Empty: all that have content.
    """
    names = [name for name in shown if name in PANELS] or list(PANELS)
    figure = Figure(layout="constrained")
    words = "balanced coordinates" if report.balanced else "coordinates as given"
    kept = []
    for ax, name in zip(figure.subplots(len(names), 1, squeeze=False).flat, names, strict=True):
        title, draw = PANELS[name]
        ax.set_title(title, fontsize=11)
        if draw(ax, report):
            kept.append(ax)
        elif name in shown:
            ax.clear()
            ax.set_title(title, fontsize=11)
            ax.text(0.5, 0.5, "not measured", ha="center", va="center", color=GREY, transform=ax.transAxes)
            ax.set_axis_off()
            kept.append(ax)
        else:
            ax.remove()
    columns = min(3, len(kept))
    rows = -(-len(kept) // columns)
    cells = figure.add_gridspec(rows, columns)
    for ax, place in zip(kept, np.ndindex(rows, columns), strict=False):
        ax.set_subplotspec(cells[place])
    figure.set_size_inches(5 * columns, 4.4 * rows + 0.3)
    title = f"Spectrum of a recurrent net: {report.activation}, {report.hidden_size} units, {words}"
    figure.suptitle(title if columns == 3 else title.replace(": ", ":\n"), fontsize=14)
    return figure


def _eigenvalues(ax: Axes, report: Report) -> bool:
    turn = np.linspace(0, 2 * np.pi, 400)
    ax.plot(np.cos(turn), np.sin(turn), color=GREY, linewidth=0.8)
    for colour, (gate, found) in zip(COLOURS, report.gates.items(), strict=False):
        values = np.array([mode.eigenvalue for mode in found.modes])
        ax.plot(values.real, values.imag, "o", markersize=5, color=colour, alpha=0.8, label=gate)
    name = next(iter(report.quantities))
    radius = report.quantities[name]
    if radius.nulls and len(report.gates) == 1:
        null = radius.nulls[0]
        for size in (null.low, null.high):
            ax.plot(size * np.cos(turn), size * np.sin(turn), ":", color=GREY, linewidth=0.8)
        ax.plot([], [], ":", color=GREY, label="random radius, 5 and 95 %")
    ax.plot([], [], color=GREY, linewidth=0.8, label="unit circle")
    ax.legend(fontsize=8, loc="upper right")
    ax.axhline(0, color=GREY, linewidth=0.3)
    ax.axvline(0, color=GREY, linewidth=0.3)
    ax.set(aspect="equal", xlabel="real part", ylabel="imaginary part")
    ax.set_adjustable("datalim")
    return True


def _main_weight(report: Report) -> np.ndarray:
    """The one matrix, or of a gated cell that of the candidate."""
    weights = report.cell.w_hh
    return next(weights[gate] for gate in ("recurrent", "cell", "new") if gate in weights)


def _pseudospectrum(ax: Axes, report: Report) -> bool:
    if report.hidden_size > PSEUDOSPECTRUM_UNITS:
        return False
    weight = _main_weight(report)
    values = np.linalg.eigvals(weight)
    extent = 1.25 * max(1.0, np.abs(values).max(initial=0.0))
    x, y, smallest = pseudospectrum(weight, extent, 61 if report.hidden_size <= 64 else 41)
    levels = np.arange(-4, 0.51, 0.5)
    logarithm = np.log10(np.maximum(smallest, 1e-12))
    if not ((levels > logarithm.min()) & (levels < logarithm.max())).sum() > 1:
        return False  # flat at this scale
    drawn = ax.contour(x, y, logarithm, levels=levels, cmap="viridis")
    ax.clabel(drawn, fontsize=7, fmt="%g")
    ax.plot(values.real, values.imag, ".", color=COLOURS[1])
    turn = np.linspace(0, 2 * np.pi, 400)
    ax.plot(np.cos(turn), np.sin(turn), color=GREY, linewidth=0.8)
    ax.set(aspect="equal", xlabel="real part", ylabel="imaginary part")
    return True


def _quantities(ax: Axes, report: Report) -> bool:
    shown = [
        q
        for q in report.quantities.values()
        if q.nulls
        and np.isfinite([q.value, q.nulls[0].low, q.nulls[0].high]).all()
        and q.nulls[0].high > q.nulls[0].low
    ][:40]
    if not shown:
        return False
    for row, q in enumerate(shown):
        null = q.nulls[0]
        place = (q.value - null.low) / (null.high - null.low)
        out = np.clip(place, -1.5, 2.5)
        mark = "o" if out == place else ("<" if place < 0 else ">")
        ax.plot(out, row, mark, color=COLOURS[1] if q.flagged else COLOURS[0], markersize=5)
    ax.axvspan(0, 1, color=GREY, alpha=0.15, linewidth=0)
    ax.set_yticks(
        range(len(shown)), [f"{q.name} = {number(q.value)}" for q in shown], fontsize=7 if len(shown) < 36 else 6
    )
    ax.set(xlim=(-1.7, 2.7), ylim=(len(shown) - 0.5, -0.5))
    ax.set_xticks([0, 1], ["5 %", "95 %"])
    ax.set_xlabel("place in the random null (orange: p <= 0.05)", fontsize=9)
    return True


def _readout(ax: Axes, report: Report) -> bool:
    if report.readout is None:
        return False
    columns = report.readout.columns
    share = [column.dominant_share for column in columns]
    ax.bar(range(len(columns)), share, color=COLOURS[0])
    if len(columns) <= LARGE:
        for column in columns:
            ax.text(column.unit, column.dominant_share, f"{column.dominant}", ha="center", va="bottom", fontsize=8)
    best, mean = report.quantities["best_dominant_share"].nulls[0], report.quantities["mean_dominant_share"].nulls[0]
    ax.axhspan(
        best.low, best.high, color=COLOURS[1], alpha=0.2, linewidth=0, label="best column of random readouts, 5..95 %"
    )
    ax.axhline(mean.median, color=GREY, linestyle="--", label="mean column of random readouts")
    ax.set(ylim=(0, 1.25), xlabel="unit (above the bar: its frequency bin)", ylabel="share of energy")
    ax.legend(fontsize=8, loc="upper right")
    return True


def _energy(ax: Axes, report: Report) -> bool:
    if report.trajectory is None:
        return _jacobians(ax, report)
    steps = np.arange(1, len(report.trajectory.growth) + 1)
    for n, (name, words) in enumerate((("growth", "growth by W and x"), ("damping", "damping by f"), ("net", "net"))):
        ax.plot(steps, getattr(report.trajectory, name), "o-", markersize=4, color=COLOURS[n], label=words)
    null = report.quantities["net_growth"].nulls[0]
    if np.isfinite([null.low, null.high]).all():
        ax.axhspan(null.low, null.high, color=COLOURS[2], alpha=0.12, linewidth=0, label="net of random weights")
    ax.axhline(1, color=GREY, linewidth=0.8)
    ax.set(yscale="log", xlabel="step", ylabel="ratio of mean energies")
    ax.legend(fontsize=8)
    return True


def _jacobians(ax: Axes, report: Report) -> bool:
    """Of a gated cell, which has no energy balance: how much each step stretches."""
    found = report.effective
    if found is None or np.isfinite(found.step_radius).sum() < 2:
        return False
    ax.set_title("Spectral radius of each step's Jacobian", fontsize=11)
    ax.plot(range(len(found.step_radius)), found.step_radius, "o-", markersize=4, color=COLOURS[0])
    ax.axhline(1, color=GREY, linewidth=0.8)
    ax.set(xlabel="step", ylabel="mean over samples")
    return True


def _product(ax: Axes, report: Report) -> bool:
    """Of a gated cell, whose modes change with every step: what the whole trajectory keeps."""
    found = report.effective
    values = np.array(found.singular_values) if found is not None else np.zeros(0)
    if not (values > 0).any():
        return False
    ax.set_title("Product of Jacobians: singular values", fontsize=11)
    ax.plot(np.arange(1, len(values) + 1)[values > 0], values[values > 0], ".-", color=COLOURS[0])
    ax.set(yscale="log", xlabel="direction", ylabel="stretch over the trajectory")
    return True


def _growth(ax: Axes, report: Report) -> bool:
    path = report.trajectory
    if path is None or not path.measured:
        return path is None and _product(ax, report)
    once = [n for n, value in enumerate(path.eigenvalues) if complex(value).imag >= 0][:5]
    for colour, n in zip(COLOURS, once, strict=False):
        lags = np.arange(1, len(path.measured[n]) + 1)
        value = complex(path.eigenvalues[n])
        ax.plot(
            lags,
            path.measured[n],
            "o-",
            markersize=3,
            color=colour,
            label=f"{abs(value):.2f} at {np.angle(value):.2f} rad",
        )
        ax.plot(lags, path.linear[n], "--", color=colour)
    ax.set(yscale="log", xlabel="steps ahead", ylabel="|c(t+s)| / |c(t)|")
    ax.legend(fontsize=8, title="|eigenvalue|", title_fontsize=8)
    return True


def _roles(ax: Axes, report: Report) -> bool:
    path = report.trajectory
    if path is None:
        return False
    for colour, role in zip(COLOURS, dict.fromkeys(path.roles), strict=False):
        units = [n for n, found in enumerate(path.roles) if found == role]
        ax.plot(
            [path.clip_rate[n] for n in units], [path.switch_count[n] for n in units], "o", color=colour, label=role
        )
    if len(path.roles) <= LARGE:
        for n, (rate, switches) in enumerate(zip(path.clip_rate, path.switch_count, strict=True)):
            ax.annotate(f"{n}", (rate, switches), textcoords="offset points", xytext=(4, 3), fontsize=7)
    ax.set(xlabel="clip rate", ylabel="mean number of switches", xlim=(-0.03, 1.03))
    ax.legend(fontsize=8)
    return True


def _rotations(ax: Axes, report: Report) -> bool:
    drawn = False
    for colour, (gate, found) in zip(COLOURS, report.gates.items(), strict=False):
        pairs = found.rotation_pairs
        if not pairs:
            continue
        drawn = True
        ax.plot([abs(p.angle) / np.pi for p in pairs], [p.error for p in pairs], "o", color=colour, label=gate)
        if len(report.gates) == 1:
            for p in pairs[:8]:
                words = f"{p.units[0]},{p.units[1]}"
                ax.annotate(
                    words, (abs(p.angle) / np.pi, p.error), textcoords="offset points", xytext=(4, 3), fontsize=7
                )
    if not drawn:
        return False
    null = next(
        (q.nulls[0] for name, q in report.quantities.items() if name.endswith("best_pair_error") and q.nulls), None
    )
    if null is not None and len(report.gates) == 1 and np.isfinite([null.low, null.high]).all():
        ax.axhspan(
            null.low, null.high, color=COLOURS[1], alpha=0.2, linewidth=0, label="best of random weights, 5..95 %"
        )
    ax.set(
        yscale="log",
        xlabel="angle / pi (0 and 1: a multiple of the identity)",
        ylabel="relative error from a rotation",
        xlim=(-0.03, 1.03),
    )
    ax.legend(fontsize=8)
    return True


def _impulse(ax: Axes, report: Report) -> bool:
    if report.impulse is None:
        return False
    response = np.array(report.impulse.response)
    top = np.abs(response).max() or 1.0
    picture = ax.imshow(response.T, aspect="auto", cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
    ax.figure.colorbar(picture, cax=ax.inset_axes((1.03, 0.1, 0.04, 0.8)))  # `sheet` moves ax, and this with it
    ax.set(xlabel="position of the impulse", ylabel="unit")
    return True


PANELS: dict[str, tuple[str, Callable[[Axes, Report], bool]]] = {
    "eigenvalues": ("Eigenvalues", _eigenvalues),
    "pseudospectrum": ("Pseudospectrum: log10 sigma_min(z - W)", _pseudospectrum),
    "quantities": ("Quantities within their random null", _quantities),
    "readout": ("Readout: largest share of one frequency, by unit", _readout),
    "energy": ("Energy balance", _energy),
    "growth": ("Modes: growth measured (solid) and linear (dashed)", _growth),
    "roles": ("Clip rates and roles", _roles),
    "rotations": ("Rotation pairs", _rotations),
    "impulse": ("Impulse response, by position of the impulse", _impulse),
}
