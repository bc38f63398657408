"""A construction goes into a .safetensors file and comes back bit for bit; any other file is refused in one line."""

import dataclasses
import json
import os
import random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import wavebase
from wavebase.constructions import files
from wavebase.constructions.construction import Construction, pad
from wavebase.constructions.files import FORMAT
from wavebase.constructions.lock_in import lock_in_construction
from wavebase.constructions.rivals import delay_line_construction, resonator_construction
from wavebase.models.spectral import SpectralLSTM
from wavebase.records.atomic import RecordsError
from wavebase.signals.jittered_mix import JitteredMix

MADE = {
    "exact": lambda: wavebase.spectral_construction(5),
    "float32, some bins": lambda: wavebase.spectral_construction(8, bins=[1, 3], dtype=torch.float32),
    "stock gate": lambda: wavebase.spectral_construction(4, input_gate="sigmoid"),
    "perturbed": lambda: wavebase.perturb(
        wavebase.spectral_construction(4), wavebase.Perturbation(scale=1e-3), torch.Generator().manual_seed(0)
    ),
    "padded": lambda: pad(wavebase.spectral_construction(4, bins="half"), 50),
    "resonator": lambda: resonator_construction(4, dtype=torch.float64),
    "delay line": lambda: delay_line_construction(4, dtype=torch.float64),
    "lock-in": lambda: lock_in_construction(JitteredMix(), 1000),
}


def same(one, two):
    """Whether two values of a field agree to the last bit, dtype and order included."""
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return set(one) == set(two) and all(same(value, two[key]) for key, value in one.items())
    return type(one) is type(two) and one == two


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_there_and_back(made, tmp_path):
    construction = made()
    wavebase.save_construction(construction, tmp_path / "it.safetensors")
    again = wavebase.load_construction(tmp_path / "it.safetensors")
    for field in dataclasses.fields(Construction):
        assert same(getattr(construction, field.name), getattr(again, field.name)), field.name


