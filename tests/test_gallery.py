"""The gallery runs, fills a copy of README.md and leaves the rest of it as it is; every number follows the records."""

import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from test_experiments import EXPERIMENTS, load

NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"

# of zero (1 by definition), of the commands (fractions of the boundary and a bin, samples ahead, numbers, chance), counts
SETTINGS = {"95", "1", "1.5", "0.5", "10", "0.1", "0", "32", "0.05"}


@pytest.fixture
def gallery():
    return load(EXPERIMENTS / "gallery.py")


def outside(gallery, page):
    """A page without what lies between the marks."""
    before, rest = page.split(gallery.BEGIN)
    return before + rest.split(gallery.END)[1]


def test_tiny_fills_a_copy_from_the_records(gallery, monkeypatch, tmp_path, capsys):
    real = (ROOT / "README.md").read_bytes()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gallery.py", "--tiny"])
    gallery.main()
    here = tmp_path / "outputs" / "gallery_tiny"
    page = (here / "README.md").read_text()
    assert (ROOT / "README.md").read_bytes() == real
    assert outside(gallery, page) == outside(gallery, real.decode())
    for system in gallery.SYSTEMS:
        assert all(f"\nwavebase {command}\n" in page for command in system.commands)
        assert " ".join(system.result().split()) in " ".join(page.split())
        assert "zero" in system.result() or "chance" in system.result()
        picture = np.asarray(Image.open(here / f"docs/pictures/gallery_{system.page}.png").convert("L"))
        assert picture.mean() > 200 and picture.min() < 100 and picture.std() > 10  # light, and not blank
    for system in gallery.SYSTEMS:  # no number survives a change of every record
        said = re.findall(NUMBER, system.result())
        for file in {*(here / gallery.HOME).rglob("summary.json"), *(here / gallery.HOME).rglob("spectrum.json")}:
            file.write_text(json.dumps(shifted(json.loads(file.read_text()))))
        kept = [a for a, b in zip(said, re.findall(NUMBER, system.result()), strict=True) if a == b]
        assert {*kept} <= SETTINGS and len(kept) < len(said) / 2, f"{system.title}: {kept} of {said}"


def shifted(node):
    """Every number of a record made another."""
    if isinstance(node, dict):
        return {key: shifted(value) for key, value in node.items()}
    if isinstance(node, list):
        return [shifted(value) for value in node]
    return node if isinstance(node, bool) or not isinstance(node, int | float) else 3 * node + 7


def test_the_page_is_that_of_todays_commands(gallery):
    page = (ROOT / "README.md").read_text().split(gallery.BEGIN)[1].split(gallery.END)[0]
    printed = re.findall(r"^wavebase (.*)$", page, re.MULTILINE)
    assert printed == [command for system in gallery.SYSTEMS for command in system.commands], "run make gallery"
    for system in gallery.SYSTEMS:
        assert (ROOT / f"docs/pictures/gallery_{system.page}.png").is_file()
