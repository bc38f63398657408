"""The report on trees of records written here by hand: known numbers, broken records, and the page in a browser."""

import base64
import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import os
import random
import re
import shutil
import statistics
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from scipy.stats import binom

from conftest import HANG
from wavebase.figures import sweeps
from wavebase.records import atomic
from wavebase.records.folder import RunFolder, find_runs
from wavebase.report import __main__, page, write
from wavebase.report.runs import Run
from wavebase.statistics import median

RATES, SEEDS = (0.1, 0.5, 1.5), range(7)
STEPS = range(0, 101, 10)


def end(model, rate, seed):
    """The number that the run of these settings is made to end with."""
    return {"exact": 1e-6, "random": 0.5}[model] * rate * (1 + seed / 10)


def made(root, model, rate, seed, status="done"):
    """A run's folder as the program writes it."""
    config = {
        "model": {"start": model},
        "optim": {"lr_over_boundary": rate},
        "T": 8,
        "seed": seed,
        "train": {"steps": 100},
    }
    folder, choices = RunFolder(root / f"{model}-{rate}-{seed}"), {"model": model, "optim": "sgd"}
    text = OmegaConf.to_yaml(OmegaConf.create(config))
    if status == "failed":
        folder.fail(text, {"status": "failed", "error": f"<b>rate {rate} & seed {seed}</b> broke", "choices": choices})
        return
    folder.start(text)
    final = end(model, rate, seed)
    for step in STEPS:
        drift = 0.25 * step / 100
        folder.log(
            step,
            {
                "loss/train": final * (1 + 10 * math.exp(-step / 20)),
                "error/tones": final,
                "drift/weight_hh_cell": drift,
            },
        )
    if status == "unfinished":
        folder.save_checkpoint(40, {})
        folder.abandon()
        return
    folder.finish(
        {
            "status": status, "verdict": "preserved" if model == "exact" else "broken", "choices": choices, "seconds": 1.0,
            "relative_error": {"initial": 1e-7, "final": final}, "relative_loss": {"final": final**2}, "seed": seed,
            "baseline": {"zero": 2.0, "mean": 1.0}, "drift": {"weight_hh_cell": 0.25}, "watched_weight": "weight_hh_cell",
            "optim": {"lr": rate / 7, "lr_over_boundary": rate}, "distance": {"initial": 0.0, "final": 0.125, "blocks": {}},
            "reasons": [f"centred/loss is {0.1 + seed / 100:.3g}, within 0.25", "<i>second</i>"], "moved": {"changed": 30, "live": 60},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """42 runs: two failed, one unfinished."""
    root = tmp_path_factory.mktemp("tree") / "study"
    odd = {("random", 1.5, 2): "failed", ("exact", 0.1, 4): "failed", ("random", 0.5, 6): "unfinished"}
    for model in ("exact", "random"):
        for rate in RATES:
            for seed in SEEDS:
                made(root / model, model, rate, seed, odd.get((model, rate, seed), "done"))
    return root


@pytest.fixture(scope="module")
def reported(tree, tmp_path_factory):
    """The folder of its report, what was printed, and what the call returned."""
    folder, said = tmp_path_factory.mktemp("reported"), io.StringIO()
    with contextlib.redirect_stdout(said):
        failed = write.write(tree, write.Options(out=str(folder)))
    return folder, said.getvalue(), failed


def rows(file):
    return list(csv.DictReader(io.StringIO(file.read_text())))


@pytest.mark.parametrize("n", [1, 2, 5, 6, 8, 9, 12, 25, 101])
def test_the_interval_holds_the_median_as_often_as_it_says(n):
    _, low, high = median([float(value) for value in np.random.default_rng(n).permutation(n)])
    drop = int(low)
    assert high == n - 1 - drop, "as far from one end as from the other"
    covers = 1 - 2 * binom.cdf(drop, n, 0.5)  # the median lies outside if at most `drop` values are on one side
    narrower = 1 - 2 * binom.cdf(drop + 1, n, 0.5)
    assert covers >= 0.95 or (n < 6 and drop == 0)
    assert narrower < 0.95 or 2 * (drop + 1) >= n


def test_the_table_tells_medians_counts_and_failures(reported):
    folder, said, failed = reported
    assert failed == 2
    found = {row["group"]: row for row in rows(folder / "summary.csv")}
    assert set(found) == {f"{model} optim.lr_over_boundary={rate}" for model in ("exact", "random") for rate in RATES}
    row = found["random optim.lr_over_boundary=1.5"]
    finals = [end("random", 1.5, seed) for seed in SEEDS if seed != 2]
    assert (row["runs"], row["failed"], row["verdict"]) == ("7", "1", "broken 6/7")
    assert float(row["error_end_median"]) == pytest.approx(statistics.median(finals))
    assert (float(row["error_end_low"]), float(row["error_end_high"])) == pytest.approx((min(finals), max(finals)))
    assert found["random optim.lr_over_boundary=0.5"]["runs"] == "6", "an unfinished run is in no row"
    assert float(found["exact optim.lr_over_boundary=0.5"]["error_end_median"]) == pytest.approx(end("exact", 0.5, 3))
    assert len(rows(folder / "runs.csv")) == 42
    table = said[: said.index("failed: ")].splitlines()
    assert max(map(len, table)) <= 80 and len(table) == 4 + 2 * 6
    assert "failed: " in said and "<b>rate 1.5 & seed 2</b> broke" in said and "42 runs, 2 failed, 1 unfinished" in said
    assert re.search(r"unfinished: \S+random-0.5-6: a checkpoint of step 40 of 100, no process writes it", said)


def test_chosen_keys_axes_tags_and_places(tree, tmp_path, monkeypatch, capsys):
    words = [
        "keys=model",
        "x=seed",
        "y=optim.lr_over_boundary",
        "tag=error/tones",
        "value=drift.weight_hh_cell",
        f"out={tmp_path}",
    ]
    monkeypatch.setattr("sys.argv", ["report", str(tree), *words])
    __main__.main()
    found = rows(tmp_path / "summary.csv")
    assert [row["group"] for row in found] == ["exact", "random"] and found[0]["drift.weight_hh_cell_median"] == "0.25"
    assert {file.name for file in tmp_path.iterdir()} >= {"learning_curves.png", "heat_map.png", "report.html"}
    assert "drift.weight_hh_cell" in capsys.readouterr().out
    for word, complaint in {
        "keys=modle": "did you mean model", "x=T": "x and y must be given together", "x=T y=T": "x and y must be two keys, got x=T y=T", "tag=lost/train": "did you mean loss/train",
        "value=relative_error.finale": "did you mean relative_error.final", "kees=T": "did you mean keys", "T": "key=value",
    }.items():  # fmt: skip
        monkeypatch.setattr("sys.argv", ["report", str(tree), *word.split(), f"out={tmp_path}"])
        with pytest.raises(SystemExit, match="1"):
            __main__.main()
        err = capsys.readouterr().err
        assert complaint in err and len(err.splitlines()) == 1


def test_pictures_show_the_numbers(tree):
    keys = ("model", "optim.lr_over_boundary")
    points = [run.point(keys, "relative_error.final") for run in map(Run, find_runs(tree)) if run.ended]
    assert sweeps.widest_pair(points) == ("optim.lr_over_boundary", "model")
    figure = sweeps.heat_map(points, "optim.lr_over_boundary", "model", "error")
    image = figure.axes[0].get_images()[0].get_array()
    seeds = {
        ("exact", 0.1): [s for s in SEEDS if s != 4],
        ("random", 1.5): [s for s in SEEDS if s != 2],
        ("random", 0.5): range(6),
    }
    for y, model in enumerate(("exact", "random")):
        for x, rate in enumerate(RATES):
            expected = statistics.median(end(model, rate, seed) for seed in seeds.get((model, rate), SEEDS))
            assert image[y, x] == pytest.approx(expected)
    assert {text.get_text() for text in figure.axes[0].texts} >= {"6.5e-07\npreserved", "1.01\nbroken 6/7"}
    lines = sweeps.by_setting(points, ["model", "optim.lr_over_boundary"], "error").axes[0].lines
    drawn = sorted(line.get_ydata()[0] for line in lines if len(line.get_xdata()) == 1)
    ended = sorted(point.value for point in points if point.value is not None)
    assert drawn[: len(ended)] == ended and len(drawn) == len(ended) + 2, "the failed ones stand above all others"
    assert min(drawn[len(ended) :]) > max(ended)
    curves = {"a": [run.series() for run in map(Run, find_runs(tree / "exact"))]}
    (line,) = (line for line in sweeps.learning_curves(curves, "loss/train").axes[0].lines if len(line.get_xdata()) > 1)
    assert list(line.get_xdata()) == list(STEPS)


BREAKS = {
    "summary.json": ["{", "[]", '{"status": 3}', '{"status": "done", "relative_error": "small"}', '{"status": "done", "optim": {"lr": []}}',
                     '{"status": "done", "choices": 1, "drift": 2, "baseline": [], "verdict": {}}', "\udcff"],
    "config.yaml": ["a: [", "- 1\n- 2", "x", "\udcff", "seed: ${nope", ""],
    "metrics.jsonl": ['{"step": 0, "loss/train": 1}\n{"st\n{"step": 2}\n', "[]\n", '{"loss/train": 1}\n', '{"step": 1, "loss/train": "x"}\n', "\udcff\n"],
}  # fmt: skip


def test_records_broken_by_hand_are_named_in_a_line_each(tmp_path, capsys):
    damages = [(name, text) for name, texts in BREAKS.items() for text in texts]
    for seed, (name, text) in enumerate(damages):
        made(tmp_path, "exact", 0.1, seed)
        (tmp_path / f"exact-0.1-{seed}" / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    made(tmp_path, "exact", 0.1, len(damages))
    assert write.write(tmp_path) == 0
    out, html = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    for seed, (name, _) in enumerate(damages):
        broken = [line for line in out.splitlines() if line.startswith(f"broken: {tmp_path}/exact-0.1-{seed}/")]
        assert len(broken) == 1 and f"/{name} must" in broken[0] and ", got " in broken[0] and ";" in broken[0], out
        assert f"exact-0.1-{seed}/{name} must" in html
    assert f"{len(damages) + 1} runs, 0 failed, {len(damages)} broken" in out


def summary_with(**changes):
    def harm(folder, monkeypatch):
        file = folder / "summary.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return harm


def unfinished_with_linked_checkpoints(folder, monkeypatch):
    (folder / "summary.json").unlink()
    (folder / "checkpoints").symlink_to(folder.parent)


def of_another_user(name):
    """A file, or the folder itself (""), that this process may not read, whoever runs the tests."""

    def harm(folder, monkeypatch):
        refused, plain, scan = str(folder / name), open, os.scandir

        def no(call):
            def refusing(path, *rest, **options):
                if str(path) == refused or (not name and str(path).startswith(f"{refused}/")):
                    raise PermissionError(errno.EACCES, "Permission denied", str(path))
                return call(path, *rest, **options)

            return refusing

        monkeypatch.setattr(atomic, "open", no(plain), raising=False)
        monkeypatch.setattr(os, "scandir", no(scan))

    return harm


ODD_RECORDS = {
    "a negative error": (summary_with(relative_error={"initial": 1, "final": -5}), "summary.json must hold a number of at least 0 as relative_error.final, got -5;"),
    "an invented verdict": (summary_with(verdict="splendid"), "summary.json must hold a verdict that wavebase gives, got 'splendid';"),
    "an invented status": (summary_with(status="wonderful"), "summary.json must be an object with the status done, "),
    "no curves": (lambda folder, _: (folder / "metrics.jsonl").write_text(""), "metrics.jsonl must hold the curves of a finished run, got none;"),
    "linked checkpoints": (unfinished_with_linked_checkpoints, "checkpoints must be a folder of its own, got a link;"),
    **{f"unreadable {name or 'folder'}": (of_another_user(name), f"{name or 'config.yaml'} must be readable, got Permission denied;") for name in ("", "config.yaml", "summary.json", "metrics.jsonl")},
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_RECORDS)
def test_one_odd_record_is_one_line_and_the_others_are_reported(name, tmp_path, monkeypatch, capsys):
    harm, complaint = ODD_RECORDS[name]
    for seed in range(2):
        made(tmp_path, "exact", 0.1, seed)
    harm(tmp_path / "exact-0.1-1", monkeypatch)
    write.write(tmp_path)
    out = capsys.readouterr().out
    broken = [line for line in out.splitlines() if line.startswith("broken: ")]
    assert len(broken) == 1 and broken[0].startswith(f"broken: {tmp_path}/exact-0.1-1/") and complaint in broken[0], out
    assert "2 runs, 0 failed" in out and " preserved " in out and "1e-07" in out, out


def test_random_damage_never_ends_in_a_traceback(tmp_path, capsys):
    draw = random.Random(0)
    for seed in range(40):
        made(tmp_path, "exact", 0.1, seed)
        for name in draw.sample(sorted(BREAKS), 2):
            file = tmp_path / f"exact-0.1-{seed}" / name
            content = bytearray(file.read_bytes())
            for _ in range(draw.randint(1, 4)):
                content[draw.randrange(len(content))] = draw.randrange(256)
            file.write_bytes(bytes(content[: draw.randint(1, len(content))] if draw.random() < 0.3 else content))
    write.write(tmp_path)
    out = capsys.readouterr().out
    assert "40 runs" in out and out.count("broken: ") > 20


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip


def browsed(page, folder, *words):
    command = [BROWSER, *QUIET, f"--user-data-dir={folder / 'profile'}", *words, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=True).stdout


class Page(HTMLParser):
    """What a browser would run, fetch and open of a page, and what its tables say."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.data, self.links, self.pictures, self.policy, self.odd = [], {}, [], [], "", []
        self.inside, self.tables, self.cell = None, {}, None
        self.feed(text)

    def handle_starttag(self, tag, pairs):
        attributes = dict(pairs)
        self.odd += [name for name in attributes if name.startswith("on") or name in ("srcdoc", "action", "formaction")]
        if tag == "script":
            self.inside = attributes.get("id") if attributes.get("type") == "application/json" else "script"
            assert "src" not in attributes
        elif tag == "a":
            self.links.append(attributes["href"])
        elif tag == "img":
            self.pictures.append(attributes["src"])
        elif tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]
        elif tag in ("iframe", "object", "embed", "form", "base", "svg", "b", "i"):
            self.odd.append(tag)
        elif tag == "table":
            self.tables[attributes["id"]] = self.rows = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        self.inside = None if tag == "script" else self.inside
        self.cell = None if tag in ("td", "th") else self.cell

    def handle_data(self, text):
        if self.inside == "script":
            self.scripts.append(text)
        elif self.inside:
            self.data[self.inside] = json.loads(text)
        elif self.cell:
            self.rows[-1][-1] += text


def test_the_page_holds_everything_it_shows_and_runs_one_script(reported):
    html = (reported[0] / "report.html").read_text()
    found = Page(html)
    assert len(found.pictures) == 4 and all(src.startswith("data:image/png;base64,") for src in found.pictures)
    assert found.odd == [] and not re.search(r"url\(|@import", html)
    (script,) = found.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in found.policy and "default-src 'none'" in found.policy
    assert "&lt;b&gt;rate 1.5 &amp; seed 2&lt;/b&gt; broke" in html and "random-0.5-6" in html and "<b>rate" not in html
    assert "<i>second" not in html


def test_the_tables_of_the_page_tell_reasons_distances_and_lead_to_the_runs(tree, reported):
    folder, *_ = reported
    found = Page((folder / "report.html").read_text())
    head, *groups = found.tables["groups"]
    rows = {row[0]: dict(zip(head, row, strict=True)) for row in groups}
    assert rows["exact optim.lr_over_boundary=0.5"] | {"error, end": "", "its interval": ""} == {
        "group": "exact optim.lr_over_boundary=0.5", "runs": "7", "failed": "0", "verdict": "preserved", "decided by": "centred/loss within 0.25",
        "error, start": "1e-07", "error, end": "", "its interval": "", "drift": "0.25", "changed": "50 %", "distance, start": "0", "distance, end": "0.125",
    }  # fmt: skip
    head, *runs = found.tables["runs"]
    assert len(runs) == 42 == len(found.links) and head[-1] == "why"
    places = {(folder / link).resolve() for link in found.links}
    assert places == {folder.path.resolve() for folder in find_runs(tree)}
    assert any("<b>rate 1.5 & seed 2</b> broke" in row[-1] for row in runs), "as text"
    names, values = found.data["details"]["names"], found.data["details"]["rows"]
    assert len(values) == 42 and {"folder", "seed", "result.relative_error.final"} <= set(names) and "T" not in names


def test_a_name_that_would_be_script_stays_text(tmp_path):
    """A folder's name, a setting and a reason, none of which wavebase wrote."""
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    for seed in range(2):
        made(tmp_path, "exact", 0.1, seed)
    folder = (tmp_path / "exact-0.1-0").rename(tmp_path / "javascript:alert(1) %22 onclick=alert(1)")
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {"reasons": [evil], "choices": {"model": evil}, "result": evil}
    (folder / "summary.json").write_text(json.dumps(summary))
    write.write(tmp_path)
    found = Page((tmp_path / "report.html").read_text())
    assert len(found.scripts) == 1 and found.odd == [] and len(found.links) == 2
    assert all(link.startswith("./") for link in found.links)
    assert any(evil[:40] in str(value) for row in found.data["details"]["rows"] for value in row)


def test_a_page_of_a_thousand_runs_is_small(tmp_path, monkeypatch):
    """Its size is what a browser has to read; how long that takes is in docs/sweeps.md."""
    for seed in range(3):
        made(tmp_path, "exact", 0.1, seed)
    runs = [Run(folder) for folder in find_runs(tmp_path)]
    sizes = [
        len(
            page.html(
                tmp_path,
                runs * count,
                [],
                ["model"],
                "relative_error.final",
                {},
                {kind: [] for kind in page.TROUBLES},
                tmp_path,
            )
        )
        for count in (1, 2)
    ]
    assert (sizes[1] - sizes[0]) / 3 < 3000, "bytes a run"


def test_no_verdict_is_shown_where_none_is_defined(tmp_path, capsys):
    made(tmp_path, "random", 0.1, 0)
    file = tmp_path / "random-0.1-0" / "summary.json"
    for conditions, shown in (({}, "-"), ({"mechanism/masked_error": {"kind": "mechanism"}}, "no algorithm")):
        file.write_text(
            json.dumps({**json.loads(file.read_text()), "verdict": "no algorithm", "conditions": conditions})
        )
        write.write(tmp_path)
        found = Page((tmp_path / "report.html").read_text())
        assert (found.tables["groups"][1][3], rows(tmp_path / "summary.csv")[0]["verdict"]) == (shown, shown)
        assert ("no algorithm" in capsys.readouterr().out) == (shown != "-")


@pytest.mark.skipif(BROWSER is None, reason="no chromium here: apt-get install chromium")
def test_a_browser_paints_the_plots(reported, tmp_path):
    html = (reported[0] / "report.html").read_text()
    measure = "<script>onload = () => document.title = [...document.images].map(i => i.complete * i.naturalWidth).join()</script>"
    pages = {"whole": html, "broken": re.sub('base64,[^"]*', "base64,AAAA", html)}
    painted = {}
    for name, text in pages.items():
        text = re.sub("<meta http-equiv[^>]*>", "", text)  # our measure is no script of the page
        text = text.replace(
            "</style>", "a, td { color: #222 !important; }</style>"
        )  # and the plots have all the colour
        copy = tmp_path / f"{name}.html"
        copy.write_text(text.replace("</body>", f"{measure}</body>"))
        shot = tmp_path / f"{name}.png"
        said = browsed(copy, tmp_path, "--window-size=1000,2600", f"--screenshot={shot}", "--dump-dom")
        title = re.search("<title>(.*?)</title>", said)[1]
        pixels = np.asarray(Image.open(shot).convert("RGB"), dtype=int)
        colourful = (pixels.max(2) - pixels.min(2) > 60).sum()
        painted[name] = [int(width) for width in title.split(",")], colourful
    assert len(painted["whole"][0]) == 4 and min(painted["whole"][0]) > 400, painted
    assert painted["broken"][0] == [0, 0, 0, 0], "the measure must see a picture that is not there"
    assert painted["whole"][1] > 20_000 > 20 * painted["broken"][1], painted
    assert json.dumps(painted["whole"][0])
