"""The tasks of the exact algorithms: right answers, and metrics that make nets that know nothing look bad."""

import math
import re

import pytest
import torch

from wavebase.signals.generators import WhiteNoise
from wavebase.tasks.counting import Counting
from wavebase.tasks.in_context_regression import InContextRegression, input_variances
from wavebase.tasks.modular_addition import ModularAddition
from wavebase.tasks.reconstruction import Reconstruction

CPU = torch.device("cpu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def counting(T=60, **keys):
    return Counting(T, torch.float64, CPU, generator(), **{"held_out_count": 64, **keys})


def regression(**keys):
    return InContextRegression(12, torch.float64, CPU, generator(), **keys)


def reconstruction(**keys):
    return Reconstruction(WhiteNoise(), 8, torch.float64, CPU, generator(), **keys)


def addition(**keys):
    return ModularAddition(torch.float64, CPU, generator(), **keys)


@pytest.mark.parametrize("letters", [2, 3])
def test_streams_are_strings_of_the_language_with_their_true_probabilities(letters):
    task = counting(2000, letters=letters, stop=0.25)
    sampled = task.sample_batch(64, generator(1))
    read = sampled.input.argmax(-1)
    assert torch.equal(read[:, 1:], sampled.target.argmax(-1)[:, :-1]) and torch.equal(
        read[:, 0], torch.zeros(64).long()
    )
    alphabet = "#abc"
    counts = []
    for row in read.tolist():
        text = "".join(alphabet[symbol] for symbol in row)
        for string in text[1 : text.rindex("#")].split("#"):
            n = string.count("a")
            assert n and string == "".join(letter * n for letter in alphabet[1 : letters + 1])
            counts.append(n)
    mean, error = sum(counts) / len(counts), math.sqrt(1 - 0.25) / 0.25 / len(counts) ** 0.5
    assert abs(mean - 4) < 4 * error + 0.05  # long strings are a little rarer in a stream that is cut

    true = counting(2000, letters=letters, stop=0.25, sampled=False).sample_batch(64, generator(1))
    assert torch.equal(true.input, sampled.input)
    after_a = true.input[..., 1] == 1
    assert torch.equal(true.target[after_a].unique(dim=0)[0, :3], torch.tensor([0, 0.75, 0.25]).double())
    assert torch.equal(true.target[~after_a], sampled.target[~after_a])
    share = sampled.target[after_a][:, 2].mean().item()
    assert share == pytest.approx(0.25, abs=0.01)


def test_nets_that_know_nothing_look_bad_at_counting():
    task = counting()
    for name, (_, target) in task.held_out.items():
        perfect = target.clamp_min(1e-30).log()
        best = task.metrics(perfect, target)
        assert best["relative_error"] < 1e-12 and best["accuracy"] == 1 and best["largest_n"] >= 5
        zero = task.metrics(torch.zeros_like(target), target)
        assert zero["relative_error"] > 1 and zero["accuracy"] == zero["largest_n"] == 0
        mean = task.metrics(target.mean((0, 1)).log().expand_as(target), target)
        assert mean["relative_error"] == pytest.approx(1) and mean["largest_n"] == 0 and mean["accuracy"] < 0.8, name
        assert math.isnan(task.metrics(perfect * math.nan, target)["relative_error"])
        assert task.metrics(perfect * math.nan, target)["accuracy"] == 0
    target = task.held_out["training"].target
    assert task.baselines["zero"] == pytest.approx(task.loss(torch.zeros_like(target), target).item())
    assert 0 < task.baselines["mean"] < task.baselines["zero"]


def test_the_longest_string_is_that_before_the_first_wrong_one():
    task = counting(longest=20)
    target = task.held_out["lengths"].target
    logits = target.clamp_min(1e-30).log()
    assert task.metrics(logits, target)["largest_n"] == 20
    for n, place, left in ((7, 3, 6), (7, 14, 6), (7, 15, 20), (1, 1, 0)):  # 15: after the string
        wrong = logits.clone()
        wrong[n - 1, place] *= -1  # what is impossible is largest
        assert task.metrics(wrong, target)["largest_n"] == left


def test_labels_are_those_of_the_prompts_own_line():
    task = regression(dimension=3, condition=4.0)
    tokens, target = task.held_out["training"]
    w = torch.linalg.lstsq(tokens[:, :-1, :-1], tokens[:, :-1, -1:]).solution
    torch.testing.assert_close((tokens[:, -1:, :-1] @ w).flatten(), target, rtol=1e-9, atol=1e-9)
    assert not tokens[:, -1, -1].any()
    step = task.held_out["gradient_step"]
    assert torch.equal(step.input, tokens) and not torch.equal(step.target, target)
    inputs = task.sample_batch(4096, generator(1)).input[:, :, :-1].flatten(0, 1)
    torch.testing.assert_close(inputs.square().mean(0), torch.tensor(task.variances).double(), rtol=0.03, atol=0)
    assert sum(task.variances) == pytest.approx(3) and task.variances[0] == pytest.approx(4 * task.variances[2])
    assert input_variances(4, 1.0) == (1, 1, 1, 1)


def test_constants_look_bad_at_regression_and_addition():
    for task, slack in ((regression(), 0.01), (addition(), 1e-12)):
        target = task.held_out["training"].target
        mean = target.mean(0).expand_as(target)
        assert task.metrics(mean, target)["relative_error"] == pytest.approx(1, abs=slack)
        assert task.metrics(torch.zeros_like(target), target)["relative_error"] >= 1 - slack
        assert task.baselines["zero"] == pytest.approx(target.square().mean().item())
        assert task.baselines["mean"] == pytest.approx((target - mean).square().mean().item())
        assert task.metrics(target, target)["relative_error"] == 0
    target = addition().held_out["training"].target
    for constant in (torch.zeros_like(target), torch.full_like(target, 1 / 11), target * math.nan):
        assert addition().metrics(constant, target)["accuracy"] == 0


def test_sums_are_right_and_a_large_table_is_sampled():
    (pairs, target), many = addition(p=7).held_out["training"], addition(p=101, held_out_count=50).held_out["training"]
    first, second = pairs.argmax(-1).unbind(1)
    assert len(pairs) == 49 and torch.equal(target.argmax(-1), (first + second) % 7)
    assert len({*zip(first.tolist(), second.tolist(), strict=True)}) == 49
    assert len(many.input) == 50 and len(many.input.unique(dim=0)) > 45


@pytest.mark.parametrize("make", [addition, regression, reconstruction])
def test_label_noise_has_its_size_and_never_touches_held_out_sets(make):
    noisy, plain = make(label_noise=0.5), make()
    drawn, clean = noisy.sample_batch(20_000, generator(1)), plain.sample_batch(20_000, generator(1))
    assert torch.equal(drawn.input, clean.input)
    noise, rms = drawn.target - clean.target, clean.target.square().mean().sqrt()
    assert (noise.square().mean().sqrt() / rms).item() == pytest.approx(0.5, rel=0.05)
    assert torch.equal(noisy.held_out["training"].target, plain.held_out["training"].target)


@pytest.mark.parametrize(
    ("make", "keys", "complaint"),
    [
        (counting, {"stop": 0.0}, "task.stop must lie in 0.01..0.99, got 0.0"),
        (counting, {"letters": 1}, "task.letters must be at least 2, got 1"),
        (counting, {"longest": 0}, "task.longest must be at least 1, got 0"),
        (regression, {"condition": 0.5}, "task.condition must be finite and at least 1, got 0.5"),
        (regression, {"condition": 2.0, "dimension": 1}, "task.condition must be 1 for one dimension, got 2.0"),
        (regression, {"label_noise": -1.0}, "task.label_noise must be finite and not negative, got -1.0"),
        (reconstruction, {"label_noise": -0.1}, "task.label_noise must be finite and not negative, got -0.1"),
        (addition, {"p": 10}, "task.p must be odd, got 10; use 11"),
        (addition, {"p": 1}, "task.p must be at least 3, got 1"),
        (addition, {"label_noise": math.nan}, "task.label_noise must be finite and not negative, got nan"),
    ],
)
def test_wrong_values_are_named(make, keys, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        make(**keys)
