"""The tree itself: nothing half-merged in it, no mention of a file that is not there, and git's own files left alone."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import warnings
from importlib.metadata import PackageNotFoundError

import pytest

import wavebase
from conftest import ROOT
from wavebase.records import provenance
from wavebase.records.provenance import git_state, versions

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
IN_GIT = (ROOT / ".git").exists() and shutil.which("git")


TOP = {
    ".ci", ".gitignore", "ARCHITECTURE.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md",
    "SECURITY.md", "bench", "conf", "constraints.txt", "docs", "examples", "experiments", "outputs", "pyproject.toml", "src", "tests",
}  # fmt: skip


def tracked():
    """The files that git tracks, as paths from the root."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name]


@pytest.mark.skipif(not IN_GIT, reason="not a clone")
def test_the_top_level_holds_what_belongs_there():
    """A report of a sweep, written where a command was started, was once committed with the sources."""
    assert {name.split("/")[0] for name in tracked()} == TOP


def texts(*kinds):
    """Path from the root to content, of all text files that git tracks; of an unpacked sdist, of all that there are."""
    if IN_GIT:
        names = [name for name in tracked() if (ROOT / name).is_file()]
    else:
        names = [
            str(file.relative_to(ROOT)) for file in ROOT.rglob("*") if file.is_file() and ".venv" not in file.parts
        ]
    found = {}
    for name in names:
        if not kinds or name.endswith(kinds):
            content = (ROOT / name).read_bytes()
            if b"\0" not in content:
                found[name] = content.decode(errors="replace")
    return found


def conflicts(text):
    """Lines that a merge left behind."""
    return [line for line in text.splitlines() if re.match(r"(<{7}|>{7}|\|{7}) |={7}$", line)]


def test_no_merge_is_half_done():
    files = texts()
    assert {"CHANGELOG.md", "src/wavebase/run.py"} <= files.keys()
    assert {name: lines for name, text in files.items() if (lines := conflicts(text))} == {}
    left = ["<" * 7 + " HEAD", "a", "=" * 7, "b", ">" * 7 + " main", "=" * 8]
    assert conflicts("\n".join(left)) == [left[0], left[2], left[4]]


def test_files_that_the_sources_name_are_there():
    named = re.compile(r"(?<![\w/.-])(?:tests|docs|experiments|bench|conf|src)/[\w/-]*\w(?:\.\w+)*")
    patterns = {"experiments/NAME.py"}
    said = {
        (name, found)
        for name, text in texts(".py", "pp").items()
        if name[:4] == "src/"
        for found in named.findall(text)
    }
    assert ("src/wavebase/recurrence/native/vector.hpp", "tests/test_recurrence.py") in said
    assert {pair for pair in said if pair[1] not in patterns and not (ROOT / pair[1]).exists()} == set()


@pytest.mark.skipif(not IN_GIT, reason="not a clone")
def test_a_clone_has_outputs_and_keeps_them_to_itself():
    def git(*words):
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.split()

    assert git("ls-files", "outputs") == ["outputs/README.md"]
    inside = ["outputs/runs/a/summary.json", "outputs/README.md", "outputs/sweep.csv"]
    assert git("check-ignore", "--no-index", *inside) == [inside[0], inside[2]]


@needs_git
def test_provenance_reads_git_and_writes_nothing(tmp_path, monkeypatch):
    """`git status` would renew the index where a file's times have changed, under a lock that a kill leaves behind."""

    def git(*words):
        return subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    package = tmp_path / "src" / "wavebase"
    package.mkdir(parents=True)
    (package / "a.py").write_text("1\n")
    git("init", "-q")
    git("add", "src")
    git("commit", "-q", "-m", "first")
    os.utime(package / "a.py", (1, 1))
    before = (tmp_path / ".git" / "index").read_bytes()
    monkeypatch.setattr(provenance, "PACKAGE", package)
    look = git_state.__wrapped__  # not what was found before
    assert look() == {"commit": git("rev-parse", "HEAD"), "changed": False}
    assert (tmp_path / ".git" / "index").read_bytes() == before
    (package / "a.py").write_text("2\n")
    assert look()["changed"] is True
    installed = tmp_path / ".venv" / "lib" / "wavebase"
    installed.mkdir(parents=True)
    monkeypatch.setattr(provenance, "PACKAGE", installed)
    assert look() is None, "the commit of the user's repository is not ours"


def test_versions_need_no_dist_info(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(provenance, "version", absent)
    found = versions.__wrapped__()
    assert found["wavebase"] == wavebase.__version__ and found["torch"] == "unknown"


def test_modules_and_names_that_texts_mention_exist():
    """In backticks: `wavebase.x.y` everywhere, and `package/module`."""
    source = ROOT / "src"
    modules = {".".join(file.relative_to(source).with_suffix("").parts) for file in (source / "wavebase").rglob("*.py")}
    packages = {name.split(".")[1] for name in modules if name.count(".") > 1}

    def exists(dotted):
        parts = dotted.split(".")
        for length in range(len(parts), 0, -1):
            module = ".".join(parts[:length])
            if module in modules or f"{module}.__init__" in modules:
                thing = importlib.import_module(module)
                with warnings.catch_warnings():
                    warnings.simplefilter("error", DeprecationWarning)
                    try:
                        for part in parts[length:]:
                            thing = getattr(thing, part)
                    except (AttributeError, DeprecationWarning):
                        return False
                return True
        return False

    assert exists("wavebase.records.folder.RunFolder") and not exists("wavebase.records.RunFolder")
    excused = {"CHANGELOG.md", "src/wavebase/renamed.py", "tests/test_renamed.py", "tests/test_tree.py"}
    wrong = set()
    for name, text in texts(".md", ".py", ".yaml", "pp").items():
        if name in excused or (
            name.startswith("docs/") and name.endswith("dashboard.md")
        ):  # tags look like paths there
            continue
        wrong |= {(name, found) for found in re.findall(r"`(wavebase\.[\w.]*\w)`", text) if not exists(found)}
        paths = re.findall(r"`(\w+(?:/\w+)+)`", text)
        wrong |= {(name, p) for p in paths if p.split("/")[0] in packages and not exists(f"wavebase.{p.replace('/', '.')}")}  # fmt: skip
    assert wrong == set()


def test_a_function_over_sixty_lines_says_why():
    """In a comment `# long: ...` directly above it."""
    unexplained = []
    for name, text in texts(".py").items():
        if not name.startswith("src/"):
            continue
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60:
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                if not lines[first - 2].strip().startswith("# long: "):
                    unexplained.append(f"{name}: {node.name} has {node.end_lineno - node.lineno + 1} lines")
        assert len(lines) <= 300, name
    assert unexplained == []
