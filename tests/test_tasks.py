"""What a task does to its training targets, and never to its held-out ones."""

import pytest
import torch

from wavebase.signals.generators import WhiteNoise
from wavebase.spectrum import power_spectrum
from wavebase.tasks.power_spectrum import PowerSpectrum


def task(**options):
    probe_generator = torch.Generator().manual_seed(0)
    return PowerSpectrum(WhiteNoise(), 4, torch.float64, torch.device("cpu"), probe_generator, **options)


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def true_target(batch):
    return power_spectrum(batch.input, 4, normalisation="power_per_sample")


def test_label_noise_has_its_size_and_ends():
    noisy = task(label_noise=0.5, off_task_steps=10)
    batch = noisy.sample_batch(4096, generator(), step=9)
    noise = batch.target - true_target(batch)
    rms = noisy.baselines["zero"] ** 0.5
    assert (noise.square().mean().sqrt() / rms).item() == pytest.approx(0.5, rel=0.05) and noise.mean().abs() < 0.02
    after = noisy.sample_batch(64, generator(), step=10)
    assert torch.equal(after.target, true_target(after))


def test_shuffled_targets_are_the_same_targets_elsewhere():
    batch = task(shuffle_targets=True).sample_batch(64, generator())
    true = true_target(batch)
    assert not torch.equal(batch.target, true)
    assert torch.equal(batch.target.flatten().sort().values, true.flatten().sort().values)
    rows = (batch.target[:, None] - true[None]).abs().amax((2, 3)) == 0
    assert rows.any(1).all(), "whole sequences exchange their targets"


def test_held_out_sets_are_never_off_task():
    plain, off = task(), task(label_noise=1.0, shuffle_targets=True, training_count=3)
    for name, (signal, target) in off.held_out.items():
        assert torch.equal(signal, plain.held_out[name][0]) and torch.equal(target, plain.held_out[name][1])


def test_a_fixed_training_set_is_the_whole_training():
    fixed = task(training_count=5)
    whole = fixed.sample_batch(8, generator())
    assert whole.input.shape == (5, 4) and torch.equal(whole.input, fixed.sample_batch(8, generator(2)).input)
    drawn = fixed.sample_batch(4, generator())
    assert (drawn.input[:, None] == whole.input[None]).all(-1).any(1).all()
    assert torch.equal(drawn.target, true_target(drawn))
    held = fixed.held_out["training"][0]
    assert not (whole.input[:, None] == held[None]).all(-1).any(), "held-out sequences are others"


@pytest.mark.parametrize(
    "options,complaint",
    [
        ({"training_count": 0}, "training_count must be at least 1, got 0"),
        ({"label_noise": -0.1}, "label_noise must be finite and not negative, got -0.1"),
        ({"off_task_steps": 5}, "off_task_steps must be at least 0 and end some label_noise or shuffle_targets, got 5"),
    ],
)
def test_wrong_values_are_named(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        task(**options)
