"""What `wavebase.probe` reads: files found at a path, and their layers analysed. Heavy imports come late."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wavebase.analysis.spectrum_report import Report
    from wavebase.analysis.trajectory import RoleThresholds
    from wavebase.analysis.weight_files import Stored


OF_STREAM = 100  # samples of noise for a run whose signal is one long stream


@dataclass(frozen=True)
class Options:
    """The keys of the command line, as its help explains them. roles: keys of `RoleThresholds`."""

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


@dataclass(frozen=True)
class Source:
    """What was found at a path.

    Attributes:
        files: By label, in order.
        root: The folder of the run that they belong to, or the path itself.
        out: Where results go unless `out=` says otherwise.
        config: The run's configuration; empty without a run.
        example: The run's stored signals, None without a run.
    """

    files: dict[str, Path]
    root: Path
    out: Path
    config: dict[str, Any]
    example: Any

    @property
    def last(self) -> str:
        """Label of the newest file."""
        return list(self.files)[-1]

    @property
    def step(self) -> int | None:
        """Step of a single checkpoint, None for a series."""
        return int(self.last.removeprefix("step_")) if len(self.files) == 1 else None


def find_source(path: Path) -> Source:
    """Find the files to read at a path: a run's folder, a folder of checkpoints, or one file.

    Raises:
        ValueError: If there are none, or the file is of an unknown kind.
    """
    from wavebase.analysis import weight_files
    from wavebase.records.folder import RunFolder

    if path.is_dir():
        run = RunFolder(path)
        found = [run.checkpoint_file(step) for step in run.checkpoint_steps()] or sorted(path.glob("step_*.pt"))
        files = {file.stem: file for file in found}
        if not files:
            raise ValueError(
                f"the folder must hold checkpoints, got none named step_*.pt in {path}; give a run's folder"
            )
        root, out = path, path
    elif path.is_file():
        weight_files.check_suffix(path)
        files, out = {path.stem: path.resolve()}, path.parent / f"{path.stem}_spectrum"
        # a file outside a run: nothing above it is read
        root = path.parent.parent if path.parent.name == "checkpoints" else path
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


# long: half of it documents what is read and how
def read_layers(
    stored: Stored, source: Source, options: Options, roles: RoleThresholds, quick: bool
) -> tuple[dict[str, Report], list[str]]:
    """Analyse every layer of a file.

    Args:
        stored: The file's weights.
        source: Where they were found.
        options: The command line's keys.
        roles: Thresholds of the units' roles.
        quick: Whether to draw few nulls, for a series of which only the values are shown.

    Returns:
        Reports by layer, and notes on the file.

    Raises:
        ValueError: For weights that hold no recurrent layer, and for options that do not fit them.
        OutOfRangeError: For weights that are not finite, or too large or too small to be analysed.
    """
    import numpy as np
    import torch

    from wavebase.analysis.analyze import analyze
    from wavebase.analysis.cell import OutOfRangeError
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
    # a run stores too few signals for statistics: draw noise of their length and size
    example = np.ones((1, 10)) if source.example is None else source.example
    length = example.shape[1] if example.ndim > 1 else min(len(example), OF_STREAM)
    size = float(np.sqrt(np.mean(example**2)))

    generator = torch.Generator()

    def draw(width: int) -> np.ndarray:
        shape = (options.samples or 256, options.steps or length, width)
        generator.manual_seed(options.seed)
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * size).numpy()

    generator.manual_seed(options.seed)
    signals, more = layer_inputs(found, inputs, draw)
    state = generator.get_state()  # after the noise
    try:
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
    except np.linalg.LinAlgError as error:  # of a net that diverges: products of its weights overflow
        raise OutOfRangeError(
            f"weights must be of a size whose products are finite, got a matrix that cannot be decomposed ({error}); take an earlier checkpoint"
        ) from error
    return reports, [*stored.notes, *notes, *more]
