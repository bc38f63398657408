"""Every command and every block of Python that README.md and docs/ print runs as printed, page by page from top to bottom.

WAVEBASE_DOCS=1 python -m pytest tests/test_commands.py   # also what takes minutes

How a command is made small enough for a test, what stands for its placeholders, and which commands run elsewhere or cannot run
here, is all said below, in this file. A command that nothing here covers fails the test, and so does an entry that no page prints any more.
"""

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from matplotlib.figure import Figure
from safetensors.torch import save_file
from scipy.io import wavfile

import test_experiments
from conftest import FEW, FULL, ROOT, run_here
from test_experiments import ONE_PROCESS
from test_models import SHORT_MIX
from wavebase import study

PAGES = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
WIDE = bool(os.environ.get("WAVEBASE_DOCS"))

# ---- what a command becomes ----

# A run takes two steps on little data, with a window of four where nothing says another; a sweep that an experiment's file asks for becomes its first job, range(0,5) two seeds.
RUN = ("train.steps=2", "train.batch=4", "task.held_out_count=4", "probe.figures=[]", "probe.curvature=false", FEW)
SMALL = {
    r"(python -m wavebase.probe|wavebase analyze) (?!--)": "draws=4 samples=16 panels=eigenvalues",
    r"python experiments/second_argmax.py train": "--steps 16 --batch 8 --nets 1 --saves 2",
    r"python bench/recurrence.py": "--quick",
    r"python bench/parametrization.py": "--rounds 1",
    r"python experiments/forecast_limit.py": "--signals 4 --updates 16",
    r"python experiments/forecast_robustness.py": "--signals 2 --updates 16",
    r"python experiments/forecast_table.py": "--fitted 20",
    r"python tests/kill_sweeps.py": "kills=2 launchers=stacked",
}  # fmt: skip
# What stands for a placeholder. A path that ends in ... is the first that begins so; step_<any>.pt the newest there is.
PLACEHOLDERS = {
    "outputs/runs/<run>": "outputs/runs/a_run",
    "experiments/frequency_extraction.py FOLDER": "experiments/frequency_extraction.py outputs/runs/frequency_extraction",
}
# What a page takes for granted: runs made by commands that it does not print.
BEFORE = {
    "docs/harmonic_forecast.md": ["python -m wavebase.run experiment=forecast_lstm model.hidden_size=8"],
    "docs/sweeps.md": ["python -m wavebase.run -m T=4,5 optim.lr=1e-20,1e-19 hydra.sweep.dir=outputs/sweeps/one"],
    "docs/frequency_extraction.md": [
        "python -m wavebase.run experiment=frequency_extraction hydra.run.dir=outputs/runs/frequency_extraction"
    ],
}
SCRIPTS = {"wavebase": "wavebase.__main__", "wavebase-run": "wavebase.run"}
# Run by other tests, or no command of ours.
ELSEWHERE = {
    "make test": "this very suite",
    "make findings": "ten minutes, and it writes docs/findings.md: tests/test_experiments.py runs each of the studies",
    "make gallery": "needs the records of make gallery-write: tests/test_gallery.py runs it on tiny ones",
    "make gallery-write": "minutes, and it writes README.md: tests/test_gallery.py runs it tiny, with each command that the page prints of it",
    "python experiments/screenshots.py": "needs a browser and writes docs/pictures: tests/test_dashboard.py tries its photographer",
    "make bench": "minutes of timings: those of bench/, below",
    "python experiments/frequency_extraction.py": "hours: tests/test_models.py runs each experiment of it for two steps",
    "python experiments/public_nets.py FOLDER": "needs the package index: tests/test_weight_files.py runs it on a package of its own",
    "python -m wavebase.run --config-dir=myconf model=mine trust=[mine]": "files of one's own: tests/test_plugins.py writes them",
    "make docs": "needs the package index; CI begins with it",
    "python experiments/forecast_series.py outputs/runs/learned_prior": "needs the extra series",
    "python -m wavebase.report SWEEP figures=true": "tests/test_figures.py draws a sweep's figures",
    "wavebase look": "a name without a folder: docs/dashboard.md has a whole command",
    "make lint": "the other half of CI",
    "make install": "needs the package index; CI began with it",
    "make tensorboard": "a server that does not end",
    "python -m wavebase.run -m hydra/sweeper=stacks hydra.sweeper.size=16 hydra/launcher=submitit_local model=perturbed,random seed='range(0,32)'": "needs the extra submitit: tests/test_launchers.py, where it is installed",
    "wavebase-run model=<TAB>": "a key that is pressed",
    "make run ARGS=\"...\"": "an ellipsis",
    **{f"pip install -c constraints.txt -e '.[{extra}]'": "needs the package index" for extra in ("joblib", "submitit", "ray", "optuna")},
}  # fmt: skip
# Long at their smallest: only with WAVEBASE_DOCS, and why that is enough.
LONG = {
    "python bench/exactness.py": "tests/test_construction.py has its numbers for few windows",
    "python bench/recurrence.py": "timings",
    "python bench/zoo.py": "tests/test_zoo.py has its bounds",
    "python bench/cosine.py": "timings",
    "python bench/stack_on_cuda.py": "needs a CUDA device; tests/on_device/ runs it",
    "python experiments/cosine_exactness.py": "T = 4096",
    "python tests/kill_sweeps.py": "tests/test_survival.py kills twelve times",
}

