"""Builds the C++ sources beside this file once per machine, and loads the result."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

log = logging.getLogger("wavebase")

SOURCES = Path(__file__).parent
# no -ffast-math: NaN must pass, and 1 - x * x be what it says
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared")
OPENMP = "-fopenmp"


@cache
def forbidden() -> bool:
    """Whether WAVEBASE_NATIVE=0 forbids compiled parts; one warning where it does."""
    chosen = os.environ.get("WAVEBASE_NATIVE") == "0"
    if chosen:
        log.warning("WAVEBASE_NATIVE=0: the recurrence runs its plain loop, several times slower")
    return chosen


@cache
def library() -> ctypes.CDLL | None:
    """The built library; None, with one warning, where it cannot be built or WAVEBASE_NATIVE=0 forbids it.

    Built at first use (some seconds) with $CXX, g++, clang++ or c++, and kept in $WAVEBASE_CACHE, by default
    ~/.cache/wavebase, under a name that depends on sources, flags and processor; loading it then needs no compiler.
    """
    if forbidden():
        return None
    try:
        return ctypes.CDLL(str(_built()))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        log.warning(
            "the native recurrence could not be built, so its plain loop runs, several times slower; "
            "wanted a C++17 compiler (g++ or clang++, or $CXX), got: %s",
            said.strip().splitlines()[0] if said.strip() else type(error).__name__,
        )
        return None


def _built() -> Path:
    """Path of the library, built if it is not there yet. Raises OSError or SubprocessError."""
    sources = sorted(SOURCES.glob("*.[ch]pp"))
    key = hashlib.sha256("\n".join([*FLAGS, OPENMP, os.environ.get("CXX", ""), _processor()]).encode())
    for source in sources:
        key.update(source.read_bytes())
    folder, name = _cache_folder(), f"lstm-{key.hexdigest()[:16]}.so"
    if not (folder / name).exists():
        compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++", "c++"))), None)
        if compiler is None:
            raise OSError("no C++ compiler on the path")
        log.info("building the native recurrence once, with %s", Path(compiler).name)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            candidate = Path(place) / name
            units = [str(source) for source in sources if source.suffix == ".cpp"]
            command = [compiler, *FLAGS, *units, "-o", str(candidate)]
            try:
                _compile([*command, OPENMP], candidate)
            except (OSError, subprocess.SubprocessError):  # a compiler without OpenMP: one thread
                _compile(command, candidate)
            os.replace(candidate, folder / name)  # whole or not at all: others may be building it too
    return folder / name


def _compile(command: list[str], result: Path) -> None:
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    ctypes.CDLL(str(result))


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return "\n".join(
        sorted({line for line in lines if line.startswith(("flags", "model name", "Features", "CPU part"))})
    )


def _cache_folder() -> Path:
    """A folder of the user's own that can be written to."""
    chosen = os.environ.get("WAVEBASE_CACHE")
    folder = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wavebase"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="wavebase-"))
