"""What is released: one version everywhere, and an sdist whose tests pass on the wheel in an environment of its own.

WAVEBASE_RELEASE="tests/test_floors.py tests/test_construction.py" python -m pytest tests/test_release.py   # or =tests for all
"""

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tomllib

import pytest
import yaml

from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_is_the_same_everywhere():
    version = PROJECT["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and newest[1] == version == citation["version"] == importlib.metadata.version("wavebase")
    assert citation["license"] == PROJECT["project"]["license"]


def test_the_sdist_holds_every_folder_and_page():
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert all((ROOT / name).exists() for name in included)
    assert {file.name for file in ROOT.glob("*.md")} | {file.name for file in ROOT.glob("*.cff")} <= set(included)


@pytest.mark.skipif(
    "WAVEBASE_RELEASE" not in os.environ, reason="minutes, and it needs the package index: WAVEBASE_RELEASE=tests"
)
def test_the_sdist_passes_its_tests_on_the_wheel(tmp_path):
    surroundings = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "WAVEBASE_RELEASE")}

    def call(*command, cwd=tmp_path):
        done = subprocess.run(
            [str(word) for word in command], cwd=cwd, env=surroundings, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout

    call(sys.executable, "-m", "venv", "clean")
    python, constraints = tmp_path / "clean/bin/python", ROOT / "constraints.txt"
    torch = re.search(r"^torch==.*$", constraints.read_text(), re.MULTILINE)[0]
    call(python, "-m", "pip", "install", "-q", "-c", constraints, torch, "build")
    call(python, "-m", "build", "-o", tmp_path, ROOT)  # the wheel from the sdist
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    call(python, "-m", "pip", "install", "-q", "-c", constraints, f"{wheel}[dev]")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    place = call(python, "-c", "import wavebase; print(wavebase.__file__)", cwd=unpacked)
    assert place.startswith(str(tmp_path / "clean")), place
    print(call(python, "-m", "pytest", *os.environ["WAVEBASE_RELEASE"].split(), cwd=unpacked))
