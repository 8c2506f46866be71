"""Do rings cross, and which lies in which: exact integer geometry on all rings of a mask at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

PAIRS_AT_ONCE = 1 << 19  # bounds the memory of pairwise tests
SMALLEST_BAND = 16  # pixels


@dataclass(frozen=True)
class Segments:
    """The segments of R rings, ring after ring: M in all."""

    start: Integers  # [M, 2] of (x, y)
    stop: Integers  # [M, 2]
    ring: Integers  # [M], 0…R-1
    following: Integers  # [M], the index of the segment that begins at `stop`
    first: Integers  # [R], the index of each ring's first segment


def join_segments(points: NDArray[np.integer], lengths: Integers) -> Segments:
    """Segments from all rings' points [M, 2], ring after ring, and the number of points of each [R]."""
    after = np.cumsum(lengths)
    first = after - lengths
    following = np.arange(1, len(points) + 1)
    following[after - 1] = first
    start = points.astype(np.int64)
    return Segments(start, start[following], np.repeat(np.arange(len(lengths)), lengths), following, first)


def segments_in_conflict(segments: Segments) -> NDArray[np.bool_]:
    """Which segments touch or cross others of any ring, other than corner on corner side by side: [M].

    Two rings may share a point if it is a corner of both and neither passes through the other there: so do exact
    outlines of pixels that meet at a corner.
    """
    conflict = np.zeros(len(segments.ring), dtype=np.bool_)
    for a, b in _nearby_segments(segments):
        bad = _pairs_in_conflict(segments, a, b)
        conflict[a[bad]] = True
        conflict[b[bad]] = True
    before = np.empty_like(segments.following)
    before[segments.following] = np.arange(len(before))
    a, b = _shared_corners(segments)
    bad = _pass_through(segments, before, a, b)
    for corner in (a[bad], b[bad]):
        conflict[corner] = True
        conflict[before[corner]] = True
    return conflict


def containments(segments: Segments) -> Integers:
    """Which ring lies in which, for rings without conflicts: sorted numbers inner · R + outer.

    Counts how often the ray from the middle of a ring's first segment to the left crosses each other ring.
    """
    first, count = segments.first, len(segments.first)
    # All coordinates doubled: the middle is then a whole number.
    point = segments.start[first] + segments.stop[first]
    by_row = np.argsort(point[:, 1], kind="stable")
    rows = point[by_row, 1]
    start, stop = 2 * segments.start, 2 * segments.stop
    low, high = np.minimum(start[:, 1], stop[:, 1]), np.maximum(start[:, 1], stop[:, 1])
    found: list[Integers] = []
    for segment, position in _chunked_spans(np.searchsorted(rows, low), np.searchsorted(rows, high)):
        inner = by_row[position]
        outer = segments.ring[segment]
        a, b = start[segment], stop[segment]
        to_the_left = _cross(b - a, point[inner] - a) * np.sign(b[:, 1] - a[:, 1]) < 0
        crossed = to_the_left & (inner != outer)
        found.append(inner[crossed] * count + outer[crossed])
    pairs, times = np.unique(
        np.concatenate(found) if found else np.zeros(0, dtype=np.int64), return_counts=True
    )
    lies_in: Integers = pairs[times % 2 == 1]
    return lies_in


def spans(first: Integers, stop: Integers) -> tuple[Integers, Integers]:
    """All (owner, value) with first[owner] <= value < stop[owner], in the owners' order."""
    counts = np.maximum(stop - first, 0)
    owner = np.repeat(np.arange(len(counts)), counts)
    value = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - first, counts)
    return owner, value


def _chunked_spans(first: Integers, stop: Integers) -> Iterator[tuple[Integers, Integers]]:
    """`spans` in pieces of bounded size."""
    total = np.cumsum(np.maximum(stop - first, 0))
    begin = 0
    while begin < len(total):
        done = total[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, done + PAIRS_AT_ONCE, side="right")))
        owner, value = spans(first[begin:end], stop[begin:end])
        yield owner + begin, value
        begin = end


