"""The native recurrence against the plain loop, torch.nn.LSTM and itself: values, derivatives, stacks, fallbacks."""

from __future__ import annotations

import logging
import shutil
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from wavebase.models.spectral import spectral_lstm
from wavebase.recurrence import lstm as recurrence
from wavebase.recurrence.lstm import lstm_sequence, plain
from wavebase.recurrence.native import build, lstm

needs_native = pytest.mark.skipif(not lstm.available(), reason="no C++ compiler: only the plain loop is here")
SHAPES = {  # stack, B, N, I, H
    "one net": ((), 5, 4, 1, 7),
    "all ones": ((), 1, 1, 1, 1),
    "one unit": ((2,), 3, 4, 1, 1),
    "one sequence": ((3,), 1, 6, 2, 5),
    "one step": ((2,), 4, 1, 3, 6),
    "whole vectors": ((2,), 64, 3, 1, 35),
    "many vectors": ((), 130, 3, 1, 13),
    "wide input": ((), 17, 2, 40, 4),
    "two stack axes": ((2, 3), 4, 3, 2, 5),
    "two tiles": ((3,), 17, 2, 3, 16),
    "many chunks": ((1,), 3, 3, 2, 35),
    "long sums": ((), 33, 2, 1, 150),
}
OF_CUDA_KERNELS = {name: shape for name, shape in SHAPES.items() if shape[-1] <= 128}


def arguments(stack: tuple[int, ...], B: int, N: int, I: int, H: int, dtype: torch.dtype) -> list[Tensor]:  # noqa: E741
    """Inputs, states and weights of ordinary size, each requiring a gradient."""
    generator = torch.Generator().manual_seed(B + 10 * N + 100 * H)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*stack, *shape, generator=generator, dtype=torch.float64)

    weights = draw(4 * H, I), draw(4 * H, H, scale=H**-0.5), draw(4 * H, scale=0.1)
    drawn = (draw(B, N, I), draw(B, H, scale=0.5), draw(B, H, scale=0.5), *weights)
    return [tensor.to(dtype).requires_grad_() for tensor in drawn]


def loss(*tensors: Tensor) -> Tensor:
    """A scalar that depends on everything the recurrence returns."""
    states, last_hidden, last_cell = lstm_sequence(*tensors)
    weights = torch.linspace(0.5, 2, states.numel(), dtype=states.dtype).view_as(states)
    return (weights * states).sum() + last_hidden.square().sum() + last_cell.pow(3).sum()


def distance(got: Tensor, wanted: Tensor) -> float:
    return ((got - wanted).norm() / wanted.norm().clamp_min(1e-30)).item()


@needs_native
@pytest.mark.parametrize("input_gate", ["tanh", "sigmoid"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.float64, 4e-15)])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_are_the_plain_loops(shape, dtype, bound, input_gate):
    tensors = arguments(*shape, dtype)
    results = lstm_sequence(*tensors, input_gate=input_gate)
    with plain():
        wanted = lstm_sequence(*tensors, input_gate=input_gate)
    assert results[0].grad_fn.name() != wanted[0].grad_fn.name(), "the native path did not run"
    assert [r.shape for r in results] == [w.shape for w in wanted]
    generator = torch.Generator().manual_seed(1)
    seeds = [torch.randn(w.shape, generator=generator, dtype=torch.float64).to(dtype) for w in wanted]
    # each result alone, and all together: a missing gradient is a path of its own
    for chosen in ([0], [1], [2], [0, 1, 2]):
        pick = [[series[i] for i in chosen] for series in (results, wanted, seeds)]
        got = torch.autograd.grad(pick[0], tensors, pick[2], retain_graph=True, allow_unused=True)
        want = torch.autograd.grad(pick[1], tensors, pick[2], retain_graph=True, allow_unused=True)
        for g, w in zip(got, want, strict=True):
            # a gradient of a single net of one unit may nearly cancel
            assert (g - w).norm() <= bound * max(w.norm(), 0.1)
    for result, want in zip(results, wanted, strict=True):
        assert distance(result, want) <= bound
        assert distance(torch.zeros_like(result), want) > 0.9  # a loop of zeros would fail


