"""What transformers' own SAM2 computes, as cases for the exported graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from transformers import Sam2Model

from florence2_sam2.export.checks import Array, Case
from florence2_sam2.export.florence2_checks import smooth_noise
from florence2_sam2.export.graphs import Precision
from florence2_sam2.export.normalisation import normalised
from florence2_sam2.server.manifest import ImageSpec

_MAPS = ("high_res_features_0", "high_res_features_1", "image_embeddings")  # in transformers' order

# Errors that logits and scores may have without being wrong. Where such an error turns the rule that chooses among the
# four masks (stability against its threshold, one score against the best), any mask that it can lead to is right, if
# it comes with its own score.
_LOGIT_ERROR: dict[Precision, float] = {"fp32": 1e-4, "fp16": 0.2}
_SCORE_ERROR: dict[Precision, float] = {"fp32": 1e-6, "fp16": 2e-3}


class Reference:
    """transformers' SAM2 on one seeded set of pictures and boxes."""

    def __init__(self, model: Sam2Model, image: ImageSpec, seed: int = 1) -> None:
        self.model = model
        self.size = image.height
        self.random = np.random.default_rng(seed)
        self.pixels = smooth_noise(self.random, 3, image)
        values = torch.from_numpy(normalised(self.pixels, image))
        self.maps = [model.get_image_embeddings(picture[None]) for picture in values]

    def encoder_cases(self) -> Iterator[Case]:
        for batch in (1, 2):  # the exporter has seen 1
            stacked = [torch.cat(level).numpy() for level in zip(*self.maps[:batch], strict=True)]
            yield Case(
                f"batch {batch}",
                {"pixels": self.pixels[:batch]},
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
            yield Case(
                f"{count} boxes",
                {**{name: value.numpy() for name, value in zip(_MAPS, maps, strict=True)}, "boxes": boxes},
                self._expected(maps, boxes, precision),
            )

    def _expected(
        self, maps: list[torch.Tensor], boxes: Array, precision: Precision
    ) -> Callable[[Mapping[str, Array]], Mapping[str, Array]]:
        logits, scores = self.masks(maps, boxes, multimask_output=False)
        all_logits, all_scores, admissible = self._candidates(maps, boxes, precision)

        def answer(found: Mapping[str, Array]) -> Mapping[str, Array]:
            settled_logits, settled_scores = logits[:, 0].copy(), scores[:, 0].copy()
            for box, tokens in enumerate(admissible):
                if len(tokens) > 1:
                    near = [
                        np.abs(all_logits[box, token] - found["mask_logits"][box]).max() for token in tokens
                    ]
                    token = tokens[int(np.argmin(near))]
                    settled_logits[box], settled_scores[box] = all_logits[box, token], all_scores[box, token]
            return {"mask_logits": settled_logits, "scores": settled_scores}

        return answer

    def _candidates(
        self, maps: list[torch.Tensor], boxes: Array, precision: Precision
    ) -> tuple[Array, Array, list[list[int]]]:
        """All logits [N,4,·,·] and scores [N,4], and for each box the mask tokens that may be the answer."""
        decoder = self.model.mask_decoder
        dynamic = decoder.dynamic_multimask_via_stability
        decoder.dynamic_multimask_via_stability = False  # then one mask means token 0's
        single, single_score = self.masks(maps, boxes, multimask_output=False)
        decoder.dynamic_multimask_via_stability = dynamic
        several, several_scores = self.masks(maps, boxes, multimask_output=True)
        threshold = decoder.dynamic_multimask_stability_thresh
        lowest = self._stability(single, _LOGIT_ERROR[precision])
        highest = self._stability(single, -_LOGIT_ERROR[precision])
        admissible = []
        for box in range(len(boxes)):
            tokens = [0] if not dynamic or highest[box] >= threshold else []
            if dynamic and lowest[box] < threshold:
                behind = several_scores[box].max() - several_scores[box]
                tokens += [int(token) + 1 for token in np.flatnonzero(behind <= 2 * _SCORE_ERROR[precision])]
            admissible.append(tokens)
        return (
            np.concatenate([single, several], axis=1),
            np.concatenate([single_score, several_scores], axis=1),
            admissible,
        )

    def _stability(self, logits: Array, error: float) -> Array:
        """Stability [N] of masks [N,1,·,·] when every logit is off by `error` to the worse (negative: the better)."""
        delta = self.model.mask_decoder.dynamic_multimask_stability_delta + error
        inner, outer = ((logits > level).sum(axis=(1, 2, 3)) for level in (delta, -delta))
        return np.where(outer > 0, inner / np.maximum(outer, 1), 1.0)

    @torch.no_grad()
    def masks(self, maps: list[torch.Tensor], boxes: Array, multimask_output: bool) -> tuple[Array, Array]:
        """Logits [N,M,S/4,S/4] and scores [N,M]; M is 1, or 3 with `multimask_output`."""
        output = self.model(
            image_embeddings=maps,
            input_boxes=torch.from_numpy(boxes)[None],
            multimask_output=multimask_output,
        )
        return output.pred_masks[0].numpy(), output.iou_scores[0].numpy()
