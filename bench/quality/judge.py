"""Answers held against the truth about a scene. Nothing is asked here, so every rule can be tested by hand.

The rules, fixed before anything was measured:

- Asked for is every thing of the scene that is at least half visible, wooden tables included.
- Grounding: the label is exactly the phrase of the true caption, the box overlaps with an IoU above 0.5.
- End to end: the label names the thing's kind and colour (words of size and number aside), the mask's IoU is at
  least 0.75. A thing whose true box is over the service's area threshold is meant to be dropped (every table
  is): it is not asked for, and a right report of it is neither right nor wrong.
- What is reported is really there when it is matched with a thing by the same rule.
- Matching is one to one and optimal (`florence2_sam2.training.scoring.match`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.quality.ask import Box
from florence2_sam2.client import Segmentation
from florence2_sam2.postprocess import box_area_ratios, box_iou_matrix
from florence2_sam2.training.scenes import Scene, SceneObject
from florence2_sam2.training.scoring import (
    BOX_IOU,
    MASK_IOU,
    counts,
    mask_iou_matrix,
    match,
    matched,
    named_pairs,
    read_phrase,
    size_class,
)
from florence2_sam2.training.vocabulary import HELD_OUT_PAIRS

NOTHING = "(no kind)"


@dataclass(frozen=True)
class Mark:
    """The value of one judged thing or report, and what it was. `unseen`: of a pair kept out of training."""

    kind: str
    size: str
    unseen: bool
    value: float


@dataclass(frozen=True)
class Fault:
    """One thing missed or one report too many: `reason` is a class of faults, `text` one line for people."""

    reason: str
    text: str


@dataclass(frozen=True)
class Sureness:
    """Of one report: whether it is really there, and how sure the models said they were."""

    real: bool
    grounding_score: float
    score: float


@dataclass(frozen=True)
class EndToEnd:
    """The judgement of one whole answer. Marks are 1 or 0."""

    found: list[Mark]
    found_by_phrase: list[Mark]
    """The same where the label must be the true caption's phrase word for word."""
    real: list[Mark]
    missed: list[Fault]
    wrong: list[Fault]
    sure: list[Sureness]
    """One for each of `real`."""


def judge_grounding(scene: Scene, boxes: Sequence[Box]) -> list[Mark]:
    """For each thing asked for the IoU of the box that is matched with it, 0 where there is none above 0.5."""
    overlap = box_iou_matrix([t.box for t in scene.objects], [b.box for b in boxes])
    same = np.array([[t.phrase == b.label for b in boxes] for t in scene.objects], bool).reshape(
        overlap.shape
    )
    best = matched(overlap, same & (overlap > BOX_IOU))
    return [_mark(scene, t, iou) for t, iou in zip(scene.objects, best, strict=True) if counts(t)]


def judge_masks(scene: Scene, masks: np.ndarray, scores: np.ndarray) -> tuple[list[Mark], list[Mark]]:
    """Mask IoUs, and distances of the scores from them, of the things asked for. masks bool [N, H, W], scores [N]."""
    overlaps, errors = [], []
    for thing, mask, score in zip(scene.objects, masks, scores, strict=True):
        if counts(thing):
            iou = float(mask_iou_matrix(thing.mask[None], mask[None])[0, 0])
            overlaps.append(_mark(scene, thing, iou))
            errors.append(_mark(scene, thing, abs(float(score) - iou)))
    return overlaps, errors


