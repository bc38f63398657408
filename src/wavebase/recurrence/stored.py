"""A lone net whose numbers lie in one tensor, read and differentiated by hand: a training step without autograd."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from operator import is_
from typing import Any

import torch
from torch import Tensor

from wavebase.recurrence.autograd import any_needs_gradient, numbers_of
from wavebase.recurrence.native import lstm as native


class StoredNet:
    """A recurrence and its linear readout: `wavebase.recurrence.lstm.read_sequence` of weights that are views on one tensor.

    The buffers, and their description for the native library, are made once for each shape of the input. What autograd
    would cost is half of a small net's step (`bench/one_step.py`).

        with stored:
            output = net(inputs)
        stored.gradient(slope)  # of the loss with respect to stored.output, in stored.leaf.grad after loss.backward()

    Args:
        numbers: All parameters, [sum of their sizes].
        parameters: Their views on `numbers`, in the order of `read_sequence`; a net with others is never read from it.
        workspace: See `native.lstm.LoneSequence`.

    Attributes:
        output: What the first `read_sequence` of these parameters inside the context returned, or None.
        leaf: Where autograd's graph of `output` begins.
        without_graph: Whether it has none, because the caller knows the slope.
    """

    def __init__(self, numbers: Tensor, parameters: Sequence[Tensor], workspace: dict[Any, Tensor] | None = None):
        self.numbers, self.parameters = numbers.detach(), parameters
        self.workspace = {} if workspace is None else workspace
        self.output: Tensor | None = None
        self.without_graph = False
        self._described: Any = None
        self._units: Sequence[Tensor] = ()

    def __enter__(self) -> StoredNet:
        self.output, self._token = None, _reading.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _reading.reset(self._token)

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
        """Return the readout [B, states read, F], which stays in `output`.

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
        output = torch.addmm(self.readout_bias, self.states, self.readout_t).view(self.shape)
        if not self.without_graph:
            self.leaf = output.requires_grad_()
            output = self.leaf.clone()  # which may be changed in place, as a leaf may not
        self.output = output
        return output

    def gradient(self, slope: Tensor) -> Tensor:
        """Return the gradient of all numbers from that of `output`, once for every `read`; the next one overwrites it."""
        rows, states = slope.reshape(-1, slope.shape[-1]), self.states
        # the order of torch's own products: the same bits
        columns = states.stride() == (1, len(states))
        of_states = self.readout_t.mm(rows.t()).t() if columns else rows.mm(self.readout)
        self.sequence.backward(of_states.view(self.sequence.states.shape))
        self.of_bias_hh.copy_(self.of_bias_ih)
        torch.mm(rows.t(), states, out=self.of_readout)
        torch.sum(rows, 0, out=self.of_readout_bias)
        return self.gradients if self.units is None else self.gradients.mul_(self.units)

    def _describe(self, inputs: Tensor, hidden: Tensor, cell: Tensor, at: range, tanh_input_gate: bool) -> None:
        (H, I), shape = self.parameters[0].shape, self.parameters[16].shape  # noqa: E741
        sizes = [4 * H * I, 4 * H * H, 4 * H, 4 * H, shape.numel(), shape[0]]
        self.units, self.gradients = numbers_of(self._units), torch.empty_like(self.numbers)
        self.weights = self.numbers if self.units is None else torch.empty_like(self.numbers)
        ih, hh, self.bias_ih, self.bias_hh, readout, self.readout_bias = self.weights.split(sizes)
        self.readout, self.readout_t, self.bias = readout.view(shape), readout.view(shape).t(), self.bias_ih.clone()
        _, _, self.of_bias_ih, self.of_bias_hh, of_readout, self.of_readout_bias = self.gradients.split(sizes)
        self.of_readout = of_readout.view(shape)
        weights = ih.view(4 * H, I), hh.view(4 * H, H), self.bias
        tensors = inputs, hidden, cell, *weights
        self.sequence = native.LoneSequence(tensors, at, tanh_input_gate, self.gradients, self.workspace)
        self.shape = len(inputs), len(at), shape[0]


def reading() -> StoredNet | None:
    """Return the net inside whose context this is called, or None."""
    return _reading.get()


_reading: ContextVar[StoredNet | None] = ContextVar("reading", default=None)
