"""The gallery runs, fills a copy of README.md and leaves the rest of it as it is; every number follows the records."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from conftest import FULL, ROOT, run_here
from test_experiments import EXPERIMENTS, load
from wavebase import study

NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"

# of zero (1 by definition), of the commands (fractions of the boundary and a bin, samples ahead, numbers, chance), counts, confidence
SETTINGS = {"1", "1.5", "0.5", "10", "0.1", "0", "32", "0.05", "95"}


@pytest.fixture
def gallery():
    return load(EXPERIMENTS / "gallery.py")


def outside(gallery, page):
    """A page without what lies between the marks."""
    before, rest = page.split(gallery.BEGIN)
    return before + rest.split(gallery.END)[1]


def test_tiny_fills_a_copy_from_the_records(gallery, small_samples, monkeypatch, tmp_path, capsys):
    real = (ROOT / "README.md").read_bytes()
    monkeypatch.chdir(tmp_path)

    def white(*command):
        """Run a command that draws nothing: its pictures are none of the gallery's."""
        with monkeypatch.context() as patch:
            if not FULL:
                patch.setattr(Figure, "draw", lambda figure, renderer: None)
            return run_here(*command)

    monkeypatch.setattr(study, "run_forked", white)
    monkeypatch.setattr(sys, "argv", ["gallery.py", "--tiny"])
    gallery.main()
    here = tmp_path / "outputs" / "gallery_tiny"
    page = (here / "README.md").read_text()
    assert (ROOT / "README.md").read_bytes() == real
    assert outside(gallery, page) == outside(gallery, real.decode())
    for system in gallery.SYSTEMS:
        assert all(f"\nwavebase {command}\n" in page for command in system.commands)
        result = system.result()
        assert " ".join(result.split()) in " ".join(page.split())
        assert "zero" in result or "chance" in result
        assert "one seed" in result
        picture = np.asarray(Image.open(here / f"docs/pictures/gallery_{system.page}.png").convert("L"))
        assert picture.mean() > 200 and picture.min() < 100 and picture.std() > 10  # light, and not blank
    check_writes_nothing(gallery, monkeypatch, capsys, here)
    for system in gallery.SYSTEMS:  # no number survives a change of every record
        said = re.findall(NUMBER, system.result())
        for file in {*(here / gallery.HOME).rglob("summary.json"), *(here / gallery.HOME).rglob("spectrum.json")}:
            file.write_text(json.dumps(shifted(json.loads(file.read_text()))))
        kept = [a for a, b in zip(said, re.findall(NUMBER, system.result()), strict=True) if a == b]
        assert {*kept} <= SETTINGS and len(kept) < len(said) / 2, f"{system.title}: {kept} of {said}"


def check_writes_nothing(gallery, monkeypatch, capsys, here):
    """The default says how README.md would change, with status 1, and writes no file."""
    monkeypatch.setattr(gallery, "ROOT", here)
    before = {file: file.read_bytes() for file in here.rglob("*") if file.is_file()}
    drawn = {}  # again, once: the records stay as they are. Of the others, what was drawn from them
    for system in gallery.SYSTEMS:
        file = Path(f"docs/pictures/gallery_{system.page}.png")
        again = FULL or system is gallery.SYSTEMS[0]
        drawn[system.page] = gallery.picture(system) if again else (file, before[here / file])
    monkeypatch.setattr(gallery, "picture", lambda system: drawn[system.page])

    def checked(*words):
        monkeypatch.setattr(sys, "argv", ["gallery.py", *words])
        capsys.readouterr()
        try:
            gallery.main()
            status = 0
        except SystemExit as stop:
            status = stop.code
        return status, capsys.readouterr().out

    assert checked() == checked("--check") == (0, "README.md is what the records give\n")
    text = (here / "README.md").read_text()
    (here / "README.md").write_text(text.replace("one seed", "nine seeds", 1))
    picture = next(here.glob("docs/pictures/*.png"))
    picture.unlink()
    status, out = checked()
    assert status == 1 and "-" in out and "README.md would change; make gallery-write writes it" in out
    assert [line[0] for line in out.splitlines() if "seed" in line] == ["-", "+"]
    assert f"{picture.relative_to(here)} would change" in out and not picture.exists()
    assert (here / "README.md").read_text() == text.replace("one seed", "nine seeds", 1)
    (here / "README.md").write_text(text)
    picture.write_bytes(before[picture])
    assert {file: file.read_bytes() for file in here.rglob("*") if file.is_file()} == before
    with (
        monkeypatch.context() as patch,
        pytest.raises(ValueError, match=r"must hold one run with .*, got 0; .*make gallery-write"),
    ):
        patch.setattr(gallery, "HOME", gallery.HOME / "nothing")
        gallery.check()


def test_the_seeds_of_the_results_are_counted(gallery):
    class Seeded:
        def __init__(self, seed):
            self.setting = {"seed": seed}.get

    assert gallery.seeds(Seeded(0)) == gallery.seeds(Seeded(1), Seeded(1)) == "one seed"
    assert gallery.seeds(Seeded(0), Seeded(1), Seeded(2)) == "3 seeds"


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
