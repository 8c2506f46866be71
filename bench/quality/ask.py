"""The calls: what a user's client asks of the server about one scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from florence2_sam2.client import Segmentation, Segmenter
from florence2_sam2.training.scenes import Scene


@dataclass(frozen=True)
class Box:
    """One box that Florence-2 gave: xyxy in pixels."""

    label: str
    box: tuple[float, float, float, float]


def grounded(segmenter: Segmenter, scene: Scene, beams: int) -> list[Box]:
    """All boxes for the scene's true caption.

    No box is smaller than nothing: `area_threshold=0` drops each one, with its label and place in the answer's
    `filtered`, before SAM2 is asked. Boxes are judged here as Florence-2 gives them, before any filter.
    """
    answer = segmenter.segment(scene.image, caption=scene.caption, num_beams=beams, area_threshold=0)
    return [Box(item.label, item.box) for item in answer.filtered]


def masks_of_boxes(segmenter: Segmenter, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Masks bool [N, H, W] and scores [N] for the scene's true boxes, all filters off, outlines exact.

    A box that got no pixel has an empty mask and score 0.
    """
    boxes = np.stack([thing.box for thing in scene.objects]).astype(float)
    answer = segmenter.segment(
        scene.image,
        boxes=boxes,
        area_threshold=1,
        confidence_threshold=0,
        nms_threshold=1,
        polygon_precision=0,
    )
    masks = np.zeros((len(boxes), *scene.image.shape[:2]), bool)
    scores = np.zeros(len(boxes))
    places = np.array([item.box for item in answer.objects]).reshape(-1, 4)
    for place, mask, item in zip(places, answer.masks(), answer.objects, strict=True):
        index = int(np.abs(boxes - place).sum(1).argmin())
        masks[index], scores[index] = mask, item.score
    return masks, scores


def segmented(segmenter: Segmenter, scene: Scene, beams: int) -> Segmentation:
    """The whole service on the picture alone, with its defaults."""
    return segmenter.segment(scene.image, num_beams=beams)
