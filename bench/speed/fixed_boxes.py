"""Boxes in place of those that grounding found: with random weights it finds none that is worth a mask.

This file is also copied into the repository that is measured, beside `segment`'s model (see `prepare.py`): it may
import what the server has, and nothing of the bench.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from florence2_sam2.server.segment.models import Floats, Generated, GenerationOptions, Region, Tell

Box = tuple[float, float, float, float]

GROUNDING = "<CAPTION_TO_PHRASE_GROUNDING>"
# x1, y1, x2, y2 as fractions of width and height. None is over the area threshold's default.
PLACES = (
    (0.10, 0.20, 0.50, 0.60),
    (0.45, 0.30, 0.90, 0.85),
    (0.05, 0.50, 0.30, 0.90),
    (0.60, 0.05, 0.85, 0.40),
    (0.30, 0.10, 0.45, 0.30),
    (0.70, 0.60, 0.95, 0.95),
    (0.35, 0.60, 0.65, 0.75),
    (0.02, 0.02, 0.25, 0.35),
)
SHIFT = 0.02  # of width and height, at most


def boxes_for(text: str, width: int, height: int) -> list[Box]:
    """xyxy in pixels, the same for the same text: another caption's boxes lie a little elsewhere, so that no mask is
    remembered that would have to be made."""
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=2).digest()
    dx, dy = (SHIFT * byte / 255 for byte in digest)
    return [
        ((x1 + dx) * width, (y1 + dy) * height, (x2 + dx) * width, (y2 + dy) * height)
        for x1, y1, x2, y2 in PLACES
    ]


class FixedBoxes:
    """To be put before a class of models: grounding is done as ever, and its regions are replaced.

    Their labels are the whole of the generated text, so that an answer shows what was generated for it.
    """

    async def generate(
        self,
        features: Floats,
        size: tuple[int, int],
        task: str,
        text: str,
        options: GenerationOptions,
        tell: Tell,
    ) -> Generated:
        answer: Generated = await super().generate(features, size, task, text, options, tell)  # type: ignore[misc]
        if task != GROUNDING:
            return answer
        boxes = boxes_for(text, *size)
        return replace(answer, regions=tuple(Region(answer.text, box) for box in boxes))


def model_with_fixed_boxes(served: Any) -> Any:
    """`TritonPythonModel` of the module `served`, segment's model.py, with the boxes."""

    class Models(FixedBoxes, served.TritonModels):
        pass

    served.TritonModels = Models
    return served.TritonPythonModel
