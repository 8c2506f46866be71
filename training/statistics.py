"""Shares and means with their uncertainty, for the evaluation's tables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % confidence interval, from `count` observations."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f}, n = {self.count})"


def share(hits: Sequence[bool]) -> Estimate:
    """A proportion with Wilson's interval, which stays within [0, 1] and is honest near 1."""
    n = len(hits)
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0, 0)
    p, z = sum(hits) / n, 1.96
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half), n)


def mean(values: Sequence[float]) -> Estimate:
    """A mean with the normal interval of its standard error."""
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    centre = float(np.mean(values))
    half = 1.96 * float(np.std(values)) / math.sqrt(n)
    return Estimate(centre, centre - half, centre + half, n)
