"""The pipeline as one writes it by hand, in plain transformers and PyTorch: what the server's answers are held against.

Both models loaded once, fp32, one `generate` per task, the processors' own pre- and post-processing, all boxes of a
picture in one call of SAM2. It differs from transformers in two things, on purpose and as the server does: phrases
that a checkpoint bans ("it", "the image") are banned in any case, so "The image" and "It" leak no boxes either, and
labels are free of the scraps of tokens that the processor's regular expressions leave in them.

    python bench/reference.py PICTURE --florence2 models/small/florence2 --sam2 models/small/sam2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoProcessor, Florence2ForConditionalGeneration, Sam2Model

CAPTION, GROUNDING, DETECTION = "<MORE_DETAILED_CAPTION>", "<CAPTION_TO_PHRASE_GROUNDING>", "<OD>"
# ImageNet's statistics, which all SAM2 checkpoints are trained with.
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

Box = tuple[float, float, float, float]


@dataclass
class Found:
    """A labelled box (xyxy, pixels), and what became of it: `reason` says which filter dropped it."""

    label: str
    box: Box
    score: float | None = None
    mask: np.ndarray | None = None  # bool [H, W]
    reason: str | None = None


@dataclass
class ReferenceResult:
    """The answer for a picture of H × W. `boxes` float64 [N,4], `scores` float32 [N], `masks` bool [N,H,W]."""

    caption: str
    caption_ids: list[int]
    grounding_ids: list[int]
    boxes: np.ndarray
    labels: list[str]
    scores: np.ndarray
    masks: np.ndarray
    filtered: list[Found] = field(default_factory=list)

    def union(self) -> np.ndarray:
        """The flattened mask, bool [H, W]."""
        return np.asarray(self.masks.any(axis=0))


class Reference:
    """Florence-2 and SAM2 from two checkpoint folders. `num_beams` None: the checkpoint's own."""

    def __init__(self, florence2_dir: str | Path, sam2_dir: str | Path, num_beams: int | None = None) -> None:
        self.processor = AutoProcessor.from_pretrained(florence2_dir)
        # Without dtype a checkpoint stored in fp16 would be run in fp16.
        self.florence2 = Florence2ForConditionalGeneration.from_pretrained(
            florence2_dir, dtype=torch.float32
        ).eval()
        self.sam2 = Sam2Model.from_pretrained(sam2_dir, dtype=torch.float32).eval()
        self.num_beams = num_beams
        native = self.processor.post_processor
        self.banned = {phrase.casefold() for phrase in native.banned_grounding_tokens}
        native.banned_grounding_tokens = set()  # ours is applied instead

    @torch.inference_mode()
    def segment(
        self,
        rgb: np.ndarray,
        *,
        caption: str | None = None,
        area_threshold: float = 0.3,
        confidence_threshold: float = 0.5,
        nms_threshold: float = 0.5,
        nms: Literal["box", "mask", "containment"] = "box",
        task: Literal["caption_grounding", "detection"] = "caption_grounding",
        phrases: Sequence[str] | None = None,
        boxes: Sequence[Sequence[float]] | None = None,
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        one_box_at_a_time: bool = False,
    ) -> ReferenceResult:
        """Segment a picture, uint8 [H,W,3] RGB. The settings are those of the server's `segment` call."""
        height, width = rgb.shape[:2]
        options = {"num_beams": num_beams or self.num_beams, "max_new_tokens": max_new_tokens}
        caption_ids: list[int] = []
        grounding_ids: list[int] = []
        if boxes is not None:
            found = [Found("object", as_box(box)) for box in boxes]
            caption = ""
        elif task == "detection":
            found, grounding_ids = self.locate(rgb, DETECTION, "", options)
            caption = ""
        elif phrases is not None:
            found, grounding_ids = self.locate(rgb, GROUNDING, "<and>".join(phrases), options)
            caption = ""
        else:
            if not caption or not caption.strip():
                text, caption_ids = self.generate(rgb, CAPTION, options)
                caption = self.processor.post_process_generation(text=text, task=CAPTION)[CAPTION]
            found, grounding_ids = self.locate(rgb, GROUNDING, caption, options)

        for item in found:
            if not item.reason:
                item.reason = clip(item, width, height, area_threshold)
        self.mask(rgb, [item for item in found if not item.reason], one_box_at_a_time)
        choose(found, confidence_threshold, nms, nms_threshold)
        return as_result(caption, caption_ids, grounding_ids, found, (height, width))

    def generate(self, rgb: np.ndarray, prompt: str, options: dict[str, Any]) -> tuple[str, list[int]]:
        """Florence-2's answer: its text with all tokens, and its ids without the decoder's start token."""
        inputs = self.processor(text=prompt, images=Image.fromarray(rgb), return_tensors="pt")
        config = self.florence2.generation_config
        limit = options["max_new_tokens"] or config.max_new_tokens
        ids = self.florence2.generate(
            **inputs,
            num_beams=options["num_beams"] or config.num_beams,
            # transformers' own default is 20 tokens in all.
            max_new_tokens=limit or self.florence2.config.text_config.max_position_embeddings - 1,
        )
        return self.processor.batch_decode(ids, skip_special_tokens=False)[0], ids[0, 1:].tolist()

    def locate(
        self, rgb: np.ndarray, task: str, text: str, options: dict[str, Any]
    ) -> tuple[list[Found], list[int]]:
        """Florence-2's labelled boxes, those with a banned phrase marked."""
        answer, ids = self.generate(rgb, task + text, options)
        return self.read(answer, ids, task, text, (rgb.shape[1], rgb.shape[0])), ids

    def read(self, answer: str, ids: list[int], task: str, text: str, size: tuple[int, int]) -> list[Found]:
        """The labelled boxes in an answer to `task` and `text` about a picture of `size`, width and height."""
        parsed = self.processor.post_process_generation(text=answer, task=task, image_size=size)[task]
        # A phrase with too few locations leaves the end of the last one in the next phrase's label: "loc_17>a cup".
        labels = [label.rpartition(">")[2].strip() for label in parsed["labels"]]
        found = [Found(label, as_box(box)) for label, box in zip(labels, parsed["bboxes"], strict=True)]
        for item in found:
            if task == GROUNDING and item.label.casefold() in self.banned:
                item.reason = "banned_phrase"
        return found

    def mask(self, rgb: np.ndarray, found: list[Found], one_box_at_a_time: bool) -> None:
        """Give each box its mask and score: SAM2's single mask, enlarged to the picture."""
        if not found:
            return
        height, width = rgb.shape[:2]
        side = self.sam2.config.prompt_encoder_config.image_size
        features = self.sam2.get_image_embeddings(sam2_pixels(rgb, side))
        # As Sam2Processor: scaled to the encoder's frame, nothing else.
        boxes = torch.tensor([item.box for item in found], dtype=torch.float32).reshape(-1, 2, 2)
        boxes = (boxes * torch.tensor([side / width, side / height])).reshape(1, -1, 4)
        for chunk in [slice(n, n + 1) for n in range(len(found))] if one_box_at_a_time else [slice(None)]:
            out = self.sam2(
                image_embeddings=list(features), input_boxes=boxes[:, chunk], multimask_output=False
            )
            for item, logits, score in zip(found[chunk], out.pred_masks[0], out.iou_scores[0], strict=True):
                full = F.interpolate(logits[None], (height, width), mode="bilinear", align_corners=False)
                item.mask, item.score = (full[0, 0] > 0).numpy(), float(score[0])