# ---- what a page prints ----

COMMAND = re.compile(
    r"(python -m wavebase|python (?:experiments|bench|tests)/|make [a-z]|wavebase(?:-run)? |pip install|eval )"
)
FENCE = re.compile(r"^```(\w*)(?: title=\"(.*?)\")?\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def printed(text):
    """(kind, name, text) of all that a page prints, in its order: `file` with its path, `python`, `command`."""
    found = []
    for block in FENCE.finditer(text):
        language, path, body = block.groups()
        if path:
            found.append((block.start(), "file", path, body))
        elif language == "python":
            found.append((block.start(), "python", "", body))
        elif language in ("", "bash", "sh"):
            lines = body.replace("\\\n", " ").splitlines()
            found += [(block.start(), "command", "", line) for line in lines if COMMAND.match(line)]
    rest = FENCE.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)  # places stay
    found += [
        (line.start(), "command", "", line[1])
        for line in re.finditer(r"^    (\S.*)$", rest, re.MULTILINE)
        if COMMAND.match(line[1])
    ]
    found += [
        (code.start(), "command", "", code[1]) for code in re.finditer(r"`([^`\n]+)`", rest) if COMMAND.match(code[1])
    ]
    return [(kind, name, plain(body) if kind == "command" else body) for _, kind, name, body in sorted(found, key=lambda f: f[0])]  # fmt: skip


def plain(line):
    """A command without the comment behind it, blanks made one, one name for what has two."""
    line = re.sub(r"\s+", " ", re.sub(r"\s+#\s.*$", "", line)).strip()
    return re.sub(r"^wavebase (run|report|probe)\b", r"python -m wavebase.\1", line).replace(
        "wavebase findings", "make findings"
    )


GALLERY = {
    plain(f"wavebase {command}")
    for system in test_experiments.load(test_experiments.EXPERIMENTS / "gallery.py").SYSTEMS for command in system.commands
}  # fmt: skip


def commands():
    return {body for page in PAGES for kind, _, body in printed((ROOT / page).read_text()) if kind == "command"}


def run_elsewhere(command):
    """Whether it is a study of experiments/, which tests/test_experiments.py runs, or of the gallery: tests/test_gallery.py."""
    return command in GALLERY or command in {f"python experiments/{file.name}" for file in test_experiments.STUDIES}


