"""The Gauss-Newton spectrum of a net's outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

ROWS = 1024  # outputs whose Jacobian stands for the task's: the law's error from so few is under 1 %


FLAT = 1e-12  # share of the largest eigenvalue from which on a direction has curvature


@dataclass(frozen=True)
class GaussNewton:
    """The Gauss-Newton matrix H = 2 J'J / R of a mean squared loss.

    jacobian: J [R, L], of outputs by those trained parameters that an output feels; live: which of all they are, bool [P].
    """

    jacobian: Tensor
    live: Tensor

    @cached_property
    def eigenvalues(self) -> Tensor:
        """All that are not zero, [K], the largest first."""
        return self._decomposed[0]

    @cached_property
    def eigenvectors(self) -> Tensor:
        """Theirs, orthonormal columns [P, K]."""
        return self._everywhere(self._of_live)

    @cached_property
    def diagonal(self) -> Tensor:
        """H_ii, [P]."""
        return self._everywhere(2 * self.jacobian.square().mean(0))

    def along(self, vectors: Tensor) -> Tensor:
        """v'H v for columns v, [P, K] to [K]."""
        return 2 * (self.jacobian @ vectors[self.live]).square().mean(0)

    def scaled(self, factors: Tensor) -> GaussNewton:
        """The same for parameters divided by `factors` [P]."""
        return GaussNewton(self.jacobian * factors[self.live], self.live)

    @cached_property
    def _of_live(self) -> Tensor:
        values, vectors = self._decomposed
        if len(vectors) == self.jacobian.shape[1]:
            return vectors
        return self.jacobian.mT @ (vectors * (2 / (len(self.jacobian) * values)).sqrt())

    @cached_property
    def _decomposed(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues and eigenvectors of the smaller of J'J and J J', whose eigenvalues that are not zero are the same."""
        rows, columns = self.jacobian.shape
        gram = self.jacobian.mT @ self.jacobian if columns <= rows else self.jacobian @ self.jacobian.mT
        values, vectors = torch.linalg.eigh(2 / rows * gram)
        values, vectors = values.flip(0), vectors.flip(1)
        kept = values > FLAT * values[:1].clamp_min(0)
        return values[kept], vectors[:, kept]

    def _everywhere(self, of_live: Tensor) -> Tensor:
        whole = of_live.new_zeros(len(self.live), *of_live.shape[1:])
        whole[self.live] = of_live
        return whole


def gauss_newton(net: nn.Module, trained: Mapping[str, Tensor], signal: Tensor) -> GaussNewton:
    """The Gauss-Newton matrix of the mean squared loss in a net's trained parameters, where it now stands.

    Args:
        net: Maps [batch, samples] to outputs [batch, ...].
        trained: Its trained parameters by name; all of them together, in this order, are the P coordinates.
        signal: Sequences [batch, samples]; `enough` of them. The time is that of one backward pass for each output.
    """
    everything = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    fixed = {name: tensor.detach() for name, tensor in everything.items() if name not in trained}
    leaves = {name: parameter.detach() for name, parameter in trained.items()}

    def of_one(leaves: dict[str, Tensor], sequence: Tensor) -> Tensor:
        return torch.func.functional_call(net, {**leaves, **fixed}, (sequence[None],)).flatten()

    derivatives = torch.func.vmap(torch.func.jacrev(of_one), (None, 0))(leaves, signal)
    columns = [derivatives[name].flatten(0, 1).flatten(1) for name in trained]
    size = torch.cat([part.abs().amax(0) for part in columns])
    live = size > FLAT * size.max()  # weights behind saturated gates have derivatives of 1e-16
    counts = [part.shape[1] for part in columns]
    chosen = [part[:, alive] for part, alive in zip(columns, live.split(counts), strict=True)]
    return GaussNewton(torch.cat(chosen, 1), live)


def enough(outputs: int) -> int:
    """Sequences that make `ROWS` rows. outputs: of one sequence, windows x bins."""
    return -(-ROWS // outputs)
