"""WAVEBASE_NATIVE forces a path of the native recurrence, or is refused in one line."""

import logging
import os
import subprocess
import sys

import pytest

from conftest import FULL, ROOT
from wavebase.recurrence.native import build, lstm

needs_native = pytest.mark.skipif(not lstm.available(), reason="no C++ compiler: only the plain loop is here")
VECTOR_BYTES = {"avx2": 32, "avx512": 64}


@needs_native
@pytest.mark.parametrize("path", build.PATHS)
def test_a_forced_path_agrees_with_the_plain_loop(path):
    """In a process of its own, since two libraries in one would share their symbols: forward and backward of
    tests/test_recurrence.py, after a look at which library was loaded."""
    lacking = build.PATHS[path][1] - set(build._processor().split())
    if lacking:
        pytest.skip(f"the processor has no {', '.join(sorted(lacking))}")
    if not FULL and build.library().wavebase_vector_bytes() == VECTOR_BYTES[path]:
        pytest.skip(
            "this process has loaded this path, and tests/test_recurrence.py tries it: again with WAVEBASE_FULL=1"
        )
    # second derivatives are the plain loop's on every path; func.grad brings the compiler along
    chosen = "plain_loops or accurate or vmap or threads" + ("" if FULL else " and not (hessian or func)")
    code = (
        "import sys, pytest; from wavebase.recurrence.native import build;"
        f"assert build.library().wavebase_vector_bytes() == {VECTOR_BYTES[path]};"
        f"sys.exit(pytest.main(['--noconftest', '--assert=plain', 'tests/test_recurrence.py', '-k', '{chosen}']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=os.environ | {"WAVEBASE_NATIVE": path}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0 and " passed" in done.stdout and "skipped" not in done.stdout, done.stdout + done.stderr


@pytest.fixture
def forced(monkeypatch):
    """forced("avx512") -> whether compiled parts are forbidden then."""

    def ask(chosen):
        monkeypatch.setenv("WAVEBASE_NATIVE", chosen)
        build.forbidden.cache_clear()
        build.library.cache_clear()
        return build.forbidden()

    yield ask
    monkeypatch.undo()
    build.forbidden.cache_clear()
    build.library.cache_clear()


@pytest.mark.parametrize("path", build.PATHS)
def test_a_path_that_the_processor_lacks_is_refused_in_one_line(path, forced, monkeypatch, caplog):
    monkeypatch.setattr(build, "_processor", lambda: "flags\t\t: fpu sse2 avx avx2 bmi1 bmi2 f16c movbe abm avx512f")
    with caplog.at_level(logging.WARNING, "wavebase"):
        assert forced(path) and not lstm.available() and not lstm.available()
    assert len(caplog.records) == 1 and f"WAVEBASE_NATIVE={path}: needs " in caplog.text
    assert "fma" in caplog.text and "avx512f" not in caplog.text and "unset it" in caplog.text


def test_an_unknown_path_is_refused_in_one_line(forced, caplog):
    with caplog.at_level(logging.WARNING, "wavebase"):
        assert forced("sse2") and not lstm.available()
    assert len(caplog.records) == 1 and "WAVEBASE_NATIVE=sse2: must be 0, avx2 or avx512; unset it" in caplog.text


def test_each_path_has_a_file_of_its_own(forced, monkeypatch, tmp_path):
    """No path is served by the library that was built for another."""
    monkeypatch.setenv("WAVEBASE_CACHE", str(tmp_path))
    commands = []

    def compiled(command, result):
        commands.append(command)
        result.touch()

    monkeypatch.setattr(build, "_compile", compiled)
    monkeypatch.setattr(build.shutil, "which", lambda name: name or None)
    names = []
    for chosen in ("", *build.PATHS):
        forced(chosen)
        names.append(build._built().name)
    assert len(set(names)) == 3
    assert [next(word for word in command if word.startswith("-march")) for command in commands] == [
        "-march=native",
        "-march=x86-64-v3",
        "-march=x86-64-v4",
    ]