def _nearby_segments(segments: Segments) -> Iterator[tuple[Integers, Integers]]:
    """Pairs of segments whose bounding boxes meet, some of them twice."""
    low = np.minimum(segments.start, segments.stop)
    high = np.maximum(segments.start, segments.stop)
    # Cut the picture into bands of rows; in each, sort by the left end and pair those that begin before one ends.
    band_height = max(SMALLEST_BAND, int((high - low)[:, 1].mean()))
    segment, band = spans(low[:, 1] // band_height, high[:, 1] // band_height + 1)
    row = band * (int(high[:, 0].max()) + 1)
    order = np.argsort(row + low[segment, 0], kind="stable")
    segment, row = segment[order], row[order]
    stop = np.searchsorted(row + low[segment, 0], row + high[segment, 0], side="right")
    for a, b in _chunked_spans(np.arange(1, len(segment) + 1), stop):
        a, b = segment[a], segment[b]
        meet = (low[a, 1] <= high[b, 1]) & (low[b, 1] <= high[a, 1])
        yield a[meet], b[meet]


def _pairs_in_conflict(segments: Segments, first: Integers, second: Integers) -> NDArray[np.bool_]:
    """Of pairs whose bounding boxes meet: do they meet elsewhere than at a common end?"""
    a, b = segments.start[first], segments.stop[first]
    c, d = segments.start[second], segments.stop[second]
    c_side, d_side = np.sign(_cross(b - a, c - a)), np.sign(_cross(b - a, d - a))
    a_side, b_side = np.sign(_cross(d - c, a - c)), np.sign(_cross(d - c, b - c))
    meet = (c_side * d_side <= 0) & (a_side * b_side <= 0)
    # With a common end they meet elsewhere only if they leave it in the same direction.
    a_common = (a == c).all(axis=1) | (a == d).all(axis=1)
    b_common = (b == c).all(axis=1) | (b == d).all(axis=1)
    c_common = (a == c).all(axis=1) | (b == c).all(axis=1)
    common = np.where(a_common[:, None], a, b)
    far = np.where(a_common[:, None], b, a) - common
    other_far = np.where(c_common[:, None], d, c) - common
    overlap = (c_side == 0) & (d_side == 0) & ((far * other_far).sum(axis=1) > 0)
    both_common = a_common & b_common
    bad: NDArray[np.bool_] = np.where(a_common | b_common, overlap | both_common, meet)
    return bad


def _shared_corners(segments: Segments) -> tuple[Integers, Integers]:
    """Pairs of segments of two rings that start at the same point; no more than two exact rings share one."""
    x, y = segments.start.T
    key = y * (int(x.max()) + 1) + x
    order = np.argsort(key, kind="stable")
    same = np.flatnonzero(key[order[1:]] == key[order[:-1]])
    return order[same], order[same + 1]


def _pass_through(
    segments: Segments, before: Integers, first: Integers, second: Integers
) -> NDArray[np.bool_]:
    """Of pairs of corners at one point: does one ring pass through the other there?"""
    here = segments.start[first]
    onward, back = segments.stop[first] - here, segments.start[before[first]] - here
    other_onward, other_back = segments.stop[second] - here, segments.start[before[second]] - here
    crosses: NDArray[np.bool_] = _between(onward, other_onward, back) != _between(onward, other_back, back)
    return crosses


def _between(first: Integers, direction: Integers, last: Integers) -> NDArray[np.bool_]:
    """Turning from `first` towards positive angles: does one come to `direction` before `last`?"""
    convex = (_cross(first, direction) > 0) & (_cross(direction, last) > 0)
    beyond = (_cross(last, direction) >= 0) & (_cross(direction, first) >= 0)
    inside: NDArray[np.bool_] = np.where(_cross(first, last) > 0, convex, ~beyond)
    return inside


def _cross(a: Integers, b: Integers) -> Integers:
    result: Integers = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    return result
