"""What transformers' own SAM2 computes, as cases for the exported graphs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from transformers import Sam2Model

from florence2_sam2.export.checks import Array, Case
from florence2_sam2.export.florence2_checks import smooth_noise
from florence2_sam2.export.graphs import Precision

_MAPS = ("high_res_features_0", "high_res_features_1", "image_embeddings")  # in transformers' order

# A mask this near to the limits of the rule that chooses among the four (stability against its threshold, the best
# score against the second) may be exchanged for another by rounding alone: its box is left out of the comparison.
_STABILITY_MARGIN: dict[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2}
_SCORE_MARGIN: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2}


class Reference:
    """transformers' SAM2 on one seeded set of pictures and boxes."""

    def __init__(self, model: Sam2Model, seed: int = 1) -> None:
        self.model = model
        self.size = model.config.prompt_encoder_config.image_size
        self.random = np.random.default_rng(seed)
        self.pixels = torch.from_numpy(smooth_noise(self.random, 3, self.size, self.size))
        self.maps = [model.get_image_embeddings(picture[None]) for picture in self.pixels]

    def encoder_cases(self) -> Iterator[Case]:
        for batch in (1, 2, 3):
            stacked = [torch.cat(level).numpy() for level in zip(*self.maps[:batch], strict=True)]
            yield Case(
                f"batch {batch}",
                {"pixel_values": self.pixels[:batch].numpy()},
                dict(zip(_MAPS, stacked, strict=True)),
            )

    def decoder_cases(self, precision: Precision) -> Iterator[Case]:
        """Different numbers of boxes, some of no area, some beyond the picture's edges."""
        for picture, count in enumerate((1, 5, 12)):
            corners = self.random.uniform(-0.05, 1.05, (count, 2, 2)) * self.size
            boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
            if count > 1:
                boxes[1, 2:] = boxes[1, :2]
            maps = self.maps[picture]
            logits, scores = self.masks(maps, boxes, multimask_output=False)
            unclear = self._unclear(maps, boxes, precision)
            logits[unclear], scores[unclear] = np.nan, np.nan
            yield Case(
                f"{count} boxes",
                {**{name: value.numpy() for name, value in zip(_MAPS, maps, strict=True)}, "boxes": boxes},
                {"mask_logits": logits[:, 0], "scores": scores[:, 0]},
            )

    @torch.no_grad()
    def masks(self, maps: list[torch.Tensor], boxes: Array, multimask_output: bool) -> tuple[Array, Array]:
        """Logits [N,M,S/4,S/4] and scores [N,M]; M is 1, or 3 with `multimask_output`."""
        output = self.model(
            image_embeddings=maps,
            input_boxes=torch.from_numpy(boxes)[None],
            multimask_output=multimask_output,
        )
        return output.pred_masks[0].numpy(), output.iou_scores[0].numpy()

    def _unclear(self, maps: list[torch.Tensor], boxes: Array, precision: Precision) -> Array:
        """Which boxes [N] have a choice of mask that rounding could turn."""
        decoder = self.model.mask_decoder
        if not decoder.dynamic_multimask_via_stability:
            return np.zeros(len(boxes), dtype=bool)
        _, scores = self.masks(maps, boxes, multimask_output=True)
        decoder.dynamic_multimask_via_stability = False
        single, _ = self.masks(maps, boxes, multimask_output=False)
        decoder.dynamic_multimask_via_stability = True
        stability = decoder._get_stability_scores(torch.from_numpy(single)).numpy()[:, 0]
        distance = stability - decoder.dynamic_multimask_stability_thresh
        second, best = np.sort(scores, axis=1)[:, -2:].T
        near_tie = (best - second < _SCORE_MARGIN[precision]) & (distance < _STABILITY_MARGIN[precision])
        return (np.abs(distance) < _STABILITY_MARGIN[precision]) | near_tie
