"""What a run's numbers depend on besides its configuration: versions, and the commit of the source."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import wavebase

PACKAGE = Path(wavebase.__file__).parent


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a run's numbers; "unknown" without dist-info. Looked up once."""
    found = {"python": platform.python_version()}
    for name in ("torch", "numpy", "hydra-core", "omegaconf", "tensorboard"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return {**found, "wavebase": wavebase.__version__}


@cache
def git_state() -> dict[str, Any] | None:
    """Return the commit of wavebase's own checkout, and whether its tree has changes; None if there is no checkout.

    Looked up once: a process goes on computing with the source that it began with, whatever is edited or committed meanwhile.
    A package in the virtual environment of some other repository has none: that repository's commit says nothing of it.
    """

    def git(*words: str) -> str:
        # without the lock that `status` takes to refresh the index: a killed run would leave it behind
        done = subprocess.run(
            ["git", "--no-optional-locks", *words],
            cwd=PACKAGE,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.strip()

    try:
        toplevel, _, commit = git("rev-parse", "--show-toplevel", "HEAD").rpartition("\n")
        if Path(toplevel).resolve() / "src" / "wavebase" != PACKAGE.resolve():
            return None
        return {"commit": commit, "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
