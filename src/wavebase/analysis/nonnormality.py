"""How far a matrix is from normal, the gauge that must be fixed before one asks, and its pseudospectrum."""

from __future__ import annotations

import numpy as np

KREISS_UNITS = 128  # above, hundreds of singular value problems would take minutes
LARGEST_SCALE = 1e6
AT_ONCE = 2**21  # numbers of matrices times points of a grid that are worked on together
INDEPENDENT = 1e4  # condition number of the eigenvectors up to which they bound a resolvent


def balancing_scale(weights: np.ndarray, iterations: int = 2000, tolerance: float = 1e-10) -> np.ndarray:
    """Return the scale for which W_ij scale_j / scale_i has rows and columns of equal off-diagonal 2-norm.

    Such a rescaling of ReLU units leaves the net's function alone, but moves norms, singular values, energies and
    non-normality. The balanced form has the least Frobenius norm and is unique for an irreducible matrix (Osborne 1960), so
    what is measured there belongs to the function. scipy.linalg.matrix_balance rounds scales to powers of two, which depend
    on the gauge at the start. A reducible matrix has no least form: scales stay within 1e6 of where they were, and a unit
    without inputs or without outputs is left alone.

    The method minimises sum_ij W_ij^2 exp(2 (d_j - d_i)), which is convex in d = log scale, for all units at once. The bound
    exp(2 (u - v)) <= (exp(4u) + exp(-4v)) / 2 separates them; its minimum is d_i += log(into_i / out_i) / 8, a descent at
    every step.

    Args:
        weights: [..., H, H].
        iterations: Largest number of steps.
        tolerance: Change of d below which it stops.

    Returns:
        [..., H], positive, of geometric mean 1.
    """
    square = weights**2
    H = weights.shape[-1]
    square[..., range(H), range(H)] = 0
    log_scale = np.zeros(weights.shape[:-1])
    bound = np.log(LARGEST_SCALE)
    for _ in range(iterations):
        size = np.exp(2 * log_scale)
        into = (square @ size[..., None])[..., 0] / size
        out = (square.mT @ (1 / size)[..., None])[..., 0] * size
        usable = (into > 0) & (out > 0)
        change = np.log(np.where(usable, into, 1.0) / np.where(usable, out, 1.0)) / 8
        moved = np.clip(log_scale + change, -bound, bound) - log_scale
        log_scale += moved
        if np.abs(moved).max(initial=0.0) < tolerance:
            break
    # a common factor changes nothing: fix it
    return np.exp(log_scale - log_scale.mean(-1, keepdims=True))


def balanced(weights: np.ndarray) -> np.ndarray:
    """Return the matrices [..., H, H] in balanced coordinates."""
    scale = balancing_scale(weights)
    return weights * scale[..., None, :] / scale[..., :, None]


def henrici(weights: np.ndarray, eigenvalues: np.ndarray) -> np.ndarray:
    """Return sqrt(||W||_F^2 - sum |lambda|^2) / ||W||_F of [..., H, H]: 0 for a normal matrix, 1 for a nilpotent one."""
    size = (weights**2).sum((-2, -1))
    departure = (size - (np.abs(eigenvalues) ** 2).sum(-1)) / np.where(size > 0, size, 1.0)
    rounding = weights.shape[-1] * np.finfo(float).eps  # its square root would look like a departure of 1e-8
    return np.sqrt(np.where(departure > rounding, departure, 0))


