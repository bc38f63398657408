"""Figures drawn from records with a known answer: what their axes hold, not how they look."""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from omegaconf import OmegaConf
from PIL import Image

from conftest import ONE_PROBE, ROOT, SMALL
from wavebase import registry
from wavebase.analysis.analyze import analyze
from wavebase.figures import curves, run, spectrum_sheet, style, sweeps, weights
from wavebase.figures.movement import movement
from wavebase.formatting import number
from wavebase.records import checkpoints
from wavebase.records.folder import RunFolder
from wavebase.report import write

T, GATES = 4, ("input", "forget", "cell", "output")
BASELINE = {"zero": 2.0, "mean": 1.0}


def summary(verdict: str = "preserved") -> dict:
    distances = {"position/distance": 0.5, "position/block_gen": 0.25, "position/block_readout": 0.0}
    return {
        "verdict": verdict, "steps": 100, "baseline": BASELINE, "relative_error": {"final": 0.1}, "watched_weight": "weight_hh_cell",
        "probes": {"initial": distances, "final": {name: value / 5 for name, value in distances.items()}},
    }  # fmt: skip


def rotations(*angles: float, modulus: float = 1.0) -> torch.Tensor:
    pairs = [[[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]] for a in angles]
    return modulus * torch.block_diag(*(torch.tensor(pair, dtype=torch.float64) for pair in pairs))


@pytest.fixture
def folder(tmp_path):
    """A run of two oscillators whose second one ends 1 % too large and 0.02 bins too fast."""
    made = RunFolder(tmp_path)
    made.start("T: 4\ntrain: {steps: 200}\n")
    turn = 2 * np.pi / T
    start = {f"weight_hh_{gate}": torch.zeros(4, 4, dtype=torch.float64) for gate in GATES}
    start["weight_hh_cell"] = rotations(0.0, turn)
    end = {name: weight.clone() for name, weight in start.items()}
    end["weight_hh_cell"] = torch.block_diag(rotations(0.0), rotations(1.02 * turn, modulus=1.01))
    end["weight_hh_input"][0, 1] = float("nan")
    for step, state in ((0, start), (100, end)):
        scale = 0.0 if step == 0 else 1e-3
        made.log(step, {"drift/weight_hh_cell": scale, "drift/weight_hh_cell/a_from_b": scale / 2, "drift/weight_hh_cell/still": 0.0,
                        "loss/train": 0.5, "loss/held_out": 0.25, "error/training": 0.125})  # fmt: skip
        made.save_checkpoint(step, {"weights": state, "blocks": {"gen": [0, 4]}})
    target = np.array([[[1.0, 2.0, 4.0]]])
    examples = {"signal": np.zeros((1, 4)), "target": target, "before": target, "after": np.zeros_like(target)}
    made.save_examples(examples)
    made.close()
    return made


def lines(ax) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines}


