"""What is loaded from the folder of built libraries was built by this user and is whole."""

import ctypes
import ctypes.util
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wavebase.recurrence.native import build, lstm

needs_native = pytest.mark.skipif(not lstm.available(), reason="no C++ compiler: only the plain loop is here")
# the module by itself, without torch, which its package imports
LOAD = f"""
import importlib.util, logging
logging.basicConfig(format="%(message)s")
spec = importlib.util.spec_from_file_location("build", {build.__file__!r})
spec.loader.exec_module(build := importlib.util.module_from_spec(spec))
print(build._built())
assert build.library().wavebase_vector_bytes() > 0
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The library that this process has built or found, in a folder of these tests."""
    return Path(shutil.copy(build._built(), tmp_path_factory.mktemp("cache")))


@pytest.fixture
def here(library, tmp_path, monkeypatch):
    """A folder of the user's own with a good library in it, chosen by WAVEBASE_CACHE; temporary folders are made beside it."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    shutil.copy(library, folder)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(build.tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("WAVEBASE_CACHE", str(folder))
    monkeypatch.delenv(build.PRIVATE, raising=False)
    return folder


@pytest.fixture
def compiled(library, monkeypatch):
    """Every compilation from here on; a copy of the good library stands in for it."""
    commands = []

    def compile_(command, result):
        commands.append(command)
        shutil.copy(library, result)

    monkeypatch.setattr(build, "_compile", compile_)
    return commands


@pytest.fixture
def process(library, tmp_path):
    """process(**environment) -> (status, output, errors) of loading the library in a process of its own. Its compiler
    copies the good library, for which the true one takes two seconds."""
    compiler = tmp_path / "bin" / "g++"
    compiler.parent.mkdir()
    compiler.write_text(
        f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\ncp {library} "$2"\necho >> {tmp_path}/compiled\n'
    )
    compiler.chmod(0o700)
    return lambda **environment: loaded(PATH=f"{compiler.parent}:{os.environ['PATH']}", **environment)


def loaded(**environment):
    kept = {key: value for key, value in os.environ.items() if key not in (build.PRIVATE, "WAVEBASE_CACHE", "CXX")}
    done = subprocess.run(
        [sys.executable, "-c", LOAD], capture_output=True, text=True, env={**kept, **environment}
    )  # fmt: skip
    return done.returncode, done.stdout.strip(), done.stderr


@needs_native
def test_a_good_library_is_loaded_and_nothing_is_compiled(here, library, compiled):
    assert build._built() == here / library.name and not compiled


@needs_native
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign", "writable", "link", "pipe", "folder"])
def test_a_library_that_is_not_as_it_was_written_is_built_anew(here, library, compiled, damage, tmp_path):
    """A cut one ended the process by a bus error, without a word."""
    file, whole = here / library.name, library.read_bytes()
    contents = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "flipped": whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
    }
    if damage in contents:
        file.write_bytes(contents[damage])
    elif damage == "foreign":
        shutil.copy(Path(ctypes.util.__file__), file)
    elif damage == "writable":
        file.chmod(0o666)
    else:
        file.unlink()
        {"link": lambda: file.symlink_to(library), "pipe": lambda: os.mkfifo(file), "folder": file.mkdir}[damage]()
    if damage == "folder":  # cannot be taken away, nor replaced: said, and the plain loop runs
        with pytest.raises(OSError):
            build._built()
        return
    found = build._built()
    assert found == file and found.read_bytes() == whole and len(compiled) == 1
    assert not found.is_symlink() and found.stat().st_mode & 0o777 == 0o600
    assert build._built() == file and len(compiled) == 1


@needs_native
def test_a_cut_library_is_survived_in_a_process_of_its_own(here, library, process, tmp_path):
    (here / library.name).write_bytes(library.read_bytes()[:4096])
    status, out, err = process(WAVEBASE_CACHE=str(here))
    assert status == 0 and Path(out).parent == here and (tmp_path / "compiled").read_text() == "\n", err


@needs_native
@pytest.mark.parametrize("whose", ["group", "everybody", "another user"])
def test_a_folder_that_others_can_write_is_not_used(here, library, compiled, caplog, whose):
    if whose == "another user":
        if os.geteuid() != 0:
            pytest.skip("only root can give a folder away")
        os.chown(here, 12345, -1)
    else:
        here.chmod(0o770 if whose == "group" else 0o707)
    with caplog.at_level(logging.WARNING, "wavebase"):
        found = build._built()
        assert build._built() == found, "the process has one temporary folder"
    assert found.parent != here and found.parent.stat().st_mode & 0o777 == 0o700 and len(compiled) == 1
    (said,) = (record.getMessage() for record in caplog.records)
    assert str(here) in said and "WAVEBASE_CACHE" in said and "\n" not in said
    shutil.rmtree(found.parent)


@needs_native
def test_a_planted_library_never_runs(here, process, tmp_path):
    """Another's file in a folder that others can write, under the very name that is looked for."""
    key = next(here.glob("lstm-*.so"))
    planted = tmp_path / "planted.c"
    planted.write_text(
        f'#include <stdio.h>\n__attribute__((constructor)) void ran(void) {{ fclose(fopen("{tmp_path}/ran", "w")); }}\n'
    )
    subprocess.run(
        [shutil.which("g++") or "c++", "-x", "c", "-shared", "-fPIC", str(planted), "-o", str(tmp_path / "p.so")],
        check=True,
    )
    ctypes.CDLL(str(tmp_path / "p.so"))
    assert (tmp_path / "ran").exists(), "the plant works"
    (tmp_path / "ran").unlink()
    here.chmod(0o777)
    content = (tmp_path / "p.so").read_bytes()
    key.unlink()
    prefix = key.name.rpartition("-")[0]
    for name in (key.name, f"{prefix}.so", build._named(prefix, content)):
        (here / name).write_bytes(content)
    status, out, err = process(WAVEBASE_CACHE=str(here), TMPDIR=str(tmp_path / "temporary"))
    assert status == 0 and Path(out).parent != here and not (tmp_path / "ran").exists(), err
    assert err.count("must be the user's own") == 1
    assert not list((tmp_path / "temporary").iterdir()), "the temporary folder is gone with the process"


