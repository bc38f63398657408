"""A handwritten ReLU net that finds the position of the second largest of n numbers, exactly unless it is negative.

Let m be the largest number but x_i itself ("leave one out"). The score x_i + 2 m is largest at the second largest
number: there it is x_(2) + 2 x_(1), at the largest x_(1) + 2 x_(2), at any other x_i + 2 x_(1). Units, at step t:

    value_j    0 <= j < n   x_(t-j): a delay line
    others_j   1 <= j < n   max of all numbers but x_(t-j), less x_t
    top        1            max of all numbers up to t, less x_t
    before     1            max of all numbers up to t - 1
    negative   1            relu(-x_t), so that x_t = value_0 - negative

Every unit is the ReLU of a linear map of the previous units and of x_t, without biases, because relu(m - x) + x =
max(m, x). The zero initial state stands for numbers that are zero, so the second largest must not be negative.
Subtracting 2 x_t, common to all scores, makes the scores linear in the units. There are 2n + 2 units: 16 for n = 7.

The leave-one-out score is from AlgZoo's handcrafted net for n = 10 (22 units, the same condition); this layout holds for
any n.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def second_argmax_construction(n: int, sharpness: float = 1.0) -> tuple[dict[str, Tensor], dict[str, slice]]:
    """Build a ReLU net whose largest logit is at the second largest of n numbers.

    Args:
        n: Numbers that are read.
        sharpness: Logits are `sharpness` times the scores.

    Returns:
        weight_ih [H, 1], weight_hh [H, H] and readout.weight [n, H] in float64, H = 2n + 2; and the units of the blocks
        value, others, top, before, negative.

    Raises:
        ValueError: For n < 2.
    """
    if n < 2:
        raise ValueError(f"T must be at least 2 numbers for a second largest one, got {n}; use T=7")
    blocks = {
        "value": slice(0, n),
        "others": slice(n, 2 * n - 1),
        "top": slice(2 * n - 1, 2 * n),
        "before": slice(2 * n, 2 * n + 1),
        "negative": slice(2 * n + 1, 2 * n + 2),
    }
    others, top, before, negative = n, 2 * n - 1, 2 * n, 2 * n + 1
    H = 2 * n + 2
    w_ih, w_hh, w_out = (torch.zeros(shape, dtype=torch.float64) for shape in ((H, 1), (H, H), (n, H)))
    w_ih[0] = 1
    for j in range(1, n):
        w_hh[j, j - 1] = 1
    w_ih[others:before] = w_ih[negative] = -1
    newest = torch.zeros(H, dtype=torch.float64)  # reads x of the previous step
    newest[0], newest[negative] = 1, -1
    w_hh[others, before] = 1  # all numbers but the newest of the step before
    for to, source in [(others + j, others + j - 1) for j in range(1, n - 1)] + [(top, top), (before, top)]:
        w_hh[to] = newest
        w_hh[to, source] += 1
    for j in range(n):  # the number of position n - 1 - j was read j steps ago
        position = n - 1 - j
        w_out[position, j] += 1
        if j:
            w_out[position, others + j - 1] += 2
    w_out[n - 1, before] += 2
    w_out[n - 1] -= 2 * newest
    return {"weight_ih": w_ih, "weight_hh": w_hh, "readout.weight": sharpness * w_out}, blocks


def second_argmax_units(weights: Mapping[str, Tensor], blocks: Mapping[str, slice]) -> dict[str, Tensor]:
    """Return the natural size of every entry, the drive of its row over the peak of its column (`unit_scales`).

    Numbers within 1 reach 1 in every unit, and 2 in those that hold a difference. Without biases, another bound on the
    numbers changes all of these by one common factor only.
    """
    peak = torch.ones(len(weights["weight_hh"]), dtype=torch.float64)
    peak[blocks["others"]] = peak[blocks["top"]] = 2
    drive = weights["weight_hh"].abs() @ peak + weights["weight_ih"].abs()[:, 0]
    read = weights["readout.weight"].abs() @ peak
    return {
        "weight_ih": drive[:, None],
        "weight_hh": drive[:, None] / peak,
        "readout.weight": read[:, None] / peak,
    }
