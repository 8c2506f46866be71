"""Exact outlines: the rings of pixel edges between the True and the False pixels of a mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def doubled_area(ring: NDArray[np.int32]) -> int:
    """Twice the signed area of a ring [n, 2] of (x, y), by the shoelace formula: exact."""
    x, y = ring.astype(np.int64).T
    return int(x[:-1] @ y[1:] - x[1:] @ y[:-1] + x[-1] * y[0] - x[0] * y[-1])


def trace_rings(bits: NDArray[np.bool_]) -> list[NDArray[np.int32]]:
    """All outlines of a mask as simple rings.

    The corners of the outline are found for the whole mask at once. Along each row of the pixel lattice two corners
    at a time bound a horizontal edge, along each column a vertical one, and an outline alternates between the two.
    Where four edges meet, two True pixels touch at a corner only: the point counts as two corners, and the outline
    turns so as to keep them apart. An outline that comes back to such a point is cut there into simple rings.

    Args:
        bits: bool [h, w].

    Returns:
        Rings int32 [n, 2] of (x, y) corners with x in 0…w and y in 0…h, no three in a row on a line, no point twice.
        Exteriors have a positive shoelace area, holes a negative one: one exterior for each 4-connected part.
    """
    height, width = bits.shape[0] + 2, bits.shape[1] + 2
    padded = np.zeros((height, width), dtype=np.bool_)
    padded[1:-1, 1:-1] = bits
    # Read as one long row, in which the pixel below is `width` further. Lattice point p has pixels p and p + 1 above
    # it, p + width and p + width + 1 below. The padding keeps the end of a row apart from the beginning of the next.
    pixels = padded.reshape(-1)
    above = pixels[:-1] != pixels[1:]  # an edge goes up from the lattice point …
    below = above[width:]  # … down
    left = pixels[:-width] != pixels[width:]  # … to the left
    right = left[1:]  # … to the right
    point = np.flatnonzero((above[:-width] | below) & (left[:-1] | right))
    crossing = above[point] & below[point]

    point, crossing = np.repeat(point, 1 + crossing), np.repeat(crossing, 1 + crossing)
    again = np.zeros(len(point), dtype=np.bool_)
    again[1:] = point[1:] == point[:-1]
    # Of two corners at one point the first ends the edge on the left, the second begins the one on the right. Which
    # of them has the edge above depends on which two of the four pixels are True.
    lower = again ^ (crossing & pixels[point + 1])
    y, x = np.divmod(point, width)
    by_column = np.argsort((x * height + y) * 2 + lower)
    vertical_partner = np.empty(len(point), dtype=np.int64)
    vertical_partner[by_column[0::2]] = by_column[1::2]
    vertical_partner[by_column[1::2]] = by_column[0::2]

    first = np.arange(0, len(point), 2)
    rightwards = pixels[point[first] + width + 1]  # the mask is below the edge
    start = np.where(rightwards, first, first + 1)
    stop = start ^ 1
    order, lengths = _cycles(vertical_partner[stop] // 2)
    corners = np.stack([start[order], stop[order]], axis=1).reshape(-1)
    bounds = np.cumsum(2 * lengths)[:-1]

    ring_of = np.empty(len(point), dtype=np.int64)
    ring_of[corners] = np.repeat(np.arange(len(lengths)), 2 * lengths)
    second = np.flatnonzero(again)
    cut = set(ring_of[second[ring_of[second] == ring_of[second - 1]]].tolist())
    rings = []
    for index, path in enumerate(np.split(point[corners], bounds) if len(lengths) else []):
        for ring in _simple_rings(path.tolist()) if index in cut else [path]:
            rings.append(np.stack(np.divmod(ring, width)[::-1], axis=1).astype(np.int32))
    return rings


def _cycles(successor: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cycles of a permutation: its elements, cycle after cycle, and the cycles' lengths."""
    following: list[int] = successor.tolist()
    seen = bytearray(len(following))
    order: list[int] = []
    lengths: list[int] = []
    for first in range(len(following)):
        if seen[first]:
            continue
        cycle = [first]
        element = following[first]
        while element != first:
            seen[element] = 1
            cycle.append(element)
            element = following[element]
        order += cycle
        lengths.append(len(cycle))
    return np.array(order, dtype=np.int64), np.array(lengths, dtype=np.int64)


def _simple_rings(path: list[int]) -> list[NDArray[np.int64]]:
    """Cut a closed path that visits some points more than once into rings that do not."""
    rings = []
    ring: list[int] = []
    position: dict[int, int] = {}
    for point in path:
        if point in position:
            loop = ring[position[point] :]
            rings.append(np.array(loop, dtype=np.int64))
            del ring[position[point] :]
            for visited in loop:
                del position[visited]
        position[point] = len(ring)
        ring.append(point)
    rings.append(np.array(ring, dtype=np.int64))
    return rings
