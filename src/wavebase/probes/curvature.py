"""The largest Hessian eigenvalue of a loss. What follows for the learning rate of an optimiser is in `boundaries`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from wavebase.probes.snapshot import Snapshot
from wavebase.recurrence.lstm import plain
from wavebase.registry import registered


class Hessian:
    """The Hessian of a loss in its parameters where they stand, known by its products with vectors.

    Args:
        loss: evaluated once, here; must allow a second derivative.
        parameters: those that require no gradient are left out. Vectors hold all numbers of the others, in this order.
    """

    def __init__(self, loss: Callable[[], Tensor], parameters: Iterable[Tensor]):
        self.trained = [p for p in parameters if p.requires_grad]
        self.sizes = [p.numel() for p in self.trained]
        with plain():  # a graph for many products: the kernel's second derivatives would run the plain loop in each
            value = loss()
        self.finite = bool(value.isfinite())
        self.gradients: Sequence[Tensor] = ()
        if self.finite:
            self.gradients = torch.autograd.grad(
                value, self.trained, create_graph=True, allow_unused=True, materialize_grads=True
            )

    def product(self, vector: np.ndarray) -> np.ndarray:
        """The Hessian times a vector, in float64; costs one backward pass."""
        direction = torch.from_numpy(np.ascontiguousarray(vector.ravel())).to(self.trained[0]).split(self.sizes)
        along = sum((g.flatten() * d).sum() for g, d in zip(self.gradients, direction, strict=True))
        if not isinstance(along, Tensor) or not along.requires_grad:
            return np.zeros(sum(self.sizes))
        columns = torch.autograd.grad(along, self.trained, retain_graph=True, allow_unused=True, materialize_grads=True)
        return torch.cat([c.flatten() for c in columns]).double().cpu().numpy()

    def largest(
        self, scale: np.ndarray | None = None, shift: float = 0.0, seed: int = 0, tolerance: float = 1e-3
    ) -> float:
        """The largest eigenvalue of D (H + shift I) D with D = diag(scale), by Lanczos (ARPACK); nan if the loss is not finite.

        Args:
            scale: None for D = I. For a preconditioner P, P^(-1/2).
            shift: curvature added to every parameter, such as that of weight decay.
            seed: of the starting vector.
            tolerance: relative, of the eigenvalue.
        """
        if not self.finite:
            return float("nan")
        n = sum(self.sizes)
        factor = np.ones(n) if scale is None else scale

        def product(vector: np.ndarray) -> np.ndarray:
            moved = factor * vector.ravel()
            return factor * (self.product(moved) + shift * moved)

        if n < 4:  # ARPACK wants more dimensions than eigenvalues; build so small a Hessian whole
            return float(np.linalg.eigvalsh(np.stack([product(e) for e in np.eye(n)]))[-1])
        start = np.random.default_rng(seed).standard_normal(n)
        try:
            operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
            return float(eigsh(operator, k=1, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)[0])
        except ArpackNoConvergence as error:
            return float(error.eigenvalues[0]) if len(error.eigenvalues) else float("nan")
        except ArpackError:  # it refuses an operator that is zero, such as that of a weight behind saturated gates
            if product(start).any():
                raise
            return 0.0


def largest_curvature(
    loss: Callable[[], Tensor], parameters: Iterable[Tensor], seed: int = 0, tolerance: float = 1e-3
) -> float:
    """lambda_max, the largest eigenvalue of the Hessian of loss() in the parameters. Arguments as for `Hessian` and its `largest`."""
    return Hessian(loss, parameters).largest(seed=seed, tolerance=tolerance)


@registered
def sharpness(snapshot: Snapshot) -> dict[str, float]:
    """The loss's curvature where the net now stands, on the held-out training signals; a few dozen backward passes.

    curvature/lambda_max: over all trained weights. curvature/lr_times_lambda_max: 2 is the boundary of plain gradient descent,
    which training approaches by itself where lambda_max grows ("edge of stability", Cohen et al. 2021).
    """
    top = _curvature(snapshot, snapshot.trained)
    return {"curvature/lambda_max": top, "curvature/lr_times_lambda_max": top * snapshot.learning_rate}


@registered
def group_sharpness(snapshot: Snapshot) -> dict[str, float]:
    """curvature/<weight>: lambda_max of each trained weight's own block of the Hessian, the others held still."""
    return {f"curvature/{name}": _curvature(snapshot, {name: weight}) for name, weight in snapshot.trained.items()}


def _curvature(snapshot: Snapshot, weights: Mapping[str, Tensor]) -> float:
    signal, target = snapshot.held_out["training"]
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):  # the fused kernel has no second derivative
        return largest_curvature(lambda: snapshot.loss(snapshot.forward(signal), target), weights.values())
