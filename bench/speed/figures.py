"""Several timings as one figure, and the ratio of two that were taken side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """The median of `count` values, their quartiles (`low`, `high`) and the extremes."""

    median: float
    low: float
    high: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """
        Raises:
            ValueError: there is none.
        """
        if not len(values):
            raise ValueError("no value was measured")
        low, median, high = np.percentile(values, (25, 50, 75))
        return cls(
            float(median), float(low), float(high), float(min(values)), float(max(values)), len(values)
        )


@dataclass(frozen=True)
class Ratio:
    """The ratio of two medians; `low` and `high` are the quartiles of the ratios pair by pair."""

    value: float
    low: float
    high: float
    count: int


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """`above` to `below`, whose values of the same place were taken one right after the other.

    What disturbs a machine for longer than a pair disturbs both of its values, so the spread is that of the pairs.

    Raises:
        ValueError: they are of different number, or there is none.
    """
    if len(above) != len(below):
        raise ValueError(f"{len(above)} and {len(below)} values are no pairs")
    pairs = Spread.of([a / b for a, b in zip(above, below, strict=True)])
    return Ratio(float(np.median(above) / np.median(below)), pairs.low, pairs.high, pairs.count)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0..1) of the values do not exceed (nearest rank, no interpolation).

    Raises:
        ValueError: there is no value.
    """
    if not len(values):
        raise ValueError("no value was measured")
    # Rounded first: 0.95 * 20 is a little more than 19.
    rank = max(math.ceil(round(share * len(values), 9)), 1)
    return float(sorted(values)[rank - 1])
