"""Code of one's own: shapes that torch would broadcast, missing docstrings, signatures, and what a stack must compare."""

import functools
import importlib.util
import re
import sys
import types

import numpy as np
import pytest
import torch

import wavebase
from conftest import ROOT, SMALL
from wavebase import registry
from wavebase.experiment import build, config, validation
from wavebase.models.base import NamedModel
from wavebase.tasks.base import Batch, SquaredErrorTask, constant_losses, relative_errors
from wavebase.training.stacking import stack_key


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


def any_key(a: int, T: int, **options):
    return a, T, options


def any_number(a: int, *rest, b: int = 2):
    return a, rest, b


def by_place(a: int, /, b: int = 1):
    return a, b


class TestSignatures:
    """Signatures whose parameters are not all keys once asked for a key called `options`, or ended in a TypeError."""

    def test_further_keys_reach_the_function(self):
        assert validation.call(any_key, {"a": 1, "z": 3}, "model", {"T": 4}) == (1, 4, {"z": 3})
        assert validation.call(any_key, {"a": 1}, "model", {"T": 4}) == (1, 4, {})

    @pytest.mark.parametrize(
        "target,node,said",
        [
            (any_key, {"a": 1, "T": 3}, "model.T must be a known key"),
            (any_key, {"z": 3}, "needs 'a'"),
            (any_number, {"a": 1, "rest": [3]}, "model.rest must be a known key"),
            (by_place, {"a": 1}, "must take its arguments by name"),
        ],
    )
    def test_the_others_are_refused_in_one_line(self, target, node, said):
        with pytest.raises(config.ConfigError, match=said) as caught:
            validation.call(target, node, "model", {"T": 4})
        assert "\n" not in str(caught.value)

    def test_further_numbers_are_no_keys(self):
        assert validation.call(any_number, {"a": 1}, "model", {"T": 4}) == (1, (), 2)


class Settings:
    """A plain object, which holds another that holds it."""

    def __init__(self, slope):
        self.inner, self.slope = types.SimpleNamespace(outer=self), slope


def closed_over(slope):
    return lambda x: slope * x


@pytest.mark.parametrize(
    "make",
    [
        Settings,
        closed_over,
        lambda slope: functools.partial(torch.mul, other=slope),
        lambda slope: {slope},
        lambda slope: np.float32(slope),
        lambda slope: types.SimpleNamespace(deep=[Settings(slope)]),
    ],
    ids=["object", "closure", "partial", "set", "numpy number", "nested object"],
)
@pytest.mark.parametrize("of", ["net", "task"])
def test_a_stack_compares_what_forward_and_loss_may_read(of, make):
    """A stack runs the first member's forward and loss. Of these, only dataclasses were once compared."""

    def key(slope):
        net, task = Linear(4, (1, 1)), types.SimpleNamespace()
        (net if of == "net" else task).setting = make(slope)
        return stack_key(types.SimpleNamespace(net=net, task=task, trained=dict(net.named_parameters())))

    assert key(0.5) == key(0.5) != key(0.25) and hash(key(0.5)) == hash(key(0.5))


@pytest.mark.parametrize(
    "call,said",
    [
        (lambda: wavebase.cosine_transform("x"), "N must be a window of at least 2 samples, got 'x'"),
        (lambda: wavebase.cosine_transform(8.5), "N must be a window of at least 2 samples, got 8.5"),
        (lambda: wavebase.cosine_transform(8, "a"), "M must lie in 1..N=8, got 'a'"),
        (lambda: wavebase.spectral_lstm(8, bins=3), "bins must be 'full', 'half' or a list of bin numbers, got 3"),
        (lambda: wavebase.spectral_construction(8, gains=3), "gains must be numbers by name, got 3"),
        (lambda: wavebase.perturb(wavebase.spectral_construction(4), None, torch.Generator()), "perturbation must be a Perturbation, got None"),
    ],
)  # fmt: skip
def test_wrong_arguments_of_the_library_are_named(call, said):
    """They once ended in a bare TypeError or AttributeError."""
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        call()
    assert "; use " in str(caught.value) and "\n" not in str(caught.value)
