"""Reading a sweep back: groups by configuration, and a diverged run is worse than any error."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from wavebase import formatting, statistics, study


def run(T: int, error: float | None) -> SimpleNamespace:
    return SimpleNamespace(config={"T": T}, value=lambda *path: error)


def test_groups_are_ordered_and_diverged_runs_count_as_infinite():
    runs = [run(16, 0.5), run(8, None), run(8, 0.25)]
    groups = study.grouped(runs, "T")
    assert list(groups) == [(8,), (16,)]
    np.testing.assert_array_equal(study.final_errors(groups[8,]), [np.inf, 0.25])


def test_shares_and_medians_have_intervals_that_hold_them():
    part, low, high = statistics.proportion(18, 20)
    assert part == 0.9 and (low, high) == pytest.approx((0.699, 0.972), abs=1e-3)  # Wilson, by hand
    middle, low, high = statistics.median(np.arange(20.0))
    assert middle == 9.5 and (low, high) == (5, 14)  # the sixth of each end: 1 - 2 P(B(20, 1/2) <= 5) = 0.959
    assert statistics.median([1.0, np.inf, 2.0])[1:] == (1, np.inf)


def test_intervals_cover_at_their_rate():
    draw = np.random.default_rng(0)
    hits = [low <= 0 <= high for _, low, high in (statistics.median(draw.normal(size=25)) for _ in range(400))]
    assert 0.93 <= np.mean(hits) <= 1


def test_an_exponent_is_found_with_its_interval():
    x = np.array([1.0, 2, 4, 8, 16])
    noise = np.exp(0.05 * np.random.default_rng(0).normal(size=5))
    p, low, high = statistics.power_law(x, 3 * x**-2 * noise)
    assert low < -2 < high and p == pytest.approx(-2, abs=0.1) and high - low < 0.5


def test_tables_line_up():
    rows = [{"a": 1.23456, "long name": None}, {"a": "word", "b": 3}]
    text = formatting.text_table(rows).splitlines()
    assert len({len(line) for line in text}) == 1 and text[1].split() == ["1.23", "-", "-"]
    assert formatting.text_table(rows, markdown=True).splitlines()[1] == "| ---: | ---: | ---: |"


def test_a_sweep_that_fails_says_where_its_log_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match=r"exit status 1; see outputs/studies/x/sweep\.log"):
        study.sweep("x", *study.FAST_OVERRIDES, "T=1")
    assert "T must be a window of at least 2" in "".join(p.read_text() for p in tmp_path.rglob("summary.json"))