def judge_answer(scene: Scene, answer: Segmentation) -> EndToEnd:
    """The answer to the picture alone."""
    things, reports = scene.objects, answer.objects
    height, width = scene.image.shape[:2]
    ratios = box_area_ratios([t.box for t in things], width, height)
    expected = [
        counts(t) and r <= answer.parameters["area_threshold"] for t, r in zip(things, ratios, strict=True)
    ]
    read = [read_phrase(r.label) for r in reports]
    overlap = mask_iou_matrix(np.stack([t.mask for t in things]), answer.masks())
    good = overlap >= MASK_IOU
    right = _table([[(t.kind, t.colour) == pair for pair in read] for t in things], good)
    exact = _table([[t.phrase == r.label for r in reports] for t in things], good)
    pairs = match(overlap, right & good)
    found = {row for row, _ in pairs}
    found_by_phrase = {row for row, _ in match(overlap, exact & good)}
    thing_of = {column: row for row, column in pairs}
    real, wrong, sure = [], [], []
    for column, (report, pair) in enumerate(zip(reports, read, strict=True)):
        if column in thing_of and not expected[thing_of[column]]:
            continue
        size = size_class(np.array(report.box), width, height)
        real.append(
            Mark(pair[0] if pair else NOTHING, size, pair in HELD_OUT_PAIRS, float(column in thing_of))
        )
        sure.append(Sureness(column in thing_of, report.grounding_score or 0.0, report.score or 0.0))
        if column not in thing_of:
            wrong.append(_why_wrong(report.label, overlap[:, column], right[:, column], found))
    return EndToEnd(
        [_mark(scene, t, float(i in found)) for i, t in enumerate(things) if expected[i]],
        [_mark(scene, t, float(i in found_by_phrase)) for i, t in enumerate(things) if expected[i]],
        real,
        [_why_missed(t, answer, overlap[i]) for i, t in enumerate(things) if expected[i] and i not in found],
        wrong,
        sure,
    )


def reasons(faults: Sequence[Fault]) -> Counter[str]:
    """How often each class of fault occurs."""
    return Counter(f.reason for f in faults)


def _mark(scene: Scene, thing: SceneObject, value: float) -> Mark:
    height, width = scene.image.shape[:2]
    unseen = (thing.kind, thing.colour) in HELD_OUT_PAIRS
    return Mark(thing.kind, size_class(thing.box, width, height), unseen, value)


def _table(rows: list[list[bool]], like: np.ndarray) -> np.ndarray:
    return np.array(rows, bool).reshape(like.shape)


def _why_missed(thing: SceneObject, answer: Segmentation, overlap: np.ndarray) -> Fault:
    """Where on its way through the service a thing got lost. `overlap` [M]: its mask with the reported ones."""
    pair = thing.kind, thing.colour
    if pair not in named_pairs(answer.caption or ""):
        return Fault("not in the caption", f"missed {thing.phrase}: not in the caption")
    candidates: list[tuple[tuple[float, ...], float | None, str, float]] = [
        (report.box, report.score, "", iou)
        for report, iou in zip(answer.objects, overlap, strict=True)
        if read_phrase(report.label) == pair
    ]
    candidates += [(f.box, f.score, f.reason, 0.0) for f in answer.filtered if read_phrase(f.label) == pair]
    ious = box_iou_matrix([thing.box], [box for box, *_ in candidates])[0]
    if not (ious > BOX_IOU).any():
        near = f"best box IoU {ious.max():.2f}" if len(ious) else "no box"
        return Fault("no right box", f"missed {thing.phrase}: {near}")
    best = int(ious.argmax())
    _, score, reason, iou = candidates[best]
    if reason:
        shown = "" if score is None else f", score {score:.2f}"
        return Fault(f"dropped: {reason}", f"missed {thing.phrase}: dropped by {reason}{shown}")
    return Fault("poor mask", f"missed {thing.phrase}: mask IoU {iou:.2f} in a box of {ious[best]:.2f}")


def _why_wrong(label: str, overlap: np.ndarray, right: np.ndarray, found: set[int]) -> Fault:
    """What is wrong with a report. `overlap` [N], `right` [N]: its mask with, and label for, the scene's things."""
    if not right.any():
        return Fault("nothing like it", f"reported {label}: there is none")
    if any(row in found and overlap[row] >= MASK_IOU for row in np.flatnonzero(right)):
        return Fault("twice", f"reported {label} twice")
    return Fault(
        "poorly outlined or elsewhere", f"reported {label}: mask IoU {overlap[right].max():.2f} at best"
    )
