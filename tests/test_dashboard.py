"""The dashboard as TensorBoard serves it over HTTP: what it opens on, about twenty tags, and the table of settings."""

import json
import math
import shutil
import time
import urllib.parse
import urllib.request

import pytest
from PIL import Image
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import FEW, HANG, SMALL
from test_experiments import EXPERIMENTS, load
from wavebase.experiment import runner
from wavebase.records.events import MAIN, holds
from wavebase.records.folder import RunFolder, find_runs

RUN = ("T=4", "train.steps=4", "train.batch=4", "train.log_every=2", "task.held_out_count=4", "probe.every=2", FEW)

VERDICT = "verdict/text_summary"  # a run's last text


@pytest.fixture
def served(tmp_path):
    """served(tag) -> a function that asks TensorBoard about all runs there are, once it has read the tag of each:
    (path, query or None, posted or None) -> JSON."""

    def start(last, folder=tmp_path):
        server = program.TensorBoard()
        words = ["--logdir", str(folder), "--load_fast=false", "--reload_interval=0", "--host=127.0.0.1", "--port=0"]
        server.configure(argv=[None, *words])
        address = server.launch()

        def ask(path, query=None, posted=None):
            words = "?" + urllib.parse.urlencode(query) if query else ""
            data = None if posted is None else json.dumps(posted).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{address}data/plugin/{path}{words}", data, headers)
            with urllib.request.urlopen(request, timeout=HANG) as answer:
                return json.load(answer)

        runs = {str(found.path.relative_to(folder)) for found in find_runs(folder) if found.summary()}
        until = time.monotonic() + HANG
        while not all(last in ask("text/tags").get(run, ()) for run in runs):  # it reads while it serves
            assert time.monotonic() < until
            time.sleep(0.02)
        return ask

    return start


def test_what_the_server_shows_of_a_sweep(cli, served, tmp_path, composed):
    """Two learning rates of one model, and a third run that was interrupted."""
    words = (*RUN, "model=perturbed")
    status, _, err = cli("-m", *words, "optim.lr_over_boundary=0.25,0.5", "hydra.sweep.dir=s")
    assert status == 0, err
    sweep = tmp_path / "s"
    node = composed(*words, "optim.lr_over_boundary=1.5", "optim.lr=null")
    job = runner.Job(node, sweep / "cut", {"model": "perturbed"}, ["optim.lr_over_boundary"])
    session = runner.prepare(job)
    session.open()
    session.folder.abandon()
    finished = {folder.path.name: folder.summary() for folder in find_runs(sweep) if folder.summary()}
    ask = served(VERDICT, sweep)
    tags = ask("scalars/tags")
    blocks = [f"drift/weight_hh_cell/{pair}" for pair in ("gen_from_gen", "prod_from_sum", "spec_from_prod")]
    for name, summary in finished.items():
        assert len(tags[name]) == 23 and {"drift/weight_hh_cell", *blocks, "loss/train", "error/training"} <= set(
            tags[name]
        )

        layout = ask("custom_scalars/layout")["category"]
        assert [(part["title"], part.get("closed", False)) for part in layout] == [
            ("What became of the algorithm", False), ("Beyond float32: logarithms to base 10", True), ("Where it moved", True), ("How it computes", True),
        ]  # fmt: skip
        shown = {}
        for part in layout:
            for chart in part["chart"]:
                answers = [
                    ask("custom_scalars/scalars", {"run": name, "tag": tag}) for tag in chart["multiline"]["tag"]
                ]
                assert all(answer["regex_valid"] for answer in answers)
                shown[chart["title"]] = {
                    tag: points for answer in answers for tag, points in answer["tag_to_events"].items()
                }
        first = [chart["title"] for chart in layout[0]["chart"]]
        assert first == ["training loss beside its baselines", "relative error, held out (a zero output has 1)", "drift of weight_hh_cell", "lambda_max beside its boundary"]  # fmt: skip
        assert [set(shown[title]) for title in first] == [
            {"loss/train", "baseline/zero", "baseline/mean"}, {"error/training"}, {"drift/weight_hh_cell"}, {"curvature/lambda_max", "curvature/boundary"},
        ]  # fmt: skip
        assert set(shown["drift of weight_hh_cell by block"]) == {*blocks, "leakage/weight_hh_cell"}
        assert not shown["log10 of what float32 cannot hold"]
        drift = shown["drift of weight_hh_cell"]["drift/weight_hh_cell"]
        assert [step for _, step, _ in drift] == [0, 2, 4] and drift[-1][2] == pytest.approx(
            summary["drift"]["weight_hh_cell"], rel=1e-6
        )
        for baseline, value in summary["baseline"].items():
            assert [seen for *_, seen in shown[first[0]][f"baseline/{baseline}"]] == pytest.approx(
                [value] * 3, rel=1e-6
            )
        boundary = shown[first[3]]["curvature/boundary"]
        assert [point[2] for point in boundary] == pytest.approx([2 / summary["optim"]["lr"]] * 3, rel=1e-6)

        texts = ask("text/tags")[name]
        assert sorted(texts) == [VERDICT, "weights/parameters/text_summary"], "the verdict comes first"
        (event,) = ask("text/text", {"run": name, "tag": VERDICT})
        assert summary["verdict"] in event["text"]

    experiment = ask("hparams/experiment", posted={"experimentName": ""})
    assert [(column["name"], column["type"]) for column in experiment["hparamInfos"]] == [
        ("optim.lr_over_boundary", "DATA_TYPE_FLOAT64")
    ]
    results = [metric["name"]["tag"] for metric in experiment["metricInfos"]]
    assert results[:2] == ["drift/weight_hh_cell", "error/training"]
    every = {"allowedStatuses": ["STATUS_SUCCESS", "STATUS_UNKNOWN", "STATUS_RUNNING"], "sliceSize": 9}
    order = [{"hparam": "optim.lr_over_boundary", "order": "ORDER_DESC"}]
    found = ask("hparams/session_groups", posted={"experimentName": "", "startIndex": 0, "colParams": order, **every})[
        "sessionGroups"
    ]
    assert [row["hparams"]["optim.lr_over_boundary"] for row in found] == [1.5, 0.5, 0.25] and found[0]["name"] == "cut"
    for row in found[1:]:
        values = {value["name"]["tag"]: value["value"] for value in row["metricValues"]}
        final = finished[row["name"]]
        assert values["error/training"] == pytest.approx(final["relative_error"]["final"], rel=1e-6)
        assert values["drift/weight_hh_cell"] == pytest.approx(final["drift"]["weight_hh_cell"], rel=1e-6)


