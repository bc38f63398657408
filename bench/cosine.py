"""The cosine transform at N = 512, batch 64: forward and training step, against filling the matrices element by element.

    python bench/cosine.py          about a minute, one thread

The fill is a Python double loop with one torch.cos and one assignment an element, two matrices (untied), with gradients
for the training step; its time is that of 4 of the 512 rows, times 128. Fails unless each is at least 100 times slower.
Shown beside it: the fastest such loop, over plain Python floats, which no gradient can pass. Times are the least of
several repeats, as other work on the machine can only add to them.
"""

import math
import time

import numpy as np
import torch

from wavebase.models.cosine import cosine_transform
from wavebase.spectrum import dct_frequencies, sample_amplitudes

N, BATCH, ROWS, AT_LEAST = 512, 64, 4, 100


def least_seconds(call, repeats: int) -> float:
    """Least of several repeats, after one call to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def plain_forward(x: np.ndarray, w: list[float], a: np.ndarray) -> np.ndarray:
    """Both matrices filled over plain Python floats, then the products."""
    matrices = []
    for _ in range(2):
        basis = np.empty((N, N))
        for m in range(N):
            for n in range(N):
                basis[m, n] = math.cos(w[m] * n)
        matrices.append(basis)
    return ((x * a) @ matrices[0].T @ matrices[1]) * a


def filled_forward(x: torch.Tensor, w: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """ROWS rows of both matrices filled over torch scalars, then the products."""
    matrices = []
    for _ in range(2):
        basis = torch.empty(ROWS, N, dtype=x.dtype)
        for m in range(ROWS):
            for n in range(N):
                basis[m, n] = torch.cos(w[m] * n)
        matrices.append(basis)
    return ((x * a) @ matrices[0].mT @ matrices[1]) * a


def main() -> None:
    torch.set_num_threads(1)
    passed = True
    for dtype in (torch.float32, torch.float64):
        net = cosine_transform(N, dtype=dtype)
        x = (2 * torch.rand(BATCH, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1).to(dtype)
        w, a = dct_frequencies(N).to(dtype), sample_amplitudes(torch.tensor([1, 2**0.5], dtype=dtype), N)
        trained = w.clone().requires_grad_()
        optimizer = torch.optim.SGD(net.parameters(), 1e-3)

        def step(net=net, x=x, optimizer=optimizer) -> None:
            optimizer.zero_grad()
            (net(x) - x).square().mean().backward()
            optimizer.step()

        def filled_step(x=x, w=trained, a=a) -> None:
            (filled_forward(x, w, a) - x).square().mean().backward()

        with torch.no_grad():
            ours = least_seconds(lambda net=net, x=x: net(x), 100)
            theirs = least_seconds(lambda x=x, w=w, a=a: filled_forward(x, w, a), 5) * N / ROWS
        plain = least_seconds(lambda x=x, w=w, a=a: plain_forward(x.numpy(), w.tolist(), a.numpy()), 3)
        our_step, their_step = least_seconds(step, 100), least_seconds(filled_step, 3) * N / ROWS
        for name, mine, filled in (("forward", ours, theirs), ("training step", our_step, their_step)):
            print(
                f"{name:<13} {dtype}: {mine * 1e3:6.2f} ms, filled {filled * 1e3:8.1f} ms, {filled / mine:6.0f} times"
            )
            passed &= filled / mine >= AT_LEAST
        print(f"{'':<13} {dtype}: forward filled over plain floats {plain * 1e3:8.1f} ms, {plain / ours:6.0f} times")
    if not passed:
        raise SystemExit(f"a part is less than {AT_LEAST} times faster than the element-by-element fill")


if __name__ == "__main__":
    main()
