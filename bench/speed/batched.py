"""`bench/reference.py` for several pictures at once: the batched form that transformers offers.

Each of the three networks sees all pictures together: one `generate` for all captions, one for all groundings (shorter
prompts padded, answers that have ended padded while the longest goes on), one run of SAM2's encoder and one of its
mask decoder, where pictures with fewer boxes get copies of a box whose masks are thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from bench.reference import (
    CAPTION,
    GROUNDING,
    Found,
    Reference,
    ReferenceResult,
    as_result,
    choose,
    clip,
    sam2_pixels,
)

Pictures = Sequence[np.ndarray]  # each uint8 [H,W,3]


@torch.inference_mode()
def segment_together(
    reference: Reference,
    pictures: Pictures,
    *,
    num_beams: int,
    area_threshold: float = 0.3,
    confidence_threshold: float = 0.5,
    nms_threshold: float = 0.5,
) -> list[ReferenceResult]:
    """As `reference.segment` of each picture, captions written by the model."""
    captions: list[str] = []
    caption_ids = generate_together(reference, pictures, [CAPTION] * len(pictures), num_beams)
    for ids in caption_ids:
        text = _text(reference, ids)
        captions.append(reference.processor.post_process_generation(text=text, task=CAPTION)[CAPTION])
    grounding_ids = generate_together(
        reference, pictures, [GROUNDING + caption for caption in captions], num_beams
    )
    found = []
    for rgb, caption, ids in zip(pictures, captions, grounding_ids, strict=True):
        height, width = rgb.shape[:2]
        items = reference.read(_text(reference, ids), ids, GROUNDING, caption, (width, height))
        for item in items:
            item.reason = item.reason or clip(item, width, height, area_threshold)
        found.append(items)
    mask_together(reference, pictures, [[item for item in items if not item.reason] for items in found])
    results = []
    for rgb, caption, *ids, items in zip(pictures, captions, caption_ids, grounding_ids, found, strict=True):
        choose(items, confidence_threshold, "box", nms_threshold)
        results.append(as_result(caption, *ids, items, rgb.shape[:2]))
    return results


def generate_together(
    reference: Reference, pictures: Pictures, prompts: Sequence[str], num_beams: int
) -> list[list[int]]:
    """Ids of each answer without the decoder's start token and without padding."""
    images = [Image.fromarray(rgb) for rgb in pictures]
    inputs = reference.processor(text=list(prompts), images=images, return_tensors="pt", padding=True)
    config = reference.florence2.generation_config
    most = reference.florence2.config.text_config.max_position_embeddings - 1
    ids = reference.florence2.generate(
        **inputs, num_beams=num_beams, max_new_tokens=config.max_new_tokens or most
    )
    return [_unpadded(row[1:].tolist(), config.pad_token_id) for row in ids]


def mask_together(reference: Reference, pictures: Pictures, found: Sequence[list[Found]]) -> None:
    """Give each box its mask and score; pictures without boxes are left out."""
    chosen = [(rgb, items) for rgb, items in zip(pictures, found, strict=True) if items]
    if not chosen:
        return
    side = reference.sam2.config.prompt_encoder_config.image_size
    features = reference.sam2.get_image_embeddings(torch.cat([sam2_pixels(rgb, side) for rgb, _ in chosen]))
    most = max(len(items) for _, items in chosen)
    boxes = torch.zeros(len(chosen), most, 4)
    for row, (rgb, items) in zip(boxes, chosen, strict=True):
        height, width = rgb.shape[:2]
        placed = torch.tensor([item.box for item in items], dtype=torch.float32).reshape(-1, 2, 2)
        placed = (placed * torch.tensor([side / width, side / height])).reshape(-1, 4)
        row[: len(items)] = placed
        row[len(items) :] = placed[0]
    out: Any = reference.sam2(image_embeddings=list(features), input_boxes=boxes, multimask_output=False)
    for (rgb, items), logits, scores in zip(chosen, out.pred_masks, out.iou_scores, strict=True):
        for item, logit, score in zip(items, logits, scores, strict=False):  # the copies are left over
            full = F.interpolate(logit[None], rgb.shape[:2], mode="bilinear", align_corners=False)
            item.mask, item.score = (full[0, 0] > 0).numpy(), float(score[0])


def _text(reference: Reference, ids: list[int]) -> str:
    """As `Reference.generate` decodes it: with the start token and all others."""
    start = reference.florence2.generation_config.decoder_start_token_id
    text: str = reference.processor.batch_decode([[start, *ids]], skip_special_tokens=False)[0]
    return text


def _unpadded(ids: list[int], pad: int) -> list[int]:
    while ids and ids[-1] == pad:
        ids.pop()
    return ids
