"""A configuration may name what is registered, and nothing else: no other function runs, no module is imported for it."""

import functools
import importlib
import inspect
import pkgutil
import sys

import pytest
import torch
import yaml

import wavebase
from conftest import ROOT
from wavebase import registry
from wavebase.experiment import config, validation

GROUPS = tuple(registry.PACKAGES)
CONF = {
    (file.parent.name, node["_target_"])
    for file in sorted((ROOT / "conf").glob("*/*.yaml"))
    if "_target_" in (node := yaml.safe_load(file.read_text()) or {})
}


def modules(package):
    """Every module at and below a package, but those that need what may not be installed, or have a command line for import."""
    yield package
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not any(word in found.name for word in ("triton", "__main__", "_multi_tensor")):
            yield importlib.import_module(found.name)


def reachable():
    """Dotted names of every class and function, private ones too, that can be reached through a module of these packages."""
    for package in (wavebase, torch.optim, torch.nn):
        for module in modules(package):
            for name, thing in vars(module).items():
                if inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing):
                    yield f"{module.__name__}.{name}"


def test_of_all_that_can_be_reached_only_what_is_registered_is_let_through(monkeypatch):
    # folders are listed for each of 34,000 names otherwise
    monkeypatch.setattr(registry, "_modules", functools.cache(registry._modules))
    allowed = {group: set(registry.names(group)) for group in GROUPS}
    everything = set(reachable())
    assert len(everything) > 3000 and "wavebase.recurrence.native.build._compile" in everything
    assert allowed["optim"] < everything and allowed["probe.measure"] < everything
    for group in GROUPS:
        let_through = {name for name in everything if registry.lookup(group, name) is not None}
        assert let_through == allowed[group], f"{group}: {let_through ^ allowed[group]}"
        assert not any(part.startswith("_") for name in let_through for part in name.split("."))
    for name in sorted(everything - set().union(*allowed.values()))[::97]:
        for group in ("model", "signal", "task", "optim"):
            with pytest.raises(
                validation.ConfigError, match=rf"^{group}._target_ must name what is registered for it, got"
            ):
                validation.build({"_target_": name}, group)


def test_all_that_conf_names_is_registered_and_little_else():
    assert len(CONF) > 30 and all(registry.lookup(group, name) for group, name in CONF)
    for group in ("model", "signal", "task"):
        assert set(registry.names(group)) == {name for where, name in CONF if where == group}
    for group, part in (("probe.measure", "measure"), ("probe.figures", "figures")):
        named = {
            name
            for file in (ROOT / "conf").glob("probe/*.yaml")
            for name in yaml.safe_load(file.read_text()).get(part, [])
        }
        root = f"wavebase.{group.replace('probe.', '').replace('measure', 'probes')}."
        assert {registry.MOVED.get(root + name, root + name) for name in named} <= set(registry.names(group))


def test_a_probe_is_registered_as_one_and_a_figure_as_one():
    for group, first in (("probe.measure", "snapshot"), ("probe.figures", "folder")):
        for name in registry.names(group):
            assert next(iter(inspect.signature(registry.lookup(group, name)).parameters)) == first
    with pytest.raises(
        validation.ConfigError, match=r"must name what is registered for it, got 'snapshot.snapshot_of'"
    ):
        config.ProbeSettings(measure=["snapshot.snapshot_of"]).functions("measure")
    with pytest.raises(validation.ConfigError, match=r"got 'png'"):
        config.ProbeSettings(figures=["png"]).functions("figures")
    with pytest.raises(validation.ConfigError, match=r"did you mean train_loss\?"):
        config.ProbeSettings(figures=["train_los"]).functions("figures")


def test_every_optimiser_of_torch_can_be_built():
    """Muon and Adafactor say that they are of torch.optim itself, which a prefix did not let through."""
    expected = {
        f"torch.optim.{name}" for name in torch.optim.__all__
        if isinstance(thing := getattr(torch.optim, name), type) and issubclass(thing, torch.optim.Optimizer)
    } - {"torch.optim.Optimizer"}  # fmt: skip
    assert {name for name in registry.names("optim") if name.startswith("torch.")} == expected
    assert len(expected) > 12
    for name in expected:
        built = validation.build(
            {"_target_": name}, "optim", {"params": [torch.nn.Parameter(torch.ones(2, 2))], "lr": 0.1}
        )
        assert isinstance(built, torch.optim.Optimizer) and built.param_groups[0]["lr"] == 0.1
    for name in (
        "torch.optim.Optimizer",
        "torch.optim.lr_scheduler.StepLR",
        "torch.optim.sgd.sgd",
        "torch.optim.adam.Adam",
    ):
        with pytest.raises(validation.ConfigError, match="must name what is registered"):
            validation.build({"_target_": name}, "optim", {"params": [], "lr": 0.1})


@pytest.mark.parametrize(
    "name",
    ["wavebase.records.provenance.subprocess", "wavebase.records.provenance.version", "wavebase.records.os", "wavebase.run.RunMode", "torch.nn.Linear",
     "torch.nn.init.math", "os.system", "Linear", "", ".", "wavebase", "wavebase.models", "wavebase.models..build", None, 3, ["a"]],
)  # fmt: skip
@pytest.mark.parametrize("group", ["model", "signal", "task", "optim"])
def test_other_names_are_refused_in_one_line(name, group):
    with pytest.raises(
        validation.ConfigError, match=r"^[^\n]+ must name what is registered for it, got [^\n]*;[^\n]*$"
    ):
        validation.build({"_target_": name}, group)


def test_a_group_builds_nothing_of_another():
    with pytest.raises(validation.ConfigError, match="must name what is registered"):
        validation.build({"_target_": "wavebase.signals.generators.WhiteNoise"}, "model")


def test_a_module_of_the_working_directory_is_never_imported(tmp_path, monkeypatch):
    """Under any of the names that a configuration could give it; `wavebase.experiment.config` once imported whatever stands there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("planted", "wavebase_planted"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef build(): pass\n")
    before = set(sys.modules)
    for name in ("planted.build", "wavebase.experiment.config.planted.build", "wavebase.models.planted.build", "wavebase_planted.build",
                 "torch.nn.planted.build", "wavebase.models.stock.planted", "torch.nn.modules.transformer.Transformer"):  # fmt: skip
        for group in GROUPS:
            assert registry.lookup(group, name) is None
    assert not (tmp_path / "ran").exists()
    assert not {name for name in set(sys.modules) - before if "planted" in name}


def test_a_decorator_and_a_package_are_all_that_is_needed(tmp_path, monkeypatch):
    """A module of a listed package is found by itself; what it does not mark stays closed."""
    package = tmp_path / "trusted_for_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "mine.py").write_text(
        "from wavebase.registry import registered\n\n@registered\nclass Mine:\n    pass\n\nclass Other:\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert registry.lookup("model", "trusted_for_test.mine.Mine") is None
    monkeypatch.setitem(registry.PACKAGES, "model", (*registry.PACKAGES["model"], "trusted_for_test"))
    assert type(validation.build({"_target_": "trusted_for_test.mine.Mine"}, "model")).__name__ == "Mine"
    assert registry.lookup("model", "trusted_for_test.mine.Other") is None
    assert registry.lookup("model", "wavebase.models.stock.build") is not None
