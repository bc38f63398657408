"""Estimates and their intervals: known answers, and what has none."""

import math

import pytest
import torch

from wavebase.statistics import median, nmse, paired_difference


@pytest.mark.parametrize("size", [5e-322, 1e-300, 1e-40, 1.0, 1e300])
def test_ratios_do_not_depend_on_the_scale(size):
    errors = size * torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
    sizes = size * torch.tensor([4.0, 4.0, 4.0], dtype=torch.float64)
    assert nmse(errors, sizes) == pytest.approx(
        nmse(torch.tensor([1.0, 3.0, 2.0]), torch.tensor([4.0, 4.0, 4.0])), rel=1e-2
    )
    better = paired_difference(errors, sizes, sizes, torch.Generator().manual_seed(0), draws=200)
    assert better.value == pytest.approx(-0.5, rel=1e-2) and -0.8 < better.low < better.high < -0.2


def test_signals_and_signals_by_steps_are_one_thing():
    draw = torch.Generator().manual_seed(0)
    errors, others, sizes = torch.rand(3, 20, 5, generator=draw, dtype=torch.float64)
    by_step = paired_difference(errors, others, sizes, torch.Generator().manual_seed(1), draws=50)
    by_signal = paired_difference(
        errors.sum(1), others.sum(1), sizes.sum(1), torch.Generator().manual_seed(1), draws=50
    )
    assert by_step == pytest.approx(by_signal) and by_step.low < by_step.value < by_step.high


def test_a_number_that_is_none_has_no_place_in_the_order():
    assert all(math.isnan(part) for part in median([math.nan, 1.0, 2.0]))
    assert all(math.isnan(part) for part in median([1.0, 2.0, math.nan]))
    assert median([1.0, math.inf, math.inf]).value == math.inf


def test_silence_has_no_normalised_error():
    assert all(math.isnan(part) for part in nmse(torch.zeros(3), torch.zeros(3)))
