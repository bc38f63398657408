"""The largest Hessian eigenvalue of a loss, and with it the stability boundary of gradient descent, 2/lambda_max."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from wavebase.probes.snapshot import Snapshot
from wavebase.recurrence import plain
from wavebase.registry import registered


def largest_curvature(
    loss: Callable[[], Tensor], parameters: Iterable[Tensor], seed: int = 0, tolerance: float = 1e-3
) -> float:
    """lambda_max, the largest eigenvalue of the Hessian of loss() in the parameters, by Lanczos (ARPACK).

    loss: evaluated once, must allow a second derivative; each Lanczos step costs one Hessian-vector product. seed: of
    the starting vector. tolerance: relative, of the eigenvalue. Returns nan where the loss is not finite.
    """
    trained = [p for p in parameters if p.requires_grad]
    sizes = [p.numel() for p in trained]
    with plain():  # a graph for many products: the kernel's second derivatives would run the plain loop in each
        value = loss()
    if not value.isfinite():
        return float("nan")
    gradients = torch.autograd.grad(value, trained, create_graph=True, allow_unused=True, materialize_grads=True)

    def product(vector: np.ndarray) -> np.ndarray:
        direction = torch.from_numpy(np.ascontiguousarray(vector.ravel())).to(trained[0]).split(sizes)
        along = sum((g.flatten() * d).sum() for g, d in zip(gradients, direction, strict=True))
        if not isinstance(along, Tensor) or not along.requires_grad:
            return np.zeros(sum(sizes))
        columns = torch.autograd.grad(along, trained, retain_graph=True, allow_unused=True, materialize_grads=True)
        return torch.cat([c.flatten() for c in columns]).double().cpu().numpy()

    n = sum(sizes)
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
