"""Models and tasks of one's own: shapes that torch would broadcast, and docstrings that are missing."""

import importlib.util
import sys
import types

import pytest
import torch

from conftest import ROOT, SMALL
from wavebase import registry
from wavebase.experiment import build, config
from wavebase.models.base import NamedModel
from wavebase.tasks.base import Batch, SquaredErrorTask, constant_losses, relative_errors


class Sums(SquaredErrorTask):
    """The sum of a signal's samples, [batch, 1, 1]; `trained` is the shape of training targets without the batch."""

    trained = (1, 1)

    def __init__(self, signal, T, dtype, device, probe_generator, *, held_out_count=8):
        self.signal, self.T, self.dtype, self.sizes = signal, T, dtype, {"T": T}
        self.held_out = {"training": self._batch(signal.sample(held_out_count, T, probe_generator), (1, 1))}
        self.baselines = constant_losses(self.held_out["training"].target)

    def _batch(self, x, shape):
        x = x.to(self.dtype)
        return Batch(x, x.sum(1).reshape(-1, *shape))

    def sample_batch(self, batch, generator, step=0):
        return self._batch(self.signal.sample(batch, self.T, generator), self.trained)

    def metrics(self, output, target):
        return relative_errors(output, target)


class Flat(Sums):
    trained = ()


class Linear(NamedModel):
    def __init__(self, T, shape):
        super().__init__()
        self.linear, self.shape = torch.nn.Linear(T, 1, dtype=torch.float64), shape

    def forward(self, x):
        return self.linear(x).reshape(-1, *self.shape)


def deep(T: int):
    return Linear(T, (1, 1))


def shallow(T: int):
    return Linear(T, (1,))


@pytest.fixture
def own(monkeypatch):
    """own(task, model) -> what build_components makes of them, as if a person had trusted this file."""
    things = {thing.__name__: thing for thing in (Sums, Flat, deep, shallow)}
    lookup = registry.lookup
    monkeypatch.setattr(registry, "lookup", lambda group, name: things.get(name) or lookup(group, name))

    def made(composed, task, model):
        node = composed("T=4", *SMALL, "optim.lr=0.1", "optim.lr_over_boundary=null")
        node["task"], node["model"] = {"_target_": task}, {"_target_": model}
        return build.build_components(config.parse(node))

    return made


@pytest.mark.parametrize(
    "task,model,got", [("Sums", "shallow", r"\[8, 1, 1\], got \[8, 1\]"), ("Flat", "deep", r"\[1\], got \[1, 1, 1\]")]
)
def test_a_target_that_would_broadcast_is_refused(task, model, got, own, composed):
    """Also one of training alone: torch warns and trains on every pair of an output and a target."""
    with pytest.raises(config.ConfigError, match=f"must have the target's shape {got}; choose another"):
        own(composed, task, model)


def test_a_target_of_its_own_shape_is_trained_on(own, composed):
    parts = own(composed, "Sums", "deep")
    batch = parts.task.sample_batch(4, torch.Generator().manual_seed(0))
    assert parts.net(batch.input).shape == batch.target.shape == (4, 1, 1)


@pytest.mark.skipif(
    importlib.util.find_spec("sphinx") is None, reason="the site's generator is not installed: make docs"
)
class TestSite:
    @pytest.fixture
    def pages(self, tmp_path, monkeypatch):
        """docs/conf.py as a module, over a folder of configurations that the test fills."""
        spec = importlib.util.spec_from_file_location("site_settings", ROOT / "docs" / "conf.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(module, "CONF", tmp_path)
        (tmp_path / "config.yaml").write_text((ROOT / "conf" / "config.yaml").read_text())
        return module

    @pytest.mark.parametrize("group", ["model", "signal", "task"])
    @pytest.mark.parametrize("kind", ["function", "class"])
    def test_what_has_no_docstring_does_not_end_the_build(self, group, kind, pages, tmp_path, monkeypatch):
        mine = types.ModuleType(f"wavebase.{group}s.mine")
        mine.build = type("build", (), {}) if kind == "class" else lambda T: None
        monkeypatch.setitem(sys.modules, mine.__name__, mine)
        monkeypatch.setattr(importlib.import_module(f"wavebase.{group}s"), "mine", mine, raising=False)
        (tmp_path / group).mkdir()
        (tmp_path / group / "mine.yaml").write_text(f"_target_: {mine.__name__}.build\nway: up   # up | down\n")
        page = pages.configuration()
        assert f"### {group}=mine" in page and f"`{mine.__name__}.build` has no docstring." in page
        assert rf"| `{group}.way` | `up` | up \| down |" in page

    @pytest.mark.parametrize("text", ["", "# nothing yet\n", "- a list\n", "way: a | b\n"])
    def test_files_without_keys_and_cells_with_bars_are_pages_too(self, text, pages, tmp_path):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "mine.yaml").write_text(text)
        page = pages.configuration()
        assert "### model=mine" in page and ("way" not in text or r"| `model.way` | `a \| b` |  |" in page)