def texts(figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


class TestDrift:
    def test_it_holds_what_was_recorded(self, folder):
        top, middle, bottom = run.drift(folder, summary()).axes
        drawn = lines(top)
        assert drawn["whole"] == ([100], [1e-3]) and drawn["a from b"] == ([100], [5e-4])
        assert "still" not in drawn, "a logarithmic axis has no place for zero"
        assert lines(middle)["training"] == ([0, 100], [0.5, 0.5]) and lines(middle)["held out"][1] == [0.25, 0.25]
        assert lines(middle)["zero"][1] == [2, 2] and lines(middle)["mean"][1] == [1, 1]
        assert ([0, 100], [0.125, 0.125]) in lines(bottom).values() and [1, 1] in [y for _, y in lines(bottom).values()]
        assert all(ax.get_yscale() == "log" for ax in (top, middle, bottom))
        low, high = bottom.get_xlim()
        assert low < 0 and high > 200, "the steps that were asked for, of which the run took half"

    def test_rounding_is_marked_where_it_is_near_and_only_there(self, folder, tmp_path):
        words = "rounding: nothing moved"
        assert words not in texts(run.drift(folder, summary()))
        still = RunFolder(tmp_path / "still")
        still.start("T: 4\n")
        still.log(100, {"drift/weight_hh_cell": 1e-18})
        still.close()
        assert words in texts(run.drift(still, summary()))

    def test_no_number_is_too_large_to_draw(self, tmp_path):
        """A loss of 1e307 left matplotlib no room for its ticks, and the run failed at its end."""
        made = RunFolder(tmp_path)
        made.start("T: 4\n")
        for step, size in enumerate((1.0, 1e150, 1.7e308, 5e-324)):
            made.log(
                step, dict.fromkeys(("drift/weight_hh_cell", "loss/train", "loss/held_out", "error/training"), size)
            )
        made.close()
        for draw in (run.drift, run.train_loss):
            assert style.png(draw(made, summary("broken")))
        groups = {"a": [made.metrics()]}
        assert style.png(curves.drift_curves(groups, "weight_hh_cell")) and style.png(
            sweeps.learning_curves(groups, "loss/train")
        )

    def test_an_unmoved_net_is_not_a_success(self, folder):
        assert style.UNMOVED in texts(run.drift(folder, summary("unmoved")))
        assert style.UNMOVED not in texts(run.drift(folder, summary()))

    def test_nothing_is_drawn_without_records(self, tmp_path):
        made = RunFolder(tmp_path)
        made.start("T: 4\n")
        made.log(0, {"loss/train": 0.5})
        made.close()
        assert run.drift(made, summary()) is None


# the figures that a run draws by default, by the names in conf/probe/default.yaml
NAMES = OmegaConf.load(ROOT / "conf" / "probe" / "default.yaml").figures
DEFAULT = {name: registry.lookup("probe.figures", f"wavebase.figures.{name}") for name in NAMES}


@pytest.mark.parametrize("name", DEFAULT)
def test_a_net_that_did_nothing_looks_like_no_success(name, folder):
    """Each figure by default says so, or shows the start alone."""
    said, other = (texts(DEFAULT[name](folder, summary(verdict))) for verdict in ("unmoved", "preserved"))
    if name == "weight_hh_init":
        assert "at the start" in said and said == other
    else:
        assert style.UNMOVED in said and style.UNMOVED not in other


@pytest.mark.parametrize("fill,count", [(np.nan, 16), (np.inf, 16), (-np.inf, 3), (np.nan, 1), (0.0, 0), (1e-300, 0)])
def test_only_zeros_are_called_zero(fill, count, folder):
    """Weights that are not finite were once captioned "(all zero)"."""
    state = folder.load_checkpoint(0)
    state["weights"]["weight_hh_forget"].view(-1)[: count or None] = fill
    checkpoints.save(folder.checkpoint_file(0), state)
    titles = [ax.get_title() for ax in weights.weight_hh_init(folder, summary()).axes if ax.get_title()]
    assert titles[0] == "input (all zero)"
    wanted = f"\n({count} of 16 not finite: green)" if count else "" if fill else " (all zero)"
    assert titles[1] == f"forget{wanted}"


@pytest.mark.parametrize("name", ["run.drift", "run.distance", "train_loss", "spectrum"])
def test_zero_is_drawn_beside_the_net(name, folder):
    """A net that outputs zero lies on the line of zero; one whose weights are all zero has a distance of 1."""
    shown = DEFAULT[name](folder, summary())
    assert "zero" in texts(shown)
    named = [line for ax in shown.axes for line in ax.lines if "zero" in str(line.get_label())]
    assert named or any("zero" in label for ax in shown.axes for label in ax.get_legend_handles_labels()[1])


def test_oscillators_of_zero_weights_are_far_from_exact(folder):
    state = folder.load_checkpoint(100)
    state["weights"]["weight_hh_cell"] *= 0
    with mock.patch.object(type(folder), "load_checkpoint", lambda self, step: state):
        modulus, _ = weights.gen_eigenvalues(folder, summary("broken")).axes
    assert np.allclose(lines(modulus)["net after 100 steps"][1], -100)


def test_distances_from_start_to_end(folder):
    figure = run.distance(folder, summary())
    before, after, zero = (
        lines(figure.axes[0])[name] for name in ("net at the start", "net after 100 steps", "zero weights")
    )
    assert (
        before == ([0.5, 0.25, run.TINY], [0, 1, 2])
        and after[0] == pytest.approx([0.1, 0.05, run.TINY])
        and zero[0] == [1, 1]
    )
    assert "80 % of the way back" in texts(figure)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["all weights", "gen", "readout"]
    unknown = summary() | {"probes": {"initial": {}, "final": {}}}
    assert run.distance(folder, unknown) is None


class TestSweeps:
    points = (
        sweeps.Point({"a": 1, "b": "x"}, 1e-16, "done", "unmoved", 0.7),
        sweeps.Point({"a": 2, "b": "x"}, 0.01, "done", "preserved", 0.7),
        sweeps.Point({"a": 1, "b": "y"}, 5.0, "done", "broken", 0.7),
        sweeps.Point({"a": 2, "b": "y"}, None, "failed"),
    )

    def test_a_cell_that_did_not_move_is_grey_and_decides_no_colour(self):
        figure = sweeps.heat_map(self.points, "a", "b", "relative_error.final")
        ax, picture = figure.axes[0], figure.axes[0].images[0]
        assert "grey: nothing moved" in texts(figure) and "hatched: no number" in texts(figure)
        grey = [patch for patch in ax.collections if np.allclose(patch.get_facecolor()[0][:3], to_rgb(sweeps.STILL))]
        assert len(grey) == 1 and picture.norm.boundaries[0] == pytest.approx(0.01), "not 1e-16"
        assert {text.get_text() for text in ax.texts} == {"1e-16\nunmoved", "0.01\npreserved", "5\nbroken", "failed"}

    def test_better_than_the_mean_is_blue_and_worse_is_red(self):
        picture = sweeps.heat_map(self.points, "a", "b", "relative_error.final").axes[0].images[0]
        for value in (0.01, 0.3, 0.69, 0.71, 1.0, 5.0):
            red, _, blue, _ = picture.cmap(picture.norm(value))
            assert (blue > red) == (value < 0.7), value

    def test_marks_have_a_key_and_unmoved_runs_no_say(self):
        figure = sweeps.by_setting(self.points, ["a", "b"], "relative_error.final")
        words = texts(figure)
        for part in (
            "unmoved: tests nothing",
            "preserved",
            "broken",
            "failed (no number)",
            "zero output",
            "mean predictor",
            "4 runs, 1 without a number",
        ):
            assert part in words, part
        (bar,) = [bars for bars in figure.axes[0].collections if np.allclose(bars.get_segments()[0][:, 1], 5.0)]
        assert bar.get_segments()[0][0, 0] < 0 < bar.get_segments()[0][1, 0], "over a = 1: of the one that moved"


def test_errors_of_a_spectrum_stand_beside_those_of_a_zero_output(folder):
    figure = run.spectrum(folder, summary())
    bottom = lines(figure.axes[1])
    zero = bottom.pop("zero output")[1]
    assert zero == [0.25, 0.25, 0.5, 1.0], "a step for each bin, relative to the largest power"
    before, after = (y for _, y in bottom.values())
    assert before == [run.TINY] * 3 and after == zero[1:], "a net that outputs zero lies on the line"
    assert "no weight moved" in texts(run.spectrum(folder, summary("unmoved")))


class TestEigenvalues:
    def test_a_shift_of_one_percent_shows(self, folder):
        modulus, angle = weights.gen_eigenvalues(folder, summary()).axes
        for ax, moved in ((modulus, 1.0), (angle, 0.02)):
            bins, values = lines(ax)["net after 100 steps"]
            assert bins == [0, 0, 1] and values == pytest.approx([0, 0, moved], abs=1e-9)
            low, high = ax.get_ylim()
            end, middle = (ax.transData.transform((0, y))[1] for y in (moved, 0))
            assert low == -high and (end - middle) > 0.1 * ax.bbox.height / 2, "a tenth of the way to the edge"
            assert lines(ax)["net at the start"][1] == pytest.approx([0, 0, 0], abs=1e-9)

    @pytest.mark.parametrize("window", [4, 5, 8])
    def test_exact_oscillators_have_no_error(self, window):
        values = np.exp(2j * np.pi * np.arange(window) / window)
        k, modulus, angle = weights.oscillator_errors(np.repeat(values, 2), window)
        assert sorted(set(k)) == list(range(window // 2 + 1))
        assert np.abs(modulus).max() < 1e-14 and np.abs(angle).max() < 1e-13


class TestChange:
    def test_end_minus_start_on_one_symmetric_scale(self, folder):
        start, end = (folder.load_checkpoint(step)["weights"]["weight_hh_cell"] for step in (0, 100))
        figure = weights.weight_hh_change(folder, summary())
        images = {ax.get_title().split("\n")[0]: ax.images[0] for ax in figure.axes if ax.images}
        assert np.allclose(images["cell"].get_array(), (end - start).numpy(), atol=0) and set(images) == set(GATES)
        top = (end - start).abs().max().item()
        assert all((image.norm.vmin, image.norm.vmax) == (-top, top) for image in images.values())
        assert f"full colour: {number(top)}" in texts(figure) and "plain numbers" in texts(figure)

    def test_what_is_not_finite_is_marked(self, folder):
        figure = weights.weight_hh_change(folder, summary())
        (ax,) = (ax for ax in figure.axes if ax.get_title().startswith("input"))
        assert "1 of 16 not finite" in ax.get_title()
        image = ax.images[0]
        assert to_rgb(weights.NOT_FINITE) == pytest.approx(image.to_rgba(image.get_array())[0, 1][:3])

    def test_units_are_those_of_the_construction(self, ran):
        made = ran(*SMALL, "train.steps=1", "task.label_noise=0.1")
        figure = weights.weight_hh_change(made, made.summary())
        assert "natural units" in texts(figure)
        units = weights._natural_units(made.load_checkpoint(0), made)
        from wavebase.experiment import build

        exact = build.load_run(made)[1].net.construction
        for gate in GATES:
            ratio = units[f"weight_hh_{gate}"] / exact.unit_scale[f"weight_hh_{gate}"].double()
            seen = ratio[torch.isfinite(ratio) & (ratio < 1e200)]
            assert 0.02 < seen.median() < 50, "largest states on four stored signals, not over all signals"

    def test_an_unmoved_net_is_not_a_success(self, folder):
        assert style.UNMOVED in texts(weights.weight_hh_change(folder, summary("unmoved")))


class TestCurves:
    def test_crosses_are_explained_where_there_are_any(self):
        whole = {"loss/train": (np.arange(3), np.array([1.0, 0.5, 0.25]))}
        ends = {"loss/train": (np.arange(3), np.array([1.0, np.nan, np.nan]))}
        words = "no longer finite"
        assert words not in texts(curves.loss_curves({"a": [whole]}, BASELINE))
        assert words in texts(curves.loss_curves({"a": [whole, ends]}, BASELINE))
        assert words in texts(sweeps.learning_curves({"a": [whole, ends]}, "loss/train"))

    def test_curves_differ_for_every_common_colour_vision(self):
        looks = [style.look(n) for n in range(32)]
        assert len(set(looks)) == 32
        for (colour, dashes), (other, another) in itertools.combinations(looks[:9], 2):
            assert dashes != another or difference(colour, other) > 15, (colour, other)
        for one, two in itertools.combinations(style.COLOURS, 2):
            assert difference(one, two) > 15, (one, two)

    def test_text_can_be_read_at_eight_centimetres(self, folder, monkeypatch):
        monkeypatch.setattr(
            ConstrainedLayoutEngine, "execute", lambda engine, figure: None
        )  # it changes no size of text
        tags = ("loss/train", "error/training", "drift/weight_hh_cell")
        groups = {"a": [{tag: (np.arange(3), np.array([1.0, 0.5, 0.25])) for tag in tags}]}
        points = [sweeps.Point({"a": n % 3, "b": n % 2}, 0.1, "done", "drifted", 0.7) for n in range(6)]
        drawn = [draw(folder, summary()) for draw in DEFAULT.values()]
        drawn += [
            curves.loss_curves(groups, BASELINE),
            curves.error_curves(groups, BASELINE),
            curves.drift_curves(groups, "weight_hh_cell"),
        ]
        drawn += [
            sweeps.learning_curves(groups, "loss/train"),
            sweeps.heat_map(points, "a", "b", "x"),
            sweeps.by_setting(points, ["a", "b"], "x"),
        ]
        for figure in drawn:
            figure.draw_without_rendering()  # gives ticks their labels
            scale = 8 / 2.54 / figure.get_figwidth()
            shown = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
            # a superscript is 0.7 of its text
            sizes = [text.get_fontsize() * (0.7 if "^{" in text.get_text() else 1) for text in shown]
            assert min(sizes) * scale >= 6, (figure, min(sizes) * scale)


def difference(one: str, two: str) -> float:
    """Least distance in CIELAB, for common vision, deuteranopia and protanopia (Machado et al. 2009)."""
    kinds = (
        np.eye(3),
        np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]),
        np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    )

    def lab(colour: str, kind: np.ndarray) -> np.ndarray:
        c = np.array(to_rgb(colour))
        linear = np.clip(kind @ np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4), 0, 1)
        to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
        x = to_xyz @ linear / np.array([0.9505, 1, 1.089])
        f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    return min(float(np.linalg.norm(lab(one, kind) - lab(two, kind))) for kind in kinds)


