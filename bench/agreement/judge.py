"""What two exports wrote about the same scenes, held against each other. Nothing is asked here.

- A caption, or a grounding, is equal when all its token ids are.
- Tokens until the first difference: after it the two write on from different texts, and nothing can be compared.
- A box belongs to the other side's box with the same label and the largest overlap, one to one; it is equal when the
  overlap is 1, and without a partner its overlap is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.agreement.ask import Written
from florence2_sam2.postprocess import box_iou_matrix
from florence2_sam2.training.scoring import matched
from florence2_sam2.training.statistics import Estimate, clustered

NEAR = 0.9  # a box with at least this overlap is called near


@dataclass(frozen=True)
class Compared:
    """One scene. `prefix`: for each token of the first side's caption whether the second agrees up to and with it.
    `ious`: of each box of the first side. `others`: boxes of the second side that belong to none."""

    caption_equal: bool
    prefix: tuple[bool, ...]
    grounding_equal: bool
    ious: tuple[float, ...]
    others: int


def compare(first: Written, second: Written) -> Compared:
    overlap = box_iou_matrix(first.boxes, second.boxes)
    same = np.array([[one == other for other in second.labels] for one in first.labels], bool)
    ious = matched(overlap, same.reshape(overlap.shape) & (overlap > 0))
    return Compared(
        first.caption == second.caption,
        tuple(index < equal_tokens(first.caption, second.caption) for index in range(len(first.caption))),
        first.grounding == second.grounding,
        tuple(ious),
        len(second.labels) - sum(iou > 0 for iou in ious),
    )


def equal_tokens(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens agree before the first difference."""
    pairs = zip(first, second, strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def figures(compared: Sequence[Compared]) -> dict[str, Estimate]:
    """Shares and means with their intervals, scenes drawn as a whole."""
    return {
        "captions equal, token by token": clustered([[float(c.caption_equal)] for c in compared]),
        "caption tokens equal until the first difference": clustered(
            [[float(equal) for equal in c.prefix] for c in compared]
        ),
        "groundings equal, token by token": clustered([[float(c.grounding_equal)] for c in compared]),
        "boxes equal": clustered([[float(iou == 1) for iou in c.ious] for c in compared]),
        f"boxes with IoU ≥ {NEAR}": clustered([[float(iou >= NEAR) for iou in c.ious] for c in compared]),
        "mean IoU of boxes": clustered([list(c.ious) for c in compared]),
    }


def smallest_iou(compared: Sequence[Compared]) -> float:
    """Of all boxes; 1 where there is none."""
    return min((iou for c in compared for iou in c.ious), default=1.0)


def without_partner(compared: Sequence[Compared]) -> tuple[int, int]:
    """Boxes that only the first side has, and those that only the second has."""
    return sum(iou == 0 for c in compared for iou in c.ious), sum(c.others for c in compared)
