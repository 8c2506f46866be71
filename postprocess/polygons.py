"""Masks as polygons.

Frame: pixels of the picture, x to the right, y down; rings run along pixel edges, so x is in 0…width and y in
0…height, and one pixel has four corners. Rings are not closed: the first point is not repeated at the end.

Orientation is that of GeoJSON (RFC 7946) taken on the numbers as they are: the exterior's shoelace area is positive,
a hole's negative. On a screen, where y points down, the exterior then looks clockwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from florence2_sam2.postprocess.masks import CroppedMask
from florence2_sam2.postprocess.rings import doubled_area, trace_rings
from florence2_sam2.postprocess.simplification import simplify_rings

Ring = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Polygon:
    """One connected part of a mask: exterior int32 [n, 2] of (x, y), and the rings of its holes, each alike."""

    exterior: Ring
    holes: list[Ring] = field(default_factory=list)

    @property
    def area(self) -> float:
        """Area inside the exterior and outside the holes, in square pixels."""
        return sum(doubled_area(ring) for ring in (self.exterior, *self.holes)) / 2


def mask_to_polygons(mask: CroppedMask, precision: float) -> list[Polygon]:
    """The outlines of a mask, one polygon for each part, the largest part first.

    Pixels belong to the same part if they share an edge; touching at a corner is not enough, or rings would cross
    themselves. Every part and every hole is kept, at any precision.

    Args:
        mask: the mask.
        precision: how far a simplified ring may leave the exact one, as a fraction of the exact ring's perimeter
            (Douglas–Peucker). 0: exact; filling the polygons gives the mask back bit for bit. `simplify_rings` says
            when a ring is simplified less than asked for.

    Returns:
        Polygons that are valid by the rules of the OGC (simple rings, holes inside, no crossings), and so are all of
        them together as a multipolygon. Empty for an empty mask.

    Raises:
        ValueError: precision is negative or not finite.
    """
    if not (math.isfinite(precision) and precision >= 0):
        raise ValueError(f"precision: {precision}, expected a finite number that is not negative")
    rings = trace_rings(mask.bits)
    doubled = [doubled_area(ring) for ring in rings]
    part_of = _parts(mask.bits, rings, doubled)
    simplified = simplify_rings(rings, part_of, precision)
    offset = np.array([mask.x, mask.y], dtype=np.int32)
    polygons: dict[int, Polygon] = {}
    areas: dict[int, int] = {}
    # Exteriors first, so that each hole finds its polygon.
    for index in sorted(range(len(rings)), key=lambda index: doubled[index] < 0):
        part, ring = int(part_of[index]), simplified[index] + offset
        if doubled[index] > 0:
            polygons[part] = Polygon(ring)
        else:
            polygons[part].holes.append(ring)
        areas[part] = areas.get(part, 0) + doubled[index]
    return [polygons[part] for part in sorted(polygons, key=lambda part: -areas[part])]


def _parts(bits: NDArray[np.bool_], rings: Sequence[Ring], doubled: Sequence[int]) -> NDArray[np.int64]:
    """For each ring [R] the number, from 0, of its part: an exterior and its holes have the same."""
    if sum(area > 0 for area in doubled) < 2:
        return np.zeros(len(rings), dtype=np.int64)
    _, labels = cv2.connectedComponents(bits.view(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    # Along a ring the mask is to the right of the direction of travel, as seen on the screen.
    first = np.array([ring[0] for ring in rings])
    step = np.sign(np.array([ring[1] for ring in rings]) - first)
    right = np.stack([-step[:, 1], step[:, 0]], axis=1)
    pixel = (2 * first + step + right) // 2
    numbers: NDArray[np.int64] = np.unique(labels[pixel[:, 1], pixel[:, 0]], return_inverse=True)[1].reshape(
        -1
    )
    return numbers
