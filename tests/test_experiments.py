"""Every study runs, for two steps of the least that has all its parts, and leaves a finding that a page can be made of."""

import importlib.util
import json
import sys
from pathlib import Path
from unittest import mock

import pytest

from conftest import FEW, FULL, run_here
from wavebase import formatting, study

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
STUDIES = sorted(file for file in EXPERIMENTS.glob("*.py") if "study.main(" in file.read_text())

# tests/test_forking.py deals sweeps to several
ONE_PROCESS = () if FULL else ("hydra.launcher.processes=1",)


def load(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "path", [str(file.parent), *sys.path]):  # as for a script
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_two_steps_leave_a_finding(file, small_samples, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [file.name, "--tiny"])
    sweep = study.sweep
    monkeypatch.setattr(study, "sweep", lambda *words: sweep(*words, FEW, *ONE_PROCESS))
    monkeypatch.setattr(study, "run_forked", run_here)
    module = load(file)
    study.main(str(file), module.__doc__, module.measure)
    folder = tmp_path / study.Size("tiny", file.stem).folder
    record = json.loads((folder / "finding.json").read_text())
    assert record["question"].count("?") and record["rows"] and record["conclusion"] and record["limitations"]
    assert record["command"] == f"python experiments/{file.name} --tiny"
    assert (folder / "figure.png").read_bytes()[:4] == b"\x89PNG"
    table, rest = formatting.text_table(record["rows"]), capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 80 and table.splitlines()[0] in rest
    assert len((folder / "table.csv").read_text().splitlines()) == 1 + len(record["rows"])


def test_every_study_is_on_the_page():
    assert set(load(EXPERIMENTS / "findings.py").STUDIES) == {file.stem for file in STUDIES}
