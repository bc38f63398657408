"""What do the five systems show? README.md's marked part has their commands, a picture, and results beside the zero output
or a classical answer, all made from the records below outputs/gallery.

    python experiments/gallery.py           says whether README.md would change, and how; status 1 if so; writes nothing
    python experiments/gallery.py --write   runs what is not finished, and writes README.md and docs/pictures/gallery_*.png
    python experiments/gallery.py --tiny    a test of --write: two steps of tiny nets, in outputs/gallery_tiny
"""

from __future__ import annotations

import difflib
import io
import json
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import gallery_pictures
import torch
from matplotlib.figure import Figure
from PIL import Image

from wavebase import console, registry, study
from wavebase.figures import style
from wavebase.records.atomic import atomic_write
from wavebase.records.folder import find_runs
from wavebase.report.runs import Run

ROOT = Path(__file__).parents[1]
HOME = Path("outputs/gallery")
SHOWN_LINES = 40  # of a difference
BEGIN, END = "<!-- make gallery writes from here -->\n", "<!-- to here -->"


class System(NamedTuple):
    """One section of the gallery.

    page: the name of its page in docs/; its picture is gallery_<page>.png. commands: each with the overrides that make it
    tiny. result: Markdown made from the records. picture: a figure drawn from the records.
    """

    title: str
    page: str
    commands: dict[str, str]
    result: Callable[[], str]
    picture: Callable[[], Figure]


def run(name: str, **settings: Any) -> Run:
    """The run below outputs/gallery/<name> with these settings: a group's choice, or a dotted key with __ for its dot. Raises ValueError if not one."""
    found = [Run(folder) for folder in find_runs(HOME / name)] if (HOME / name).exists() else []
    fits = [r for r in found if all(r.setting(key.replace("__", ".")) == value for key, value in settings.items())]
    if len(fits) != 1:
        raise ValueError(f"{HOME / name} must hold one run with {settings}, got {len(fits)}; remove others, and run make gallery-write for what is missing")  # fmt: skip
    return fits[0]


def seeds(*found: Run) -> str:
    """How many seeds these results rest on, in words."""
    count = len({each.setting("seed") for each in found})
    return "one seed" if count == 1 else f"{count} seeds"


def row(label: str, found: Run) -> str:
    """A table's row: label, relative error at the start and at the end, verdict."""
    start, end = (found.value("relative_error", when) for when in ("initial", "final"))
    return f"| {label} | {start:.2g} | {'not finite' if end is None else f'{end:.2g}'} | {found.verdict} |"


def spectral() -> str:
    exact, perturbed, random = (run("spectral", model=name) for name in ("spectral", "perturbed", "random"))
    baseline, noise = exact.summary["baseline"], exact.value("label_noise", "expected_error")
    expected = "" if noise is None else f"Noise alone explains an error of {noise:.2g}. "
    count = exact.summary["moved"]
    return f"""{exact.summary["steps"]} steps at half the stability boundary, with label noise of a tenth of the targets' size; {seeds(exact, perturbed, random)}:

| start | relative error before | after | verdict |
|---|---|---|---|
{row("exact", exact)}
{row("every weight moved by 1 %", perturbed)}
{row("random", random)}
| predicting the mean | {(baseline["mean"] / baseline["zero"]) ** 0.5:.2g} | | |
| predicting zero | 1 | | |

{expected}In the exact net {min(count["changed"], count["live"])} of {count["live"]} weights with a gradient moved."""


def cosine() -> str:
    exact, off = (run("cosine", model__frequency_scale=scale) for scale in (0, 0.5))
    scale = off.setting("model.frequency_scale")
    return f"""Reconstruction, {exact.summary["steps"]} steps, {seeds(exact, off)}:

| start | relative error before | after | verdict |
|---|---|---|---|
{row("exact DCT", exact)}
{row(f"frequencies off by up to {scale:g} of a bin", off)}
| predicting zero | 1 | | |"""


def extraction() -> str:
    found = run("extraction")
    known = {name: f"{value:.2g}" for name, value in found.summary["baseline"].items()}
    return f"""| answer | mean squared error |
|---|---|
| the net after {found.summary["steps"]} steps, {seeds(found)} | {found.value("metrics", "mean_squared_error"):.2g} |
| the same, without the start of the stream | {found.value("metrics", "mean_squared_error_after"):.2g} |
| least squares that knows the frequencies | {known["least_squares"]} |
| matched filter | {known["matched_filter"]} |
| best answer without memory | {known["memoryless"]} |
| zero | {known["zero"]} |"""


