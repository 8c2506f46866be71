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


def clustered(clusters: Sequence[Sequence[float]], resamples: int = 2000, seed: int = 0) -> Estimate:
    """The mean of all values, with the interval of a bootstrap over clusters (here: scenes).

    Things of one scene succeed or fail together (a caption that goes wrong loses them all), so whole scenes are
    drawn with replacement, and the interval is that of the middle 95 % of the resampled means (Efron's percentile
    method). Shares of hits (values 0 and 1) get the wider of this and Wilson's interval at either end: near 0 and
    1 the bootstrap alone has next to no width.
    """
    sums = np.array([sum(c) for c in clusters if len(c)], float)
    counts = np.array([len(c) for c in clusters if len(c)], float)
    if not len(sums):
        return Estimate(math.nan, math.nan, math.nan, 0)
    draws = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), resamples)
    low, high = np.percentile((draws @ sums) / (draws @ counts), (2.5, 97.5))
    values = [v for c in clusters for v in c]
    if all(v in (0, 1) for v in values):
        wilson = share([bool(v) for v in values])
        low, high = min(low, wilson.low), max(high, wilson.high)
    return Estimate(float(sums.sum() / counts.sum()), float(low), float(high), len(values))
