"""Builds the C++ sources beside this file once per machine, and loads the result."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from multiprocessing import util
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
PRIVATE = "WAVEBASE_PRIVATE_CACHE"  # names a parent's temporary folder to its children
UNFINISHED = ".build-"


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
    ~/.cache/wavebase, under a name that depends on sources, flags, processor and its own content; loading it then needs no
    compiler. The folder must be the user's or root's and closed to others; else a temporary one is used, with a warning.
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


def prepare() -> None:
    """Settle where the library is built before processes are forked, so that they build it once."""
    if os.environ.get("WAVEBASE_NATIVE") != "0":
        _cache_folder()


def _built() -> Path:
    """Path of the library, built if it is not there yet. Raises OSError or SubprocessError."""
    sources = sorted(SOURCES.glob("*.[ch]pp"))
    flags = [*FLAGS, "-march=" + PATHS.get(os.environ.get("WAVEBASE_NATIVE", ""), ("native",))[0]]
    key = hashlib.sha256("\n".join([*flags, OPENMP, os.environ.get("CXX", ""), _processor()]).encode())
    for source in sources:
        key.update(source.read_bytes())
    folder, name = _cache_folder(), f"lstm-{key.hexdigest()[:16]}"
    found = _whole(folder, name)
    if found is None:
        if not os.access(folder, os.W_OK):
            folder = _private_folder(f"{folder}, which cannot be written")
        with _one_builder(folder):
            found = _whole(folder, name) or _build(sources, flags, folder, name)
    return found


def _whole(folder: Path, name: str) -> Path | None:
    """The library of that name whose content is what the hash in its file's name says; damaged ones are removed.

    Loading a file that is cut off would end the process without a word.
    """
    for file in sorted(folder.glob(f"{name}-*.so")):
        about = file.lstat()
        if _safe(about) and stat.S_ISREG(about.st_mode) and file.name == _named(name, file.read_bytes()):
            return file
        with contextlib.suppress(OSError):
            file.unlink()
    return None


def _named(name: str, content: bytes) -> str:
    return f"{name}-{hashlib.sha256(content).hexdigest()[:32]}.so"


def _build(sources: list[Path], flags: list[str], folder: Path, name: str) -> Path:
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++", "c++"))), None)
    if compiler is None:
        raise OSError("no C++ compiler on the path")
    log.info("building the native recurrence once, with %s", Path(compiler).name)
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as place:
        candidate = Path(place) / f"{name}.so"
        units = [str(source) for source in sources if source.suffix == ".cpp"]
        command = [compiler, *flags, *units, "-o", str(candidate)]
        try:
            _compile([*command, OPENMP], candidate)
        except (OSError, subprocess.SubprocessError):  # a compiler without OpenMP: one thread
            _compile(command, candidate)
        candidate.chmod(0o600)
        with candidate.open("rb") as file:
            content = file.read()
            os.fsync(file.fileno())
        return candidate.replace(folder / _named(name, content))  # whole or not at all: others may be loading it


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
    """The folder of built libraries: the user's own, which nobody else can write, since what lies there is run."""
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(os.environ.get("WAVEBASE_CACHE") or Path(home) / "wavebase")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _safe(folder.stat()):
            why = f"{folder}, which others own or can write (chmod go-w closes it)"
        elif os.access(folder, os.W_OK) or any(folder.glob("lstm-*.so")):
            return folder
        else:
            why = f"{folder}, which cannot be written"
    except (OSError, RuntimeError) as error:  # RuntimeError: neither HOME nor an entry in the list of users
        why = str(error)
    return _private_folder(why)


def _safe(about: os.stat_result) -> bool:
    """Whether only this user and root can write it."""
    return about.st_uid in (os.geteuid(), 0) and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _private_folder(instead_of: str) -> Path:
    """A new folder for this process and its children, removed at its end; theirs if they have one already."""
    if inherited := os.environ.get(PRIVATE):
        with contextlib.suppress(OSError):
            if _safe(os.stat(inherited)) and os.access(inherited, os.W_OK):
                return Path(inherited)
    folder = Path(tempfile.mkdtemp(prefix="wavebase-"))
    os.environ[PRIVATE] = str(folder)
    # at the end of this very process, a forked one's too, where atexit does not
    util.Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=0)
    log.warning(
        "the folder of built libraries must be the user's own and writable, got %s; it is built again for this run, in a "
        "temporary folder; set WAVEBASE_CACHE to a folder of your own",
        instead_of,
    )
    return folder


@contextlib.contextmanager
def _one_builder(folder: Path) -> Iterator[None]:
    """Let one process at a time build there, and take away what killed ones left."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: several may build, each whole
            pass
        else:
            for stale in folder.glob(f"{UNFINISHED}*"):
                shutil.rmtree(stale, ignore_errors=True)
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
