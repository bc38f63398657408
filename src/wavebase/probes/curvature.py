"""The largest Hessian eigenvalue of a loss. `theory.boundaries` derives stable learning rates from it."""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from wavebase.limits import check_memory
from wavebase.probes.gradient import gradients
from wavebase.probes.snapshot import Snapshot
from wavebase.recurrence.lstm import plain
from wavebase.registry import registered

Loss = Callable[[], Tensor]
GRAPH_BYTES = int(1.2 * 2**30)  # most that a graph of second derivatives may keep: cutting doubles a product's time
PEAK = 2.2  # of a product's memory, in units of what the graph keeps
M_MMAP_THRESHOLD = -3  # of mallopt(3)
LARGE_WEIGHTS = 2**24  # bytes of trained weights from which on the heap is kept free of their gradients
FEWEST = 4  # sequences that are cut at all
MEASURED = 8  # sequences whose graph is measured to know the size of the whole


class Hessian:
    """The Hessian of a loss at the present parameters, as an operator that multiplies vectors.

    Args:
        loss: Evaluates the loss with a graph that can be differentiated twice. A sequence of such functions stands for
            their sum: their graphs are built anew in each product, one at a time, so that one at most is in memory
            (`loss_terms` cuts a batch so). The graph of a single function is built once.
        parameters: Those that require no gradient are left out. A vector holds all numbers of the others, in order.
    """

    def __init__(self, loss: Loss | Sequence[Loss], parameters: Iterable[Tensor]):
        self.trained = [p for p in parameters if p.requires_grad]
        self.sizes = [p.numel() for p in self.trained]
        self.terms = [loss] if callable(loss) else list(loss)
        self.kept: Sequence[Tensor] | None = None
        with torch.no_grad():
            self.finite = len(self.terms) == 1 or all(bool(term().isfinite()) for term in self.terms)
        if len(self.terms) == 1:
            self.kept = _first_derivatives(self.terms[0], self.trained)
            self.finite = all(bool(g.isfinite().all()) for g in self.kept)

    def product(self, vector: np.ndarray) -> np.ndarray:
        """Multiply the Hessian by a vector.

        Args:
            vector: As many numbers as the parameters have.

        Returns:
            float64 of the same length. The cost is one backward pass, with several terms also the passes that build
            their graphs.
        """
        direction = torch.from_numpy(np.ascontiguousarray(vector.ravel())).to(self.trained[0]).split(self.sizes)
        return sum((self._product(term, direction) for term in self.terms), np.zeros(sum(self.sizes)))

    def _product(self, term: Loss, direction: Sequence[Tensor]) -> np.ndarray:
        slopes = _first_derivatives(term, self.trained) if self.kept is None else self.kept
        parts = [(g.flatten() * d).sum() for g, d in zip(slopes, direction, strict=True)]
        along = sum(parts, torch.zeros_like(parts[0]))
        columns = gradients(along, self.trained, retain_graph=self.kept is not None)
        return torch.cat([c.flatten() for c in columns]).double().cpu().numpy()

    def largest(
        self, scale: np.ndarray | None = None, shift: float = 0.0, seed: int = 0, tolerance: float = 1e-3
    ) -> float:
        """Find the largest eigenvalue of D (H + shift I) D with D = diag(scale), by Lanczos (ARPACK).

        Args:
            scale: D's diagonal; None for the identity. For a preconditioner P it is P^(-1/2).
            shift: Curvature added to every parameter, such as that of weight decay.
            seed: Of the starting vector.
            tolerance: Relative, of the eigenvalue.

        Returns:
            The eigenvalue; nan without parameters, or where the loss or one of its derivatives is not finite.
        """
        n = sum(self.sizes)
        factor = np.ones(n) if scale is None else scale

        def product(vector: np.ndarray) -> np.ndarray:
            scaled = factor * vector.ravel()
            found = factor * (self.product(scaled) + shift * scaled)
            if not np.isfinite(found).all():
                raise FloatingPointError
            return found

        if not self.finite or n == 0:
            return float("nan")
        try:
            if n < 4:  # ARPACK needs more dimensions than eigenvalues
                return float(np.linalg.eigvalsh(np.stack([product(e) for e in np.eye(n)]))[-1])
            return _lanczos(product, np.random.default_rng(seed).standard_normal(n), tolerance)
        except FloatingPointError:
            return float("nan")


