"""Names of version 0.1 still work, and say what they are called now."""

import importlib
import sys
import warnings

import pytest

from wavebase import renamed

MOVED = [(old, name) for table in (renamed.MODULES, renamed.NAMES) for old, entry in table.items() for name in (entry[1] if isinstance(entry, tuple) else entry)]  # fmt: skip


@pytest.fixture
def anew():
    """Old modules are imported anew, so that each test sees the warning."""
    kept = dict(sys.modules)
    for old in renamed.MODULES:
        sys.modules.pop(f"wavebase.{old}", None)
    yield
    for name in set(sys.modules) - set(kept):
        if name.removeprefix("wavebase.") in renamed.MODULES:
            del sys.modules[name]


@pytest.mark.parametrize("old", list(renamed.MODULES))
def test_an_old_module_is_the_new_one(old, anew):
    new = importlib.import_module(f"wavebase.{renamed.MODULES[old][0]}")
    with pytest.warns(DeprecationWarning, match=rf"wavebase\.{old} is {new.__name__} now"):
        module = importlib.import_module(f"wavebase.{old}")
    named = [
        name
        for name, thing in vars(new).items()
        if getattr(thing, "__module__", None) == new.__name__ and name[0] != "_"
    ]
    with warnings.catch_warnings(record=True):
        assert all(getattr(module, name) is getattr(new, name) for name in named)
    assert named or old == "native"


@pytest.mark.parametrize("old,name", MOVED)
def test_an_old_name_is_the_new_one(old, name, anew):
    with pytest.warns(DeprecationWarning, match=rf"wavebase.{old}.{name} is wavebase\.[\w.]+ now"):
        found = getattr(importlib.import_module(f"wavebase.{old}"), name)
    assert found is not None


def test_what_never_was_is_not_there():
    with pytest.raises(ImportError):
        importlib.import_module("wavebase.nothing")
    with pytest.raises(AttributeError, match=r"wavebase\.records' has no attribute 'nothing'"):
        importlib.import_module("wavebase.records").nothing  # noqa: B018


def test_the_project_itself_uses_no_old_name():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for module in ("cli.run", "cli.probe", "study", "experiment.stacked", "report.write"):
            importlib.import_module(f"wavebase.{module}")
    assert not [name for name in sys.modules if name.removeprefix("wavebase.") in renamed.MODULES]