FORECASTERS = {"zero": "zero", "dft": "the DFT's continuation", "linear_prediction": "linear prediction", "sparse_bayes": "sparse Bayes", "mlp_gru": "MLP and GRU"}  # fmt: skip


def forecasters() -> dict[str, Run]:
    """The run of each forecaster, by its label."""
    return {label: run("forecast", model=name) for name, label in FORECASTERS.items()}


def forecast() -> str:
    found = forecasters()
    net = found["MLP and GRU"]
    errors = {
        label: [each.value("metrics", f"nmse{end}") for end in ("", "_low", "_high")] for label, each in found.items()
    }
    rows = "\n".join(
        f"| {label} | {value:.3g} | {low:.3g} to {high:.3g} |" for label, (value, low, high) in errors.items()
    )
    return f"""Squared error over the next {net.setting("task.horizon")} samples, divided by the signal's power (MLP and GRU: after {net.summary["steps"]} steps, {seeds(net)}):

| forecast | error | 95 % over held-out signals |
|---|---|---|
{rows}"""


SAID = {
    "spectral_radius": "spectral radius",
    "svd_dominant_share": "share of one frequency in the readout's directions",
}


def quantities() -> tuple[dict[str, Any], dict[str, Any]]:
    """The net's one layer as read, and its quantities by name."""
    (layer,) = json.loads((HOME / "reading/spectrum.json").read_text())["layers"].values()
    return layer, layer["quantities"]


def reading() -> str:
    net = run("reading")
    layer, read = quantities()
    rows = "\n".join(
        f"| {label} | {read[name]['value']:.2f} | {null['low']:.2f} to {null['high']:.2f} | {null['p_value']:.2g} |"
        for name, label in SAID.items()
        for null in read[name]["nulls"][:1]
    )
    return f"""A ReLU net of {layer["hidden_size"]} units, trained for {net.summary["steps"]} steps with {seeds(net)}, names the second largest of {net.setting("T")} numbers
with an accuracy of {net.value("metrics", "accuracy"):.2f} (chance {1 / net.setting("T"):.2g}).

| quantity | this net | random nets | p |
|---|---|---|---|
{rows}

Of {len(read)} quantities {len(layer["flagged"])} have p <= 0.05."""


def inside(name: str, figure: str, **settings: Any) -> Figure:
    """A figure of one run, from its records: the runs of a sweep draw none."""
    found = run(name, **settings)
    draw = registry.lookup("probe.figures", f"wavebase.figures.{figure}")
    assert draw is not None
    return draw(found.folder, found.summary)


SMALL = "train.steps=2 train.batch=4 task.held_out_count=8 probe.curvature_batch=16 "
MIX = "T=100 signal.samples=1000 signal.duration=9.99 "  # a window of whole periods of its tones
SYSTEMS = (
    System("The exact spectral LSTM", "mathematics", {
        f"run -m model=spectral,perturbed,random task.label_noise=0.1 hydra.sweep.dir={HOME}/spectral": SMALL + "T=4 probe.figures=[]",
    }, spectral, lambda: inside("spectral", "run.spectrum", model="spectral")),
    System("A trainable cosine transform", "cosine_transform", {
        f"run -m experiment=cosine_reconstruction T=64 model.start=perturbed model.frequency_scale=0,0.5 hydra.sweep.dir={HOME}/cosine": SMALL + "T=16 probe.figures=[]",
    }, cosine, lambda: inside("cosine", "cosine.frequencies", model__frequency_scale=0.5)),
    System("One tone out of a noisy mix", "frequency_extraction", {
        f"run experiment=frequency_extraction_any_phase hydra.run.dir={HOME}/extraction": SMALL + MIX + "probe.figures=[]",
    }, extraction, lambda: inside("extraction", "extraction.error_over_time")),
    System("Forecasting sums of harmonics", "harmonic_forecast", {
        f"run -m experiment=harmonic_forecast task=forecast_b signal.noise=0.1 model={','.join(FORECASTERS).removesuffix(',mlp_gru')} hydra.sweep.dir={HOME}/forecast": "task.held_out_count=8 probe.figures=[]",
        f"run experiment=forecast_mlp_gru train.steps=1500 hydra.run.dir={HOME}/forecast/mlp_gru": SMALL + "probe.figures=[]",
    }, forecast, lambda: gallery_pictures.forecasts(forecasters())),
    System("Reading the spectrum of any recurrent net", "reading_spectra", {
        f"run experiment=second_argmax train.steps=16384 hydra.run.dir={HOME}/reading": SMALL + "probe.figures=[]",
        f"analyze {HOME}/reading out={HOME}/reading": "draws=8 samples=16 panels=eigenvalues",
    }, reading, lambda: gallery_pictures.nulls(quantities()[0])),
)  # fmt: skip


