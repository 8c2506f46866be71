"""Boxes: [N, 4] arrays of (x1, y1, x2, y2) in pixels of the upright picture, x to the right, y down.

Coordinates are those of pixel edges: the whole picture is (0, 0, width, height). A box whose corners are in the wrong
order has no area. All arithmetic is float64, in which products of FP32 coordinates are exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def as_boxes(boxes: ArrayLike) -> NDArray[np.float64]:
    """`boxes` as float64 [N, 4]; an empty list is no boxes.

    Raises:
        ValueError: another shape.
    """
    array = np.asarray(boxes, dtype=np.float64)
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes: shape {list(array.shape)}, expected [N, 4]")
    return array


def box_areas(boxes: ArrayLike) -> NDArray[np.float64]:
    """Areas [N] in square pixels."""
    array = as_boxes(boxes)
    sides: NDArray[np.float64] = np.maximum(array[:, 2:] - array[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def box_area_ratios(boxes: ArrayLike, width: int, height: int) -> NDArray[np.float64]:
    """Area of each box over the area of a width × height picture: [N]. Boxes are taken as they are, not clipped."""
    return box_areas(boxes) / (float(width) * float(height))


def clip_boxes(boxes: ArrayLike, width: int, height: int) -> NDArray[np.float64]:
    """The corners of each box moved into the picture: [N, 4]. A box outside it ends on its border with no area."""
    limits = np.array([width, height, width, height], dtype=np.float64)
    return np.minimum(np.maximum(as_boxes(boxes), 0), limits)


def box_iou_matrix(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union of each box of `a` [N, 4] with each of `b` [M, 4]: [N, M], 0 where the union is 0."""
    first, second = as_boxes(a), as_boxes(b)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.maximum(high - low, 0)
    intersection = sides[..., 0] * sides[..., 1]
    # A box with corners in the wrong order can still overlap as intervals go; it has no area and no overlap.
    areas_first, areas_second = box_areas(first)[:, None], box_areas(second)[None, :]
    intersection = np.where((areas_first > 0) & (areas_second > 0), intersection, 0)
    union = areas_first + areas_second - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def box_xyxy_to_xywh(boxes: ArrayLike) -> NDArray[np.float64]:
    """(x1, y1, x2, y2) → (x1, y1, width, height), the form of COCO: [N, 4]."""
    array = as_boxes(boxes)
    return np.concatenate([array[:, :2], array[:, 2:] - array[:, :2]], axis=1)


def normalize_boxes(boxes: ArrayLike, width: int, height: int) -> NDArray[np.float64]:
    """Pixels → fractions 0..1 of the picture's width and height: [N, 4]."""
    return as_boxes(boxes) / np.array([width, height, width, height], dtype=np.float64)