class TestSheet:
    gated = staticmethod(lambda: analyze(np.random.default_rng(0).standard_normal((16, 4)) / 2, draws=4))

    def test_panels_without_content_are_left_out(self):
        titles = [ax.get_title() for ax in spectrum_sheet.sheet(self.gated()).axes]
        assert "Eigenvalues" in titles and "Clip rates and roles" not in titles
        assert "not measured" not in texts(spectrum_sheet.sheet(self.gated()))

    def test_one_that_is_asked_for_says_so(self):
        figure = spectrum_sheet.sheet(self.gated(), ["roles", "eigenvalues"])
        assert [ax.get_title() for ax in figure.axes] == ["Clip rates and roles", "Eigenvalues"]
        assert "not measured" in texts(figure)

    def test_a_flat_pseudospectrum_is_left_out(self):
        titles = [ax.get_title() for ax in spectrum_sheet.sheet(analyze(1e40 * np.eye(4), activation="tanh", draws=4)).axes]  # fmt: skip
        assert not any("Pseudospectrum" in title for title in titles)


def test_movement_shows_what_moved_and_no_more():
    still = np.diag(np.linspace(0.1, 0.9, 5))
    moved = still.copy()
    moved[0, 1] = 0.5
    first, last = (analyze(weight, activation="tanh", draws=19).quantities for weight in (still, moved))
    assert movement({"step_0": first, "step_1": first}) is None
    figure = movement({"step_0": first, "step_1": last})
    shown = [ax.get_title() for ax in figure.axes if ax.lines]
    assert "henrici" in shown and "spectral_radius" not in shown and len(shown) <= 12


