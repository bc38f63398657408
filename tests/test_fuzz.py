"""Stored files with anything in them: read, refused in one line, never another error. WAVEBASE_FUZZ=N draws N examples."""

import contextlib
import copy
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

import wavebase
from conftest import FULL
from test_trust import ESCAPE, SECRET, Call, good, vouch  # noqa: F401  # a fixture
from wavebase import console
from wavebase.analysis import weight_files
from wavebase.cli import probe
from wavebase.constructions import files
from wavebase.experiment.build import load_run
from wavebase.models.spectral import SpectralLSTM
from wavebase.records.atomic import RecordsError
from wavebase.records.folder import RunFolder
from wavebase.report import page, runs
from wavebase.report.pictures import of_sweep
from wavebase.report.rows import decided_by
from wavebase.report.runs import Run
from wavebase.report.table import as_csv, row, table

COUNT = int(os.environ.get("WAVEBASE_FUZZ", "0")) // 4  # there are four tests


def often(small):
    """Settings of a test: few examples, always the same; or as many as the environment asks for."""
    return settings(
        max_examples=COUNT or (small if FULL else small // 2), derandomize=not COUNT, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), print_blob=True,
    )  # fmt: skip


# no whole numbers between: they would be sizes that take minutes, not errors
NUMBERS = st.integers(-3, 9) | st.sampled_from([10**12, 10**17, 2**63, 10**30, -(10**30), 10**400])
ODD = st.sampled_from(
    ["${oc.env:WAVEBASE_SECRET}", "${T}", "=cmd()", "-1", "$\\frac{", "wavebase.recurrence.native.build._compile", "os.system", "../../etc/passwd",
     "/etc/passwd", "/dev/zero", ESCAPE, "\udcff", "", "???", "null", "1e-3", "exact", "random", "weight_hh_cell", "\n", "__class__", "step"]
)  # fmt: skip
LEAVES = st.none() | st.booleans() | NUMBERS | st.floats() | ODD | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES, lambda v: st.lists(v, max_size=4) | st.dictionaries(ODD | st.text(max_size=5), v, max_size=4), max_leaves=8
)


def places(node, at=()):
    yield at
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(value, (*at, key))


@st.composite
def mutated(draw, node):
    """A tree of values with some of them replaced, removed or added."""
    node = copy.deepcopy(node)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(list(places(node))))
        if not at:
            if draw(st.integers(0, 9)) == 0:
                node = draw(VALUES)
            elif isinstance(node, dict):
                node[draw(ODD)] = draw(VALUES)
            continue
        above = node
        for key in at[:-1]:
            above = above[key]
        if draw(st.booleans()):
            above[at[-1]] = draw(VALUES)
        else:
            del above[at[-1]]
    return node


@st.composite
def damaged(draw, content):
    """Bytes with some of them changed, doubled or cut."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(["change", "cut", "insert", "double"]))
        if kind == "cut":
            del content[at : at + draw(st.integers(1, 200))]
        elif kind == "insert":
            content[at:at] = draw(
                st.binary(max_size=6)
                | st.sampled_from([b"[" * 300, b"&a ", b"*a", b"!!python/name:os.system ", b"9" * 5000])
            )
        elif kind == "double":
            content[at:at] = content[at : at + 50]
        elif content:
            content[at] = draw(st.integers(0, 255))
    return bytes(content)


@pytest.fixture(scope="module")
def run(good, tmp_path_factory):  # noqa: F811
    """A copy of the run whose files are exchanged, and what they hold."""
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    shutil.copytree(good, folder)
    os.environ["WAVEBASE_SECRET"] = SECRET
    yield folder, {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    del os.environ["WAVEBASE_SECRET"]


def restore(run):
    folder, contents = run
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder, {str(name): content for name, content in contents.items()}


def dumped(node):
    try:
        return yaml.safe_dump(node).encode("utf-8", "surrogatepass")
    except (ValueError, yaml.YAMLError):
        return b""


def one_line(text):
    assert "\n" not in text and not console.CONTROLS.findall(console.one_line(text)) and SECRET not in text, text


def reported(folder, pictures):
    """All that a report makes of a folder."""
    found = Run(RunFolder(folder))
    series = found.series()
    decided = {"decided_by": decided_by([found])}
    rows = [row("all", [found], value) | decided for value in ("relative_error.final", "drift.weight_hh_cell")]
    text = table(rows) + as_csv(rows).decode() + as_csv([found.flat()]).decode()
    text += "".join(map(str, runs.grouped([found])))
    troubles = {
        kind: [(str(folder), console.one_line(why)) for why in (*found.problems, found.reason())]
        for kind in ("failed", "unfinished", "broken")
    }
    text += page.html(folder, [found], rows, ["model", "T"], "relative_error.final", {}, troubles, folder)
    for problem in found.problems:
        one_line(" ".join(problem.split()))
    assert len(found.problems) <= 3 and SECRET not in text
    if pictures:
        other = Run(RunFolder(folder))
        other.choices, other.config = {"model": "$\\frac"}, {**other.config, "T": 4}
        groups = runs.grouped([found, other])
        of_sweep(groups, ["model", "T"], "relative_error.final", "", None)
        if series:
            of_sweep(groups, ["model"], "relative_error.final", next(iter(series)), None)


@often(60)
@given(data=st.data())
def test_reports_take_any_record(run, data):
    folder, contents = restore(run)
    config, summary = yaml.safe_load(contents["config.yaml"]), json.loads(contents["summary.json"])
    lines = [json.loads(line) for line in contents["metrics.jsonl"].splitlines()]
    for name in data.draw(
        st.lists(st.sampled_from(["config.yaml", "summary.json", "metrics.jsonl"]), min_size=1, max_size=3)
    ):
        if data.draw(st.integers(0, 3)) == 0:
            content = data.draw(damaged(contents[name]))
        elif name == "config.yaml":
            content = dumped(data.draw(mutated(config)))
        elif name == "summary.json":
            content = json.dumps(data.draw(mutated(summary))).encode()
        else:
            content = _lines(data, lines)
        (folder / name).write_bytes(content)
    if data.draw(st.booleans()):
        with contextlib.suppress(ValueError, TypeError):
            vouch(folder)
    reported(folder, data.draw(st.integers(0, 199)) == 77)


def _lines(data, lines):
    tree = data.draw(mutated({"lines": lines}))
    found = tree.get("lines", []) if isinstance(tree, dict) else [tree]
    return b"".join(json.dumps(line).encode() + b"\n" for line in (found if isinstance(found, list) else [found]))


@often(60)
@given(data=st.data())
def test_runs_are_built_again_from_any_configuration(run, data):
    folder, contents = restore(run)
    config = yaml.safe_load(contents["config.yaml"])
    content = (
        dumped(data.draw(mutated(config)))
        if data.draw(st.integers(0, 4))
        else data.draw(damaged(contents["config.yaml"]))
    )
    (folder / "config.yaml").write_bytes(content)
    tried(lambda: load_run(RunFolder(folder), 0))


def tried(act):
    """Let it end well, or in one line. What a net or task of impossible sizes says about memory is torch's own."""
    try:
        act()
    except (ValueError, OSError) as error:
        one_line(" ".join(str(error).split()))
    except (MemoryError, RuntimeError, OverflowError) as error:
        assert any(
            word in str(error) for word in ("memory", "storage", "overflow", "too large", "size", "alloc")
        ) or isinstance(error, MemoryError), error


