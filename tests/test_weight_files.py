"""Weights in files as other packages ship them: what is read, that nothing in them is run, and how a refusal reads."""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import wavebase
from wavebase.analysis.state_dicts import layers
from wavebase.analysis.weight_files import read
from wavebase.cli import probe

H, INPUTS, OUTPUTS = 5, 3, 2


class Net(torch.nn.Module):
    """A recurrent net with a readout, and buffers and lists such as shipped modules have."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = torch.nn.LSTM(INPUTS, H, num_layers=2, bidirectional=True)
        self.parts = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(2 * H, OUTPUTS))
        self.register_buffer("window", torch.ones(4, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.parts(self.rnn(x)[0])


class Call:
    """What a pickle runs when it is loaded."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def seeded(make: Any, *arguments: Any) -> Any:
    torch.manual_seed(0)
    return make(*arguments)


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        one, other = torch.as_tensor(found[name]), torch.as_tensor(value)
        assert one.dtype == other.dtype and torch.equal(one, other), name


def radii(weights: dict[str, Any]) -> list[float]:
    """Of every recurrent matrix, by `analyze`; compared with numpy's on the way."""
    found = []
    for layer in layers(weights):
        stacked = torch.as_tensor(layer.w_hh).double().numpy()
        report = wavebase.analyze(**layer.arguments(), draws=4)
        ours = [q.value for name, q in report.quantities.items() if name.split(".")[-1] == "spectral_radius"]
        matrices = np.split(stacked, len(stacked) // stacked.shape[1])
        assert ours == pytest.approx([np.abs(np.linalg.eigvals(m)).max() for m in matrices], rel=1e-12)
        found += ours
    return found


def test_torchscript_is_read_as_its_state_dict(tmp_path: Path) -> None:
    net = seeded(Net)
    torch.jit.save(torch.jit.script(net), tmp_path / "net.jit")
    same(read(tmp_path / "net.jit").weights, net.state_dict())
    assert len(radii(read(tmp_path / "net.jit").weights)) == 16


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_whole_module_is_read_without_its_class(tmp_path: Path, wrapped: bool) -> None:
    module = types.ModuleType("package_that_is_not_installed")
    module.Net = type("Net", (Net,), {"__module__": module.__name__, "__qualname__": "Net"})  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    try:
        net = seeded(module.Net)
        torch.save({"epoch": 3, "net": net} if wrapped else net, tmp_path / "net.pt")
    finally:
        del sys.modules[module.__name__]
    same(read(tmp_path / "net.pt").weights, net.state_dict())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_arrays_are_read(tmp_path: Path, protocol: int) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "weight_hh": rng.normal(size=(3 * H, H)).astype(np.float32),
        "weight_ih": np.asfortranarray(rng.normal(size=(3 * H, INPUTS))),
        "bias_hh": rng.normal(size=3 * H).astype(">f8"),
    }
    with open(tmp_path / "net.pkl", "wb") as file:
        pickle.dump(arrays | {"vocabulary": np.array(["a", "b"]), "version": 1}, file, protocol)
    same(read(tmp_path / "net.pkl").weights, arrays | {"bias_hh": arrays["bias_hh"].astype(np.float64)})
    assert len(radii(read(tmp_path / "net.pkl").weights)) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_safetensors_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = {name: value.to(dtype) for name, value in seeded(torch.nn.GRU, INPUTS, H, 2).state_dict().items()}
    safetensors.torch.save_file(weights, tmp_path / "net.safetensors")
    found = read(tmp_path / "net.safetensors").weights
    same(found, weights)
    assert len(radii(found)) == 6


def test_plain_names_with_a_prefix_are_layers_in_the_order_of_the_file(tmp_path: Path) -> None:
    draw = np.random.default_rng(0).normal
    arrays = {}
    for part in ("enc", "dec"):
        sizes = {"w_ih": (3 * H, INPUTS), "w_hh": (3 * H, H), "b_ih": 3 * H, "b_hh": 3 * H}
        arrays |= {f"{part}_{name}": draw(size=size) for name, size in sizes.items()}
    arrays["fc_w"] = draw(size=(7, H))
    np.savez(tmp_path / "net.npz", **arrays)
    encoder, decoder = layers(read(tmp_path / "net.npz").weights)
    assert (encoder.name, decoder.name) == ("enc_w_hh", "dec_w_hh")
    for layer, part in ((encoder, "enc"), (decoder, "dec")):
        for name, given in (("w_hh", "w_hh"), ("w_ih", "w_ih"), ("bias_ih", "b_ih"), ("bias_hh", "b_hh")):
            assert np.array_equal(getattr(layer, name), arrays[f"{part}_{given}"])
    assert encoder.w_out is None and np.array_equal(decoder.w_out, arrays["fc_w"])
    assert len(radii(read(tmp_path / "net.npz").weights)) == 6
    with pytest.raises(ValueError, match="must hold a recurrent layer"):
        layers({"raw_hh": np.eye(H)})


