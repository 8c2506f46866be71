"""One picture as the models see it: each question about it is paid for once, whoever asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

import numpy as np

from florence2_sam2.server.segment.memory import Audience, Memory
from florence2_sam2.server.segment.models import (
    Features,
    Floats,
    Generated,
    GenerationOptions,
    Models,
    Picture,
    Pixels,
    Run,
    Written,
)

_TEXT_BYTES = 1000  # of a generated answer's objects, roughly, beside its text
_REGION_BYTES = 500


class Seen:
    """Answers about `picture`, from `memory` or from `models`.

    Keys have the picture's digest, what is asked, and the settings that decide the answer. The models are not in them:
    the memory lives no longer than they do.
    """

    def __init__(
        self,
        models: Models,
        memory: Memory,
        picture: Picture,
        priority: str,
        run: Run,
        is_window: bool = False,
    ) -> None:
        self._models, self._memory, self.picture, self._priority = models, memory, picture, priority
        self._run, self._is_window = run, is_window
        self._sam2_pixels: asyncio.Task[Pixels] | None = None
        # What this call had once it has until it ends, however small the memory.
        self._image_features: Features | None = None
        self._sam2_features: Features | None = None

    def window(self, box: tuple[int, int, int, int]) -> Seen:
        """A part of the picture, x1 y1 x2 y2 in pixels, as a picture of its own."""
        part = self.picture.window(box)
        return Seen(self._models, self._memory, part, self._priority, self._run, is_window=True)

    async def generate(
        self,
        task: str,
        text: str,
        options: GenerationOptions,
        leave_if_cancelled: Callable[[], None],
        heard: Callable[[Written], None] | None = None,
    ) -> Generated:
        """Florence-2's answer; regions are in this picture's pixels. `heard` gets its text while it is written."""
        key = (
            "generate",
            self.picture.digest,
            task,
            text,
            options.num_beams,
            options.max_new_tokens,
            options.phrases,
        )

        async def work(tell: Audience) -> Generated:
            features = await self.image_features()
            return await self._models.generate(features, self.picture.size, task, text, options, tell)

        if not self._memory.holds(
            key, self._priority
        ):  # two steps, so that the caller may leave between them
            await self.image_features()
            leave_if_cancelled()
        return await self._memory.recall(key, work, _generated_bytes, self._priority, heard)

    async def image_features(self) -> Features:
        """Florence-2's features of the picture, read-only."""

        async def work(_: Audience) -> Features:
            features = await self._models.image_features(await self._pixels())
            if isinstance(features, np.ndarray):
                features.setflags(write=False)
            self._resize_ahead()
            return features

        if self._image_features is None:
            key = "image_features", self.picture.digest
            self._image_features = await self._memory.recall(key, work, lambda f: f.nbytes, self._priority)
        return self._image_features

    async def sam2_features(self) -> Features:
        """SAM2's features of the picture, read-only."""

        async def work(_: Audience) -> Features:
            return await self._models.sam2_features(await (self._sam2_pixels or self._resize()))

        if self._sam2_features is None:
            key = self._sam2_key()
            self._sam2_features = await self._memory.recall(key, work, lambda f: f.nbytes, self._priority)
            self._sam2_pixels = None
        return self._sam2_features

    def remembers_masks(self, boxes: Floats) -> bool:
        """Whether `masks` of these boxes needs no features."""
        return self._memory.holds(self._masks_key(boxes), self._priority)

    async def masks(self, boxes: Floats) -> tuple[Floats, Floats]:
        """Mask logits FP32 [N,s,s], read-only, and scores FP32 [N] for N > 0 boxes [N,4] in the picture's pixels."""

        async def work(_: Audience) -> tuple[Floats, Floats]:
            features = await self.sam2_features()
            logits, scores = await self._models.masks(features, boxes, self.picture.size)
            logits.setflags(write=False)
            scores.setflags(write=False)
            return logits, scores

        key = self._masks_key(boxes)
        return await self._memory.recall(key, work, lambda m: m[0].nbytes + m[1].nbytes, self._priority)

    def shape_key(self, boxes: Floats, index: int) -> Hashable:
        """Of the mask of one of `boxes` at the picture's size, see `shapes.py`."""
        return "shape", self._masks_key(boxes), index

    def _resize_ahead(self) -> None:
        """Begin with what SAM2's encoder takes: a text is about to be written, which leaves cores idle."""
        needless = self._is_window or self._memory.holds(self._sam2_key(), self._priority)
        if self._sam2_pixels is None and not needless:
            self._sam2_pixels = asyncio.ensure_future(self._resize())

    async def _resize(self) -> Pixels:
        return await self._models.sam2_pixels(await self._pixels())

    def _sam2_key(self) -> Hashable:
        return "sam2_features", self.picture.digest

    async def _pixels(self) -> Pixels:
        return (
            self.picture.pixels if self.picture.is_decoded else await self._run(lambda: self.picture.pixels)
        )

    def _masks_key(self, boxes: Floats) -> Hashable:
        return "masks", self.picture.digest, np.ascontiguousarray(boxes, np.float32).tobytes()


def _generated_bytes(answer: Generated) -> int:
    return _TEXT_BYTES + 4 * len(answer.text) + _REGION_BYTES * len(answer.regions)