@often(30)
@given(data=st.data())
def test_checkpoints_hold_anything(run, data):
    folder, contents = restore(run)
    name = sorted(name for name in contents if name.startswith("checkpoints"))[0]
    if data.draw(st.booleans()):
        content = data.draw(damaged(contents[name]))
        (folder / name).write_bytes(content)
    else:
        state = torch.load(folder / name, weights_only=True)
        torch.save(
            data.draw(
                mutated(dict(state)),
            ),
            folder / name,
        )
    tried(lambda: load_run(RunFolder(folder), 0))
    tried(lambda: [weight_files.read(file) for file in probe.find_source(folder).files.values()])
    tried(lambda: RunFolder(folder).newest_checkpoint())


@often(60)
@given(data=st.data())
def test_constructions_hold_anything(data):
    exact = wavebase.spectral_construction(3)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "it.safetensors"
        wavebase.save_construction(exact, file)
        if data.draw(st.booleans()):
            file.write_bytes(data.draw(damaged(file.read_bytes())))
        else:
            from safetensors import safe_open

            with safe_open(file, framework="pt") as opened:
                about, tensors = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            about.pop("sha256")
            for _ in range(data.draw(st.integers(1, 3))):
                name = data.draw(st.sampled_from([n for n in about if n != "format"]))
                change = data.draw(st.sampled_from(["replace", "text", "remove", "tensor", "rename"]))
                if change == "replace":
                    about[name] = json.dumps(data.draw(VALUES))
                elif change == "text":
                    about[name] = data.draw(st.text(max_size=9)).encode("utf-8", "replace").decode()
                elif change == "remove" and len(about) > 2:
                    del about[name]
                else:
                    which = data.draw(st.sampled_from(sorted(tensors)))
                    moved = tensors.pop(which)
                    shape = data.draw(st.lists(st.integers(0, 4), max_size=3))
                    tensors[which if change == "tensor" else f"{which}x"] = (
                        moved
                        if change == "rename"
                        else torch.ones(shape).to(
                            data.draw(
                                st.sampled_from([torch.float32, torch.float64, torch.bool, torch.int8, torch.bfloat16])
                            )
                        )
                    )
            file.write_bytes(save(tensors, about | {"sha256": files._digest(tensors, about)}))
        try:
            found = wavebase.load_construction(file)
        except RecordsError as error:
            one_line(str(error))
            assert "save it anew" in str(error)
        else:
            if len(found.weights["readout.bias"]) == len(found.bins):
                assert SpectralLSTM(found).named_weights().keys() == exact.weights.keys()


def test_the_fuzz_would_see_a_pickle_that_runs(tmp_path):
    import pickle

    pickle.loads(pickle.dumps(Call(f"touch {tmp_path}/ran")))
    assert (tmp_path / "ran").exists()
