"""Judge a stored run, and read the spectrum of any recurrent net: `python -m wavebase.probe CHECKPOINT|FOLDER|FILE.npz|FILE.pt`.

Of a run's folder or checkpoint: the verdict at every checkpoint and the step at which each condition first failed
(verdict.json). Of recurrent weights: every quantity beside its nulls (spectrum.json; as a table in spectrum.txt; spectrum.png), and over a run's
checkpoints how each moved in training (series.png). Heavy imports come late.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavebase import console

if TYPE_CHECKING:
    from wavebase.analysis.analyze import Report
    from wavebase.analysis.weight_files import Stored

USAGE = """usage: python -m wavebase.probe PATH [key=value ...]

PATH         a run's folder, a folder of step_*.pt files, a checkpoint, or weights in a file: .pt .pth .ckpt .bin (torch.save), .jit .ts (TorchScript), .safetensors, .npz, .pkl .pickle (numpy arrays); names as torch.nn.RNN, GRU, LSTM; weight_hh_<gate>; or w_hh, w_ih, w_out, inputs
activation=  relu, tanh, gru, lstm or lstm_signed, where the names do not tell (relu for a plain net); it concerns the layers with as many gates; activation=encoder:relu,decoder:tanh names them
readout=     the matrix that reads a net, where names and shapes do not tell: readout=fc.weight, of several nets readout=decoder:fc.weight; readout=none for none
samples=256  Gaussian inputs that a net is read on where the file brings none; a deeper layer is read on the states of the one below it
steps=       their length (as long, and as large, as the signals of its run; else 10, of unit variance)
seed=0       of the nulls
draws=       of each null (by size)
net=         which one of stacked weights
panels=      of spectrum.png, such as panels=eigenvalues,quantities,readout (all that have content); series for every quantity over a run's checkpoints in series.png (the twelve that moved most)
out=         folder for spectrum.json, spectrum.txt and spectrum.png (beside what was read)
roles.       thresholds: roles.backbone=0.05 roles.switches=2 roles.switch_low=0.15 roles.switch_high=0.7 roles.clipped=0.8

A run is judged first, at each of its checkpoints; `wavebase analyze PATH` leaves that out and is the same otherwise.

exit status  0 read, whatever the verdict; 1 not readable or a wrong word, and one line on standard error says why; 130 interrupted"""


def main(judge: bool = True) -> None:
    """The command line. Exit status 1, with one line, for whatever cannot be read. judge: whether a run gets a verdict."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        console.print_help(USAGE if judge else USAGE.replace("python -m wavebase.probe", "wavebase analyze"))
        sys.exit(0 if words else 1)
    try:
        console.print_styled(probe(Path(words[0]), words[1:], judge))
    except (ValueError, OSError) as error:
        console.print_error(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        console.print_error("interrupted; the same command reads it anew")
        sys.exit(130)
    except Exception as error:  # what a file holds can be wrong in ways that no check names
        if os.environ.get("HYDRA_FULL_ERROR", "0") != "0":
            raise
        console.print_error(
            f"{words[0]} must hold what wavebase or torch.save wrote, got {type(error).__name__}: {error}; HYDRA_FULL_ERROR=1 shows where"
        )
        sys.exit(1)


@dataclass(frozen=True)
class Options:
    """The keys of the command line; see USAGE. roles: of `wavebase.analysis.trajectory.RoleThresholds`."""

    activation: str | None = None
    readout: str | None = None
    samples: int | None = None
    steps: int | None = None
    seed: int = 0
    draws: int | None = None
    net: int | None = None
    out: str | None = None
    panels: str = ""
    roles: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("samples", self.samples), ("steps", self.steps)):
            if value is not None and value < 2:
                raise ValueError(f"{name} must be at least 2, got {value}; use {name}=256")