@needs_native
def test_sigmoid_gate_is_torch_lstm():
    torch_lstm = torch.nn.LSTM(3, 11, batch_first=True, dtype=torch.float64)
    weight_ih, weight_hh, bias_ih, bias_hh = (p.detach() for p in torch_lstm.parameters())
    signal = torch.randn(6, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(6, 11, dtype=torch.float64)
    states, _, cell = lstm_sequence(signal, zero, zero, weight_ih, weight_hh, bias_ih + bias_hh, "sigmoid")
    wanted, (_, wanted_cell) = torch_lstm(signal)
    assert distance(states, wanted) < 1e-15 and distance(cell, wanted_cell[0]) < 1e-15


@needs_native
@pytest.mark.parametrize("stack", [(), (2,)])
def test_derivatives_are_differences(stack):
    tensors = arguments(stack, 3, 3, 2, 2, torch.float64)
    assert torch.autograd.gradcheck(loss, tensors, fast_mode=bool(stack))
    assert torch.autograd.gradgradcheck(loss, tensors, fast_mode=True)


@needs_native
def test_hessian_vector_products_are_the_plain_loops():
    tensors = arguments((), 4, 5, 1, 6, torch.float64)

    def product() -> tuple[Tensor, ...]:
        gradients = torch.autograd.grad(loss(*tensors), tensors, create_graph=True)
        return torch.autograd.grad(sum((g * g.detach().sin()).sum() for g in gradients), tensors)

    got = product()
    with plain():
        wanted = product()
    assert max(distance(g, w) for g, w in zip(got, wanted, strict=True)) < 1e-13


@needs_native
@pytest.mark.parametrize("kind", ["backward", "func.grad"])
def test_vmap_is_the_loop_over_members(kind, monkeypatch):
    """Bit for bit in all that the kernel computes; sums and the inputs' gradient are torch's, whose order of adding may change."""
    calls = []
    forward = lstm.forward
    monkeypatch.setattr(lstm, "forward", lambda *a: calls.append(1) or forward(*a))
    tensors = arguments((5,), 6, 4, 2, 7, torch.float32)
    if kind == "backward":
        values = torch.vmap(loss)(*tensors)
        got = torch.autograd.grad(values.sum(), tensors)
    else:
        got, values = torch.vmap(torch.func.grad_and_value(loss, argnums=tuple(range(6))))(*tensors)
    assert len(calls) == 1, "a stack is one native call"
    together = torch.vmap(lstm_sequence)(*tensors)
    for member in range(5):
        alone = [t[member].detach().requires_grad_() for t in tensors]
        value = loss(*alone)
        assert values[member].item() == pytest.approx(value.item(), rel=1e-6)
        assert all(torch.equal(a[member], b) for a, b in zip(together, lstm_sequence(*alone), strict=True))
        of_inputs, *others = torch.autograd.grad(value, alone)
        assert distance(got[0][member], of_inputs) < 1e-6
        assert all(torch.equal(g[member], wanted) for g, wanted in zip(got[1:], others, strict=True))


@needs_native
@pytest.mark.parametrize("at", [slice(2, None, 3), slice(-1, None), slice(1, 4), slice(0, 5, 2)])
@pytest.mark.parametrize("stack", [(), (2,)])
@pytest.mark.parametrize("plainly", [False, True])
def test_some_steps_are_those_of_all_steps(at, stack, plainly):
    tensors = arguments(stack, 5, 6, 2, 4, torch.float64)
    with plain() if plainly else nullcontext():
        some, *last = lstm_sequence(*tensors, at=at)
        every, *wanted_last = lstm_sequence(*tensors)
        wanted = every[..., at, :]
        assert torch.equal(some, wanted) and all(map(torch.equal, last, wanted_last))
        seeds = [torch.randn_like(result) for result in (wanted, *last)]
        got, want = (
            torch.autograd.grad(results, tensors, seeds, create_graph=True)
            for results in ((some, *last), (wanted, *wanted_last))
        )
        assert all(distance(g, w) < 1e-14 for g, w in zip(got, want, strict=True))
        second = [
            torch.autograd.grad(sum(g.square().sum() for g in first), tensors, retain_graph=True)
            for first in (got, want)
        ]
    for g, w in zip(*second, strict=True):
        assert w.norm() > 0.1 and distance(g, w) < 1e-13


@pytest.mark.parametrize("at", [slice(3, 3), slice(None, None, -1), slice(9, None)])
def test_steps_that_are_none_or_run_backwards_are_refused(at):
    with pytest.raises(ValueError, match="at must select steps of 3"):
        lstm_sequence(*arguments((), 2, 3, 1, 2, torch.float64), at=at)


def test_vmap_over_some_arguments():
    tensors = [t.detach() for t in arguments((), 4, 3, 1, 5, torch.float64)]
    nets = torch.stack([tensors[4], -tensors[4], 2 * tensors[4]], 1)  # mapped over its middle axis
    mapped = torch.func.grad(loss, argnums=(0, 4))
    got = torch.vmap(mapped, in_dims=(None, None, None, None, 1, None))(*tensors[:4], nets, tensors[5])
    for member in range(3):
        with plain():
            wanted = mapped(*tensors[:4], nets[:, member], tensors[5])
        assert max(distance(g[member], w) for g, w in zip(got, wanted, strict=True)) < 1e-14
    jacobian = torch.func.jacrev(lambda w: lstm_sequence(*tensors[:4], w, tensors[5])[0])(tensors[4])
    with plain():
        wanted = torch.func.jacrev(lambda w: lstm_sequence(*tensors[:4], w, tensors[5])[0])(tensors[4])
    assert distance(jacobian, wanted) < 1e-14


@needs_native
def test_strides_broadcasts_and_missing_gradients():
    inputs, hidden, cell, weight_ih, weight_hh, bias = (t.detach() for t in arguments((), 6, 5, 2, 4, torch.float64))
    strided = (
        inputs.transpose(0, 1).contiguous().transpose(0, 1),
        hidden[:1].expand(6, -1),
        cell.T.contiguous().T,
        torch.stack([weight_ih, weight_ih], -1)[..., 0],
        weight_hh.T.contiguous().T,
        torch.stack([bias, 2 * bias, 3 * bias]),  # a stack of three that share the rest
    )
    leaves = [strided[0].requires_grad_(), strided[3].requires_grad_(), strided[5].requires_grad_()]
    got = lstm_sequence(*strided)
    gradients = torch.autograd.grad(got[0].sin().sum(), leaves)
    with plain():
        wanted = torch.stack([lstm_sequence(*strided[:5], b)[0] for b in strided[5]])
    assert distance(got[0], wanted) < 1e-15
    for g, w in zip(gradients, torch.autograd.grad(wanted.sin().sum(), leaves), strict=True):
        assert distance(g, w) < 1e-14
    with torch.no_grad():
        assert torch.equal(lstm_sequence(*strided)[0], got[0]) and not lstm_sequence(*strided)[0].requires_grad


@needs_native
@pytest.mark.parametrize("stack", [(), (3,)])
def test_threads_do_not_change_a_bit(stack):
    tensors = arguments(stack, 64, 6, 1, 77, torch.float32)  # enough work for several threads
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            of_inputs, *others = torch.autograd.grad(loss(*tensors), tensors)
            results.append((of_inputs, *others, *lstm_sequence(*tensors)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert distance(results[0][0], other[0]) < 1e-6  # a product of torch's
        assert all(torch.equal(a, b) for a, b in zip(results[0][1:], other[1:], strict=True))


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gates_are_accurate_to_the_last_places(dtype):
    """Through the cell c = f c_0 + i g of one unit whose pre-activations are chosen, against float64."""
    eps, scale = torch.finfo(dtype).eps, torch.logspace(-30, 1.2, 5001, dtype=torch.float64)
    x = torch.cat([-scale.flip(0), scale]).to(dtype)

    def cell_of(start: float, *pre: Tensor | float) -> Tensor:
        signal = torch.zeros(len(x), 1, 4, dtype=dtype)
        for gate, value in enumerate(pre):
            signal[:, 0, gate] = value
        zero = torch.zeros(len(x), 1, dtype=dtype)
        weights = torch.eye(4, dtype=dtype), torch.zeros(4, 1, dtype=dtype), torch.zeros(4, dtype=dtype)
        return lstm_sequence(signal, zero, zero + start, *weights)[2][:, 0].double()

    exact = x.double()
    tanh, sigmoid = cell_of(0.0, 40.0, 0.0, x, 0.0), cell_of(1.0, 0.0, x, 0.0, 0.0)  # tanh(40) is 1 to the last bit
    tanh_error = ((tanh - exact.tanh()) / exact.tanh()).abs() / eps
    sigmoid_error = ((sigmoid - exact.sigmoid()) / exact.sigmoid()).abs() / eps
    # float64's reference is itself wrong by up to one unit in the last place
    slack = 0 if dtype == torch.float32 else 1
    assert tanh_error[exact.abs() < 0.625].max() < 1 + slack
    assert tanh_error.max() < 2 + slack and sigmoid_error.max() < 2 + slack
    tiny = exact.abs() < eps
    assert torch.equal(tanh[tiny], exact[tiny])


@needs_native
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_divergence_shows(bad):
    tensors = [t.detach() for t in arguments((), 3, 4, 1, 5, torch.float32)]
    tensors[4][2, 1] = bad
    states = lstm_sequence(*tensors)[0]
    with plain():
        wanted = lstm_sequence(*tensors)[0]
    assert torch.equal(states.isnan(), wanted.isnan())
    assert distance(states.nan_to_num(), wanted.nan_to_num()) < 1e-6


def test_shapes_that_do_not_fit_are_refused():
    inputs, hidden, cell, weight_ih, weight_hh, bias = arguments((), 3, 4, 1, 5, torch.float64)
    with pytest.raises((ValueError, RuntimeError)):
        lstm_sequence(inputs, hidden, cell, weight_ih, weight_hh[:-1], bias)


@needs_native
def test_without_a_compiler_the_plain_loop_runs_and_says_so(monkeypatch, tmp_path, caplog):
    tensors = arguments((), 3, 4, 1, 5, torch.float64)
    native = lstm_sequence(*tensors)[0]
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    monkeypatch.setenv("WAVEBASE_CACHE", str(tmp_path))
    build.library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, "wavebase"):
            first, second = lstm_sequence(*tensors)[0], lstm_sequence(*tensors)[0]
        assert len(caplog.records) == 1 and "compiler" in caplog.text
        assert first.grad_fn.name() == "StackBackward0" and torch.equal(first, second)
        assert distance(native, first) < 1e-14
    finally:
        build.library.cache_clear()


@needs_native
def test_a_broken_compiler_is_named(monkeypatch, tmp_path, caplog):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such thing >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("WAVEBASE_CACHE", str(tmp_path))
    build.library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, "wavebase"):
            assert not lstm.available()
        assert "no such thing" in caplog.text
    finally:
        build.library.cache_clear()


def test_what_the_kernel_does_not_know_runs_plainly():
    tensors = [t.detach().to(torch.bfloat16) for t in arguments((), 3, 4, 1, 5, torch.float64)]
    assert lstm_sequence(*tensors)[0].dtype == torch.bfloat16
    assert recurrence._backend(tuple(tensors), True) is None


@needs_native
def test_spectral_net_is_as_exact_as_with_the_plain_loop():
    net = spectral_lstm(16)
    signal = 2 * torch.rand(64, 48, generator=torch.Generator().manual_seed(3)) - 1
    power = torch.fft.fft(signal.double().view(64, 3, 16)).abs().square()
    errors = []
    for run_plainly in (False, True):
        with torch.no_grad():
            if run_plainly:
                with plain():
                    read = net(signal)
            else:
                read = net(signal)
        errors.append(distance(read.double(), power))
    assert errors[0] < 1.5 * errors[1] < 1e-3
