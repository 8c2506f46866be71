"""Greedy, class-agnostic suppression of near-duplicates, on boxes, on masks, and of masks inside masks.

All three go through the objects from the best score down (equal scores: in input order), keep each that nothing has
suppressed yet, and let it suppress those after it whose overlap with it is strictly greater than the threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from florence2_sam2.postprocess.boxes import as_boxes, box_iou_matrix
from florence2_sam2.postprocess.masks import CroppedMask
from florence2_sam2.postprocess.thresholds import written_value


@dataclass(frozen=True)
class Suppression:
    """Indices of the objects that stay, in input order, and for each other one the kept object that suppressed it."""

    kept: list[int]
    suppressed_by: dict[int, int] = field(default_factory=dict)


def nms(boxes: ArrayLike, scores: ArrayLike, threshold: float) -> Suppression:
    """Non-maximum suppression by the IoU of boxes.

    Args:
        boxes: [N, 4] (x1, y1, x2, y2).
        scores: [N].
        threshold: boxes with an IoU greater than this are duplicates; 1 or more: nothing is suppressed.

    Raises:
        ValueError: not as many scores as boxes.
    """
    array = as_boxes(boxes)

    def overlaps(best: int, others: NDArray[np.intp]) -> NDArray[np.float64]:
        row: NDArray[np.float64] = box_iou_matrix(array[best : best + 1], array[others])[0]
        return row

    return _suppress(len(array), scores, threshold, overlaps)


def nms_masks(masks: Sequence[CroppedMask], scores: ArrayLike, threshold: float) -> Suppression:
    """Non-maximum suppression by the IoU of masks; arguments and errors as for `nms`."""
    return _suppress_masks(masks, scores, threshold, lambda both, a, b: both / (a + b - both))


def nms_containment(masks: Sequence[CroppedMask], scores: ArrayLike, threshold: float) -> Suppression:
    """Suppression of masks that lie inside one another, which IoU does not see: a wheel on a car.

    The overlap is the intersection over the smaller of the two areas, so the larger mask goes too when the smaller
    has the better score. Arguments and errors as for `nms`.
    """
    return _suppress_masks(masks, scores, threshold, lambda both, a, b: both / min(a, b))


def _suppress_masks(
    masks: Sequence[CroppedMask],
    scores: ArrayLike,
    threshold: float,
    ratio: Callable[[int, int, int], float],
) -> Suppression:
    areas = [mask.area for mask in masks]

    def overlaps(best: int, others: NDArray[np.intp]) -> NDArray[np.float64]:
        values = np.zeros(len(others))
        for position, other in enumerate(others):
            both = _intersection(masks[best], masks[other])
            if both:
                values[position] = ratio(both, areas[best], areas[other])
        return values

    return _suppress(len(masks), scores, threshold, overlaps)


def _intersection(a: CroppedMask, b: CroppedMask) -> int:
    """Number of pixels that are True in both; their crops' overlap is looked at only."""
    x1, y1 = max(a.x, b.x), max(a.y, b.y)
    x2 = min(a.x + a.bits.shape[1], b.x + b.bits.shape[1])
    y2 = min(a.y + a.bits.shape[0], b.y + b.bits.shape[0])
    if x1 >= x2 or y1 >= y2:
        return 0
    part_a = a.bits[y1 - a.y : y2 - a.y, x1 - a.x : x2 - a.x]
    part_b = b.bits[y1 - b.y : y2 - b.y, x1 - b.x : x2 - b.x]
    return int(np.count_nonzero(part_a & part_b))


def _suppress(
    count: int,
    scores: ArrayLike,
    threshold: float,
    overlaps: Callable[[int, NDArray[np.intp]], NDArray[np.float64]],
) -> Suppression:
    values = np.asarray(scores, dtype=np.float64).reshape(-1)
    if len(values) != count:
        raise ValueError(f"scores: {len(values)} for {count} objects")
    if threshold >= 1:
        return Suppression(list(range(count)))
    limit = written_value(threshold)
    kept: list[int] = []
    suppressed_by: dict[int, int] = {}
    waiting = np.argsort(-values, kind="stable")
    while len(waiting):
        best, waiting = int(waiting[0]), waiting[1:]
        kept.append(best)
        duplicate = overlaps(best, waiting) > limit
        suppressed_by.update((int(index), best) for index in waiting[duplicate])
        waiting = waiting[~duplicate]
    return Suppression(sorted(kept), suppressed_by)
