"""What a run's numbers depend on beside its configuration."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's numbers."""
    names = ("torch", "numpy", "hydra-core", "omegaconf", "tensorboard", "wavebase")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def git_state() -> dict[str, Any] | None:
    """Commit and whether the tree had changes, of the source this package was imported from; None outside git."""

    def git(*words: str) -> str:
        # without the lock that `status` takes to refresh the index: a run that is killed here would leave it behind
        done = subprocess.run(
            ["git", "--no-optional-locks", *words],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
