"""Medians, ratios of pairs and ranks of the speed benches, against values worked out by hand."""

from __future__ import annotations

import pytest

from bench.speed.figures import Spread, paired_ratio, percentile
from bench.speed.results import Row


def test_a_spread_is_median_quartiles_and_extremes() -> None:
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0, 1.0, 5.0, 5)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0, 7.0, 7.0, 1)


def test_a_ratio_is_of_medians_and_its_spread_of_pairs() -> None:
    # Medians 30 and 10; the pairs' ratios are 4, 3, 3, 2, 4.5: quartiles 3 and 4.
    ratio = paired_ratio([20.0, 30.0, 33.0, 40.0, 27.0], [5.0, 10.0, 11.0, 20.0, 6.0])
    assert (ratio.value, ratio.low, ratio.high, ratio.count) == (3.0, 3.0, 4.0, 5)


def test_what_slows_a_whole_pair_does_not_widen_the_spread() -> None:
    ratio = paired_ratio([2.0, 2.0, 20.0], [1.0, 1.0, 10.0])
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([1.0], 0.95, 1.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        (list(range(1, 21)), 0.95, 19),
        (list(range(1, 9)), 0.95, 8),
        (list(range(1, 101)), 0.95, 95),
        ([4.0, 2.0], 0.0, 2.0),
        ([4.0, 2.0], 1.0, 4.0),
    ],
)
def test_a_percentile_is_a_value_that_was_measured(
    values: list[float], share: float, expected: float
) -> None:
    assert percentile(values, share) == expected


def test_nothing_measured_gives_no_figure() -> None:
    with pytest.raises(ValueError, match="no value"):
        Spread.of([])
    with pytest.raises(ValueError, match="no value"):
        percentile([], 0.5)
    with pytest.raises(ValueError, match="no value"):
        paired_ratio([], [])
    with pytest.raises(ValueError, match="2 and 1 values are no pairs"):
        paired_ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("value", "target", "at_most", "met"),
    [
        (1.8, 1.8, False, True),
        (1.79, 1.8, False, False),
        (0.02, 0.02, True, True),
        (0.0201, 0.02, True, False),
        (float("nan"), 1.0, False, False),
        (float("nan"), 1.0, True, False),
        (5.0, None, False, None),
    ],
)
def test_a_target_is_met_at_equality(
    value: float, target: float | None, at_most: bool, met: bool | None
) -> None:
    assert Row("what", value, "×", target, at_most).met is met


def test_a_row_shows_its_unit_its_spread_and_its_target() -> None:
    assert Row("what", 2.346, "×", 1.8, False, 2.3, 2.4).shown() == "2.35× (2.30× to 2.40×)"
    assert Row("what", 2.346, "×", 1.8).wanted() == "≥ 1.80×"
    assert Row("what", 0.0153, "%", 0.02, True).shown() == "1.5 %"
    assert Row("what", 0.0153, "%", 0.02, True).wanted() == "≤ 2.0 %"
    assert Row("what", 1.0, "GB").wanted() == ""
