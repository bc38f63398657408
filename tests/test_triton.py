"""The CUDA recurrence without a device: its kernels in triton's interpreter against the plain loop, and compiled for devices
that are not here. on_device/ has what needs one.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses import FakeTensorMode

from conftest import ROOT
from test_recurrence import OF_CUDA_KERNELS, arguments, distance, loss
from wavebase.recurrence import lstm
from wavebase.recurrence.lstm import lstm_sequence, plain
from wavebase.recurrence.native import build, triton_lstm

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

SOURCE = Path(triton_lstm.__file__).with_name("triton_kernels.py")
SHARED = {90: 232448, 80: 166912}  # bytes of shared memory for one program
BOUND = {torch.float32: 1e-5, torch.float64: 1e-12}
KINDS = [(torch.float32, "tanh"), (torch.float32, "sigmoid"), (torch.float64, "tanh")]


def kernels(path, name="kernels_of_test"):
    """The module of kernels from that file, anew: whether they are interpreted is decided when they are defined."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def interpreted(monkeypatch):
    """The recurrence on the CPU by the interpreted kernels. interpreted(path) takes them from another file."""

    def use(path=SOURCE, shared=SHARED[90]):
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        module = kernels(path)
        monkeypatch.delenv("TRITON_INTERPRET")
        monkeypatch.setattr(triton_lstm, "_kernels", lambda: module)
        monkeypatch.setattr(triton_lstm, "_shared_memory", lambda device: shared)
        asked = lstm._plain_asked
        monkeypatch.setattr(lstm, "_backend", lambda *_: None if asked.get() else triton_lstm)

    def forget():
        triton_lstm._works.cache_clear()
        triton_lstm._warn.cache_clear()

    forget()
    use()
    yield use
    forget()


def errors(tensors, input_gate="tanh"):
    """Relative errors of values and of all gradients, of each result alone and of all together, against the plain loop."""
    results = lstm_sequence(*tensors, input_gate=input_gate)
    with plain():
        wanted = lstm_sequence(*tensors, input_gate=input_gate)
    assert results[2].grad_fn.name() == "CompiledSequenceBackward" != wanted[2].grad_fn.name()
    assert [r.shape for r in results] == [w.shape for w in wanted]
    found = [distance(r, w) for r, w in zip(results, wanted, strict=True)]
    seeds = [torch.linspace(-1, 2, w.numel(), dtype=w.dtype).view_as(w) for w in wanted]
    for chosen in ([0], [2], [0, 1, 2]):
        pick = [[series[i] for i in chosen] for series in (results, wanted, seeds)]
        got = torch.autograd.grad(pick[0], tensors, pick[2], retain_graph=True)
        want = torch.autograd.grad(pick[1], tensors, pick[2], retain_graph=True)
        found += [distance(g, w) for g, w in zip(got, want, strict=True)]
    return found


@pytest.mark.parametrize(("dtype", "input_gate"), KINDS, ids=str)
@pytest.mark.parametrize("shape", OF_CUDA_KERNELS.values(), ids=OF_CUDA_KERNELS)
def test_values_and_gradients_are_the_plain_loops(interpreted, shape, dtype, input_gate):
    assert max(errors(arguments(*shape, dtype), input_gate)) < BOUND[dtype]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("i, g = tl.split(i_and_g)", "g, i = tl.split(i_and_g)"),
        ("f, o = tl.split(f_and_o)", "o, f = tl.split(f_and_o)"),
        ("dc *= f", "dc *= o"),
        ("k[:, None] * H + unit\n", "k[:, None] + unit * H\n"),  # W_hh transposed
        ("dc * i * (1.0 - g * g)", "dc * i * (1.0 - g)"),
    ],
)
def test_a_wrong_kernel_is_noticed(interpreted, tmp_path, right, wrong):
    text = SOURCE.read_text()
    assert text.count(right) == 1
    (tmp_path / "wrong.py").write_text(text.replace(right, wrong))
    interpreted(tmp_path / "wrong.py")
    assert max(errors(arguments((), 5, 4, 1, 7, torch.float32))) > 1e-2
    assert not available()


@pytest.mark.parametrize("shared", [0, 60_000, 90_000])
def test_weights_that_do_not_fit_are_read_in_every_step(interpreted, shared):
    tensors = arguments((2,), 3, 3, 30, 35, torch.float32)
    everything, everywhere = triton_lstm.forward_constants(35, 30, True, True, tensors[0])["KEPT"], loss(*tensors)
    interpreted(shared=shared)
    fewer, elsewhere = triton_lstm.forward_constants(35, 30, True, True, tensors[0])["KEPT"], loss(*tensors)
    assert {0: 0, 60_000: 2, 90_000: 3}[shared] == fewer < everything == 5
    assert everywhere == elsewhere
    assert max(errors(tensors)) < 1e-5


