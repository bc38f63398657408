"""Loss and gradients on a CUDA device as one CUDA graph: a small net's step is otherwise mostly the launching of kernels."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger("wavebase")
WARM_UP = 3  # calls before the one that is recorded: kernels are compiled and libraries choose theirs


class ReplayedFunction:
    """Calls a function of tensors. On a CUDA device its kernels are recorded once and replayed from then on.

    A replay repeats the recorded kernels on new inputs; nothing of the function's Python runs. Tensors that the function
    reads besides its arguments are read anew, so parameters and buffers may change in place. A function that needs a
    value on the host is never recorded; one line says so.

    Args:
        function: Takes tensors or nested tuples of them; returns tensors, or None in their place. A result is
            overwritten by the next call.
        recorded: False: every call is a plain call.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor | None]], recorded: bool = True):
        self.function, self.calls = function, 0 if recorded else None
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *arguments: Any) -> Sequence[Tensor | None]:
        given = list(_tensors(arguments))
        if self.calls is None or not given[0].is_cuda:
            return self.function(*arguments)
        with torch.cuda.device_of(given[0]):
            self.calls += 1
            if self.calls < WARM_UP:
                return self.function(*arguments)
            if self.calls == WARM_UP:
                return self._without_waiting(arguments)
            if self.graph is None and not self._record(arguments):
                return self.function(*arguments)
            if [tensor.shape for tensor in given] != [tensor.shape for tensor in self.inputs]:
                return self.function(*arguments)
            for own, tensor in zip(self.inputs, given, strict=True):
                own.copy_(tensor, non_blocking=True)
            self.graph.replay()  # type: ignore[union-attr]
            return self.results

    def _without_waiting(self, arguments: tuple[Any, ...]) -> Sequence[Tensor | None]:
        """Call the function with an error for whatever waits for the device, which a recording does not survive."""
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls the mode a prototype
            torch.cuda.set_sync_debug_mode("error")
        try:
            return self.function(*arguments)
        except RuntimeError as error:
            self._give_up(error)
        finally:
            torch.cuda.set_sync_debug_mode(mode)
        return self.function(*arguments)

    def _record(self, arguments: tuple[Any, ...]) -> bool:
        static = _copied(arguments)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.results = self.function(*static)
        except RuntimeError as error:
            self._give_up(error)
            return False
        self.inputs, self.graph = list(_tensors(static)), graph
        return True

    def _give_up(self, error: BaseException) -> None:
        self.calls = None
        while error.__context__ is not None:  # what ended the recording, not that it has ended
            error = error.__context__
        _tell(str(error).strip().splitlines()[0])


@cache
def _tell(reason: str) -> None:
    log.warning("steps are not replayed as CUDA graphs, so their kernels are launched one by one: %s", reason)


def _tensors(nested: Any) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    else:
        for part in nested:
            yield from _tensors(part)


def _copied(nested: Any) -> Any:
    return nested.clone() if isinstance(nested, Tensor) else tuple(map(_copied, nested))
