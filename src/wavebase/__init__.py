"""wavebase: recurrent nets that start at an exact spectral algorithm, and whether gradient descent keeps it."""

from importlib import import_module

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
    "verdict": "wavebase.judgement",
    "analyze": "wavebase.analysis.report",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> object:
    """Public names are imported at first use, so that `import wavebase` stays light."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'wavebase' has no attribute {name!r}")
