"""How fast a number grows, whatever single looks say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MOST_LOOKS = 1000  # all pairs of more take too much memory; they are thinned evenly


def slope(seconds: Sequence[float], values: Sequence[float]) -> float:
    """Growth a second: the median of the slopes between all pairs of looks (Theil–Sen). Up to 29 % of the looks may be
    anything, and a number that does not change has the slope 0 exactly.

    Raises:
        ValueError: fewer than two looks, or two at the same moment only.
    """
    every = -(-len(seconds) // MOST_LOOKS) or 1
    x, y = np.asarray(seconds[::every], np.float64), np.asarray(values[::every], np.float64)
    one, other = np.triu_indices(len(x), k=1)
    apart = x[other] - x[one]
    if not apart.any():
        raise ValueError("a slope needs looks at two moments")
    rises = (y[other] - y[one])[apart != 0] / apart[apart != 0]
    return float(np.median(rises))


def growth(seconds: Sequence[float], values: Sequence[float], warm: float) -> float:
    """Growth a minute after the first `warm` seconds.

    Raises:
        ValueError: there are not two looks after that.
    """
    late = [(at, value) for at, value in zip(seconds, values, strict=True) if at >= warm]
    return 60 * slope([at for at, _ in late], [value for _, value in late])