def test_the_extractor_finds_what_is_printed():
    text = (
        "Say `make test` or `model=random`.\n\n    python -m wavebase.run T=4   # four\n    not a command\n\n```\n$ ls\nmake run\n"
        "wavebase report X \\\n    out=Y\n```\n\n```python\nx = 1\n```\n```yaml title=\"conf/a.yaml\"\nb: 1\n```\n"
    )  # fmt: skip
    assert printed(text) == [
        ("command", "", "make test"),
        ("command", "", "python -m wavebase.run T=4"),
        ("command", "", "make run"),
        ("command", "", "python -m wavebase.report X out=Y"),
        ("python", "", "x = 1\n"),
        ("file", "conf/a.yaml", "b: 1\n"),
    ]


def test_no_entry_is_left_of_a_command_that_nobody_prints():
    there = commands()
    assert len(there) > 50
    for entry in (*ELSEWHERE, *LONG):
        assert entry in there, f"{entry}: no page prints it any more; take it out of tests/test_commands.py"
    for pattern in SMALL:
        assert any(re.match(pattern, command) for command in there), pattern
    for placeholder in PLACEHOLDERS:
        assert any(placeholder in command for command in there), placeholder


# ---- running it ----


class Reader:
    """Somebody who follows a page in an empty folder, in this process."""

    def __init__(self, folder, monkeypatch, a_run):
        self.folder, self.monkeypatch, self.names = folder, monkeypatch, {"__name__": "page"}
        self.conf = folder / "conf"
        monkeypatch.chdir(folder)
        generator = torch.Generator().manual_seed(0)
        wavfile.write("FILE.wav", 8000, (torch.rand(4096, generator=generator) * 20000 - 10000).short().numpy())
        torch.save(torch.nn.RNN(1, 8).state_dict(), "weights.pt")
        save_file(torch.nn.GRU(1, 4).state_dict(), "net.safetensors")
        draw = np.random.default_rng(0)
        np.savez(
            "arrays.npz",
            w_hh=draw.normal(size=(8, 8)) / 3,
            w_ih=draw.normal(size=(8, 1)),
            w_out=draw.normal(size=(4, 8)),
        )
        shutil.copytree(a_run, "outputs/runs/a_run")

    def write(self, path, content):
        """A file of the page: of conf/ and of the package for this page alone."""
        parts = Path(path).parts
        if parts[0] == "conf" and not self.conf.exists():
            shutil.copytree(ROOT / "conf", self.conf)
            self.monkeypatch.setenv("WAVEBASE_CONF", str(self.conf))
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        if parts[0] == "src":
            package = import_module(".".join(parts[1:-1]))
            self.monkeypatch.setattr(package, "__path__", [*package.__path__, str(file.parent)])
        if parts[0] == "tests":
            tests = runpy.run_path(str(file))
            found = [test for name, test in tests.items() if name.startswith("test_")]
            assert found
            for test in found:
                test()

    def python(self, code):
        exec(compile(code, "<page>", "exec"), self.names)

    def command(self, command, *more):
        """Run it small; an exit status other than 0, any exception, or silence fails."""
        for placeholder, stand_in in PLACEHOLDERS.items():
            command = command.replace(placeholder, stand_in)
        if command.startswith("eval"):
            command = re.search(r"\$\((.*)\)", command)[1]
        if command.startswith("make "):
            done = subprocess.run(["make", "-n", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            recipe = [
                line.partition("bin/")[2] for line in done.stdout.splitlines() if "bin/python -m wavebase" in line
            ]
            assert recipe, f"{command} runs nothing that can be tested here: it belongs into ELSEWHERE"
            for line in recipe:
                self.command(line)
            return
        extra = next((words for pattern, words in SMALL.items() if re.match(pattern, command)), "")
        words = [self.path(word) for word in (*shlex.split(command), *shlex.split(extra))]
        if words[0] in SCRIPTS:
            words = ["python", "-m", SCRIPTS[words[0]], *words[1:]]
        if "wavebase.run" in words:
            words = [re.sub(r"range\(0,\d+\)", "range(0,2)", word) for word in words]
            if not {"--help", "-sc"} & {*words}:
                words += [*RUN, *(SHORT_MIX if "extraction" in command else ()), *more]
                words += ONE_PROCESS if "hydra/launcher=stacked" in words else ()
                words += ["T=4"] if not any(word.startswith(("T=", "experiment=")) for word in words) else []
                words += ["hydra.sweeper.params=null"] if "experiment=" in command else []
        if words[1] == "-m":
            start, arguments = import_module(words[2]).main, words[3:]
        else:
            file = next(
                place / words[1] for place in (self.folder, self.copied(words[1])) if (place / words[1]).exists()
            )
            self.monkeypatch.syspath_prepend(str(file.parent))  # as Python does for a script
            start, arguments = (lambda: runpy.run_path(str(file), run_name="__main__")), words[2:]
            if "study.main(" in file.read_text():
                arguments = [*arguments, "--tiny"]
        self.monkeypatch.setattr(sys, "argv", [words[1], *arguments])
        self.monkeypatch.setattr(study, "run_forked", run_here)
        GlobalHydra.instance().clear()
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                start()
        except SystemExit as stop:
            assert not stop.code, f"{command}: exit status {stop.code}"
        assert said.getvalue().strip(), f"{command} says nothing"

    def path(self, word):
        """What a word stands for that names a path only in part."""
        part = Path(word)
        if word.endswith("..."):
            return str(sorted(part.parent.glob(part.name.removesuffix("...") + "*"))[0])
        if re.fullmatch(r"step_\d+\.pt", part.name) and not part.exists():
            return str(sorted(part.parent.glob("step_*.pt"))[-1])
        return word

    def copied(self, path):
        """Where a script of the repository is: a bench writes its results beside itself, so it is copied."""
        if path.startswith("bench/"):
            shutil.copytree(ROOT / "bench", self.folder / "copy" / "bench", dirs_exist_ok=True)
            return self.folder / "copy"
        return ROOT


@pytest.fixture(scope="module")
def a_run(run_once, tmp_path_factory):
    """The run that a page's placeholder stands for."""
    return run_once(tmp_path_factory.mktemp("commands") / "a_run", "T=4", *RUN, "train.steps=100").path


@pytest.fixture
def drawn_once(monkeypatch):
    """Pictures with the same labels are drawn once; the others stay white."""

    def draw(figure, renderer, plain=Figure.draw):
        labels = tuple((ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) for ax in figure.axes)
        if labels not in DRAWN_ALREADY:
            plain(figure, renderer)
        DRAWN_ALREADY.add(labels)

    if not (WIDE or FULL):
        monkeypatch.setattr(Figure, "draw", draw)


RUN_ALREADY = set()  # runs and sweeps that an earlier page printed too
DRAWN_ALREADY = set()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_runs(page, a_run, small_samples, drawn_once, tmp_path, monkeypatch, capfd):
    items = printed((ROOT / page).read_text())
    skipped = {*ELSEWHERE, *(() if WIDE else LONG)}
    wanted = [item for item in items if item[0] != "command" or not (item[2] in skipped or run_elsewhere(item[2]))]
    if not wanted:
        pytest.skip("prints nothing that is run here")
    modules, done = set(sys.modules), set()
    reader = Reader(tmp_path, monkeypatch, a_run)
    for command in BEFORE.get(page, []):
        reader.command(command)
    for kind, name, body in wanted:  # its files are there before anything of it runs
        if kind == "file":
            reader.write(name, body)
    last_reader = max((n for n, item in enumerate(wanted) if item[0] == "command" and "wavebase.run" not in item[2]), default=-1)  # fmt: skip
    try:
        for n, (kind, _, body) in enumerate(wanted):
            if kind == "python":
                reader.python(body)
            elif kind == "command" and body not in done:
                done.add(body)
                if WIDE or body not in RUN_ALREADY or n < last_reader or reader.conf.exists():
                    reader.command(body)
                RUN_ALREADY.add(body)
        assert done == {body for kind, _, body in wanted if kind == "command"}
    finally:
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
                del sys.modules[name]
