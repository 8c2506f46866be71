"""Polygons back to pixels, by the rule they are made with: rings run along pixel edges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Ring = Sequence[tuple[float, float]]


def fill(rings: Iterable[Ring], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Pixels whose centre lies inside an odd number of `rings`, so that holes are holes: bool [height, width].

    A ring is a closed sequence of (x, y) in pixels, pixel (column, row) being the square from (column, row)
    to (column + 1, row + 1). Pillow's and OpenCV's fillers take the points for pixel centres and paint the
    border too; this one gives a mask back bit for bit from its exact outline.
    """
    starts = np.zeros((height, width + 1), dtype=np.uint8)
    for ring in rings:
        points = np.asarray(ring, dtype=np.float64).reshape(-1, 2)
        for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
            # Rows whose centre line r + 0.5 the edge crosses, its upper end included and its lower end not.
            first = max(int(np.ceil(min(y1, y2) - 0.5)), 0)
            last = min(int(np.ceil(max(y1, y2) - 0.5)), height)
            if first >= last:
                continue
            rows = np.arange(first, last)
            crossing = x1 + (rows + 0.5 - y1) * (x2 - x1) / (y2 - y1)
            columns = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.intp)
            starts[rows, columns] ^= 1  # everything right of the crossing changes sides
    inside = np.bitwise_xor.accumulate(starts, axis=1)[:, :width]
    return inside.astype(np.bool_)