def sam2_pixels(rgb: np.ndarray, side: int) -> torch.Tensor:
    """Sam2ImageProcessor's pixel_values FP32 [1,3,side,side], without the torchvision that it needs for this resize."""
    image = torch.tensor(rgb).permute(2, 0, 1)[None]
    image = F.interpolate(image, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return (image.float() / 255 - MEAN[:, None, None]) / STD[:, None, None]


def as_box(values: Sequence[float]) -> Box:
    x1, y1, x2, y2 = map(float, values)
    return x1, y1, x2, y2


def clip(item: Found, width: int, height: int, area_threshold: float) -> str | None:
    """Move the box into the picture; the reason to drop it, if there is one."""
    x1, y1, x2, y2 = item.box
    left, top, right, bottom = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    if x2 <= x1 or y2 <= y1 or right <= left or bottom <= top:
        return "degenerate_box"
    item.box = (left, top, right, bottom)
    return "area" if (right - left) * (bottom - top) / (width * height) > area_threshold else None


def choose(found: list[Found], confidence_threshold: float, nms: str, nms_threshold: float) -> None:
    """The filters behind SAM2: give those a reason that are not to be answered."""
    for item in found:
        if not item.reason:
            assert item.mask is not None
            assert item.score is not None
            if not item.mask.any():
                item.reason = "empty_mask"
            elif item.score < np.float32(confidence_threshold):
                item.reason = "confidence"
    suppress([item for item in found if not item.reason], nms, nms_threshold)


def as_result(
    caption: str,
    caption_ids: list[int],
    grounding_ids: list[int],
    found: list[Found],
    shape: tuple[int, int],
) -> ReferenceResult:
    """The answer for a picture of `shape`, height and width."""
    kept = [item for item in found if not item.reason]
    return ReferenceResult(
        caption,
        caption_ids,
        grounding_ids,
        np.array([item.box for item in kept], np.float64).reshape(-1, 4),
        [item.label for item in kept],
        np.array([item.score for item in kept], np.float32),
        np.array([item.mask for item in kept], bool).reshape(-1, *shape),
        [item for item in found if item.reason],
    )


def suppress(found: list[Found], form: str, threshold: float) -> None:
    """Greedy and class-agnostic: the best score first, ties in input order, overlap greater than `threshold` goes."""
    order = sorted(found, key=lambda item: -(item.score or 0.0))
    for index, best in enumerate(order):
        for other in order[index + 1 :]:
            if (
                not best.reason
                and not other.reason
                and threshold < 1
                and overlap(best, other, form) > threshold
            ):
                other.reason = "nms"


def overlap(one: Found, other: Found, form: str) -> float:
    """IoU of the boxes or of the masks, or (containment) the masks' intersection over the smaller of them."""
    if form == "box":
        (a, b, c, d), (e, f, g, h) = one.box, other.box
        both = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
        return both / ((c - a) * (d - b) + (g - e) * (h - f) - both)
    assert one.mask is not None
    assert other.mask is not None
    areas = int(one.mask.sum()), int(other.mask.sum())
    both = int((one.mask & other.mask).sum())
    return both / (min(areas) if form == "containment" else sum(areas) - both)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", type=Path)
    parser.add_argument("--florence2", required=True, help="checkpoint folder")
    parser.add_argument("--sam2", required=True, help="checkpoint folder")
    parser.add_argument("--num-beams", type=int)
    parser.add_argument("--caption")
    arguments = parser.parse_args()
    reference = Reference(arguments.florence2, arguments.sam2, arguments.num_beams)
    rgb = np.asarray(Image.open(arguments.picture).convert("RGB"))
    start = time.perf_counter()
    result = reference.segment(rgb, caption=arguments.caption)
    print(f"{(time.perf_counter() - start) * 1e3:.0f} ms  {result.caption}")
    for label, box, score, mask in zip(result.labels, result.boxes, result.scores, result.masks, strict=True):
        print(f"  {label}: score {score:.3f}, {mask.mean():.1%} of the picture, box {box.tolist()}")
    for item in result.filtered:
        print(f"  left out: {item.label} ({item.reason}), box {list(item.box)}")


if __name__ == "__main__":
    main()
