"""Fewer points for the rings of a mask, without a crossing, a lost hole or a thin part eaten away."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from florence2_sam2.postprocess.rings import doubled_area
from florence2_sam2.postprocess.topology import containments, join_segments, rings_in_conflict, spans

Ring = NDArray[np.int32]

# Two corners of a staircase of single pixels lie this far from their common line on either side (1/√8): a tolerance
# below it removes no corner.
FINEST = 0.35
# The area that may change hands, as a fraction of a part's area, is this times the precision: at the default
# precision of 0.001 it is 0.05, so that the intersection over union with the mask is at least 0.95.
AREA_LOSS = 50.0


def simplify_rings(rings: Sequence[Ring], part_of: NDArray[np.int64], precision: float) -> list[Ring]:
    """Simplify the exact rings of one mask, by Douglas–Peucker with a tolerance of precision × perimeter each.

    A ring's tolerance is halved as long as
      - it is left with fewer than 3 points, without area, or turned around;
      - it touches or crosses itself or another ring where the exact rings did not touch;
      - it lies in other rings than before (a hole outside its exterior, an island outside its hole);
      - the area between the rings of its part and their exact forms is more than `AREA_LOSS` × precision of the
        part's area, and this ring has its share in it (no limit from precision 0.02 on).
    No ring is dropped; the last resort is the exact ring, with which all four hold.

    Args:
        rings: int32 [n, 2], as `trace_rings` gives them.
        part_of: int64 [R], the part each ring belongs to.
        precision: 0 or more; 0 gives the rings back.

    Returns:
        A ring for each of `rings`, its points among the points of the exact one, in the same order.
    """
    if precision == 0 or not rings:
        return list(rings)
    # A tolerance beyond a ring's extent does not simplify it further.
    tolerance = np.array(
        [min(precision * _perimeter(ring), float(np.ptp(ring, axis=0).max())) for ring in rings]
    )
    doubled = np.array([doubled_area(ring) for ring in rings])
    part = np.unique(part_of, return_inverse=True)[1].reshape(-1)
    part_area = np.bincount(part, weights=doubled / 2)
    allowed = (AREA_LOSS * precision * part_area / np.bincount(part))[part]
    simplified = list(rings)
    expected: NDArray[np.int64] | None = None
    changed = np.arange(len(rings))
    while len(changed):
        for index in changed:
            simplified[index], tolerance[index] = _simplify(rings[index], tolerance[index], doubled[index])
        is_simpler = np.array([len(a) < len(b) for a, b in zip(simplified, rings, strict=True)])
        if not is_simpler.any():
            break
        segments = join_segments(simplified)
        conflict = rings_in_conflict(segments)
        if not conflict.any() and len(rings) > 1:
            if expected is None:
                expected = containments(join_segments(rings))
            moved = np.setxor1d(expected, containments(segments))
            conflict[np.concatenate(np.divmod(moved, len(rings)))] = True
        if not conflict.any() and AREA_LOSS * precision < 1:
            conflict = _changed_area(rings, simplified, is_simpler) > allowed
        changed = np.flatnonzero(conflict & is_simpler)
        tolerance[changed] /= 2
    return simplified


def _simplify(ring: Ring, tolerance: float, exact_area: int) -> tuple[Ring, float]:
    """The ring simplified with the first of tolerance, tolerance / 2, … that leaves it area and direction."""
    while tolerance >= FINEST:
        simpler: Ring = cv2.approxPolyDP(ring, tolerance, closed=True).reshape(-1, 2).astype(np.int32)
        if len(simpler) >= 3 and doubled_area(simpler) * np.sign(exact_area) > 0:
            return simpler, tolerance
        tolerance /= 2
    return ring, tolerance


def _perimeter(ring: Ring) -> float:
    # The edges of an exact ring run along one axis each.
    return float(np.abs(np.diff(ring, axis=0, append=ring[:1])).sum())


def _changed_area(
    rings: Sequence[Ring], simplified: Sequence[Ring], is_simpler: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Pixels whose centres are inside exactly one of each simplified ring and its exact form: [R].

    By the even-odd rule these are the pixels inside both outlines taken as one: in a row, those between the first
    and the second crossing, the third and the fourth, …
    """
    index = np.flatnonzero(is_simpler)
    both = [rings[i] for i in index] + [simplified[i] for i in index]
    segments = join_segments(both)
    (x1, y1), (x2, y2) = segments.start.T, segments.stop.T
    owner, row = spans(np.minimum(y1, y2), np.maximum(y1, y2))
    slope = (x2 - x1)[owner] / (y2 - y1)[owner]
    pixel = np.ceil(x1[owner] + slope * (row + 0.5 - y1[owner]) - 0.5).astype(np.int64)
    # Sorted by ring, then row, then position in the row.
    width, height = int(x1.max()) + 1, int(y1.max()) + 1
    place = np.sort(((segments.ring[owner] % len(index)) * height + row) * width + pixel)
    ring = index[place[0::2] // (width * height)]
    area: NDArray[np.float64] = np.bincount(ring, weights=place[1::2] - place[0::2], minlength=len(rings))
    return area
