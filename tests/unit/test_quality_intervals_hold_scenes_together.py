"""Intervals are those of whole scenes, not of single things, and honest at the ends."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2_sam2.training.statistics import clustered, mean, share


def test_the_value_is_the_mean_over_things_not_over_scenes() -> None:
    assert clustered([[1, 1, 1], [0], []]).value == 0.75
    assert clustered([[1, 1, 1], [0], []]).count == 4


def test_things_that_fail_together_widen_the_interval() -> None:
    together = clustered([[1.0] * 8, [0.0] * 8] * 20)
    apart = clustered([[1.0, 0.0] * 4] * 40)
    assert together.value == apart.value == 0.5
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_single_things_have_the_normal_interval_of_their_mean() -> None:
    values = [0.01 * (i % 37) for i in range(800)]
    found, plain = clustered([[v] for v in values]), mean(values)
    assert found.low == pytest.approx(plain.low, abs=1e-3)
    assert found.high == pytest.approx(plain.high, abs=1e-3)


@pytest.mark.parametrize("value", [0, 1])
def test_a_share_of_none_or_all_is_not_certain(value: int) -> None:
    found, wilson = clustered([[value]] * 50), share([bool(value)] * 50)
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high))
    assert found.high - found.low > 0.05


def test_nothing_measured_has_no_value() -> None:
    assert math.isnan(clustered([]).value)
    assert math.isnan(clustered([[], []]).low)


def test_the_same_values_give_the_same_interval() -> None:
    assert clustered([[1, 0], [1], [0.5]]) == clustered([[1, 0], [1], [0.5]])


@given(st.lists(st.lists(st.floats(0, 1), max_size=5), min_size=1, max_size=30))
def test_intervals_hold_the_value_within_the_range(clusters: list[list[float]]) -> None:
    found = clustered(clusters, resamples=200)
    values = [v for c in clusters for v in c]
    if values:
        assert min(values) - 1e-9 <= found.value <= max(values) + 1e-9
        assert -1e-9 <= found.low <= found.high <= 1 + 1e-9
