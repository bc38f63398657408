"""Are recurrent nets of other people's packages read as they ship? Every file of weights in the packages of a folder is read, and
the spectral radius of every recurrent matrix is compared with numpy's own.

    python experiments/public_nets.py              # prints the command that downloads six packages, and downloads nothing
    python experiments/public_nets.py FOLDER [--markdown]

The command installs wheels into a folder of their own, without their requirements; no code of theirs is run, then or later.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavebase import console, formatting
from wavebase.analysis.analyze import analyze
from wavebase.analysis.state_dicts import Layer, is_recurrent, layers
from wavebase.analysis.weight_files import SUFFIXES, read

PACKAGES = "silero-vad==6.2.3 Resemblyzer==0.1.4 BeatNet==1.1.3 g2p-en==2.1.0 g2pM==0.1.2.5 e2k==0.8.1"
COMMAND = f"pip install --no-deps --only-binary :all: --target FOLDER {PACKAGES}"


def radii_by_numpy(layer: Layer) -> list[float]:
    """Largest |eigenvalue| of each gate's matrix, by numpy in float64 and nothing else."""
    if isinstance(layer.w_hh, Mapping):
        matrices = [np.asarray(matrix, dtype=np.float64) for matrix in layer.w_hh.values()]
    else:
        stacked = torch.as_tensor(layer.w_hh).double().numpy()
        matrices = np.split(stacked, len(stacked) // stacked.shape[1])
    return [float(np.abs(np.linalg.eigvals(matrix)).max()) for matrix in matrices]


def nets(package: Distribution) -> Iterator[tuple[Path, list[Layer]]]:
    """(file, recurrent layers) of every file with recurrent weights that a package ships."""
    for name in package.files or ():
        file = Path(str(package.locate_file(name)))
        if file.suffix not in SUFFIXES:
            continue
        try:
            weights = read(file).weights
        except ValueError as error:
            console.print_error(str(error))
            continue
        if any(map(is_recurrent, weights)):
            yield file, layers(weights)


def row(package: Distribution, file: Path, found: list[Layer]) -> dict[str, Any]:
    """A line of the table. radius, numpy: of the largest matrix; difference: the largest over all matrices."""
    kinds, sizes, ours, numpys = set(), set(), [], []
    for layer in found:
        report = analyze(**layer.arguments(), draws=4)  # the fewest; the nulls are not looked at
        kinds.add(report.activation)
        sizes.add(report.hidden_size)
        ours += [q.value for name, q in report.quantities.items() if name.split(".")[-1] == "spectral_radius"]
        numpys += radii_by_numpy(layer)
    top = int(np.argmax(numpys))
    return {
        "package": f"{package.metadata['Name']} {package.version}",
        "file": file.name,
        "kind": "/".join(sorted(kinds)),
        "layers": len(found),
        "units": "/".join(map(str, sorted(sizes))),
        "matrices": len(numpys),
        "radius": f"{ours[top]:.9f}",
        "numpy": f"{numpys[top]:.9f}",
        "difference": f"{max(abs(a - b) for a, b in zip(ours, numpys, strict=True)):.1e}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    if options.folder is None:
        print(f"{COMMAND}\npython experiments/public_nets.py FOLDER")
        return
    torch.set_num_threads(1)
    packages = sorted(distributions(path=[str(options.folder)]), key=lambda package: package.metadata["Name"].lower())
    rows = [row(package, *net) for package in packages for net in nets(package)]
    if not rows:
        parser.exit(
            1, f"{options.folder} must hold packages with recurrent weights, got {len(packages)} packages; {COMMAND}\n"
        )
    print(formatting.text_table(rows, options.markdown))


if __name__ == "__main__":
    main()
