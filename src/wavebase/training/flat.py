"""All parameters of a net stepped as one: the same arithmetic, without torch's bookkeeping for every parameter."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn, optim

from wavebase.recurrence.autograd import flattened
from wavebase.training.optimizers import ELEMENTWISE


class FlatOptimizer:
    """Steps in an optimiser's place. The parameters become views on one tensor, the single parameter of `optimizer`.

    Args:
        own: The optimiser, for which `can_be_flat` holds; it keeps its state from before the last `sync`.
    """

    def __init__(self, own: optim.Optimizer):
        self.own, self.parameters = own, list[Tensor](own.param_groups[0]["params"])
        self.sizes = [parameter.numel() for parameter in self.parameters]
        self.numbers = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in self.parameters]))
        for parameter, part in zip(self.parameters, self.numbers.detach().split(self.sizes), strict=True):
            parameter.data = part.view(parameter.shape)
        settings = {key: value for key, value in own.param_groups[0].items() if key != "params"}
        if self.numbers.is_cpu and settings.get("foreach", 0) is None:
            settings["foreach"] = False  # what torch chooses there; it need not look
        kind: Any = type(own)
        self.optimizer = kind([{"params": [self.numbers], **settings}])
        step: Any = type(self.optimizer).step
        # without torch's label for its profiler, which costs more than the arithmetic of a small net
        self._update = partial(step.__wrapped__ if getattr(step, "hooked", False) else step, self.optimizer)
        states = [own.state.get(parameter, {}) for parameter in self.parameters]
        for key, value in states[0].items():
            if isinstance(value, Tensor) and value.shape == self.parameters[0].shape:
                value = torch.cat([state[key].flatten() for state in states])
            elif isinstance(value, Tensor):  # counts steps
                value = value.clone()
            self.optimizer.state[self.numbers][key] = value

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.numbers.grad = None
        for parameter in self.parameters:
            parameter.grad = None

    def has_gradients(self) -> bool:
        """Return whether the loss depends on every parameter."""
        return self.numbers.grad is not None or all(parameter.grad is not None for parameter in self.parameters)

    def step(self) -> None:
        """Step along the gradients of the parameters and of `numbers`."""
        own = [parameter.grad for parameter in self.parameters]
        if self.numbers.grad is None:
            self.numbers.grad = flattened(own)  # type: ignore[arg-type]  # all have one
        elif any(gradient is not None for gradient in own):  # a net that joins its gates and uses them otherwise too
            pairs = zip(own, self.parameters, strict=True)
            self.numbers.grad += flattened([torch.zeros_like(p) if g is None else g for g, p in pairs])
        self._update()
        self.numbers.grad = None

    def sync(self) -> None:
        """Give the optimiser its state."""
        for key, value in self.optimizer.state.get(self.numbers, {}).items():
            flat = isinstance(value, Tensor) and value.shape == self.numbers.shape
            parts = value.split(self.sizes) if flat else [value] * len(self.sizes)
            for parameter, part in zip(self.parameters, parts, strict=True):
                own = part.view(parameter.shape) if flat else part.clone() if isinstance(part, Tensor) else part
                self.own.state[parameter][key] = own


def can_be_flat(optimizer: optim.Optimizer) -> bool:
    """Return whether `FlatOptimizer` can step in this optimiser's place and gives the same numbers."""
    if type(optimizer) not in ELEMENTWISE or len(optimizer.param_groups) > 1:
        return False
    parameters = optimizer.param_groups[0]["params"]
    alike = len({(parameter.dtype, parameter.device) for parameter in parameters}) == 1
    states = [optimizer.state.get(parameter, {}) for parameter in parameters]
    counts = {repr([v for v in state.values() if not isinstance(v, Tensor) or v.ndim == 0]) for state in states}
    # the moments of a single number look like counts of steps
    return alike and len(counts) == 1 and all(parameter.ndim for parameter in parameters)
