"""The command `wavebase compare A B`: two nets of one architecture side by side."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from wavebase import console
from wavebase.cli.names import trust_words

USAGE = """usage: wavebase compare A B [key=value ...]

A B      run folders, checkpoints in them, or constructions (.safetensors), of one architecture
steps=   of training the curved path's middle (300)
seed=    of the random points that it is trained at (0)
out=     folder for comparison.json and comparison.png (nothing is written without it)
trust=   modules or .py files of your own that the runs may name: trust=[mine]; their code runs

Errors are measured on A's held-out data. B is first moved by the symmetry that brings it nearest to A.

exit status  0 compared; 1 not comparable, and one line on standard error says why; 130 interrupted"""


@dataclass(frozen=True)
class Options:
    """The keys of the command line; see USAGE."""

    steps: int = 300
    seed: int = 0
    out: str = ""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps must be at least 0, got {self.steps}; use 300")


@console.ignore_closed_pipes()
def main() -> None:
    """Compare the two nets named on the command line. Exit status 1, with one line, for what cannot be compared."""
    words = [word for word in sys.argv[1:] if not word.startswith("trust=")]
    if not words or words[0] in ("-h", "--help"):
        console.print_help(USAGE)
        sys.exit(0 if words else 1)
    try:
        _run(words)
    except (ValueError, OSError) as error:
        console.print_error(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        console.print_error("interrupted; the same command compares them anew")
        sys.exit(130)
    except Exception as error:  # what a file holds can be wrong in ways that no check names
        if os.environ.get("HYDRA_FULL_ERROR", "0") != "0":
            raise
        console.print_error(
            f"the nets must be what wavebase wrote, got {type(error).__name__}: {error}; HYDRA_FULL_ERROR=1 shows where"
        )
        sys.exit(1)


def _run(words: list[str]) -> None:
    from omegaconf import OmegaConf

    from wavebase import registry
    from wavebase.experiment.compare import compare, load_net
    from wavebase.experiment.validation import call
    from wavebase.figures.paths import paths
    from wavebase.figures.style import png
    from wavebase.records.atomic import atomic_write
    from wavebase.records.strict_json import to_json

    if len(words) < 2 or "=" in words[1]:
        raise ValueError(f"two nets must be given, got {words[0]!r} alone; see wavebase compare --help")
    if wrong := [word for word in words[2:] if "=" not in word]:
        raise ValueError(f"every word after the two nets must be key=value, got {wrong[0]!r}; see --help")
    options = call(Options, OmegaConf.to_container(OmegaConf.from_dotlist(words[2:])), "")  # type: ignore[arg-type]
    registry.trust(trust_words(sys.argv[1:]))
    found = compare(load_net(Path(words[0])), load_net(Path(words[1])), options.steps, options.seed)
    console.print_styled(found.table())
    if options.out:
        text = json.dumps(to_json(dataclasses.asdict(found)), indent=1, allow_nan=False)
        out = Path(options.out)
        atomic_write(out / "comparison.json", lambda file: file.write(text.encode() + b"\n"))
        picture = png(paths(found.straight, found.curved, found.errors["mean"]))
        atomic_write(out / "comparison.png", lambda file: file.write(picture))
        console.print_styled(f"comparison.json, comparison.png in {out}")