def test_a_checkpoint_gives_its_net_and_not_its_optimiser(tmp_path: Path) -> None:
    net = seeded(torch.nn.LSTM, INPUTS, H)
    optimiser = torch.optim.Adam(net.parameters())
    net(torch.ones(2, INPUTS))[0].sum().backward()
    optimiser.step()
    parts = {"step": 7, "optimizer_state": optimiser.state_dict()}
    parts["config"] = {"sizes": [INPUTS, H]}
    torch.save({**parts, "model_state": net.state_dict()}, tmp_path / "one.pt")
    same(read(tmp_path / "one.pt").weights, net.state_dict())
    readout = torch.nn.Linear(H, OUTPUTS).state_dict()
    torch.save({**parts, "encoder": net.state_dict(), "fc": readout}, tmp_path / "two.pt")
    wanted = {f"encoder.{k}": v for k, v in net.state_dict().items()} | {f"fc.{k}": v for k, v in readout.items()}
    same(read(tmp_path / "two.pt").weights, wanted)


def zipped(file: Path, thing: Any, *others: str) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(thing, 2))
        for name in others:
            archive.writestr(f"archive/{name}", b"")


def laughs() -> Any:
    """A list of two lists, each of the same two, forty times over: a few hundred bytes that unfold to 2^40 lists."""
    node: Any = []
    for _ in range(40):
        node = [node, node]
    return node


@pytest.mark.parametrize("suffix", [".pkl", ".pt", ".jit"])
@pytest.mark.parametrize("what", ["a call", "a call inside", "laughs", "itself", "cut off"])
def test_a_pickle_is_never_run_and_ends_in_one_line(tmp_path, monkeypatch, capsys, suffix: str, what: str) -> None:
    ran, file = tmp_path / "ran", tmp_path / f"net{suffix}"
    thing: Any = {"a call": Call(f"touch {ran}"), "laughs": {"w_hh": laughs()}}.get(
        what, {"w_hh": Call(f"touch {ran}")}
    )
    if what == "itself":
        thing["w_hh"] = thing
    if suffix == ".pkl":
        file.write_bytes(pickle.dumps(thing, 2))
    else:
        zipped(file, thing, "version", *(["constants.pkl"] if suffix == ".jit" else []))
    if what == "cut off":
        file.write_bytes(file.read_bytes()[:-12])
    monkeypatch.setattr(sys, "argv", ["probe", str(file), "draws=4"])
    with pytest.raises(SystemExit) as stop:
        probe.main()
    said = capsys.readouterr().err
    assert stop.value.code == 1 and said.count("\n") == 1 and ";" in said and not ran.exists()
    assert not (tmp_path / "net_spectrum").exists()


def test_a_tensor_that_claims_more_than_is_stored_is_refused(tmp_path: Path) -> None:
    net = seeded(Net)
    net.window = torch.zeros(1).expand(1000, 1000)
    torch.save(net, tmp_path / "net.pt")
    with pytest.raises(ValueError, match="without all of its numbers"):
        read(tmp_path / "net.pt")


@pytest.mark.parametrize(("name", "remedy"), [("net.onnx", "pip install onnx"), ("net.h5", "pip install h5py")])
def test_other_formats_are_refused_with_a_remedy(tmp_path, monkeypatch, capsys, name: str, remedy: str) -> None:
    (tmp_path / name).write_bytes(b"\x08\x07")
    monkeypatch.setattr(sys, "argv", ["probe", str(tmp_path / name)])
    with pytest.raises(SystemExit) as stop:
        probe.main()
    said = capsys.readouterr().err
    assert stop.value.code == 1 and remedy in said and said.count("\n") == 1


def test_the_table_of_public_nets(tmp_path, monkeypatch, capsys) -> None:
    """A package in a folder, as pip leaves it; one file with a net, one without, one that is broken."""
    file = Path(__file__).parents[1] / "experiments" / "public_nets.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    info = tmp_path / "some_net-1.2.dist-info"
    info.mkdir()
    (tmp_path / "some_net").mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-net\nVersion: 1.2\n")
    shipped = [f"some_net/{name}" for name in ("net.npz", "table.npz", "broken.pt")]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in shipped))
    np.savez(tmp_path / shipped[0], enc_w_hh=np.diag([0.5, -3.0, 2.0]))
    np.savez(tmp_path / shipped[1], table=np.eye(2))
    (tmp_path / shipped[2]).write_bytes(b"nothing")
    monkeypatch.setattr(sys, "argv", [file.name, str(tmp_path)])
    module.main()
    said = capsys.readouterr()
    (line,) = said.out.splitlines()[1:]
    assert line.split() == [
        "some-net",
        "1.2",
        "net.npz",
        "relu",
        "1",
        "3",
        "1",
        "3.000000000",
        "3.000000000",
        "0.0e+00",
    ]
    assert "broken.pt" in said.err
    monkeypatch.setattr(sys, "argv", [file.name])
    module.main()
    assert "pip install --no-deps" in capsys.readouterr().out
