"""Whatever is wrong with a configuration, it ends in a correct run or in one line: random breakage, property-based.

WAVEBASE_BROKEN=500 python -m pytest tests/test_broken_configs.py   # 20 without it
"""

import contextlib
import io
import os
import resource
import shutil
import sys
from pathlib import Path
from unittest import mock

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from conftest import SMALL
from wavebase.cli import errors, names, run
from wavebase.records.folder import RunFolder

GROUPS = ("model", "signal", "task", "optim", "probe", "train", "experiment")


def known():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(names.conf_folder()), version_base="1.3"):
        return errors.config_keys(compose("config"))


KEYS = [key for key in known() if not key.startswith("hydra")]
OPTIONS = {group: [file.stem for file in (names.conf_folder() / group).glob("*.yaml")] for group in GROUPS}
OPTIONS["experiment"].remove("first_look")  # a sweep, whose failures are its report's to tell
WRONG = """-1 0 1 2 3 0.5 -0.5 1e-300 1e300 1e400 nan inf -inf null true false ??? [] [0] [1,2] [a] {} {a:1} ${T} ${nope}
${ a 'a" [1, text spectral tanh exact 1000000000000 99999999999999999999999 os.system torch.nn.Linear torch.optim.SGD
wavebase.cli.run.main wavebase.records.os é"""
VALUES = st.sampled_from(WRONG.split()) | st.text(max_size=6)
SLOW = ("train.steps",)  # a large number of steps is no mistake


@st.composite
def overrides(draw):
    """One wrong word, or one that is right after all."""
    kind = draw(st.sampled_from(["value", "key", "new", "gone", "option", "text"]))
    key = draw(st.sampled_from(KEYS))
    value = draw(VALUES)
    if kind == "text":
        return draw(st.text(min_size=1, max_size=12).filter(lambda text: not text.startswith("-") and "\0" not in text))
    if kind == "gone":
        return f"~{key}"
    if kind == "option":
        group = draw(st.sampled_from(GROUPS))
        return f"{group}={draw(st.sampled_from(OPTIONS[group]) | VALUES)}".replace("\0", "")
    if kind == "key":
        at = draw(st.integers(0, len(key)))
        key = key[:at] + draw(st.sampled_from(["", "x", ".", "_", "@"])) + key[at + draw(st.integers(0, 1)) :]
    if key in SLOW and value[:1] in "123456789":
        value = "2"
    return f"{'+' if kind == 'new' else ''}{key}={value}".replace("\0", "")


@st.composite
def breakages(draw):
    """A file of conf/ and what becomes of its text."""
    files = sorted(str(file.relative_to(names.conf_folder())) for file in names.conf_folder().rglob("*.yaml"))
    name = draw(st.sampled_from([f for f in files if not f.startswith("experiment")]) | st.just("config.yaml"))
    lines = (names.conf_folder() / name).read_text().splitlines()
    at = draw(st.integers(0, len(lines) - 1))
    kind = draw(st.sampled_from(["lost", "twice", "indented", "cut", "value", "garbage", "empty"]))
    if kind == "lost":
        del lines[at]
    elif kind == "twice":
        lines.insert(at, lines[at])
    elif kind == "indented":
        lines[at] = f"   {lines[at]}"
    elif kind == "cut":
        lines[at:] = [lines[at][: draw(st.integers(0, 8))]]
    elif kind == "value" and not lines[at].startswith("steps"):
        lines[at] = f"{lines[at].partition(':')[0]}: {draw(VALUES)}"
    elif kind == "garbage":
        lines[at] = draw(st.text(max_size=8))
    else:
        lines = []
    return name, "\n".join(lines).encode("utf-8", "surrogatepass")


def started(words, folder):
    """(exit status, output, errors) of the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    GlobalHydra.instance().clear()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(folder),
        mock.patch.object(sys, "argv", ["wavebase.run", *words, f"hydra.run.dir={folder}/run"]),
    ):
        try:
            run.main()
        except SystemExit as stop:
            return stop.code, out.getvalue(), err.getvalue()
    raise AssertionError("main must exit")


@settings(
    max_examples=int(os.environ.get("WAVEBASE_BROKEN", 20)),
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # shrinking takes minutes
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(overrides(), min_size=0, max_size=3), st.none() | breakages())
def test_anything_wrong_ends_in_a_run_or_in_one_line(tmp_path_factory, words, breakage):
    folder = tmp_path_factory.mktemp("broken")
    here, conf = folder / "here", folder / "conf"
    here.mkdir()
    surroundings = {}
    if breakage is not None:
        shutil.copytree(names.conf_folder(), conf, copy_function=os.symlink)  # only one becomes a file of its own
        (conf / breakage[0]).unlink()
        (conf / breakage[0]).write_bytes(breakage[1])
        surroundings = {"WAVEBASE_CONF": str(conf)}
    note(f"words {words}, file {breakage}")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, before[1]))  # what is far too large fails at once, everywhere
    try:
        with mock.patch.dict(os.environ, surroundings):
            status, out, err = started([*SMALL, *words], here)  # what is wrong comes later, and may contradict them
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        shutil.rmtree(conf, ignore_errors=True)
    note(f"status {status}\n{out}\n{err}")
    assert "Traceback" not in out + err
    if status == 0:
        summary = RunFolder(here / "run").summary()
        assert summary["status"] in ("done", "diverged") and RunFolder(here / "run").metrics()
        assert Path(here / "run" / "config.yaml").exists()
    else:
        assert status == 1 and len(err.strip().splitlines()) == 1 and err.startswith("wavebase: "), "one line"
        assert not list(here.iterdir()), "nothing half-written"
