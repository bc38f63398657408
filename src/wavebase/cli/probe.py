"""Judge a stored run, and read the spectrum of any recurrent net: `python -m wavebase.probe CHECKPOINT|FOLDER|FILE.npz|FILE.pt`.

A run's folder or checkpoint gets the verdict at every checkpoint and the step at which each condition first failed
(verdict.txt, verdict.json). Recurrent weights get every quantity beside its nulls (spectrum.json, spectrum.txt, spectrum.png) and, over
a run's checkpoints, how each moved in training (series.png). Heavy imports come late.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavebase import console, registry
from wavebase.cli.names import trust_words
from wavebase.cli.probe_source import Options, Source, find_source, read_layers

if TYPE_CHECKING:
    from wavebase.analysis.spectrum_report import Report
    from wavebase.analysis.trajectory import RoleThresholds

MOST_NOTES, MOST_PICTURES = 2, 3  # that the console shows or names; the files have all
Save = Callable[[str, bytes], None]

USAGE = """usage: python -m wavebase.probe PATH [key=value ...]

PATH         a run's folder, a folder of step_*.pt files, a checkpoint, or weights in a file: .pt .pth .ckpt .bin (torch.save), .jit .ts (TorchScript), .safetensors, .npz, .pkl .pickle (numpy arrays); names as torch.nn.RNN, GRU, LSTM; weight_hh_<gate>; or w_hh, w_ih, w_out, inputs
activation=  relu, tanh, gru, lstm or lstm_signed, where the names do not tell (relu for a plain net); it concerns the layers with as many gates; activation=encoder:relu,decoder:tanh names them
readout=     the matrix that reads a net, where names and shapes do not tell: readout=fc.weight, of several nets readout=decoder:fc.weight; readout=none for none
samples=256  Gaussian inputs that a net is read on where the file brings none; a deeper layer is read on the states of the one below it
steps=       their length (as long, and as large, as the signals of its run, 100 where that is one stream; else 10, of unit variance)
seed=0       of the nulls
draws=       of each null (199 up to 32 units, then fewer); a quarter of them for trajectories
net=         which one of stacked weights
panels=      of spectrum.png, such as panels=eigenvalues,quantities,readout (all that have content); series for every quantity over a run's checkpoints in series.png (the twelve that moved most)
out=         folder for spectrum.json, spectrum.txt and spectrum.png (beside what was read)
trust=       modules or .py files of your own that the run may name: trust=[mine]; their code runs
roles.       thresholds: roles.backbone=0.05 roles.switches=2 roles.switch_low=0.15 roles.switch_high=0.7 roles.clipped=0.8

A run is judged first, at each of its checkpoints; `wavebase analyze PATH` leaves that out and is the same otherwise.

