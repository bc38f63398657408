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
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared")
OPENMP = "-fopenmp"
# what WAVEBASE_NATIVE may force: the compiler's name for it, and what it asks of a processor in the kernel's words
PATHS = {
    "avx2": ("x86-64-v3", {"avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"}),
    "avx512": ("x86-64-v4", {"avx2", "fma", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
}


@cache
def forbidden() -> bool:
    """Return whether WAVEBASE_NATIVE forbids compiled parts, with one warning if it does.

    0 forbids them. So does a value that is not known, or that names a path the processor lacks: running another path
    instead would make its results pass for those of the path that was asked for.
    """
    chosen = os.environ.get("WAVEBASE_NATIVE", "")
    if chosen not in ("", "0", *PATHS):
        refusal = f"must be 0, {' or '.join(PATHS)}; unset it for the processor's own path. "
    elif chosen in PATHS and (lacking := PATHS[chosen][1] - set(_processor().split())):
        refusal = f"needs {', '.join(sorted(lacking))}, which this processor does not report; unset it. "
    elif chosen == "0":
        refusal = ""
    else:
        return False
    log.warning("WAVEBASE_NATIVE=%s: %sThe recurrence runs its plain loop, several times slower", chosen, refusal)
    return True


@cache
def library() -> ctypes.CDLL | None:
    """The built library; None, with one warning, where it cannot be built or WAVEBASE_NATIVE forbids it.

    Compiled for the vectors of this machine's processor, or for those that WAVEBASE_NATIVE=avx2 or avx512 asks for.

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
    flags = [*FLAGS, "-march=" + PATHS.get(os.environ.get("WAVEBASE_NATIVE", ""), ("native",))[0]]
    key = hashlib.sha256("\n".join([*flags, OPENMP, os.environ.get("CXX", ""), _processor()]).encode())
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
            command = [compiler, *flags, *units, "-o", str(candidate)]
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
