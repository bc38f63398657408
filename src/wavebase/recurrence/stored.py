"""A lone net whose numbers lie in one tensor, read and differentiated by hand: a training step without autograd."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from operator import is_
from typing import Any

import torch
from torch import Tensor

from wavebase.recurrence.autograd import any_needs_gradient, flattened, numbers_of
from wavebase.recurrence.native import lstm as native


class StoredNet:
    """A recurrence and its linear readout: `wavebase.recurrence.lstm.read_sequence` of weights that are views on one tensor.

    The buffers, and their description for the native library, are made once for each shape of the input. What autograd
    would cost is half of a small net's step (`bench/one_step.py`).

    Args:
        numbers: All parameters, [sum of their sizes].
        parameters: Their views on `numbers`, in the order of `read_sequence`; a net with others is never read from it.
    """

    def __init__(self, numbers: Tensor, parameters: Sequence[Tensor]):
        self.numbers, self.parameters = numbers.detach(), parameters
        self.output: Tensor | None = None
        self._described: Any = None
        self._units: Sequence[Tensor] = ()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Inside it, the first `read_sequence` of these parameters is `read`."""
        self.output, token = None, _reading.set(self)
        try:
            yield
        finally:
            _reading.reset(token)

    def holds(self, tensors: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
        """Return whether `read` can take the place of autograd's nodes for these parameters and other arguments."""
        return (
            self.output is None
            and len(tensors) == len(self.parameters)
            and all(map(is_, tensors, self.parameters))
            and not any_needs_gradient(others)
        )

    def read(
        self, inputs: Tensor, hidden: Tensor, cell: Tensor, units: Sequence[Tensor], at: range, tanh_input_gate: bool
    ) -> Tensor:
        """Return the readout [B, states read, F], which stays in `output`: a copy of `leaf`, where autograd's graph begins.

        Args:
            inputs, hidden, cell, at, tanh_input_gate: As for `native.lstm.forward`, without a stack.
            units: As for `join_gates`; their numbers do not change.
        """
        shape = inputs.shape, at, tanh_input_gate, torch.get_num_threads()
        if self._described != shape or len(units) != len(self._units) or not all(map(is_, units, self._units)):
            self._described, self._units = shape, tuple(units)
            self._describe(inputs, hidden, cell, at, tanh_input_gate)
        if self.units is not None:
            torch.mul(self.numbers, self.units, out=self.weights)
        torch.add(self.bias_ih, self.bias_hh, out=self.bias)
        self.sequence.forward(inputs, hidden, cell)
        self.states = self.sequence.states.reshape(-1, hidden.shape[-1])
        output = torch.addmm(self.readout_bias, self.states, self.readout.t())
        self.leaf = output.view(*self.sequence.states.shape[:-1], -1).requires_grad_()
        self.output = self.leaf.clone()  # which may be changed in place, as a leaf may not
        return self.output

    def gradient(self, slope: Tensor) -> Tensor:
        """Return the gradient of all numbers from that of `output`; once for every `read`."""
        rows, states = slope.reshape(-1, slope.shape[-1]), self.states
        # the order of torch's own products: the same bits
        columns = states.stride() == (1, len(states))
        of_states = self.readout.t().mm(rows.t()).t() if columns else rows.mm(self.readout)
        of_hh, of_ih, of_bias = self.sequence.backward(of_states.unflatten(0, slope.shape[:-1]))
        numbers = flattened((of_ih, of_hh, of_bias, of_bias, rows.t().mm(states), rows.sum(0)))
        return numbers if self.units is None else numbers.mul_(self.units)

    def _describe(self, inputs: Tensor, hidden: Tensor, cell: Tensor, at: range, tanh_input_gate: bool) -> None:
        (H, I), sizes = self.parameters[0].shape, [parameter.numel() for parameter in self.parameters]  # noqa: E741
        self.units = numbers_of(self._units)
        self.weights = self.numbers if self.units is None else torch.empty_like(self.numbers)
        kinds = [sum(sizes[n : n + 4]) for n in (0, 4, 8, 12)]
        ih, hh, self.bias_ih, self.bias_hh, readout, self.readout_bias = self.weights.split([*kinds, *sizes[16:]])
        self.readout, self.bias = readout.view(self.parameters[16].shape), torch.empty_like(self.bias_ih)
        weights = ih.view(4 * H, I), hh.view(4 * H, H), self.bias
        self.sequence = native.LoneSequence(inputs, hidden, cell, *weights, at, tanh_input_gate)


def reading() -> StoredNet | None:
    """Return the net whose `reading` this is inside, if any."""
    return _reading.get()


_reading: ContextVar[StoredNet | None] = ContextVar("reading", default=None)
