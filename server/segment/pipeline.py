"""The segment call: picture → caption → boxes → masks → what is left after the filters.

Each stage's CPU work runs in a thread of `run`, so that one event loop serves many calls; between stages the call
looks whether its caller is still there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from florence2_sam2.postprocess import upsample_mask
from florence2_sam2.server import records
from florence2_sam2.server.errors import Cancelled
from florence2_sam2.server.segment.candidates import (
    Candidate,
    drop_degenerate,
    drop_empty,
    drop_large,
    drop_overlapping,
    drop_uncertain,
    open_candidates,
)
from florence2_sam2.server.segment.memory import Memory
from florence2_sam2.server.segment.models import (
    Floats,
    Generated,
    GenerationOptions,
    Models,
    Picture,
    Region,
    Run,
    Sam2Features,
    Written,
)
from florence2_sam2.server.segment.request import SegmentRequest
from florence2_sam2.server.segment.seen import Seen
from florence2_sam2.server.segment.shapes import Shape
from florence2_sam2.server.segment.tiles import tile_windows, to_picture

CAPTION = "<MORE_DETAILED_CAPTION>"
GROUNDING = "<CAPTION_TO_PHRASE_GROUNDING>"
DETECTION = "<OD>"
CALLERS_LABEL = "object"  # what the caller's own boxes are called

# Boxes per call of the mask decoder: 300 boxes must not need 300 boxes' activations at once.
BOXES_AT_ONCE = 32

STAGES = ("decode", "caption", "ground", "embed", "masks", "postprocess")


@dataclass
class Outcome:
    """Everything an answer is made of. `candidates` keep the order in which they were found."""

    width: int
    height: int
    caption: str
    caption_source: str
    candidates: list[Candidate]
    warnings: list[str]
    timings_ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @property
    def kept(self) -> list[Candidate]:
        return open_candidates(self.candidates)

    @property
    def dropped(self) -> list[Candidate]:
        return [candidate for candidate in self.candidates if candidate.reason is not None]


class Watcher:
    """Is told how far a call is; does nothing with it."""

    def started(self, outcome: Outcome) -> None:
        """The picture has been read."""

    def text(self, text: str) -> None:
        """The caption as far as it is written."""

    def caption(self, outcome: Outcome) -> None:
        """The caption is known."""

    def boxes(self, outcome: Outcome) -> None:
        """All candidates have been found, and those without a chance dropped."""

    def masks(self, done: int, of: int) -> None:
        """That many boxes have their masks."""

    def found(self, index: int, item: dict[str, Any]) -> None:
        """An object of the answer, in JSON."""


@dataclass
class Pipeline:
    """The stages of one server: its models, its worker threads, whether SAM2's encoder runs beside the decoding, and
    what earlier calls have cost."""

    models: Models
    run: Run
    overlap_sam2: bool = False
    memory: Memory = field(default_factory=lambda: Memory(0))

    async def __call__(
        self,
        request: SegmentRequest,
        load: Callable[[], Picture],
        cancelled: Callable[[], bool],
        watcher: Watcher = Watcher(),  # noqa: B008 - has no state
        models: Models | None = None,
        known: Picture | None = None,
    ) -> Outcome:
        """Segment one picture: `known` already, or given by `load`, which runs in a worker thread. `models` are asked
        in place of the server's: the same ones, in another way.

        Raises:
            ServiceError: whatever `load` or a model refuses; Cancelled when the caller has gone.
        """
        timings = dict.fromkeys(STAGES, 0.0)

        def leave_if_cancelled() -> None:
            if cancelled():
                raise Cancelled("the caller has cancelled")

        leave_if_cancelled()
        with _clock(timings, "decode"):
            picture = known or await self.run(load)
        width, height = picture.size
        seen = Seen(models or self.models, self.memory, picture, request.options.priority, self.run)
        outcome = Outcome(width, height, request.caption, "caller", [], [], timings)
        watcher.started(outcome)

        embedding: asyncio.Task[Sam2Features] | None = None
        try:
            if self.overlap_sam2 and request.options.boxes is None:
                embedding = asyncio.create_task(_ahead(seen))
            await self._find(request, seen, outcome, leave_if_cancelled, watcher)
            drop_degenerate(outcome.candidates, width, height)
            drop_large(outcome.candidates, width, height, request.area_threshold)
            watcher.boxes(outcome)
            if outcome.kept:
                leave_if_cancelled()
                chunks = _chunks(outcome.kept)
                with _clock(timings, "embed"):
                    if not all(seen.remembers_masks(boxes) for _, boxes in chunks):
                        await (embedding or seen.sam2_features())
                        embedding = None
                leave_if_cancelled()
                seen_boxes = 0
                with _clock(timings, "masks"):
                    for chunk, boxes in chunks:
                        leave_if_cancelled()
                        logits, scores = await seen.masks(boxes)
                        for index, (candidate, mask, score) in enumerate(
                            zip(chunk, logits, scores, strict=True)
                        ):
                            candidate.logits, candidate.score = mask, float(score)
                            candidate.shape_key = seen.shape_key(boxes, index)
                            candidate.shape = self.memory.get(candidate.shape_key)
                        seen_boxes += len(chunk)
                        watcher.masks(seen_boxes, len(outcome.kept))
                leave_if_cancelled()
                with _clock(timings, "postprocess"):
                    if _is_chosen_at_once(outcome, request):
                        _choose_and_upsample(outcome, request, leave_if_cancelled)
                    else:
                        await self.run(_choose_and_upsample, outcome, request, leave_if_cancelled)
        finally:
            if embedding is not None:
                embedding.cancel()
        leave_if_cancelled()
        return outcome

    async def _find(
        self,
        request: SegmentRequest,
        seen: Seen,
        outcome: Outcome,
        leave_if_cancelled: Callable[[], None],
        watcher: Watcher,
    ) -> None:
        """Fill in the caption and the candidates."""
        options, size = request.options, (outcome.width, outcome.height)
        if options.boxes is not None:
            outcome.caption_source = "none"
            scale = np.array([*size, *size]) if options.normalized else np.ones(4)
            boxes = np.array(options.boxes, np.float64).reshape(-1, 4) * scale
            outcome.candidates = [
                Candidate(CALLERS_LABEL, (x1, y1, x2, y2)) for x1, y1, x2, y2 in boxes.tolist()
            ]
            return

        generation = GenerationOptions(
            options.num_beams, options.max_new_tokens, options.phrases, options.priority
        )
        if options.task == "detection":
            task, outcome.caption_source = DETECTION, "none"
        elif options.phrases is not None:
            task, outcome.caption_source = GROUNDING, "phrases"
        else:
            task = GROUNDING
            if not request.caption:
                told = _CaptionTold(outcome, watcher)
                with _clock(outcome.timings_ms, "caption"):
                    written = await seen.generate(CAPTION, "", generation, leave_if_cancelled, told)
                told(Written(written.text, whole=True))
                outcome.warnings += written.warnings
            else:
                watcher.caption(outcome)
        leave_if_cancelled()
        with _clock(outcome.timings_ms, "ground"):
            if task == GROUNDING and not outcome.caption and options.phrases is None:
                outcome.warnings.append(
                    "caption: Florence-2 wrote an empty caption, so there is nothing to ground"
                )
                return
            text = outcome.caption if task == GROUNDING else ""
            self._take(outcome, await seen.generate(task, text, generation, leave_if_cancelled))
            for window in tile_windows(*size, options.tiles):
                leave_if_cancelled()
                found = await seen.window(window).generate(task, text, generation, leave_if_cancelled)
                self._take(outcome, to_picture(found, window, size))

    @staticmethod
    def _take(outcome: Outcome, found: Generated) -> None:
        outcome.candidates += [_candidate(region) for region in found.regions]
        outcome.warnings += [text for text in found.warnings if text not in outcome.warnings]


@dataclass
class _CaptionTold:
    """Tells the watcher of a caption: as it is written, and once when it is whole, which may be before the answer."""

    outcome: Outcome
    watcher: Watcher
    done: bool = False

    def __call__(self, written: Written) -> None:
        if self.done:
            return
        if written.whole:
            self.done = True
            self.outcome.caption, self.outcome.caption_source = written.text, "florence2"
            self.watcher.caption(self.outcome)
        else:
            self.watcher.text(written.text)


def _chunks(candidates: list[Candidate]) -> list[tuple[list[Candidate], Floats]]:
    """Candidates that go through the mask decoder together, and their boxes [N,4]."""
    parts = [candidates[at : at + BOXES_AT_ONCE] for at in range(0, len(candidates), BOXES_AT_ONCE)]
    return [(part, np.array([candidate.box for candidate in part], np.float32)) for part in parts]


def _candidate(region: Region) -> Candidate:
    return Candidate(region.label, region.box, grounding_score=region.score, reason=region.dropped)


def _is_chosen_at_once(outcome: Outcome, request: SegmentRequest) -> bool:
    """Whether the filters have nothing to make and little to compare: to wake a thread for them takes longer."""
    kept = outcome.kept
    return (
        request.options.nms == "box"
        and len(kept) <= BOXES_AT_ONCE
        and all(candidate.shape is not None for candidate in kept)
    )


def _choose_and_upsample(
    outcome: Outcome, request: SegmentRequest, leave_if_cancelled: Callable[[], None]
) -> None:
    """The filters behind SAM2, and full-size masks for what they need and what they leave.

    Hundreds of large masks take seconds, so the caller may leave before each of them.
    """
    width, height = outcome.width, outcome.height

    def make(candidate: Candidate) -> None:
        assert candidate.logits is not None
        leave_if_cancelled()
        candidate.shape = Shape(upsample_mask(candidate.logits, width, height))

    drop_empty(outcome.candidates, width, height, make)
    drop_uncertain(outcome.candidates, request.confidence_threshold)
    form = request.options.nms
    if form == "box":  # most masks of suppressed boxes are never made
        drop_overlapping(outcome.candidates, form, request.nms_threshold)
    for candidate in outcome.kept:
        if candidate.shape is None:
            make(candidate)
    if form != "box":
        drop_overlapping(outcome.candidates, form, request.nms_threshold)
    for candidate in outcome.candidates:
        candidate.logits = None


async def _ahead(seen: Seen) -> Sam2Features:
    with records.span("embed_ahead"):
        return await seen.sam2_features()


@contextmanager
def _clock(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        with records.span(stage):
            yield
    finally:
        timings[stage] += (time.perf_counter() - start) * 1e3
