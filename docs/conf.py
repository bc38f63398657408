"""The site's settings, and what it has beyond its Markdown files: mathematics as MathML, the notebook, and every configuration key.

`make docs` builds it into site/, from disk alone, and fails at a warning.
"""

import re
from base64 import b64encode
from inspect import getdoc
from itertools import groupby
from pathlib import Path
from pkgutil import resolve_name

import yaml
from docutils.nodes import SkipNode
from latex2mathml.converter import convert
from nbconvert import MarkdownExporter
from sphinx.util.rst import escape

project = html_title = "wavebase"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
source_suffix = {".md": "markdown", ".ipynb": "markdown"}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
highlight_language = "none"  # of blocks that name no language
add_module_names = False
autodoc_member_order = "bysource"
maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
copybutton_exclude = ".linenos, .gp, .go"  # prompts and what they answer
html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_use_index = html_copy_source = html_show_copyright = smartquotes = False

NAVIGATION = {
    "Learn": "getting_started construction_to_verdict mathematics unit_scaled verdicts dashboard",
    "Use": "run_folder sweeps extending trust",
    "Systems": "cosine_transform reading_spectra frequency_extraction harmonic_forecast zoo",
    "Results": "findings before_and_after",
    "Reference": "reference/api reference/configuration architecture",
}
CONF = Path(__file__).parents[1] / "conf"
GROUPS = {
    "model": "What is trained, and from where.",
    "signal": "What is heard.",
    "task": "What is asked of the net, and how its answer is judged.",
    "optim": "How it is trained. Keys that are not named below go to the `torch.optim` class as they are.",
    "train": "How long, and what of the net.",
    "probe": "What is measured and drawn, and the thresholds of the verdict.",
    "experiment": "Named differences from the defaults: `experiment=NAME`. Those with `mode: MULTIRUN` are sweeps.",
    "case": "One of the runs that `experiment=first_look` compares: `case=NAME`.",
}
SCHEMAS = {  # of the groups that have one for all of their options, and of the top level
    "": "wavebase.experiment.config.Seeds",
    "optim": "wavebase.experiment.config.OptimSettings",
    "train": "wavebase.training.loop.TrainSettings",
    "probe": "wavebase.experiment.config.ProbeSettings",
}
KEY = re.compile(r"^( *)([\w]+):(?: +(.*?))?(?: +# (.*))?$")


def setup(app):
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", reword)


def mathml(writer, node):
    """LaTeX as MathML: browsers set it themselves."""
    writer.body.append(convert(node.astext(), display="inline" if node.tagname == "math" else "block"))
    raise SkipNode


def read(app, page, source):
    """Add what no Markdown file holds: the order of the pages, the notebook's cells, the configuration's keys; titles of code."""
    if page == "index":
        for group, pages in NAVIGATION.items():
            source[0] += "\n".join(["\n```{toctree}", ":hidden:", f":caption: {group}", "", *pages.split(), "```\n"])
    elif page == "reference/configuration":
        source[0] += configuration()
    elif app.env.doc2path(page).suffix == ".ipynb":
        source[0], found = MarkdownExporter().from_filename(app.env.doc2path(page))
        for name, picture in found["outputs"].items():
            source[0] = source[0].replace(name, f"data:image/png;base64,{b64encode(picture).decode()}")
    source[0] = re.sub(r'^```(\w+) title="(.+)"$', r"```{code-block} \1\n:caption: \2\n", source[0], flags=re.MULTILINE)


def reword(app, what, name, thing, options, lines):
    """The docstrings on the page of the library."""
    lines[:] = plain("\n".join(lines))


def plain(docstring):
    """Lines of reStructuredText that show plain text as it is: prose with `code`, doctests, and lines that are indented or in columns."""
    lines = []
    for paragraph in docstring.split("\n\n"):
        if paragraph.startswith(">>>"):
            lines += [*paragraph.split("\n"), ""]
            continue
        for kept, block in groupby(paragraph.split("\n"), lambda line: re.search(r"^ |\S {3,}\S", line) is not None):
            if kept:
                lines += ["::", "", *("    " + line for line in block), ""]
            else:
                parts = re.split(r"`([^`]+)`", "\n".join(block))
                text = "".join(f"\\ ``{part}``\\ " if index % 2 else escape(part) for index, part in enumerate(parts))
                lines += [*text.split("\n"), ""]
    return lines


def configuration():
    """Of conf/ and the docstrings of what its files name: every key, its default and what is said about it."""
    page = ["", "## Top level", *option(CONF / "config.yaml", ""), documented(SCHEMAS[""])]
    defaults = yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
    for group, about in GROUPS.items():
        page += [f"## {group}", about, *([documented(SCHEMAS[group])] if group in SCHEMAS else [])]
        files = sorted((CONF / group).glob("*.yaml"))
        default = [file for file in files if {group: file.stem} in defaults]
        for file in default + [file for file in files if file not in default]:
            page += [f"({group}-{file.stem})=\n### {group}={file.stem}{' (default)' if file in default else ''}"]
            page += [f"```yaml\n{file.read_text()}```"] if group in ("experiment", "case") else option(file, group)
    return "\n\n".join(page) + "\n"


def documented(name):
    """The docstring of what a file names, or a line that says that it has none: a model of one's own may lack one."""
    if not getdoc(resolve_name(name)):
        return f"`{name}` has no docstring."
    return "\n".join(["```{eval-rst}", *plain(getdoc(resolve_name(name))), "```"])


def option(file, group):
    """One file of conf/ in words: its head, what it starts from, its keys, and the docstring of its target."""
    lines = file.read_text().splitlines()
    head = " ".join(line.removeprefix("# ") for line in lines if line.startswith("#") and "@package" not in line)
    node = yaml.safe_load(file.read_text())
    node = node if isinstance(node, dict) else {}
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
            value, about = (text.replace("|", "\\|") for text in (value, about))
            yield ".".join([group, *path] if group else path), f"`{value}`" if value else "", about