@needs_native
def test_children_share_their_parents_temporary_folder(here, compiled, monkeypatch, tmp_path):
    here.chmod(0o777)
    build.prepare()
    shared = os.environ[build.PRIVATE]
    pid = os.fork()
    if not pid:
        os._exit(0 if build._built().parent == Path(shared) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert build._built().parent == Path(shared) and not compiled, "the child built it"
    os.chmod(shared, 0o777)
    assert build._built().parent != Path(shared), "a parent's folder is looked at as any other"


@needs_native
def test_neither_a_home_nor_an_entry_in_the_list_of_users(here, compiled, monkeypatch, caplog):
    monkeypatch.delenv("WAVEBASE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(build.Path, "home", nobody)
    with caplog.at_level(logging.WARNING, "wavebase"):
        assert build._built().is_file()
    assert "home directory" in caplog.text and len(caplog.records) == 1


@needs_native
def test_a_home_that_cannot_be_written(library, here, tmp_path, monkeypatch, caplog, compiled):
    """A library that lies there is used; where there is none, one is built elsewhere."""
    plain = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != here and plain(path, mode))
    with caplog.at_level(logging.WARNING, "wavebase"):
        assert build._built() == here / library.name and not caplog.records
        (here / library.name).unlink()
        assert build._built().parent != here and len(compiled) == 1
    assert "cannot be written" in caplog.text and len(caplog.records) == 1
    monkeypatch.setenv("WAVEBASE_CACHE", "/proc/nowhere")
    assert build._built().is_file() and len(compiled) == 1, "once a process, wherever it is"


@needs_native
def test_what_killed_builds_left_is_removed(here, library, compiled):
    (here / library.name).unlink()
    left = here / f"{build.UNFINISHED}left"
    left.mkdir()
    (left / "lstm.so").write_bytes(b"half")
    (here / "mine").write_bytes(b"kept")
    build._built()
    assert sorted(file.name for file in here.iterdir()) == sorted([library.name, "mine"])
