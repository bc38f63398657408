"""What the site has beyond its Markdown files: mathematics as MathML, the notebook, the architecture, and every configuration key.

mkdocs calls the on_... functions (mkdocs.yml, hooks).
"""

import re
from html import unescape
from pathlib import Path

import griffe
import yaml
from latex2mathml.converter import convert
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
GROUPS = {
    "model": "What is trained, and from where.",
    "signal": "What is heard.",
    "task": "What is asked of the net, and how its answer is judged.",
    "optim": "How it is trained. Keys that are not named below go to the `torch.optim` class as they are.",
    "train": "How long, and what of the net.",
    "probe": "What is measured and drawn, and the thresholds of the verdict.",
    "experiment": "Named differences from the defaults: `experiment=NAME`. Those with `mode: MULTIRUN` are sweeps.",
}
SCHEMAS = {  # of the groups that have one for all of their options, and of the top level
    "": "wavebase.config.Seeds",
    "optim": "wavebase.config.OptimSettings",
    "train": "wavebase.training.TrainSettings",
    "probe": "wavebase.config.ProbeSettings",
}
KEY = re.compile(r"^( *)([\w]+):(?: +(.*?))?(?: +# (.*))?$")


class Doctests(griffe.Extension):
    """Doctests as blocks of code: to Markdown >>> would be a quotation."""

    def on_object(self, *, obj, **_):
        if obj.docstring is not None:
            found = re.compile(r"^>>> .*?(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
            obj.docstring.value = found.sub(lambda block: f"```pycon\n{block[0]}\n```", obj.docstring.value)


class NotebookPage(File):
    """A notebook that is a page of the site, under its own name."""

    def is_documentation_page(self):
        return True


def on_files(files, config):
    """Add the pages that are made of something else."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(file)
        markdown, found = MarkdownExporter().from_filename(file.abs_src_path)
        files.append(NotebookPage.generated(config, file.src_uri, content=markdown))
        for name, picture in found["outputs"].items():
            files.append(File.generated(config, name, content=picture))
    architecture = (ROOT / "ARCHITECTURE.md").read_text()
    files.append(File.generated(config, "architecture.md", content=architecture))
    files.append(File.generated(config, "reference/configuration.md", content=configuration()))
    return files


def on_page_content(html, **_):
    """LaTeX that pymdownx.arithmatex has found, as MathML: browsers set it themselves."""
    inline = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
    block = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)
    html = inline.sub(lambda found: convert(unescape(found[1])), html)
    return block.sub(lambda found: convert(unescape(found[1]), display="block"), html)


def configuration():
    """The page of all configuration keys, of conf/ and the docstrings of what its files name."""
    page = [
        "# Configuration",
        "Generated from `conf/` and from the docstrings of what its files name. `model=random` chooses an option of a group, "
        "`model.eps=0.01` sets a key; `python -m wavebase.run --cfg job` prints all of them with where each value came from. "
        "The known keys of an option are the keyword arguments of its `_target_`; a wrong name or type ends in one line.",
        "## Top level",
        *option(CONF / "config.yaml", ""),
        documented(SCHEMAS[""]),
    ]
    for group, about in GROUPS.items():
        page += [f"## {group}", about, *([documented(SCHEMAS[group])] if group in SCHEMAS else [])]
        for file in sorted((CONF / group).glob("*.yaml"), key=lambda file: (not chosen(group, file), file.stem)):
            page += [f"### {group}={file.stem}{' (default)' if chosen(group, file) else ''} {{ #{group}-{file.stem} }}"]
            page += [f"```yaml\n{file.read_text()}```"] if group == "experiment" else option(file, group)
    return "\n\n".join(page) + "\n"


def documented(name):
    """A signature and docstring, for mkdocstrings."""
    options = "".join(f"      {key}: false\n" for key in ("members", "show_root_heading", "show_root_toc_entry"))
    return f"::: {name}\n    options:\n{options}"


def chosen(group, file):
    """Whether the file is what config.yaml takes of this group."""
    defaults = yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
    return {group: file.stem} in defaults


def option(file, group):
    """One file of conf/ in words: its head, what it starts from, its keys, and the docstring of its target."""
    lines = file.read_text().splitlines()
    head = " ".join(line.removeprefix("# ") for line in lines if line.startswith("#") and "@package" not in line)
    node = yaml.safe_load(file.read_text())
    rows = [f"| `{key}` | {value} | {about} |" for key, value, about in keys(lines, group)]
    parts = [head] if head else []
    based = [base for base in node.get("defaults", []) if isinstance(base, str) and base != "_self_"]
    if based and group:
        base = based[0].partition("@")[0]
        parts.append(f"As [{group}={base}](#{group}-{base}), but for:")
    if rows:
        parts.append("\n".join(["| key | default | |", "|---|---|---|", *rows]))
    target = node.get("_target_", "")
    if target.startswith("wavebase."):
        parts.append(documented(target))
    elif target:
        parts.append(f"The class is `{target}`.")
    return parts


def keys(lines, group):
    """(dotted key, default as written, comment) of the lines that set one. A line's own indentation tells its mapping."""
    path, skipped = [], None
    for line in lines:
        found = KEY.match(line)
        if not found:
            continue
        depth, name, value, about = len(found[1]) // 2, found[2], found[3] or "", found[4] or ""
        if skipped is not None and depth > skipped:
            continue
        skipped = depth if name in ("defaults", "hydra", "_target_") else None
        if skipped is not None:
            continue
        path = [*path[:depth], name]
        if value.startswith("#"):
            value, about = "", value.removeprefix("# ")
        if value or about:
            yield ".".join([group, *path] if group else path), f"`{value}`" if value else "", about.replace("|", "\\|")
