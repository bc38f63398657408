"""The recurrence's CUDA kernels against the CPU."""

import logging

import pytest
import torch

from test_recurrence import OF_CUDA_KERNELS, arguments, distance
from wavebase.recurrence.lstm import lstm_sequence, plain
from wavebase.recurrence.native import triton_lstm

BOUND = {torch.float32: 1e-5, torch.float64: 1e-12}
KINDS = [(torch.float32, "tanh"), (torch.float32, "sigmoid"), (torch.float64, "tanh"), (torch.float64, "sigmoid")]
SHAPES = {  # stack, B, N, I, H
    **OF_CUDA_KERNELS,
    "T = 8, a stack": ((5,), 64, 8, 1, 56),
    "T = 16, a stack": ((5,), 64, 16, 1, 112),
    "more programs than multiprocessors": ((70,), 70, 5, 1, 35),
    "the most units": ((2,), 33, 4, 1, 128),
    "a batch of the probes' size": ((), 256, 16, 1, 56),
}


@pytest.mark.parametrize(("dtype", "input_gate"), KINDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_are_the_cpus(shape, dtype, input_gate):
    tensors = arguments(*shape, dtype)
    there = [t.detach().cuda().requires_grad_() for t in tensors]
    results, wanted = lstm_sequence(*there, input_gate=input_gate), lstm_sequence(*tensors, input_gate=input_gate)
    assert results[2].grad_fn.name() == "CompiledSequenceBackward", "the kernel did not run"
    for part in (slice(None), slice(-1, None)):
        got = torch.autograd.grad(results[0][..., part, :].sin().sum() + results[2].sum(), there, retain_graph=True)
        want = torch.autograd.grad(wanted[0][..., part, :].sin().sum() + wanted[2].sum(), tensors, retain_graph=True)
        for g, w in zip((*results, *got), (*wanted, *want), strict=True):
            assert distance(g.cpu(), w) < BOUND[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_calls_give_the_same_bits(dtype):
    """A race between the threads of a program would differ from call to call."""
    there = [t.detach().cuda().requires_grad_() for t in arguments((70,), 70, 16, 1, 112, dtype)]

    def everything():
        results = lstm_sequence(*there)
        return *results, *torch.autograd.grad(results[0].sin().sum() + results[2].sum(), there)

    first = everything()
    for _ in range(3):
        assert all(torch.equal(one, two) for one, two in zip(first, everything(), strict=True))


def test_no_number_is_read_that_nothing_wrote():
    """The device's free memory is filled with NaN before the kernels run."""
    there = [t.detach().cuda().requires_grad_() for t in arguments((3,), 17, 4, 2, 35, torch.float32)]
    torch.full((2**28,), float("nan"), device="cuda")
    results = lstm_sequence(*there)
    torch.full((2**28,), float("nan"), device="cuda")
    gradients = torch.autograd.grad(results[0].sum() + results[2].sum(), there)
    assert all(tensor.isfinite().all() for tensor in (*results, *gradients))


def test_second_derivatives_and_vmap():
    tensors = arguments((3,), 4, 3, 1, 5, torch.float64)
    there = [t.detach().cuda().requires_grad_() for t in tensors]

    def products(tensors):
        states, _, cell = lstm_sequence(*tensors)
        gradients = torch.autograd.grad(states.sin().sum() + cell.pow(3).sum(), tensors, create_graph=True)
        return torch.autograd.grad(sum((g * g.detach().sin()).sum() for g in gradients), tensors)

    got, mapped = products(there), torch.vmap(lambda *t: lstm_sequence(*t)[0])(*there)
    assert max(distance(g.cpu(), w) for g, w in zip(got, products(tensors), strict=True)) < 1e-12
    assert torch.equal(mapped, lstm_sequence(*there)[0])


def test_more_units_than_fit_run_the_plain_loop_and_say_so(caplog):
    there = [t.detach().cuda() for t in arguments((), 2, 2, 1, triton_lstm.LARGEST + 1, torch.float32)]
    triton_lstm._works.cache_clear()
    triton_lstm._warn.cache_clear()
    with caplog.at_level(logging.WARNING, "wavebase"):
        got = lstm_sequence(*there)[0]
    with plain():
        assert torch.equal(got, lstm_sequence(*there)[0])
    assert "at most 128 units, wanted 129" in caplog.text