def test_gates_are_accurate_near_zero(interpreted):
    """tanh, through c = f c_0 + i g of one unit with i = 1: relative errors, of the polynomial and beyond."""
    scale = torch.logspace(-30, 1, 400, dtype=torch.float64)
    x = torch.cat([-scale.flip(0), scale]).float()
    signal = torch.stack([torch.full_like(x, 40.0), x], -1)[:, None]
    zero, weight = torch.zeros(len(x), 1), torch.tensor([[1.0, 0], [0, 0], [0, 1], [0, 0]])
    got = lstm_sequence(signal, zero, zero, weight, torch.zeros(4, 1), torch.zeros(4))[2][:, 0].double()
    exact = x.double().tanh()
    assert ((got - exact) / exact).abs().max() < 3 * torch.finfo(torch.float32).eps


def test_second_derivatives_and_vmap(interpreted, monkeypatch):
    tensors = arguments((3,), 4, 3, 1, 5, torch.float64)

    def products():
        gradients = torch.autograd.grad(loss(*tensors), tensors, create_graph=True)
        return torch.autograd.grad(sum((g * g.detach().sin()).sum() for g in gradients), tensors)

    got = products()
    with plain():
        assert max(distance(g, w) for g, w in zip(got, products(), strict=True)) < 1e-12
    calls = []
    forward = triton_lstm.forward
    monkeypatch.setattr(triton_lstm, "forward", lambda *a: calls.append(1) or forward(*a))
    mapped = torch.func.grad_and_value(loss, argnums=tuple(range(6)))
    got, values = torch.vmap(mapped)(*(t.detach() for t in tensors))
    assert len(calls) == 1, "a stack is one launch"
    for member in range(3):
        with plain():
            wanted, value = mapped(*(t[member].detach() for t in tensors))
        assert abs(values[member] / value - 1) < 1e-12
        assert max(distance(g[member], w) for g, w in zip(got, wanted, strict=True)) < 1e-12


def available(units=7, loop=lstm.plain_sequence, dtype=torch.float32):
    return triton_lstm.available(torch.zeros(2, 3, 1, dtype=dtype), units, True, loop)


def test_kernels_are_checked_before_they_are_used(interpreted, caplog):
    with caplog.at_level(logging.WARNING, "wavebase"):
        assert available() and available(dtype=torch.float64) and not caplog.records
        with torch.no_grad():
            torch.vmap(lambda x: (available(5), x)[1])(torch.zeros(2))  # nor is it disturbed by where it is asked

    def another_gate(*arguments):
        return lstm.plain_sequence(*arguments[:-1], "sigmoid")

    with caplog.at_level(logging.WARNING, "wavebase"):
        assert not available(loop=another_gate) and not available(loop=another_gate)
    assert len(caplog.records) == 1 and "disagrees with the plain loop" in caplog.text


def test_what_is_in_the_way_is_said_once(interpreted, monkeypatch, caplog):
    def missing():
        raise ImportError("No module named 'triton'")

    with caplog.at_level(logging.WARNING, "wavebase"):
        assert not available(triton_lstm.LARGEST + 1) and not available(triton_lstm.LARGEST + 1)
        assert len(caplog.records) == 1 and "at most 128 units, wanted 129" in caplog.text
        monkeypatch.setattr(triton_lstm, "_kernels", missing)
        assert not available(8) and not available(9) and not available(9)
        assert len(caplog.records) == 2 and "ImportError: No module named 'triton'" in caplog.text
        monkeypatch.setenv("WAVEBASE_NATIVE", "0")
        build.forbidden.cache_clear()
        try:
            assert not available(10) and not available(11)
        finally:
            monkeypatch.undo()
            build.forbidden.cache_clear()
    assert len(caplog.records) == 3 and "WAVEBASE_NATIVE=0" in caplog.text


def test_cuda_tensors_are_served_by_it(monkeypatch):
    with FakeTensorMode():
        tensors = [torch.empty(t.shape, device="cuda") for t in arguments((2,), 5, 4, 1, 7, torch.float32)]
    asked = []
    monkeypatch.setattr(triton_lstm, "available", lambda inputs, units, *more: asked.append(units) or len(asked) == 1)
    assert lstm._backend(tuple(tensors), True) is triton_lstm
    assert lstm._backend(tuple(tensors), True) is None
    assert lstm._backend((*tensors[:5], torch.zeros(2, 28)), True) is None  # one is on the CPU
    with plain():
        assert lstm._backend(tuple(tensors), True) is None
    assert asked == [7, 7]