def test_the_loaded_net_is_exact_and_the_header_says_what_it_is(tmp_path):
    file = tmp_path / "it.safetensors"
    wavebase.save_construction(wavebase.spectral_construction(8), file)
    signal = torch.rand(4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    power = wavebase.power_spectrum(signal, 8)
    net = SpectralLSTM(wavebase.load_construction(file))
    assert (net(signal) - power).norm() / power.norm() < 1e-14
    with safe_open(file, framework="np") as opened:  # a reader that knows nothing of us
        about = opened.metadata()
        assert json.loads(about["T"]) == 8 and json.loads(about["bins"]) == list(range(8))
        assert json.loads(about["input_gate"]) == "tanh" and json.loads(about["blocks"])["gen"] == [0, 16]
        assert opened.get_tensor("weight_hh_cell").shape == (56, 56)


def refused(file):
    with pytest.raises(RecordsError) as error:
        wavebase.load_construction(file)
    line = str(error.value)
    assert "\n" not in line and str(file) in line and ", got " in line and line.endswith("; save it anew")
    return line


def test_other_files_are_refused(tmp_path):
    file = tmp_path / "it.safetensors"
    assert "uch file" in refused(file)
    for content in (b"", b"not a tensor in sight", b"\x08\0\0\0\0\0\0\0{}      "):
        file.write_bytes(content)
        refused(file)
    save_file({"w": torch.ones(2)}, file)
    assert "format None" in refused(file)
    save_file({"w": torch.ones(2)}, file, {"format": FORMAT})
    assert "checksum" in refused(file)
    save_file({"w": torch.ones(2)}, file, {"format": "wavebase construction, version 3"})
    assert "version 3" in refused(file)
    refused(tmp_path)


def about_is(**fields):
    return lambda about, tensors: about.update(fields)


def becomes(*changed):
    """becomes(name, change, name, change...): tensors are replaced by what becomes of them."""
    pairs = list(zip(changed[::2], changed[1::2], strict=True))
    return lambda about, tensors: [tensors.update({name: change(tensors[name])}) for name, change in pairs]


def all_of(prefix, change):
    return lambda about, tensors: [tensors.update({n: change(w)}) for n, w in tensors.items() if n.startswith(prefix)]


UNIT, COLUMN = "unit_scale.", lambda w: w[..., None].clone()
FORGED = {
    "no T": lambda about, tensors: about.pop("T"), "no bins": about_is(bins="[]"), "T as text": about_is(T='"8"'),
    "a block beyond the units": about_is(blocks='{"gen": [0, 99]}'), "half a unit": about_is(blocks='{"gen": [0.5, 1.5]}'),
    "brackets": about_is(margin="[" * 100_000), "a gate": about_is(input_gate='"os.system"'), "no T at all": about_is(T="0"),
    "a bin beyond T": about_is(bins="[0, 1, 9]"), "a bin twice": about_is(bins="[0, 1, 1]"), "no amplitude": about_is(amplitude="NaN"),
    "a bound below 0": about_is(error_bound="-1"), "a latency below 0": about_is(latency="-1"), "a gain": about_is(gains='{"a": NaN}'),
    "no level": lambda about, tensors: tensors.pop("level"), "no bias": lambda about, tensors: tensors.pop("bias_ih_forget"),
    "no mask": lambda about, tensors: tensors.pop("mask.weight_hh_cell"), "no unit": lambda about, tensors: tensors.pop(f"{UNIT}hidden_0"),
    "surplus": lambda about, tensors: tensors.update(x=torch.ones(2)), "surplus unit": lambda about, tensors: tensors.update({f"{UNIT}x": torch.ones(2)}),
    "a number": becomes("weight_ih_cell", lambda w: torch.ones(())), "a vector": becomes("weight_hh_cell", lambda w: torch.ones(2)),
    "a mask of numbers": becomes("mask.weight_hh_cell", lambda w: torch.ones(21, 21)),
    "a readout's shape": becomes("readout.bias", COLUMN, f"{UNIT}readout.bias", COLUMN),  # torch's RuntimeError in SpectralLSTM
    "fewer outputs": all_of("readout", lambda w: w[:2].clone()), "no outputs": all_of("readout", lambda w: w[:0].clone()),
    "no inputs": all_of("weight_ih", lambda w: w[:, :0].clone()), "wrong shapes without units": lambda about, tensors: (
        [tensors.pop(name) for name in [*tensors] if name.startswith(UNIT)], tensors.update(bias_hh_cell=torch.ones(2))),
    "nan": becomes("weight_hh_cell", lambda w: w * torch.nan), "an infinite state": becomes("cell_0", lambda w: w + torch.inf),
    "a unit of zero": becomes(f"{UNIT}bias_ih_cell", torch.zeros_like), "a complex unit": becomes(f"{UNIT}cell_0", lambda w: w.to(torch.complex64)),
    "a unit's dtype": becomes(f"{UNIT}cell_0", torch.Tensor.half), "a level's dtype": becomes("level", torch.Tensor.int),
    "integers": all_of("", lambda w: w if w.dtype == torch.bool else w.int()), "complex": all_of("", lambda w: w if w.dtype == torch.bool else w.to(torch.complex64)),
    "two dtypes": becomes("weight_hh_cell", torch.Tensor.float),
}  # fmt: skip


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
def test_a_right_checksum_over_wrong_fields_is_not_enough(change, tmp_path):
    """Whoever can write the file can write its checksum: each of these once ended in a traceback, or in a net of other weights."""
    file = tmp_path / "it.safetensors"
    wavebase.save_construction(wavebase.spectral_construction(3), file)
    with safe_open(file, framework="pt") as opened:
        about, tensors = opened.metadata(), {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    about.pop("sha256")
    change(about, tensors)
    save_file(tensors, file, about | {"sha256": files._digest(tensors, about)})
    assert "other fields than a construction's" in refused(file)


def test_what_is_no_construction_is_not_written(tmp_path):
    exact = wavebase.spectral_construction(3)
    odd = exact.replace_weights({**exact.weights, "cell_0": exact.weights["cell_0"] * torch.nan})
    with pytest.raises(
        ValueError, match=r"must have finite fields that fit each other, got others in cell_0; build it"
    ):
        wavebase.save_construction(odd, tmp_path / "it.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_construction_does_not_follow_its_file(tmp_path):
    """safetensors maps files: a tensor once changed when another program wrote into the file that it came from."""
    file = tmp_path / "it.safetensors"
    exact = wavebase.spectral_construction(3)
    wavebase.save_construction(exact, file)
    again = wavebase.load_construction(file)
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))
    assert all(same(weight, again.weights[name]) for name, weight in exact.weights.items())


def test_a_spectral_net_refuses_what_it_cannot_hold():
    exact = wavebase.spectral_construction(3)
    with pytest.raises(
        ValueError, match=r"^construction must have one input and an output a bin, weight_ih_cell \[36, 1\], got"
    ):
        SpectralLSTM(MADE["lock-in"]())
    for name, change in {
        "hidden_0": lambda w: w[:0],
        "weight_hh_cell": lambda w: w[0],
        "readout.bias": lambda w: w + 1j,
    }.items():
        with pytest.raises(ValueError, match=f"^weights must hold {name} .* of real numbers, got .*; give those of"):
            SpectralLSTM(exact, {**exact.weights, name: change(exact.weights[name])})
    with pytest.raises(ValueError, match="got nothing"):
        SpectralLSTM(exact, {name: w for name, w in exact.weights.items() if name != "cell_0"})


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "it.safetensors")
    assert "no file" in refused(tmp_path / "it.safetensors")


def test_no_changed_bit_and_no_cut_is_taken(tmp_path):
    file = tmp_path / "it.safetensors"
    wavebase.save_construction(wavebase.spectral_construction(3), file)
    whole = file.read_bytes()
    draw = random.Random(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [*draw.sample(range(header), 60), *draw.sample(range(header, len(whole)), 60)]
    for place in places:
        broken = bytearray(whole)
        broken[place] ^= 1 << draw.randrange(8)
        file.write_bytes(broken)
        try:
            again = wavebase.load_construction(file)
        except RecordsError:
            continue
        assert header > place and whole[place : place + 1] == b" ", f"a changed byte {place} went unseen: {again}"
    for length in draw.sample(range(len(whole)), 20):
        file.write_bytes(whole[:length])
        refused(file)


def test_a_disk_that_refuses_says_so(tmp_path):
    with pytest.raises(OSError):
        wavebase.save_construction(wavebase.spectral_construction(3), tmp_path)
