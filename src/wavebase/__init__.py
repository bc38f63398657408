"""wavebase: recurrent nets that start at an exact spectral algorithm, and whether gradient descent keeps it."""

from importlib import import_module
from typing import TYPE_CHECKING

from wavebase.renamed import install

install()
__version__ = "0.1.0"

_PUBLIC = {
    "power_spectrum": "wavebase.spectrum",
    "spectral_lstm": "wavebase.models.spectral",
    "cosine_transform": "wavebase.models.cosine",
    "spectral_construction": "wavebase.constructions.spectral",
    "save_construction": "wavebase.constructions.files",
    "load_construction": "wavebase.constructions.files",
    "perturb": "wavebase.constructions.perturbation",
    "Perturbation": "wavebase.constructions.perturbation",
    "verdict": "wavebase.experiment.judge",
    "analyze": "wavebase.analysis.analyze",
}
__all__ = list(_PUBLIC)

if TYPE_CHECKING:  # the same names for type checkers and editors, which run nothing; tests/test_types.py compares
    from wavebase.analysis.analyze import analyze as analyze
    from wavebase.constructions.files import load_construction as load_construction
    from wavebase.constructions.files import save_construction as save_construction
    from wavebase.constructions.perturbation import Perturbation as Perturbation
    from wavebase.constructions.perturbation import perturb as perturb
    from wavebase.constructions.spectral import spectral_construction as spectral_construction
    from wavebase.experiment.judge import verdict as verdict
    from wavebase.models.cosine import cosine_transform as cosine_transform
    from wavebase.models.spectral import spectral_lstm as spectral_lstm
    from wavebase.spectrum import power_spectrum as power_spectrum
else:

    def __getattr__(name: str) -> object:
        """Public names are imported at first use, so that `import wavebase` stays light."""
        if name in _PUBLIC:
            return getattr(import_module(_PUBLIC[name]), name)
        raise AttributeError(f"module 'wavebase' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return what completion offers: the public names, used yet or not."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
