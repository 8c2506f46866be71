"""Polygons back to pixels, by the rule they are made with: rings run along pixel edges."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Ring = Sequence[tuple[float, float]]


def fill(rings: Iterable[Ring], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Pixels whose centre lies inside an odd number of `rings`, so that holes are holes: bool [height, width].

    A ring is a closed sequence of (x, y) in pixels, pixel (column, row) being the square from (column, row)
    to (column + 1, row + 1). Pillow's and OpenCV's fillers take the points for pixel centres and paint the
    border too; this one gives a mask back bit for bit from its exact outline.
    """
    filled = np.zeros((height, width), dtype=np.bool_)
    closed = [np.asarray(ring, dtype=np.float64).reshape(-1, 2) for ring in rings]
    if not any(map(len, closed)):
        return filled
    # Only the part of the picture that the rings reach is looked at.
    reach = np.concatenate(closed)
    left, top = np.clip(np.floor(reach.min(axis=0)), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(reach.max(axis=0)), 0, (width, height)).astype(int)
    starts = np.zeros((bottom - top, right - left + 1), dtype=np.uint8)
    for points in closed:
        edges = np.concatenate([points, np.roll(points, -1, axis=0)], axis=1) - [left, top, left, top]
        for x1, y1, x2, y2 in edges[edges[:, 1] != edges[:, 3]].tolist():
            # Rows whose centre line r + 0.5 the edge crosses, its upper end included and its lower end not.
            first = max(math.ceil(min(y1, y2) - 0.5), 0)
            last = min(math.ceil(max(y1, y2) - 0.5), bottom - top)
            if first >= last:
                continue
            if x1 == x2:
                crossing: Any = x1
            else:
                crossing = x1 + (np.arange(first, last) + 0.5 - y1) * (x2 - x1) / (y2 - y1)
            columns = np.clip(np.ceil(crossing - 0.5), 0, right - left).astype(np.intp)
            starts[np.arange(first, last), columns] ^= 1  # everything right of the crossing changes sides
    inside = np.bitwise_xor.accumulate(starts, axis=1)[:, :-1]
    filled[top:bottom, left:right] = inside
    return filled
