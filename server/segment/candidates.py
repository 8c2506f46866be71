"""What was found in a picture, and the filters that set some of it aside, each with a reason for the answer."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np

from florence2_sam2.postprocess import (
    CroppedMask,
    area_filter,
    box_area_ratios,
    clip_boxes,
    confidence_filter,
    nms,
    nms_containment,
    nms_masks,
)
from florence2_sam2.server.segment.models import Floats
from florence2_sam2.server.segment.shapes import Shape

Box = tuple[float, float, float, float]


@dataclass
class Candidate:
    """A labelled box (xyxy, pixels) on its way to becoming an object; `reason` says why it did not become one."""

    label: str
    box: Box
    area_ratio: float = 0.0  # box area over picture area
    grounding_score: float | None = None  # how sure Florence-2 was of the box; None: it is not its own
    score: float | None = None  # SAM2's predicted IoU; None: SAM2 never saw the box
    reason: str | None = None
    suppressed_by: Candidate | None = None
    logits: Floats | None = None  # [s,s], until the mask is made
    shape: Shape | None = None  # the mask at the picture's size
    shape_key: Hashable = None  # under which it is remembered

    @property
    def mask(self) -> CroppedMask | None:
        """At the picture's size, once it has been made."""
        return self.shape.mask if self.shape else None


def open_candidates(candidates: list[Candidate]) -> list[Candidate]:
    """Those that no filter has set aside."""
    return [candidate for candidate in candidates if candidate.reason is None]


def drop_degenerate(candidates: list[Candidate], width: int, height: int) -> None:
    """Clip boxes to the picture, note each one's share of it, and drop those with no area (inverted, outside)."""
    if not candidates:
        return
    boxes = np.array([candidate.box for candidate in candidates], np.float64)
    inverted = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
    clipped = clip_boxes(boxes, width, height)
    empty = inverted | (clipped[:, 2] <= clipped[:, 0]) | (clipped[:, 3] <= clipped[:, 1])
    ratios = box_area_ratios(clipped, width, height)
    for candidate, box, ratio, no_area in zip(candidates, clipped, ratios, empty, strict=True):
        if no_area:
            candidate.reason = candidate.reason or "degenerate_box"
            continue  # the box is reported as it was found
        x1, y1, x2, y2 = (float(x) for x in box)
        candidate.box, candidate.area_ratio = (x1, y1, x2, y2), float(ratio)


def drop_large(candidates: list[Candidate], width: int, height: int, threshold: float) -> None:
    """Drop boxes whose share of the picture is greater than `threshold`."""
    left = open_candidates(candidates)
    if not left:
        return
    boxes = np.array([candidate.box for candidate in left], np.float64)
    _mark(left, area_filter(box_area_ratios(boxes, width, height), threshold), "area")


def drop_empty(
    candidates: list[Candidate], width: int, height: int, make: Callable[[Candidate], None]
) -> None:
    """Drop masks that have no pixel at the picture's own size, before they could suppress anything.

    `make` gives a candidate its mask. It is asked only where the logits do not decide and the mask is not there yet.
    """
    for candidate in open_candidates(candidates):
        if candidate.shape is None:
            assert candidate.logits is not None
            if surely_shown(candidate.logits, width, height):
                continue
            make(candidate)
        if candidate.shape is None or candidate.shape.area == 0:
            candidate.reason = "empty_mask"


def surely_shown(logits: Floats, width: int, height: int) -> bool:
    """Whether bilinear resizing of logits [s,s] to the picture's size is sure to leave a positive value.

    It is where four neighbours are positive and the picture has at least as many rows and columns as the logits: then
    some pixel's centre lies between the four, and its value is a mean of theirs.
    """
    positive = logits > 0
    rows = positive[:-1] & positive[1:]
    four = bool((rows[:, :-1] & rows[:, 1:]).any())
    return four and height >= logits.shape[0] and width >= logits.shape[1]


def drop_uncertain(candidates: list[Candidate], threshold: float) -> None:
    """Drop masks whose score is lower than `threshold`."""
    left = open_candidates(candidates)
    _mark(
        left,
        confidence_filter(np.array([candidate.score for candidate in left], np.float64), threshold),
        "confidence",
    )


def drop_overlapping(candidates: list[Candidate], form: str, threshold: float) -> None:
    """Non-maximum suppression on boxes, on masks, or of what lies inside something better."""
    left = open_candidates(candidates)
    scores = np.array([candidate.score for candidate in left], np.float64)
    if form == "box":
        boxes = np.array([candidate.box for candidate in left], np.float64).reshape(-1, 4)
        suppression = nms(boxes, scores, threshold)
    else:
        masks = [candidate.mask for candidate in left if candidate.mask is not None]
        suppression = (nms_masks if form == "mask" else nms_containment)(masks, scores, threshold)
    for loser, winner in suppression.suppressed_by.items():
        left[loser].reason, left[loser].suppressed_by = "nms", left[winner]


def _mark(candidates: list[Candidate], keep: np.ndarray, reason: str) -> None:
    for candidate, kept in zip(candidates, keep, strict=True):
        if not kept:
            candidate.reason = reason
