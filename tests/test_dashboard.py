"""The dashboard as TensorBoard serves it: charts that show what they are called after, hyper-parameters that sort as numbers."""

import json
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request

import pytest
from PIL import Image

from conftest import HANG, SMALL, wait_until
from test_experiments import EXPERIMENTS, load

RUN = (
    "train.steps=4",
    "train.batch=4",
    "train.log_every=2",
    "task.held_out_count=4",
    "probe.every=2",
    "probe.figures=[]",
)
PROBES = "probe.measure=[function.held_out_error,drift.weight_drift,curvature.sharpness]"


@pytest.fixture
def served(tmp_path):
    """served() -> a function that asks TensorBoard about all runs there are: (path, query or None, posted or None) -> JSON."""
    servers = []

    def start():
        command = [
            sys.executable,
            "-m",
            "tensorboard.main",
            "--logdir",
            str(tmp_path),
            "--port",
            "0",
            "--load_fast=false",
        ]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        servers.append(server)
        said = next(line for line in server.stderr if "http://" in line)
        address = said.split(" at ")[1].split()[0]

        def ask(path, query=None, posted=None):
            words = "?" + urllib.parse.urlencode(query) if query else ""
            data = None if posted is None else json.dumps(posted).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{address}data/plugin/{path}{words}", data, headers)
            with urllib.request.urlopen(request, timeout=HANG) as answer:
                return json.load(answer)

        runs = {file.parent.name for file in tmp_path.glob("*/summary.json")}

        def read():  # it reads while it serves; a run's last tag is final/...
            return runs == {run for run, tags in ask("scalars/tags").items() if "final/relative_error" in tags}

        wait_until(read, server)
        return ask

    yield start
    for server in servers:
        server.terminate()
        server.wait()


def test_what_the_server_shows(ran, served):
    """A long run's T sorts after a short one's as a number, and before it as text."""
    folders = {name: ran(*RUN, PROBES, f"T={T}", name=name) for name, T in (("short", 4), ("long", 10))}
    ask = served()
    tags = ask("scalars/tags")
    assert set(tags) == set(folders)

    layout = ask("custom_scalars/layout")
    (category,) = layout["category"]
    charts = {chart["title"]: chart["multiline"]["tag"] for chart in category["chart"]}
    shown = {}
    for title, patterns in charts.items():
        for run in folders:
            found = [ask("custom_scalars/scalars", {"run": run, "tag": pattern}) for pattern in patterns]
            assert all(answer["regex_valid"] and answer["tag_to_events"] for answer in found), (title, run)
            shown[title, run] = {tag: points for answer in found for tag, points in answer["tag_to_events"].items()}
            assert set(shown[title, run]) <= set(tags[run])
    assert not ask("custom_scalars/scalars", {"run": "long", "tag": "no_such/"})["tag_to_events"]

    for run, folder in folders.items():
        summary = folder.summary()
        loss = shown["loss beside its baselines", run]
        assert set(loss) == {"loss/train", "loss/held_out", "baseline/zero", "baseline/mean"}
        for name, value in summary["baseline"].items():
            assert [(step, seen) for _, step, seen in loss[f"baseline/{name}"]] == [
                (step, pytest.approx(value, rel=1e-6)) for step in (0, 2, 4)
            ]
        assert {"error/training", "error/tones", "error/impulses"} <= set(
            shown["relative error of each probe signal", run]
        )
        drifts = shown["drift of each weight", run]
        assert set(drifts) == {f"drift/{name}" for name in summary["drift"]} and "drift/weight_hh_cell" in drifts
        curvature = shown["lambda_max beside its boundary", run]
        assert set(curvature) == {"curvature/lambda_max", "curvature/boundary"}
        assert [point[2] for point in curvature["curvature/boundary"]] == pytest.approx([2 / summary["optim"]["lr"]] * 3, rel=1e-6)  # fmt: skip

    columns = {c["name"]: c["type"] for c in ask("hparams/experiment", posted={"experimentName": ""})["hparamInfos"]}
    numeric = {name for name, kind in columns.items() if kind == "DATA_TYPE_FLOAT64"}
    assert numeric == {"T", "seed", "lr", "lr_over_boundary", "steps"}
    for order, names in (("ORDER_ASC", ["short", "long"]), ("ORDER_DESC", ["long", "short"])):
        wanted = {"allowedStatuses": ["STATUS_SUCCESS"], "colParams": [{"hparam": "T", "order": order}], "sliceSize": 9}
        rows = ask("hparams/session_groups", posted={"experimentName": "", "startIndex": 0, **wanted})["sessionGroups"]
        assert [row["name"] for row in rows] == names
        for row in rows:
            values = {value["name"]["tag"]: value["value"] for value in row["metricValues"]}
            final = folders[row["name"]].summary()["relative_error"]["final"]
            assert values["final/relative_error"] == pytest.approx(final, rel=1e-6)


def test_a_chart_is_left_out_where_nothing_was_recorded_for_it(ran, served):
    ran(*SMALL, "probe.measure=[function.held_out_error]", "optim.lr=0.1")
    (category,) = served()("custom_scalars/layout")["category"]
    assert [chart["title"] for chart in category["chart"]] == ["loss beside its baselines", "relative error of each probe signal"]  # fmt: skip


def test_the_photographer(monkeypatch, tmp_path):
    """What experiments/screenshots.py looks at is what it leaves, of the size that it asked for; without a browser it says so."""
    photographer = load(EXPERIMENTS / "screenshots.py")
    monkeypatch.setattr(photographer, "PICTURES", tmp_path)
    if any(map(shutil.which, photographer.BROWSERS)):
        browser = photographer.Browser(tmp_path / "profile")
        browser.look(321, 123)
        browser.ask("Page.navigate", url="data:text/html,<title>blue</title><body style='background: rgb(0, 0, 255)'>")
        assert browser.value("new Promise(done => setTimeout(() => done(document.title), 200))") == "blue"
        browser.photograph("page")
        picture = Image.open(tmp_path / "page.png").convert("RGB")
        assert picture.size == (321, 123) and picture.getcolors() == [(321 * 123, (0, 0, 255))]
        with pytest.raises(RuntimeError, match="the browser must do Page"):
            browser.ask("Page.nothing")
        browser.say.close()
        assert browser.process.wait(20) == 0
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="must be installed, got none"):
        photographer.Browser(tmp_path / "profile")
