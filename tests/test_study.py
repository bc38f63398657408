"""Reading a sweep back: groups by configuration, and a diverged run is worse than any error."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from wavebase import study


def run(T: int, error: float | None) -> SimpleNamespace:
    return SimpleNamespace(config={"T": T}, value=lambda *path: error)


def test_groups_are_ordered_and_diverged_runs_count_as_infinite():
    runs = [run(16, 0.5), run(8, None), run(8, 0.25)]
    groups = study.grouped(runs, "T")
    assert list(groups) == [(8,), (16,)]
    np.testing.assert_array_equal(study.final_errors(groups[8,]), [np.inf, 0.25])