exit status  0 read, whatever the verdict; 1 not readable or a wrong word, and one line on standard error says why; 130 interrupted"""


@console.ignore_closed_pipes()
def main(judge: bool = True) -> None:
    """Run the command line. Whatever cannot be read ends in one line and exit status 1.

    Args:
        judge: Whether a run gets a verdict.
    """
    words = [word for word in sys.argv[1:] if not word.startswith("trust=")]
    if not words or words[0] in ("-h", "--help"):
        console.print_help(USAGE if judge else USAGE.replace("python -m wavebase.probe", "wavebase analyze"))
        sys.exit(0 if words else 1)
    try:
        registry.trust(trust_words(sys.argv[1:]))
        console.print_styled(probe(Path(words[0]), words[1:], judge))
    except (ValueError, OSError) as error:
        console.print_error(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        console.print_error("interrupted; the same command reads it anew")
        sys.exit(130)
    except Exception as error:  # a file can be wrong in ways that no check foresees
        if os.environ.get("HYDRA_FULL_ERROR", "0") != "0":
            raise
        console.print_error(
            f"{words[0]} must hold what wavebase or torch.save wrote, got {type(error).__name__}: {error}; HYDRA_FULL_ERROR=1 shows where"
        )
        sys.exit(1)


def probe(path: Path, overrides: list[str], judge: bool = True) -> str:
    """Read what is at a path and write its files.

    Args:
        path: A run's folder, a folder of checkpoints, a checkpoint or a file of weights.
        overrides: The words after it, key=value.
        judge: Whether a run gets a verdict first.

    Returns:
        What the command line prints.

    Raises:
        ValueError: For a wrong word, and for what cannot be read.
    """
    import torch
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from wavebase.analysis import weight_files
    from wavebase.analysis.cell import OutOfRangeError
    from wavebase.analysis.trajectory import RoleThresholds
    from wavebase.experiment import validation
    from wavebase.figures import spectrum_sheet
    from wavebase.records.atomic import atomic_write

    try:
        node = OmegaConf.to_container(OmegaConf.from_dotlist(overrides))
    except (OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"every word after the path must be key=value, got {overrides}; see --help") from error
    options = validation.call(Options, node, "")  # type: ignore[arg-type]
    thresholds = validation.call(RoleThresholds, options.roles, "roles")
    panels = spectrum_sheet.named_panels(options.panels)
    source = find_source(path)
    torch.set_num_threads(1)  # matrices of a few dozen units are slower with more
    out = Path(options.out) if options.out else source.out

    def save(name: str, content: bytes) -> None:
        atomic_write(out / name, lambda file: file.write(content))

    lines: list[str] = []
    written: list[str] = []
    judged = judge and source.config and re.fullmatch("step_[0-9]{8,15}", source.last)
    if judged:
        lines.append(_judge(source, save))
        written += ["verdict.txt", "verdict.json"]
        if not any(name.startswith("weight_hh") for name in weight_files.read(source.files[source.last]).weights):
            return _ended([*lines, "no recurrent weights to read a spectrum of"], written, out)
    try:
        reports, notes = _read_files(source, options, thresholds)
    except OutOfRangeError:
        if not judged:
            raise
        return _ended([*lines, "no finite weights of a usable size to read a spectrum of"], written, out)
    source = replace(source, files={label: source.files[label] for label in reports})
    pictures = _write_spectra(path, source, reports, notes, panels, save)
    lines += _summary(reports[source.last], notes, brief=bool(judged))
    text = f"spectrum.txt (over {len(reports)} checkpoints)" if len(reports) > 1 else "spectrum.txt"
    written += [text, "spectrum.json", *(pictures if len(pictures) <= MOST_PICTURES else [f"{len(pictures)} pictures"])]
    return _ended(lines, written, out)


def _ended(lines: list[str], written: list[str], out: Path) -> str:
    """Return lines of text, then the files written and, on a line of its own to be copied, their folder."""
    return "\n".join([*lines, *textwrap.wrap(f"{', '.join(written)} in", 80), str(out)])


def _summary(reports: Mapping[str, Report], notes: list[str], brief: bool) -> list[str]:
    """Return what the console gets of the newest file: a few lines, the notes on the file, and some of those on layers.

    Args:
        reports: By layer.
        notes: On the file.
        brief: Whether a verdict stands above, so that the notes on layers are counted only.
    """
    from wavebase.analysis.report_text import wrapped
    from wavebase.analysis.spectrum_report import summary

    more = list(dict.fromkeys(note for report in reports.values() for note in report.notes))
    shown = [] if brief or len(reports) > 2 else more[:MOST_NOTES]
    lines = [*summary(reports), *(part for note in (*notes, *shown) for part in wrapped(f"note: {note}"))]
    rest = len(more) - len(shown)
    return [*lines, f"{rest} more note{'s' if rest > 1 else ''} in spectrum.txt"] if rest else lines


def _read_files(
    source: Source, options: Options, roles: RoleThresholds
) -> tuple[dict[str, dict[str, Report]], list[str]]:
    """Analyse every file, the newest fully; checkpoints of a run that diverged are left out.

    Returns:
        Reports by file and layer, and notes on the newest file.

    Raises:
        OutOfRangeError: If no file is finite.
    """
    from wavebase.analysis import weight_files
    from wavebase.analysis.cell import OutOfRangeError

    reports: dict[str, dict[str, Report]] = {}
    notes: list[str] = []
    left_out: list[str] = []
    first: OutOfRangeError | None = None
    for label, file in reversed(source.files.items()):
        try:
            found, of_file = read_layers(weight_files.read(file), source, options, roles, quick=bool(reports))
        except OutOfRangeError as error:
            first = first or error
            left_out.insert(0, label)
            continue
        notes = notes if reports else of_file
        reports[label] = found
    if not reports:
        assert first is not None
        raise first
    if left_out:
        notes = [*notes, f"left out, because their weights are not finite or too large: {', '.join(left_out)}"]
    return dict(reversed(reports.items())), notes


def _judge(source: Source, save: Save) -> str:
    """Write verdict.json and verdict.txt, its table, and return a summary."""
    from wavebase.experiment.judge import judge_folder
    from wavebase.records.folder import RunFolder
    from wavebase.records.strict_json import dump_json

    judged = judge_folder(RunFolder(source.root), source.step)
    save("verdict.json", dump_json(judged.to_dict(), indent=1))
    save("verdict.txt", judged.table().encode() + b"\n")
    return judged.short()


def _write_spectra(
    path: Path,
    source: Source,
    reports: Mapping[str, Mapping[str, Report]],
    notes: list[str],
    panels: list[str],
    save: Save,
) -> list[str]:
    """Write spectrum.json, spectrum.txt and pictures of reports by checkpoint and layer; return the pictures' names."""
    from wavebase.figures import spectrum_sheet, style
    from wavebase.figures.movement import READABLE, movement, movement_table
    from wavebase.records.strict_json import dump_json

    last = reports[source.last]
    layers = {name: report.to_dict() for name, report in last.items()}
    results: dict[str, Any] = {"path": str(path), "step": source.last, "notes": notes, "layers": layers}
    whole_series = spectrum_sheet.SERIES in panels
    table, pictures = [f"note: {note}" for note in notes], []
    for number, (name, report) in enumerate(last.items()):
        suffix = f"_{number}" if number else ""
        pictures.append(f"spectrum{suffix}.png")
        save(pictures[-1], style.png(spectrum_sheet.sheet(report, panels)))
        table += [f"{name} of {source.last}", report.table()]
        if len(reports) > 1:
            moved = {label: layers[name].quantities for label, layers in reports.items() if name in layers}
            most = len(report.quantities) if whole_series else READABLE
            figure = movement(moved, most) if whole_series or not panels else None
            if figure is not None:
                pictures.append(f"series{suffix}.png")
                save(pictures[-1], style.png(figure))
            table += movement_table(moved)
            results.setdefault("series", {})[name] = {
                label: {q.name: q.value for q in quantities.values()} for label, quantities in moved.items()
            }
    save("spectrum.json", dump_json(results, indent=1))
    save("spectrum.txt", console.visible("\n".join(table)).encode(errors="replace") + b"\n")
    return pictures


if __name__ == "__main__":
    main()
