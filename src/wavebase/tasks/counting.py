"""The next symbol of a stream of strings a^n b^n (or a^n b^n c^n, ...), whose probabilities are known."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from wavebase.registry import registered
from wavebase.tasks.base import Batch, require_at_least


@registered
class Counting:
    """Input: T one-hot symbols [batch, T, L + 1] of strings # letter_1^n .. letter_L^n, one after the other from the first of one,
    n geometric with the probability `stop`; target: the next symbol of each; loss: cross-entropy in nats.

    sampled: training targets are the symbols that follow; false: their true probabilities, which held-out sets always have.

    `held_out`: training, `held_out_count` streams; lengths, in row n the string of n = 1..`longest`, then a first letter of
    another for ever. `baselines` are the cross-entropies, over the true probabilities' own, of two constant predictions: zero (all symbols alike) and the best.
    """

    def __init__(
        self,
        T: int,
        dtype: torch.dtype,
        device: torch.device,
        probe_generator: torch.Generator,
        *,
        letters: int = 2,
        stop: float = 0.3,
        sampled: bool = True,
        longest: int = 64,
        held_out_count: int = 256,
    ):
        require_at_least(
            {"held_out_count": 2, "letters": 2, "longest": 1},
            held_out_count=held_out_count,
            letters=letters,
            longest=longest,
        )
        if not 0.01 <= stop <= 0.99:
            raise ValueError(f"task.stop must lie in 0.01..0.99, got {stop}; use 0.3")
        self.T, self.letters, self.stop, self.sampled = T, letters, stop, sampled
        self.dtype, self.device = dtype, device
        self.sizes: dict[str, Any] = {"letters": letters, "stop": stop}
        counts = torch.tensor([[n, 10**9] for n in range(1, longest + 1)])
        self.held_out = {
            "training": self._batch(self._counts(held_out_count, probe_generator), T, sampled=False),
            "lengths": self._batch(counts, letters * longest + 1, sampled=False),
        }
        target = self.held_out["training"].target.double()
        mean = target.mean((0, 1)).clamp_min(1e-300).log().expand_as(target)
        self.baselines = {
            "zero": self.loss(torch.zeros_like(target), target).item(),
            "mean": self.loss(mean, target).item(),
        }

    def sample_batch(self, batch: int, generator: torch.Generator, step: int = 0) -> Batch:
        """Fresh streams."""
        return self._batch(self._counts(batch, generator), self.T, self.sampled)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of logits over probabilities, less their entropy: nats a symbol over the optimum.

        With sampled targets the entropy is zero and this is the usual loss.
        """
        entropy = -torch.special.xlogy(target, target).sum(-1).mean()
        return cross_entropy(output.flatten(0, -2), target.flatten(0, -2)) - entropy

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """relative_error: (cross-entropy - optimum) / (that of the best constant - optimum), 1 for the best constant.
        accuracy: share of positions at which no impossible symbol has the largest logit. largest_n: the largest n such that in all
        rows whose first string is no longer every position of that string has it right; 0 if there is none.

        Targets are the true probabilities. A position where all logits are equal, or one is not finite, counts as wrong.
        """
        output, target = output.double(), target.double()
        mean = target.mean((0, 1)).clamp_min(1e-300).log().expand_as(target)
        chosen = target.gather(-1, output.argmax(-1, keepdim=True))[..., 0] > 0
        right = chosen & output.isfinite().all(-1) & (output.amax(-1) > output.amin(-1))
        relative = self.loss(output, target) / self.loss(mean, target)
        return {
            "relative_error": relative.clamp_min(0).item(),  # below by rounding only
            "accuracy": right.double().mean().item(),
            "largest_n": float(self._largest(right, target)),
        }

    def _largest(self, right: Tensor, target: Tensor) -> int:
        """n of the longest first string up to which all are right."""
        ends = target[..., 0] == 1  # # follows for certain
        length = torch.where(ends.any(1), ends.int().argmax(1), target.shape[1])
        upto = torch.arange(target.shape[1], device=target.device) <= length[:, None]
        wrong = (upto & ~right).any(1)
        whole = ends.any(1)
        shortest_wrong = int(length[wrong].min()) if wrong.any() else target.shape[1]
        fine = length[whole & (length < shortest_wrong)]
        return int(fine.max()) // self.letters if len(fine) else 0

    def _counts(self, batch: int, generator: torch.Generator) -> Tensor:
        """n of as many strings as a stream may hold, [batch, strings]: geometric, at least 1."""
        draw = torch.rand(batch, self.T // (self.letters + 1) + 2, generator=generator, dtype=torch.float64)
        return (torch.log1p(-draw) / math.log1p(-self.stop)).floor().long() + 1

    def _batch(self, counts: Tensor, steps: int, sampled: bool) -> Batch:
        """Streams of `steps` symbols from the n of their strings, [batch, strings]."""
        L = self.letters
        ends = (L * counts + 1).cumsum(1)
        place = torch.arange(steps + 1).expand(len(counts), -1).contiguous()
        string = torch.searchsorted(ends, place, right=True)
        n = counts.gather(1, string)
        within = place - (ends.gather(1, string) - (L * n + 1))  # 0 at #
        symbol = torch.where(within == 0, 0, 1 + (within - 1) // n)
        read, following = symbol[:, :-1], symbol[:, 1:]
        target = one_hot(following, L + 1).double()
        if not sampled:
            after_first = torch.zeros(L + 1, dtype=torch.float64)
            after_first[1], after_first[2] = 1 - self.stop, self.stop
            target[read == 1] = after_first
        return Batch(one_hot(read, L + 1).to(self.device, self.dtype), target.to(self.device, self.dtype))