def compiled(module, name, units, dtype, capability, monkeypatch):
    """A kernel as `triton_lstm` would have it compiled on a device of that capability."""
    monkeypatch.setattr(triton_lstm, "_shared_memory", lambda device: SHARED[capability])
    like = torch.zeros(1, dtype=dtype)
    forward = name == "forward"
    constants = (
        triton_lstm.forward_constants(units, 1, True, True, like)
        if forward
        else triton_lstm.backward_constants(units, True, like)
    )
    options = {option: constants.pop(option) for option in ("num_warps", "num_stages")}
    kernel, pointer = getattr(module, name), "*fp32" if dtype == torch.float32 else "*fp64"
    kinds = dict.fromkeys(kernel.arg_names, pointer) | {"batch": "i32", "steps": "i32"}
    signature = kinds | dict.fromkeys(constants, "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind == pointer}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def spilled(binary, folder):
    """Bytes of the stack that a thread has, by the tool that comes with triton."""
    (folder / "kernel.cubin").write_bytes(binary.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    said = subprocess.run([tool, "-res-usage", folder / "kernel.cubin"], capture_output=True, text=True, check=True)
    return int(re.search(r"STACK:(\d+)", said.stdout)[1])


def races(binary):
    """Whether numbers stored to memory may be loaded, or the loop go round, before the program's threads have met."""
    events = re.findall(r"\b(st\.global|ld\.global|bar\.sync|bra)\b", binary.asm["ptx"])
    return re.search(r"st\.global (ld\.global|bra)", " ".join(events)) is not None


@pytest.mark.parametrize("name", ["forward", "backward"])
@pytest.mark.parametrize(
    ("units", "dtype", "capability"),
    [(35, torch.float32, 80), (112, torch.float32, 90), (7, torch.float64, 90)],
    ids=str,
)
def test_compiles_for_devices_that_are_not_here(name, units, dtype, capability, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    binary = compiled(kernels(SOURCE), name, units, dtype, capability, monkeypatch)
    assert "tf32" not in binary.asm["ptx"] and "ld.global.nc" not in binary.asm["ptx"]
    assert binary.metadata.shared <= SHARED[capability]
    assert spilled(binary, tmp_path) <= 16
    if dtype == torch.float32:  # exp has branches of its own in float64
        assert not races(binary)


@pytest.mark.parametrize("name", ["forward", "backward"])
def test_rounding_and_races_would_be_seen(name, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    text = SOURCE.read_text().replace('"ieee"', '"tf32"').replace("tl.debug_barrier()", "pass")
    (tmp_path / "wrong.py").write_text(text)
    binary = compiled(kernels(tmp_path / "wrong.py"), name, 7, torch.float32, 80, monkeypatch)
    assert "tf32" in binary.asm["ptx"] and races(binary)


def test_one_launch_each_way(monkeypatch, tmp_path):
    """The way to a launch, up to a driver of triton's that notes it: arguments bound, compiled, memory found enough."""
    launches = []

    def launcher(source, metadata):
        return lambda *grid_and_more: launches.append((source.fn.__name__, grid_and_more[:3], metadata.num_warps))

    utilities = SimpleNamespace(
        get_device_properties=lambda device: {"max_shared_mem": SHARED[90]},
        load_binary=lambda name, kernel, shared, device: (1, 1, 0, 0, 1024),
    )
    driver = SimpleNamespace(
        launcher_cls=launcher,
        utils=utilities,
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
    )
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    module = kernels(SOURCE)
    monkeypatch.setattr(triton_lstm, "_kernels", lambda: module)
    triton_lstm._shared_memory.cache_clear()
    try:
        tensors = [t.detach() for t in arguments((2, 3), 33, 4, 1, 24, torch.float32)]
        every = range(4)
        states, _, last_cell, *kept = triton_lstm.forward(*tensors, every, True, True)
        gradients = triton_lstm.backward(*tensors, *kept, states, None, last_cell, every, True, True, True)
    finally:
        triton_lstm._shared_memory.cache_clear()
    assert launches == [("forward", (6, 3, 1), 4), ("backward", (6, 3, 1), 4)]
    assert [g.shape for g in gradients] == [t.shape for t in tensors]


def test_the_bench_says_that_there_is_no_device(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    monkeypatch.setattr(sys, "argv", ["stack_on_cuda.py"])
    with pytest.raises(SystemExit, match="wants a CUDA device, and there is none"):
        runpy.run_path(str(ROOT / "bench" / "stack_on_cuda.py"), run_name="__main__")
