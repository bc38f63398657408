"""A module imports only from lower layers, imports make no circle, and only the upper layers know Hydra."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "wavebase"
# The packages and loose modules of each layer, lowest first. Units of one layer do not import each other.
LAYERS = (
    {"renamed"},
    {"formatting", "limits", "registry", "spectrum", "statistics", "records", "recurrence"},
    {"console", "signals", "constructions", "analysis"},
    {"models", "tasks", "probes"},
    {"theory", "training"},
    {"figures"},
    {"experiment"},
    {"report"},
    {"cli"},
    {"study", "run", "probe", "__main__"},
)
LAYER = {unit: number for number, units in enumerate(LAYERS) for unit in units}
KNOW_HYDRA = LAYER["experiment"]


def imported(source, package, typing_too=True):
    """Full names of the modules and names that a module's source imports, relative imports resolved within its package.

    typing_too: also what is imported for type checkers alone.
    """
    tree = ast.parse(source)
    if not typing_too:
        tree.body = [
            node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def unit_of(name):
    """The package or loose module that a dotted name lies in, or None outside of wavebase."""
    parts = name.split(".")
    return parts[1] if parts[0] == "wavebase" and len(parts) > 1 and parts[1] in LAYER else None


def violations(unit, source, package="wavebase"):
    """Imports in a unit's source that its layer does not allow."""
    wrong = []
    for name in imported(source, package):
        other = unit_of(name)
        if other is not None and other != unit and LAYER[other] >= LAYER[unit]:
            wrong.append(f"{unit} (layer {LAYER[unit]}) imports {name} (layer {LAYER[other]})")
        if name.split(".")[0] in ("hydra", "omegaconf") and LAYER[unit] < KNOW_HYDRA:
            wrong.append(f"{unit} (layer {LAYER[unit]}) imports {name}")
    return wrong


MODULES = [file for file in sorted(SOURCE.rglob("*.py")) if file != SOURCE / "__init__.py"]


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_only_from_lower_layers(file):
    parts = file.relative_to(SOURCE).with_suffix("").parts
    assert parts[0] in LAYER, f"{parts[0]} has no layer: add it here and to ARCHITECTURE.md"
    package = ".".join(("wavebase", *parts[:-1]))
    assert violations(parts[0], file.read_text(), package) == []


@pytest.mark.parametrize("lower", range(len(LAYERS) - 1))
def test_one_import_upward_is_noticed_in_every_pair_of_neighbours(lower):
    """In each unit of a layer, an import from each unit of the next, however it is written."""
    for unit in LAYERS[lower]:
        file = next(file for file in MODULES if file.relative_to(SOURCE).parts[0].removesuffix(".py") == unit)
        source = file.read_text()
        assert violations(unit, source) == []
        for above in LAYERS[lower + 1]:
            for line in (
                f"from wavebase.{above} import x",
                f"from wavebase import {above}",
                f"import wavebase.{above}",
            ):
                assert violations(unit, f"{source}\n\ndef late():\n    {line}\n"), (unit, above, line)


def test_units_of_one_layer_and_hydra_below_are_noticed():
    assert violations("models", "from wavebase.tasks import base")
    assert violations("models", "from ..tasks import base", "wavebase.models")
    assert violations("training", "import omegaconf") and not violations("cli", "import hydra")


def test_modules_of_a_package_import_each_other_in_no_circle():
    names = {".".join(("wavebase", *file.relative_to(SOURCE).with_suffix("").parts)): file for file in MODULES}
    graph = {}
    for name, file in names.items():
        found = set(imported(file.read_text(), name.rpartition(".")[0], typing_too=False))
        graph[name] = {known for known in names if known != name and (known in found or any(f.rpartition(".")[0] == known for f in found))}  # fmt: skip
    while leaves := [name for name, others in graph.items() if not others & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert graph == {}


def test_architecture_names_every_unit():
    text = (SOURCE.parents[1] / "ARCHITECTURE.md").read_text()
    assert [unit for unit in LAYER if f"`{unit}" not in text] == []
