"""What docs/ says is so: doctests, the notebook's outputs, the names in its tables; and the library is light to import."""

import ast
import contextlib
import doctest
import gc
import importlib.util
import io
import json
import re
import subprocess
import sys

import pytest
from matplotlib import pyplot

import wavebase
from conftest import FULL, ROOT, ForkedProcess
from wavebase.experiment import config, validation

DOCS = ROOT / "docs"
DOCUMENTED = ("spectral_lstm", "power_spectrum", "analyze", "perturb", "verdict", "save_construction")
NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?")


@pytest.mark.parametrize("name", DOCUMENTED)
def test_doctests(name):
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(wavebase, name), name)
    assert len(test.examples) >= 3
    said = io.StringIO()
    assert doctest.DocTestRunner().run(test, out=said.write).failed == 0, said.getvalue()


def test_importing_the_library_brings_nothing_with_it():
    """Nor do its commands; and the net and its oracle need torch alone: no plots, no dashboard, no command line."""
    parts = ("import wavebase", "import wavebase.probe", "wavebase.spectral_lstm(4), wavebase.power_spectrum")
    code = "; ".join(["import sys", *(f"{part}; print(sorted(sys.modules))" for part in parts)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    alone, command, used = (
        {name.split(".")[0] for name in ast.literal_eval(line)} for line in done.stdout.splitlines()
    )
    plots_and_command_line = {"scipy", "matplotlib", "PIL", "tensorboard", "hydra", "omegaconf", "antlr4"}
    for light in (alone, command):
        assert "wavebase" in light and not light & {*plots_and_command_line, "torch", "numpy", "yaml", "tqdm"}
    assert "torch" in used and not used & plots_and_command_line


def test_the_notebook_says_what_is_stored_in_it(monkeypatch):
    """Ten cells; words must agree, numbers to a factor of three, and every picture must be one."""
    cells = [
        c for c in json.loads((DOCS / "construction_to_verdict.ipynb").read_text())["cells"] if c["cell_type"] == "code"
    ]
    assert len(cells) == 10
    sources = ["".join(cell["source"]) for cell in cells]
    assert sum(source.count("steps=300") for source in sources) == 1
    names, shown = {"__name__": "notebook"}, 0
    for cell, source in zip(cells, sources, strict=True):
        said = io.StringIO()
        if not FULL:  # its two verdicts are long decided by then
            source = source.replace("steps=300", "steps=50")
        with contextlib.redirect_stdout(said):
            exec(compile(source, "<notebook>", "exec"), names)
        stored = "".join("".join(output.get("text", "")) for output in cell["outputs"])
        assert NUMBER.sub("0", stored) == NUMBER.sub("0", said.getvalue())
        for before, now in zip(*map(NUMBER.findall, (stored, said.getvalue())), strict=True):
            one, other = float(before), float(now)
            assert one == other or 1 / 3 < one / other < 3, (stored, said.getvalue())
        pictures = [output for output in cell["outputs"] if "image/png" in output.get("data", {})]
        assert len(pictures) == len(pyplot.get_fignums())
        shown += len(pictures)
        pyplot.close("all")
    assert shown == 3


def named(page):
    """Patterns of all that is in code in a page: <words> stand for any."""
    codes = re.findall(r"`([^`\n]+)`", (DOCS / page).read_text())
    return [
        re.compile(re.sub(r"<[^>]*>", ".+", re.escape(code).replace(r"\<", "<").replace(r"\>", ">"))) for code in codes
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("T=4", "train.steps=2", "probe.curvature_batch=8"),
        ("experiment=cosine_reconstruction", "T=8", "train.steps=2"),
        ("experiment=frequency_extraction", "T=100", "signal.samples=1000", "signal.duration=9.99", "train.steps=2", "train.batch=4", "task.held_out_count=4"),
        ("T=3", "train.steps=2", "probe.curvature_batch=8", "train.batch=4", "task.held_out_count=4",
         "probe.measure=[function.held_out_error,curvature.sharpness,curvature.group_sharpness,position.drift_split]"),
    ],
    ids=["spectrum", "cosine", "extraction", "optional"],
)  # fmt: skip
def test_every_tag_and_every_key_of_the_records_is_explained(words, ran):
    folder = ran(*words, "probe.figures=[]")
    patterns = named("dashboard.md")
    for tag in folder.metrics():
        assert any(pattern.fullmatch(tag) for pattern in patterns), f"docs/dashboard.md must explain {tag}"
    patterns = named("run_folder.md")
    for key in folder.summary():
        assert any(pattern.fullmatch(key) for pattern in patterns), f"docs/run_folder.md must explain {key}"
    assert not any(pattern.fullmatch("no_such_key") for pattern in patterns)


def test_every_key_of_the_configuration_is_known_and_explained():
    """In its line, in the head of its file, or in the docstring of what reads it: what the site's page of keys is made of."""
    import yaml

    unexplained = []
    for file in sorted((ROOT / "conf").glob("*/*.yaml")):
        if file.parent.name in ("experiment", "case"):  # they override keys that others explain
            continue
        text, node = file.read_text(), yaml.safe_load(file.read_text())
        target = node.get("_target_", "")
        found = validation.named(file.parent.name, target, "") if target else None
        schemas = {"optim": config.OptimSettings, "train": config.TrainSettings, "probe": config.ProbeSettings}
        docs = " ".join(
            str(thing.__doc__) for thing in (found, schemas.get(file.parent.name), config.Thresholds) if thing
        )
        for line in text.splitlines():
            key = re.match(r" *(\w+):", line)
            if key and key[1] not in ("_target_", "defaults") and not re.search(r"\s#", line):
                own = re.search(rf"\b{key[1]}\b", docs) or (file.parent.name == "optim" and "torch.optim" in target)
                if not own:
                    unexplained.append(f"{file.parent.name}/{file.stem}: {key[1]}")
    assert not unexplained, "\n".join(unexplained)


@pytest.mark.skipif(
    importlib.util.find_spec("sphinx") is None, reason="the site's generator is not installed: make docs"
)
def test_the_site_needs_no_network_and_has_all_its_mathematics_links_and_docstrings(tmp_path):
    def build():
        from sphinx.cmd.build import main
        from sphinx.search.en import SearchEnglish

        gc.disable()  # the process ends after it
        SearchEnglish.stem = lambda self, word: word.lower()  # a tenth of the time, for an index that nobody asks here
        sys.exit(main(["-qW", "--keep-going", "docs", str(tmp_path)]))

    process = ForkedProcess(build, folder=ROOT)
    said = process.communicate()
    assert process.returncode == 0, said
    pages = {str(file.relative_to(tmp_path)): file.read_text() for file in tmp_path.rglob("*.html")}
    for name, page in pages.items():
        fetched = re.findall(r'<(?:script|link|img|iframe)\b[^>]*(?:src|href)="?(?:https?:)?//[^"> ]*', page)
        assert not fetched and "@import" not in page, (name, fetched)
        for link in re.findall(r' (?:href|src)="([^":]+)"', page):
            file, _, anchor = link.partition("#")
            file = (tmp_path / name).parent / file.partition("?")[0] if file else tmp_path / name
            assert file.is_file(), (name, link)
            assert not anchor or f'id="{anchor}"' in file.read_text(), (name, link)
    formulas = re.findall(r"<math.*?</math>", pages["mathematics.html"], re.DOTALL)
    assert len(formulas) > 50 and any("<mfrac>" in formula for formula in formulas)
    assert pages["construction_to_verdict.html"].count("data:image/png") == 3
    keys = pages["reference/configuration.html"]
    for key in ("T", "model.eps", "optim.lr_over_boundary", "probe.verdict.distance"):
        assert (
            f'<td><p><code class="docutils literal notranslate"><span class="pre">{key}</span></code></p></td>' in keys
        )
    library = pages["reference/api.html"]
    assert "the power spectrum |X_k|^2 of each window" in library and "weight_ih_&lt;gate&gt; [H, I]" in library
