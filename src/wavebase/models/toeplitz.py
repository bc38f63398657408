"""Stationary processes: covariances, solving with them, and the forecast they imply.

A sum of sinusoids of unknown phase is a stationary process. If cosine and sine of period p have amplitudes of variance
gamma_p, its correlation at lag k is c(k) = sum_p gamma_p cos(2 pi k / p), and the covariance of N samples is the
symmetric Toeplitz matrix C[t, s] = c(|t - s|). Leading axes are batches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def covariance(correlation: Tensor) -> Tensor:
    """Return the Toeplitz matrix [..., N, N] of correlations at lags 0..N-1, [..., N]."""
    both_sides = torch.cat([correlation.flip(-1), correlation[..., 1:]], -1)
    return both_sides.unfold(-1, correlation.shape[-1], 1).flip(-2)


def least_noise(N: int, dtype: torch.dtype) -> float:
    """Return the least white noise, relative to the signal's power, with which a covariance can be factorised.

    The covariance of N samples of few sinusoids has few eigenvalues that are not zero; rounding leaves the others within
    about N eps of zero. 1e-4 for 100 samples in float32.
    """
    return 8 * N * torch.finfo(dtype).eps


def solve(correlation: Tensor, x: Tensor) -> Tensor:
    """Return C^-1 x for C = covariance(correlation), both [..., N]; differentiable in both, to any order.

    Raises:
        torch.linalg.LinAlgError: If C is not positive definite.
    """
    return _Solve.apply(correlation, x)[0]  # type: ignore[no-untyped-call]


def forecast(correlation: Tensor, solved: Tensor) -> Tensor:
    """Return E[x(N + h) | x] = sum_s c(N + h - s) (C^-1 x)(s) for h = 0..H-1, [..., H].

    Args:
        correlation: Of the signal without its noise, at lags 0..N+H-1.
        solved: C^-1 x, [..., N], where C includes the noise.
    """
    N = solved.shape[-1]
    return (correlation.unfold(-1, N, 1)[..., 1:, :].flip(-1) * solved.unsqueeze(-2)).sum(-1)


class _Solve(torch.autograd.Function):
    """C^-1 x whose gradient reuses the Cholesky factor.

    For a Toeplitz matrix the gradient is a correlation of two solutions, n log n operations; the gradient of a general
    factorisation costs several n^3.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(correlation: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        factor = torch.linalg.cholesky(covariance(correlation))
        return torch.cholesky_solve(x.unsqueeze(-1), factor).squeeze(-1), factor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[0], *output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, Tensor]:
        correlation, solved, factor = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives the solution must be differentiable itself
            of_x = solve(correlation, gradient)
        else:
            of_x = torch.cholesky_solve(gradient.unsqueeze(-1), factor).squeeze(-1)
        # dC = -of_x solved^T, summed over the diagonals t - s = k and -k
        N = solved.shape[-1]
        lags = torch.fft.irfft(torch.fft.rfft(solved, 2 * N).conj() * torch.fft.rfft(of_x, 2 * N), 2 * N)
        below = torch.cat([torch.zeros_like(lags[..., :1]), lags[..., N + 1 :].flip(-1)], -1)
        return -(lags[..., :N] + below), of_x
