"""Judge a stored run, and read the spectrum of any recurrent net: `python -m wavebase.probe CHECKPOINT|FOLDER|FILE`.

Of a run's folder or checkpoint: the verdict at every checkpoint and the step at which each condition first failed
(verdict.json). Of recurrent weights: every quantity beside its nulls (spectrum.json, spectrum.png), and over a run's
checkpoints how each moved in training (series.png). Heavy imports come late.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavebase import console

if TYPE_CHECKING:
    from wavebase.analysis.analyze import Report

USAGE = """usage: python -m wavebase.probe PATH [key=value ...]

PATH         a run's folder, a folder of step_*.pt files, a checkpoint, or weights in a file: .pt .pth .ckpt .bin (torch.save), .jit .ts (TorchScript), .safetensors, .npz, .pkl .pickle (numpy arrays); names as torch.nn.RNN, GRU, LSTM; weight_hh_<gate>; or w_hh, w_ih, w_out, inputs
activation=  relu, tanh, gru, lstm or lstm_signed, where the names do not tell (relu for a plain net)
samples=256  Gaussian inputs that a net is read on where the file brings none
steps=       their length (as long, and as large, as the signals of its run; else 10, of unit variance)
seed=0       of the nulls
draws=       of each null (by size)
net=         which one of stacked weights
panels=      of spectrum.png, such as panels=eigenvalues,quantities,readout (all nine)
out=         folder for spectrum.json and spectrum.png (beside what was read)
roles.       thresholds: roles.backbone=0.05 roles.switches=2 roles.switch_low=0.15 roles.switch_high=0.7 roles.clipped=0.8

A run is judged first, at each of its checkpoints; `wavebase analyze PATH` leaves that out and is the same otherwise.

exit status  0 read, whatever the verdict; 1 not readable or a wrong word, and one line on standard error says why; 130 interrupted"""


@console.ignore_closed_pipes()
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
    samples: int = 256
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

    from wavebase.analysis.trajectory import RoleThresholds
    from wavebase.analysis.weight_files import read_weights
    from wavebase.experiment import validation
    from wavebase.experiment.judge import judge_run
    from wavebase.figures import common, movement, spectrum_sheet
    from wavebase.records.atomic import atomic_write
    from wavebase.records.folder import RunFolder
    from wavebase.records.strict_json import dump_json

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
        save("verdict.json", dump_json(judged.to_dict(), indent=1))
        lines.append(judged.table() + "\n")
        written.append("verdict.json")
        if not any(name.startswith("weight_hh") for name in read_weights(source.files[source.last])):
            return "\n".join([*lines, f"verdict.json in {out}; no recurrent weights to read a spectrum of"])
    reports: dict[str, dict[str, Report]] = {}
    for label, weights in source.series():
        reports[label] = _read(
            weights, source, options, thresholds, quick=len(source.files) > 1 and label != source.last
        )
    last = reports[source.last]
    results: dict[str, Any] = {
        "path": str(path),
        "step": source.last,
        "layers": {k: r.to_dict() for k, r in last.items()},
    }
    for number, (name, report) in enumerate(last.items()):
        suffix = f"_{number}" if number else ""
        save(f"spectrum{suffix}.png", common.png(spectrum_sheet.sheet(report, panels)))
        lines += [f"{name} of {source.last}", report.table()]
        if len(reports) > 1:
            moved = {label: layers[name].quantities for label, layers in reports.items() if name in layers}
            save(f"series{suffix}.png", common.png(movement.movement(moved)))
            lines += movement.movement_table(moved)
            results.setdefault("series", {})[name] = {
                label: {q.name: q.value for q in quantities.values()} for label, quantities in moved.items()
            }
    save("spectrum.json", dump_json(results, indent=1))
    return "\n".join([*lines, f"{', '.join([*written, 'spectrum.json', 'spectrum.png'])} in {out}"])


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

    def series(self) -> Any:
        """(label, weights) of every file."""
        from wavebase.analysis.weight_files import read_weights

        return ((label, read_weights(file)) for label, file in self.files.items())


def _source(path: Path) -> Source:
    from wavebase.analysis.weight_files import check_suffix
    from wavebase.records.folder import RunFolder

    if path.is_dir():
        run = RunFolder(path)
        found = [run.checkpoint_file(step) for step in run.checkpoint_steps()]
        found = found or sorted(path.glob("step_*.pt"))
        files = {file.stem: file for file in found}
        if not files:
            raise ValueError(
                f"the folder must hold checkpoints, got none named step_*.pt in {path}; give a run's folder"
            )
        root, out = path, path
    elif path.is_file():
        check_suffix(path)
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


def _read(weights: Mapping[str, Any], source: Source, options: Options, roles: Any, quick: bool) -> dict[str, Report]:
    """Reports by layer. quick: few draws, for a series of which only the values are shown."""
    import numpy as np
    import torch

    from wavebase.analysis.analyze import analyze
    from wavebase.analysis.state_dicts import layers

    if options.net is not None:
        weights = {name: value[options.net] for name, value in weights.items()}
    signed = source.config.get("model", {}).get("input_gate") == "tanh"
    activation = options.activation or ("lstm_signed" if signed else None)
    reports = {}
    for layer in layers(weights, activation):
        generator = torch.Generator().manual_seed(options.seed)
        inputs = weights.get("inputs")
        if inputs is None and layer.w_ih is not None:
            # a run keeps too few example signals for statistics: take noise of their length and size
            example = np.ones((1, 10)) if source.example is None else source.example
            shape = (options.samples, options.steps or example.shape[1], _width(layer.w_ih))
            inputs = torch.randn(shape, generator=generator, dtype=torch.float64) * float(np.sqrt(np.mean(example**2)))
        reports[layer.name] = analyze(
            **layer.arguments(),
            inputs=inputs,
            roles=roles,
            draws=4 if quick else options.draws,
            generator=generator,
        )
    return reports


def _width(w_ih: Any) -> int:
    """Inputs I of an input matrix [gates H, I], [gates H] or one a gate."""
    import numpy as np

    first = next(iter(w_ih.values())) if isinstance(w_ih, Mapping) else w_ih
    return 1 if np.ndim(first) == 1 else int(np.shape(first)[1])