def _first_derivatives(loss: Loss, trained: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the gradient with its graph; nan where the loss is not finite."""
    # the compiled recurrence would run the plain loop in each product; torch's fused LSTM has no second derivative
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False), plain():
        value = loss()
        return gradients(value, trained, create_graph=True) if value.isfinite() else [p * torch.nan for p in trained]


def _lanczos(product: Callable[[np.ndarray], np.ndarray], start: np.ndarray, tolerance: float) -> float:
    from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh

    n = len(start)
    operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
    # with ARPACK's own 20 vectors it takes 21 products, with 10 mostly 11: the error at a tolerance of 1e-3 stays below 1e-5
    how = {"k": 1, "which": "LA", "v0": start, "tol": tolerance, "ncv": min(n, 10)}
    try:
        return float(eigsh(operator, return_eigenvectors=False, **how)[0])
    except ArpackNoConvergence as error:
        return float(error.eigenvalues[0]) if len(error.eigenvalues) else float("nan")
    except ArpackError:  # ARPACK refuses the zero operator, such as that of a weight behind saturated gates
        if product(start).any():
            raise
        return 0.0


def largest_curvature(
    loss: Loss | Sequence[Loss], parameters: Iterable[Tensor], seed: int = 0, tolerance: float = 1e-3
) -> float:
    """Find lambda_max, the largest eigenvalue of the Hessian of a loss.

    Args:
        loss, parameters: See `Hessian`.
        seed, tolerance: See `Hessian.largest`.
    """
    return Hessian(loss, parameters).largest(seed=seed, tolerance=tolerance)


def loss_terms(
    forward: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    target: Tensor,
    parameters: Iterable[Tensor],
    mean_over_sequences: bool,
) -> list[Loss]:
    """Cut the loss of a batch into terms whose graphs of second derivatives fit `GRAPH_BYTES`.

    Args:
        forward: Maps inputs to outputs.
        loss: Maps (output, target) to a scalar.
        inputs, target: The batch, sequences first.
        parameters: Those by which the loss will be differentiated.
        mean_over_sequences: Whether the loss is a mean over the sequences, so that a sum of terms is exact.

    Returns:
        Functions whose values add up to the loss: one for the whole batch where it fits, where the loss is no mean, or
        where an output depends on other sequences of its batch (as behind a batch norm).

    Raises:
        ValueError: If a term needs more memory than this process has.
    """
    whole: list[Loss] = [lambda: loss(forward(inputs), target)]
    if not (mean_over_sequences and isinstance(inputs, Tensor) and len(inputs) == len(target) >= FEWEST):
        return whole
    trained = [p for p in parameters if p.requires_grad]
    if sum(p.nbytes for p in trained) >= LARGE_WEIGHTS:
        _return_large_blocks()
    some = slice(0, MEASURED)
    measured = _graph_bytes(lambda: loss(forward(inputs[some]), target[some]), trained)
    one = measured / min(MEASURED, len(inputs))
    count = min(len(inputs), math.ceil(one * len(inputs) / GRAPH_BYTES))
    largest = one * -(-len(inputs) // max(count, 1))
    check_memory(int(PEAK * largest), "the graph of the loss's curvature", "use a smaller T or model")
    if count <= 1:
        return whole
    parts = list(zip(inputs.tensor_split(count), target.tensor_split(count), strict=True))
    with torch.no_grad():
        half = inputs[: len(inputs) // 2]
        among_others, apart = forward(inputs)[: len(half)], forward(half)
    if not torch.allclose(among_others, apart, rtol=torch.finfo(apart.dtype).eps ** 0.5, equal_nan=True):
        return whole

    def term(part: Tensor, wanted: Tensor) -> Loss:
        return lambda: loss(forward(part), wanted) * (len(part) / len(inputs))

    return [term(*part) for part in parts]


def _return_large_blocks() -> None:
    """Let glibc return freed blocks of 4 MiB and more to the system, from now on.

    The gradients of large weights, one of 25 MB a step at T = 128, otherwise leave holes in the heap that small tensors
    of the graph occupy, so that the process grows by 3 GiB in each of the two passes.
    """
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no mallopt
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**22)


def _graph_bytes(loss: Loss, trained: Sequence[Tensor]) -> int:
    """Measure what the graph of a loss's second derivatives keeps."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = _first_derivatives(loss, trained)
    del kept
    return sum(sizes.values())


@registered
def sharpness(snapshot: Snapshot) -> dict[str, float]:
    """Measure the loss's curvature on the held-out training signals, in a few dozen backward passes.

    Returns:
        curvature/lambda_max: over all trained weights. curvature/lr_times_lambda_max: 2 is the boundary of plain
        gradient descent, which training approaches by itself where lambda_max grows ("edge of stability", Cohen et
        al. 2021). Empty without trained weights.
    """
    if not snapshot.trained:
        return {}
    top = _curvatures(snapshot, [snapshot.trained])[0]
    return {"curvature/lambda_max": top, "curvature/lr_times_lambda_max": top * snapshot.learning_rate}


@registered
def group_sharpness(snapshot: Snapshot) -> dict[str, float]:
    """Measure curvature/<weight>: lambda_max of each trained weight's own block of the Hessian."""
    found = _curvatures(snapshot, [{name: weight} for name, weight in snapshot.trained.items()])
    return {f"curvature/{name}": top for name, top in zip(snapshot.trained, found, strict=True)}


def _curvatures(snapshot: Snapshot, groups: Sequence[Mapping[str, Tensor]]) -> list[float]:
    signal, target = snapshot.held_out["training"]
    terms = loss_terms(
        snapshot.forward, snapshot.loss, signal, target, snapshot.trained.values(), snapshot.mean_over_sequences
    )
    return [largest_curvature(terms, group.values()) for group in groups]
