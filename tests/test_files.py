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


@pytest.mark.parametrize(
    "change",
    [lambda about, tensors: about.pop("T"), lambda about, tensors: about.update(bins="[]"), lambda about, tensors: about.update(T='"8"'),
     lambda about, tensors: about.update(blocks='{"gen": [0, 99]}'), lambda about, tensors: about.update(margin="[" * 100_000),
     lambda about, tensors: about.update(input_gate='"os.system"'), lambda about, tensors: tensors.pop("level"),
     lambda about, tensors: tensors.update(weight_ih_cell=torch.ones(())), lambda about, tensors: tensors.update(weight_hh_cell=torch.ones(2)), lambda about, tensors: tensors.pop("bias_ih_forget"),
     lambda about, tensors: tensors.update({"mask.weight_hh_cell": torch.ones(21, 21)})],
)  # fmt: skip
def test_a_right_checksum_over_wrong_fields_is_not_enough(change, tmp_path):
    """Whoever can write the file can write its checksum: each of these once ended in a traceback, or in a net of other weights."""
    file = tmp_path / "it.safetensors"
    wavebase.save_construction(wavebase.spectral_construction(3), file)
    with safe_open(file, framework="pt") as opened:
        about, tensors = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    about.pop("sha256")
    change(about, tensors)
    save_file(tensors, file, about | {"sha256": files._digest(tensors, about)})
    assert "other fields than a construction's" in refused(file)


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
