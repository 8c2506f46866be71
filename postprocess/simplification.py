"""Fewer points for the rings of a mask, without a crossing, a lost hole or a thin part eaten away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from florence2_sam2.postprocess.topology import (
    Integers,
    Segments,
    containments,
    join_segments,
    segments_in_conflict,
    spans,
)

Ring = NDArray[np.int32]

# Two corners of a staircase of single pixels lie this far from their common line on either side (1/√8): a tolerance
# below it removes no corner.
FINEST = 0.35
# The area that may change hands, as a fraction of a part's area, is this times the precision: at the default
# precision of 0.001 it is 0.05, so that the intersection over union with the mask is at least 0.95.
AREA_LOSS = 50.0
ROUNDS = 32  # of refining, each of which about doubles the points at fault; then the exact points are taken


def simplify_rings(rings: Sequence[Ring], part_of: Integers, precision: float) -> list[Ring]:
    """Simplify the exact rings of one mask, by Douglas–Peucker with a tolerance of precision × perimeter each.

    Where the result is at fault, the segments at fault are split, as Douglas–Peucker does, at the points they miss by
    most, until
      - no ring has fewer than 3 points, is without area, or has turned around;
      - no ring touches or crosses itself or another ring where the exact rings did not touch;
      - each ring lies in the same other rings as before (a hole in its exterior, an island in its hole);
      - the pixels between the rings of a part and their exact forms are at most `AREA_LOSS` × precision of the part's
        (no limit from precision 0.02 on); at fault are the segments that have more than their length's share.
    No ring is dropped; the last resort is the exact ring, with which all four hold.

    Args:
        rings: int32 [n, 2], as `trace_rings` gives them.
        part_of: int64 [R], the part each ring belongs to, counted from 0.
        precision: 0 or more; 0 gives the rings back.

    Returns:
        A ring for each of `rings`, its points among the points of the exact one and in their order.
    """
    if precision == 0 or not rings:
        return list(rings)
    started = [_start(ring, precision) for ring in rings]
    points, kept = (
        np.concatenate([start.ring for start in started]),
        np.concatenate([start.kept for start in started]),
    )
    lengths = np.array([len(ring) for ring in rings])
    exact = join_segments(points, lengths)
    check = _Check(exact, part_of, precision)
    # The area between a chain and its chord is at most the chain's length times its farthest point's distance.
    surely_close = check.allows_area(np.array([start.perimeter * start.tolerance for start in started]))
    for completed in range(ROUNDS + 1):
        at = np.flatnonzero(kept)
        # The first point of each ring is kept, so that the points a segment replaces are those up to the next one.
        edges = np.append(at[1:], len(points)) - at
        if len(at) == len(points):
            break
        fault = check.at_fault(at, edges, surely_close and not completed) & (edges > 1)
        if not fault.any():
            break
        stop = at[fault] + edges[fault]
        segment, point = spans(at[fault] + 1, stop)
        if completed < ROUNDS:
            point = point[
                _farthest(exact.start[at[fault]], exact.stop[stop - 1], segment, exact.start[point])
            ]
        kept[point] = True
    return np.split(points[kept], np.cumsum(np.add.reduceat(kept, exact.first, dtype=np.int64))[:-1])


@dataclass(frozen=True)
class _Start:
    ring: Ring  # the exact ring, from a point on that stays
    kept: NDArray[np.bool_]  # which of its points stay
    tolerance: float  # how far it is from them at most; 0 if all stay
    perimeter: float


def _start(ring: Ring, precision: float) -> _Start:
    perimeter = cv2.arcLength(ring, closed=True)
    # No tolerance beyond the extent simplifies further.
    tolerance = min(precision * perimeter, float(np.ptp(ring, axis=0).max()))
    while tolerance >= FINEST:
        simpler = cv2.approxPolyDP(ring, tolerance, closed=True).reshape(-1, 2)
        if len(simpler) >= 3:
            row = np.array([1, int(ring[:, 0].max()) + 1])
            every, some = ring @ row, np.sort(simpler @ row)
            kept = some[np.searchsorted(some[:-1], every)] == every
            first = int(kept.argmax())
            return _Start(np.roll(ring, -first, axis=0), np.roll(kept, -first), tolerance, perimeter)
        tolerance /= 2
    return _Start(ring, np.ones(len(ring), dtype=np.bool_), 0, perimeter)


def _farthest(start: Integers, stop: Integers, segment: Integers, points: Integers) -> Integers:
    """Of the points that each segment replaces, the farthest on either side of it: indices into `points`.

    `segment` says for each point which segment replaces it: 0, 0, …, 1, 1, …
    """
    (x, y), (along_x, along_y) = (points - start[segment]).T, (stop - start)[segment].T
    distance = along_x * y - along_y * x  # times the segment's length
    first = np.flatnonzero(np.diff(segment, prepend=-1))
    found = []
    for side in (distance, -distance):
        most = np.maximum.reduceat(side, first)[segment]
        at = np.flatnonzero((side == most) & (side > 0))
        found.append(at[np.diff(segment[at], prepend=-1) > 0])
    return np.concatenate(found)


class _Check:
    """Finds the segments at fault; what depends on the exact rings only is computed once."""

    def __init__(self, exact: Segments, part_of: Integers, precision: float) -> None:
        doubled = _doubled_areas(exact)
        self.exact = exact
        self.direction = np.sign(doubled)
        self.part = part_of
        self.any_area = AREA_LOSS * precision >= 1
        self.allowed_area = np.bincount(part_of, weights=doubled / 2) * AREA_LOSS * precision
        self.edge_length = np.abs(exact.stop - exact.start).sum(axis=1)
        self.containments: Integers | None = None

    def allows_area(self, changed: NDArray[np.float64]) -> bool:
        """May so much area change hands, given for each ring [R], in all of the parts?"""
        return self.any_area or bool((np.bincount(self.part, weights=changed) <= self.allowed_area).all())

    def at_fault(self, at: Integers, edges: Integers, surely_close: bool) -> NDArray[np.bool_]:
        """Of the segments between the exact points `at`, each in place of `edges` exact ones: those to split [M].

        From the cheapest check to the dearest, each on what the ones before have let pass.
        """
        segments = join_segments(self.exact.start[at], np.bincount(self.exact.ring[at]))
        turned: NDArray[np.bool_] = (_doubled_areas(segments) * self.direction <= 0)[segments.ring]
        if turned.any():
            return turned
        if not (self.any_area or surely_close):
            fault = self._too_far(segments, at, edges)
            if fault.any():
                return fault
        fault = segments_in_conflict(segments)
        if not fault.any() and len(segments.first) > 1:
            fault = self._moved(segments)[segments.ring]
        return fault

    def _moved(self, segments: Segments) -> NDArray[np.bool_]:
        """Rings that lie in others than before, and those others [R]."""
        if self.containments is None:
            self.containments = containments(self.exact)
        moved = np.zeros(len(segments.first), dtype=np.bool_)
        difference = np.setxor1d(self.containments, containments(segments))
        moved[np.concatenate(np.divmod(difference, len(moved)))] = True
        return moved

    def _too_far(self, segments: Segments, at: Integers, edges: Integers) -> NDArray[np.bool_]:
        """Segments with more than their share of the pixels that changed hands, in parts that lost too many."""
        changed = _changed_pixels(self.exact, segments, edges)
        part = self.part[segments.ring]
        length = np.add.reduceat(self.edge_length, at)
        share = length / np.bincount(part, weights=length)[part]
        lost_too_many = np.bincount(part, weights=changed) > self.allowed_area
        result: NDArray[np.bool_] = lost_too_many[part] & (changed > share * self.allowed_area[part])
        return result


def _doubled_areas(segments: Segments) -> Integers:
    """Twice the signed area of each ring [R]."""
    (x1, y1), (x2, y2) = segments.start.T, segments.stop.T
    areas: Integers = np.add.reduceat(x1 * y2 - x2 * y1, segments.first)
    return areas


def _changed_pixels(exact: Segments, segments: Segments, edges: Integers) -> NDArray[np.float64]:
    """Pixels whose centres lie between each segment and the exact ones that it replaces: [M].

    By the even-odd rule these are the pixels inside the closed line that both make: in a row, those between the first
    and the second crossing, the third and the fourth, …
    """
    shorter = edges > 1
    replaced = np.repeat(shorter, edges)
    start = np.concatenate([exact.start[replaced], segments.start[shorter]])
    stop = np.concatenate([exact.stop[replaced], segments.stop[shorter]])
    line = np.concatenate([np.repeat(np.arange(len(edges)), edges)[replaced], np.flatnonzero(shorter)])
    (x1, y1), (x2, y2) = start.T, stop.T
    owner, row = spans(np.minimum(y1, y2), np.maximum(y1, y2))
    slope = (x2 - x1)[owner] / (y2 - y1)[owner]
    pixel = np.ceil(x1[owner] + slope * (row + 0.5 - y1[owner]) - 0.5).astype(np.int64)
    # Sorted by line, then row, then position in the row.
    width, height = int(x1.max()) + 1, int(y1.max()) + 1
    place = np.sort((line[owner] * height + row) * width + pixel)
    count = np.bincount(
        place[0::2] // (width * height), weights=place[1::2] - place[0::2], minlength=len(edges)
    )
    return count.astype(np.float64)
