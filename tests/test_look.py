"""The page to scroll through a run: what it shows is what the records hold, and nothing in them runs."""

import base64
import json
import sys

import numpy as np
import pytest
import torch

from conftest import SMALL
from test_report import Page
from wavebase.cli import look as command
from wavebase.report import look

STEPS = ("train.steps=3", "train.checkpoint_every=1", "probe.every=1", "model=perturbed", "optim.lr=1e-3")


@pytest.fixture(scope="module")
def made(run_once, tmp_path_factory):
    return run_once(tmp_path_factory.mktemp("look") / "run", *SMALL, *STEPS)


def unpacked(matrix):
    return np.frombuffer(base64.b64decode(matrix["data"]), np.int8).reshape(matrix["shape"])


def test_the_page_holds_what_was_recorded(made):
    data, summary = look.collect(made), made.summary()
    assert (
        [entry["step"] for entry in data["steps"]] == [entry["step"] for entry in data["checkpoints"]] == [0, 1, 2, 3]
    )
    assert data["steps"][-1]["verdict"] == summary["verdict"] == data["summary"]["verdict"]
    assert data["steps"][0]["verdict"] != "unmoved", "the start is judged as a net"
    last = {c["name"]: c["value"] for c in data["steps"][-1]["conditions"]}
    assert last == {name: pytest.approx(c["value"], rel=1e-4) for name, c in summary["conditions"].items()}
    error = data["curves"]["error/training"]
    assert 10 ** error["logs"][-1] == pytest.approx(summary["relative_error"]["final"], rel=1e-3)
    arrays = made.examples()
    assert data["target"] == pytest.approx(arrays["target"][0, 0], rel=1e-4)
    for n, name in ((0, "before"), (-1, "after")):
        assert data["checkpoints"][n]["output"] == pytest.approx(arrays[name][0, 0], rel=1e-4)
    first, middle = (made.load_checkpoint(step)["weights"]["weight_hh_cell"] for step in (0, 2))
    change = data["checkpoints"][2]["change"]
    assert change["top"] == pytest.approx((middle - first).abs().max().item(), rel=1e-4)
    assert not unpacked(data["checkpoints"][0]["change"]).any()


def test_a_matrix_keeps_signs_zeros_sizes_and_what_is_not_finite():
    matrix = np.array([[1.0, -1.0, 0.0], [1e-3, -1e-3, 1e-9], [np.nan, np.inf, -1e-6]])
    packed = look._quantised(matrix)
    assert packed["top"] == 1.0
    assert unpacked(packed).tolist() == [[127, -127, 0], [64, -64, 1], [-128, -128, -1]]
    assert not unpacked(look._quantised(np.zeros((2, 2)))).any()


def test_text_of_a_record_does_not_run(made, tmp_path):
    evil = "</script><script>alert(1)</script>"
    folder = type(made)(tmp_path / "<img src=x onerror=alert(1)>")
    folder.path.mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        (folder.path / name).write_bytes((made.path / name).read_bytes())
    (folder.path / "summary.json").write_text(json.dumps({"status": "done", "verdict": evil}))
    (folder.path / "checkpoints").mkdir()
    state = made.load_checkpoint(3)
    torch.save({**state, "blocks": {evil: [0, 2]}}, folder.checkpoint_file(3))
    look.write(folder)
    page = (folder.path / "look.html").read_text()
    found = Page(page)
    assert len(found.scripts) == 1 and found.odd == [] and found.pictures == [] and found.links == []
    assert "script-src 'sha256-" in found.policy and found.data["data"]["summary"]["verdict"] == evil


def test_an_unmoved_run_says_so(ran):
    made = ran(*SMALL, "train.steps=1", "optim.lr=1e-30")
    assert look.collect(made)["summary"]["unmoved"] and made.summary()["verdict"] == "unmoved"


def test_no_verdict_where_none_is_defined(made, tmp_path):
    summary = made.summary() | {"verdict": "no algorithm", "conditions": {}}
    folder = type(made)(tmp_path)
    for name in ("config.yaml", "metrics.jsonl"):
        (tmp_path / name).write_bytes((made.path / name).read_bytes())
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert look.collect(folder)["summary"]["verdict"] == "-"


def test_the_command_names_what_it_cannot_show(made, tmp_path, monkeypatch, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        (broken / name).write_bytes((made.path / name).read_bytes())
    (broken / "config.yaml").write_text("probe: 3\n")
    for words, status in (([str(tmp_path)], 1), ([str(made.path)], 0), ([str(tmp_path / "none")], 1), ([], 1)):
        monkeypatch.setattr(sys, "argv", ["wavebase look", *words])
        with pytest.raises(SystemExit) as stop:
            command.main()
        assert stop.value.code == status
        out, err = capsys.readouterr()
        assert (
            (out.strip() == f"{made.path}/look.html")
            if words and not status
            else (len(err.splitlines()) == (1 if words else 0))
        )