def test_all_tags_on_request(ran):
    made = ran(*RUN, "probe.dashboard=all", "probe.measure=[function.held_out_error,drift.weight_drift]")
    accumulator = EventAccumulator(str(made.path)).Reload()
    shown = {tag for tag in accumulator.Tags()["scalars"] if not tag.startswith("log10/")}
    assert shown == set(made.metrics()) and len(shown) > 30


def test_a_chart_is_left_out_where_nothing_was_recorded_for_it(ran, served):
    ran(*SMALL, "probe.measure=[function.held_out_error]", "optim.lr=0.1")
    layout = served(VERDICT)("custom_scalars/layout")["category"]
    assert [chart["title"] for chart in layout[0]["chart"]] == ["training loss beside its baselines", "relative error, held out (a zero output has 1)"]  # fmt: skip


@pytest.mark.parametrize("kept", [False, True])
def test_what_float32_cannot_hold_has_logarithms_at_every_step(kept, tmp_path):
    """Also when the numbers are read back from metrics.jsonl, as for a run that continues."""
    made = RunFolder(tmp_path)
    made.start("T: 4\n")
    numbers = {
        "loss/train": [0.5, 1e-52, 0.0, 1e-30],
        "error/training": [0.25] * 4,
        "baseline/zero": [1.0, 1.0, 6e98, math.inf],
    }
    for step in range(4):
        made.log(step, {tag: values[step] for tag, values in numbers.items()})
    if kept:
        length, _ = made._metrics.flush()
        made.abandon()
        made = RunFolder(tmp_path)
        made.start("T: 4\n", length)
    made.abandon()
    accumulator = EventAccumulator(str(tmp_path)).Reload()

    def read(tag):
        return {event.step: event.value for event in accumulator.Scalars(tag)}

    assert set(accumulator.Tags()["scalars"]) == {*numbers, "log10/loss/train", "log10/baseline/zero"}
    assert read("loss/train") == {0: 0.5, 2: 0.0, 3: pytest.approx(1e-30)}, (
        "1e-52 would be drawn as 0, which looks exact"
    )
    assert read("log10/loss/train") == pytest.approx({0: math.log10(0.5), 1: -52, 3: -30})
    assert read("log10/baseline/zero") == pytest.approx({0: 0, 1: 0, 2: 98 + math.log10(6)})
    assert holds(0.0) and holds(math.inf) and holds(1e-37) and not holds(1e-39) and not holds(-1e39)


def test_the_main_tags_leave_most_out():
    assert MAIN.match("loss/train") and not any(
        map(MAIN.match, ("error/tones", "drift/bias_ih_cell", "task/relative_error", "centred/loss"))
    )


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