def probe(path: Path, overrides: list[str], judge: bool = True) -> str:
    """Read what is at `path`, a run's verdict first if asked, write its files, return the table. Raises ValueError in one line."""
    import torch
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from wavebase.analysis import weight_files
    from wavebase.analysis.report_text import wrapped
    from wavebase.analysis.trajectory import RoleThresholds
    from wavebase.experiment import validation
    from wavebase.experiment.judge import judge_run
    from wavebase.figures import common, spectrum_sheet
    from wavebase.figures.movement import READABLE, movement, movement_table
    from wavebase.records.atomic import atomic_write
    from wavebase.records.folder import RunFolder
    from wavebase.records.strict_json import to_json

    try:
        node = OmegaConf.to_container(OmegaConf.from_dotlist(overrides))
    except (OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"every word after the path must be key=value, got {overrides}; see --help") from error
    options = validation.call(Options, node, "")  # type: ignore[arg-type]
    thresholds = validation.call(RoleThresholds, options.roles, "roles")
    panels = spectrum_sheet.named_panels(options.panels)
    source = _source(path)
    torch.set_num_threads(1)  # matrices of a few dozen units are slower with more
    out = Path(options.out) if options.out else source.out

    def save(name: str, content: bytes) -> None:
        atomic_write(out / name, lambda file: file.write(content))

    lines, written = [], []
    if judge and source.config and re.fullmatch("step_[0-9]{8,15}", source.last):
        judged = judge_run(RunFolder(source.root), source.step)
        save("verdict.json", json.dumps(to_json(judged.to_dict()), indent=1, allow_nan=False).encode() + b"\n")
        lines.append(judged.table() + "\n")
        written.append("verdict.json")
        if not any(name.startswith("weight_hh") for name in weight_files.read(source.files[source.last]).weights):
            return "\n".join([*lines, f"verdict.json in {out}; no recurrent weights to read a spectrum of"])
    reports: dict[str, dict[str, Report]] = {}
    notes: list[str] = []
    for label, file in source.files.items():
        quick = label != source.last
        reports[label], notes = _read(weight_files.read(file), source, options, thresholds, quick)
    last = reports[source.last]
    results: dict[str, Any] = {
        "path": str(path),
        "step": source.last,
        "notes": notes,
        "layers": {k: r.to_dict() for k, r in last.items()},
    }
    table, pictures = [f"note: {note}" for note in notes], []
    for number, (name, report) in enumerate(last.items()):
        suffix = f"_{number}" if number else ""
        pictures.append(f"spectrum{suffix}.png")
        save(pictures[-1], common.png(spectrum_sheet.sheet(report, panels)))
        table += [f"{name} of {source.last}", report.table()]
        lines.append(report.short(name))
        if len(reports) > 1:
            moved = {label: layers[name].quantities for label, layers in reports.items() if name in layers}
            most = len(report.quantities) if spectrum_sheet.SERIES in panels else READABLE
            figure = movement(moved, most) if spectrum_sheet.SERIES in panels or not panels else None
            if figure is not None:
                pictures.append(f"series{suffix}.png")
                save(pictures[-1], common.png(figure))
            lines_of_series = movement_table(moved)
            table += lines_of_series
            lines.append(f"{lines_of_series[0]}: see spectrum.txt")
            results.setdefault("series", {})[name] = {
                label: {q.name: q.value for q in quantities.values()} for label, quantities in moved.items()
            }
    save("spectrum.json", json.dumps(to_json(results), indent=1, allow_nan=False).encode() + b"\n")
    save("spectrum.txt", console.visible("\n".join(table)).encode(errors="replace") + b"\n")
    shown = dict.fromkeys([*notes, *(note for report in last.values() for note in report.notes)])
    lines += [part for note in shown for part in wrapped(f"note: {note}")]
    return "\n".join([*lines, f"{', '.join([*written, 'spectrum.txt', 'spectrum.json', *pictures])} in {out}"])


@dataclass(frozen=True)
class Source:
    """What was found at a path: files by label, in order; the folder of the run they belong to, its configuration and example
    signals, if any."""

    files: dict[str, Path]
    root: Path
    out: Path
    config: dict[str, Any]
    example: Any

    @property
    def last(self) -> str:
        """The newest label."""
        return list(self.files)[-1]

    @property
    def step(self) -> int | None:
        """The step of a single checkpoint; None for a series."""
        return int(self.last.removeprefix("step_")) if len(self.files) == 1 else None


def _source(path: Path) -> Source:
    from wavebase.analysis import weight_files
    from wavebase.records.folder import RunFolder

    if path.is_dir():
        found = sorted(RunFolder(path).inside("checkpoints").glob("step_*.pt")) or sorted(path.glob("step_*.pt"))
        files = {file.stem: file for file in found}
        if not files:
            raise ValueError(
                f"the folder must hold checkpoints, got none named step_*.pt in {path}; give a run's folder"
            )
        root, out = path, path
    elif path.is_file():
        weight_files.check_suffix(path)
        files, out = {path.stem: path.resolve()}, path.parent / f"{path.stem}_spectrum"
        root = (
            path.parent.parent if path.parent.name == "checkpoints" else path
        )  # of no run: what lies above is not read
        if out.is_symlink():
            raise ValueError(f"{out} must be a folder of its own, got a link; remove it, or give out=FOLDER")
    else:
        raise ValueError(
            f"the path must exist, got {str(path)!r}; give a checkpoint, a run's folder or a file of weights"
        )
    config: dict[str, Any] = {}
    example = None
    if os.path.lexists(root / "config.yaml"):
        config = RunFolder(root).config()
        if os.path.lexists(root / "examples.npz"):
            example = RunFolder(root).examples().get("signal")
    return Source(files, root, out, config, example)


def _read(
    stored: Stored, source: Source, options: Options, roles: Any, quick: bool
) -> tuple[dict[str, Report], list[str]]:
    """Reports by layer, and notes on the file. quick: few draws, for a series of which only the values are shown."""
    import numpy as np
    import torch

    from wavebase.analysis.analyze import analyze
    from wavebase.analysis.layer_inputs import layer_inputs
    from wavebase.analysis.state_dicts import find
    from wavebase.analysis.weight_files import one_net

    weights = one_net(stored.weights, options.net)
    signed = source.config.get("model", {}).get("input_gate") == "tanh"
    activation = options.activation or ("lstm_signed" if signed else stored.activation)
    found, notes = find(weights, activation, options.readout)
    inputs = weights.get("inputs")
    if inputs is not None and (options.samples, options.steps) != (None, None):
        raise ValueError(
            f"samples and steps must be left out where the file brings inputs, got samples={options.samples} steps={options.steps}; leave them out"
        )
    # a run keeps too few example signals for statistics: take noise of their length and size
    example = np.ones((1, 10)) if source.example is None else source.example
    size = float(np.sqrt(np.mean(example**2)))

    generator = torch.Generator()

    def draw(width: int) -> np.ndarray:
        shape = (options.samples or 256, options.steps or example.shape[1], width)
        generator.manual_seed(options.seed)
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * size).numpy()

    generator.manual_seed(options.seed)
    signals, more = layer_inputs(found, inputs, draw)
    state = generator.get_state()  # after the noise
    reports = {
        layer.name: analyze(
            **layer.arguments(),
            inputs=signals[layer.name],
            roles=roles,
            draws=4 if quick else options.draws,
            generator=generator.set_state(state),
        )
        for layer in found
    }
    return reports, [*stored.notes, *notes, *more]


if __name__ == "__main__":
    main()
