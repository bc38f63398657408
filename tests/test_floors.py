"""A module imports only from lower floors, and only the top floor knows Hydra."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "wavebase"
FLOORS = {
    "native": -1,
    "durable": -2,
    "registry": -1,
    "terminal": -1,
    "stored": -1,
    "checkpoints": 0,
    "events": 0,
    "spectrum": 0,
    "recurrence": 0,
    "stationary": 0,
    "intervals": 0,
    "optimizers": 1,
    "label_noise": 1,
    "signals": 1,
    "constructions": 1,
    "probes": 2,
    "analysis": 1,
    "records": 1,
    "tasks": 2,
    "models": 2,
    "stacks": 2,
    "boundaries": 3,
    "slow_drift": 2,
    "training": 3,
    "figures": 3,
    "config": 4,
    "assembly": 4,
    "interruption": 4,
    "forking": 4,
    "provenance": 4,
    "judgement": 4,
    "session": 4,
    "jobs": 4,
    "origins": 4,
    "report": 4,
    "study": 4,
    "spectrum_sheet": 4,
    "probe": 4,
    "run": 4,
    "__main__": 4,
}


def room(parts):
    """The first name below the package, or None for the package itself."""
    return parts[1] if len(parts) > 1 and parts[0] == "wavebase" else None


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = [file for file in sorted(SOURCE.rglob("*.py")) if file != SOURCE / "__init__.py"]


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_only_from_lower_floors(file):
    home = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    assert home in FLOORS, f"{home} has no floor: add it here and to ARCHITECTURE.md"
    for name in imported(ast.parse(file.read_text())):
        there = room(name.split("."))
        if there in FLOORS and there != home:
            lower = FLOORS[there] < FLOORS[home]
            same_top = FLOORS[there] == FLOORS[home] == 4
            assert lower or same_top, f"{home} (floor {FLOORS[home]}) imports {name} (floor {FLOORS[there]})"
        if name.split(".")[0] in ("hydra", "omegaconf"):
            assert FLOORS[home] == 4, f"{home} imports {name}"


def test_the_rule_would_catch_a_wrong_import():
    names = list(imported(ast.parse("from wavebase import figures\nimport wavebase.experiment.session\n")))
    assert "wavebase.figures" in names and room(["wavebase", "session"]) == "session"


def test_architecture_names_every_room():
    text = (SOURCE.parents[1] / "ARCHITECTURE.md").read_text()
    assert all(f"`{name}" in text for name in FLOORS)