def execute(words: list[str]) -> None:
    """`wavebase ...` in a forked process, which spares it the start of torch. Raises RuntimeError if it fails."""
    if status := study.run_forked(_launch, words):
        raise RuntimeError(f"every command of the gallery must finish, got exit status {status} of wavebase {shlex.join(words)}")  # fmt: skip


def _launch(words: list[str]) -> None:
    sys.argv = ["wavebase", *words]
    import_module("wavebase.__main__").main()


def picture(system: System) -> tuple[Path, bytes]:
    """Where a system's picture belongs, and what it must be."""
    small, file = (
        Image.open(io.BytesIO(style.png(system.picture()))).convert("RGB").quantize(128),
        io.BytesIO(),
    )  # half the size
    small.save(file, "png")
    return Path(f"docs/pictures/gallery_{system.page}.png"), file.getvalue()


def section(system: System) -> str:
    """A system's part of the page."""
    commands = "\n".join(f"wavebase {command}" for command in system.commands)
    result = "\n\n".join(
        part if part.startswith("|") else textwrap.fill(part, 120, break_long_words=False)
        for part in f"{system.result()}\n\n[More](docs/{system.page}.md)".split("\n\n")
    )
    image = f"![{system.title}](docs/pictures/gallery_{system.page}.png)"
    return f"\n### {system.title}\n\n```\n{commands}\n```\n\n{result}\n\n{image}\n"


def filled(text: str) -> str:
    """README.md with this between its marks. Raises ValueError if it has not both, once."""
    parts = re.split(f"{re.escape(BEGIN)}|{re.escape(END)}", (ROOT / "README.md").read_text())
    if len(parts) != 3:
        raise ValueError(f"README.md must have the gallery's two marks once, got {len(parts) - 1} marks; restore {BEGIN.strip()} and {END}")  # fmt: skip
    return f"{parts[0]}{BEGIN}{text}\n{END}{parts[2]}"


def check() -> bool:
    """Print how README.md and the pictures would change, the first lines of it. Returns whether README.md would.

    Raises:
        ValueError: If a command has not left its records, or there are others.
    """
    before, after = (text.splitlines() for text in ((ROOT / "README.md").read_text(), page()))
    changes = list(difflib.unified_diff(before, after, "README.md", "from the records", n=0, lineterm=""))
    more = [f"... {len(changes) - SHOWN_LINES} more lines"] if len(changes) > SHOWN_LINES else []
    print("".join(f"{line}\n" for line in [*changes[:SHOWN_LINES], *more]), end="")
    for file, content in map(picture, SYSTEMS):
        if not file.is_file() or file.read_bytes() != content:
            print(f"{file} would change")
    print("README.md would change; make gallery-write writes it" if changes else "README.md is what the records give")
    return bool(changes)


def page() -> str:
    """README.md as the records make it."""
    return filled("".join(section(system) for system in SYSTEMS))


def write(tiny: bool) -> None:
    """Run every command that is not finished, and write README.md and its pictures in the working directory."""
    for command, small in (pair for system in SYSTEMS for pair in system.commands.items()):
        execute(shlex.split(f"{command} {small}" if tiny else command))
    text = page()
    for file, content in map(picture, SYSTEMS):
        atomic_write(file, lambda opened, content=content: opened.write(content))  # type: ignore[misc]
    atomic_write(Path("README.md"), lambda opened: opened.write(text.encode()))


def main() -> None:
    parser = console.Parser(description=__doc__.split("\n\n")[0].replace("\n", " "))
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--check", action="store_true", help="say how README.md would change; write nothing (the default)")
    way.add_argument("--write", action="store_true", help="run what is not finished, and write README.md")
    way.add_argument("--tiny", action="store_true", help="a test: two steps of tiny nets, in outputs/gallery_tiny")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # as its runs
    filled("")  # a page without its marks is found before minutes are spent
    here = Path("outputs/gallery_tiny") if chosen.tiny else ROOT
    here.mkdir(parents=True, exist_ok=True)
    os.chdir(here)
    if chosen.write or chosen.tiny:
        write(chosen.tiny)
    elif check():
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, RuntimeError, OSError) as error:
        console.print_error(str(error))
        sys.exit(1)