WITH_ONE = (
    *(word for word in SMALL if not word.startswith("probe.figures")),
    ONE_PROBE,
    "train.steps=1",
    "probe.figures=[train_loss]",
)


def test_vectors_on_request(ran):
    made = ran(*WITH_ONE, "probe.figure_format=svg", "probe.draw=true")
    files = {file.name: file.read_bytes() for file in (made.path / "figures").iterdir()}
    assert set(files) == {"train_loss.png", "train_loss.svg"} and b"<svg" in files["train_loss.svg"]
    figure = run.train_loss(made, made.summary())
    style.png(figure)
    assert style.vector(figure, "svg") == files["train_loss.svg"], "equal figures give equal bytes"
    assert style.vector(run.train_loss(made, made.summary()), "pdf").startswith(b"%PDF")


def test_the_runs_of_a_sweep_draw_on_demand_what_they_would_have_drawn(ran, tmp_path):
    drawn, left = ran(*WITH_ONE, "probe.draw=true", name="drawn"), ran(*WITH_ONE, name="sweep/run")
    assert not (left.path / "figures").exists(), "`ran` runs a job as a sweep does"
    write.write(left.path.parent, write.Options(out=str(tmp_path / "plain")))
    assert not (left.path / "figures").exists()
    write.write(left.path.parent, write.Options(out=str(tmp_path / "report"), figures="true"))
    pixels = [np.asarray(Image.open(made.path / "figures" / "train_loss.png")) for made in (drawn, left)]
    assert np.array_equal(*pixels)