def kreiss(weights: np.ndarray, eigenvalues: np.ndarray, radii: int = 8, angles: int = 9) -> np.ndarray:
    """Return Kreiss constants of W / spectral radius, [...]: sup over |z| > 1 of (|z| - 1) ||(z - W)^-1||, on a grid.

    The constant bounds the largest transient from below: max_t ||W^t|| >= K (Trefethen and Embree, Spectra and Pseudospectra,
    2005, ch. 14). It is 1 for a normal matrix. Dividing by the spectral radius removes growth and leaves the transient. The
    grid (moduli 1.001 to 11, logarithmic in |z| - 1; half the circle, because W is real) gives a lower estimate. The result
    is nan above 128 units and for a nilpotent matrix.
    """
    H = weights.shape[-1]
    radius = np.abs(eigenvalues).max(-1)
    if H > KREISS_UNITS:
        return np.full(radius.shape, np.nan)
    usable = radius > 1e-8 * np.sqrt((weights**2).sum((-2, -1)) + 1e-300)
    scaled = weights / np.where(usable, radius, 1.0)[..., None, None]
    excess = np.repeat(np.geomspace(1e-3, 10, radii), angles)
    z = (1 + excess) * np.tile(np.exp(1j * np.linspace(0, np.pi, angles)), radii)
    every, fits = scaled.reshape(-1, H, H), np.flatnonzero(usable)
    largest = np.full(len(every), np.nan)
    many = max(1, AT_ONCE // (len(z) * H * H))
    for some in (fits[n : n + many] for n in range(0, len(fits), many)):
        largest[some] = _largest_excess(every[some], z, excess)
    return np.reshape(largest, radius.shape)


def _largest_excess(weights: np.ndarray, z: np.ndarray, excess: np.ndarray) -> np.ndarray:
    """Return the largest of excess ||(z - W)^-1|| over points z [n] for each of [N, H, H]. Points whose upper bound is smaller
    are not computed."""
    bound = excess * _resolvent_bound(weights, z)
    order = np.argsort(-bound, axis=1, kind="stable")
    largest, left = np.zeros(len(weights)), np.arange(len(weights))
    for start in range(0, len(z), 4):
        left = left[~(bound[left, order[left, start]] < largest[left])]
        if not len(left):
            break
        some = order[left, start : start + 4]
        shifted = z[some][..., None, None] * np.eye(weights.shape[-1]) - weights[left, None]
        smallest = np.linalg.svd(shifted, compute_uv=False)[..., -1]
        largest[left] = np.maximum(largest[left], (excess[some] / np.maximum(smallest, 1e-300)).max(1))
    return largest


def _resolvent_bound(weights: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return upper bounds [N, n] of ||(z - W)^-1|| for [N, H, H] at points z [n]: its Frobenius norm, from one
    eigendecomposition for all z, and 1 / (|z| - ||W||)."""
    beyond = np.abs(z) - np.linalg.norm(weights, 2, axis=(-2, -1))[:, None]
    bound = np.divide(1, beyond, out=np.full(beyond.shape, np.inf), where=beyond > 0)
    values, vectors = np.linalg.eig(weights)
    try:
        inverse = np.linalg.inv(vectors)
    except np.linalg.LinAlgError:  # of one of them
        return bound if len(weights) == 1 else np.concatenate([_resolvent_bound(one[None], z) for one in weights])
    # ||V D V^-1||_F^2 = d* (V* V o (V^-1 V^-*)^T) d with d = 1 / (z - eigenvalues)
    with np.errstate(over="ignore", invalid="ignore"):  # eigenvectors that are nearly dependent
        independent = np.linalg.norm(vectors, axis=(-2, -1)) * np.linalg.norm(inverse, axis=(-2, -1)) <= INDEPENDENT
        form = (vectors.conj().mT @ vectors) * (inverse @ inverse.conj().mT).mT
        d = 1 / (z - values[..., None])
        frobenius = np.sqrt(np.maximum((d.conj() * (form @ d)).sum(-2).real, 0))
    # its rounding is below 1e-6 up to INDEPENDENT
    return np.where(independent[:, None], np.minimum(bound, frobenius * (1 + 1e-4)), bound)


def pseudospectrum(weight: np.ndarray, extent: float, points: int = 61) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the real axis [points], the imaginary axis, and the smallest singular value of z - W on a square of half side
    `extent`, [imaginary, real]. W is real, so one half is the other's mirror image."""
    axis = np.linspace(-extent, extent, points)
    half = np.array(
        [
            np.linalg.svd((axis + 1j * y)[:, None, None] * np.eye(len(weight)) - weight, compute_uv=False)[:, -1]
            for y in axis[points // 2 :]
        ]
    )
    return axis, axis, np.concatenate([half[::-1][: points // 2], half])
