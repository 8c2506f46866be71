"""The segment call: picture → caption → boxes → masks → what is left after the filters.

Each stage's CPU work runs in a thread of `run`, so that one event loop serves many calls; between stages the call
looks whether its caller is still there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

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
)
from florence2_sam2.server.segment.finding import find
from florence2_sam2.server.segment.memory import Memory
from florence2_sam2.server.segment.models import (
    Features,
    Floats,
    Models,
    Picture,
    Run,
)
from florence2_sam2.server.segment.outcome import STAGES, Outcome, Watcher, clock
from florence2_sam2.server.segment.request import SegmentRequest
from florence2_sam2.server.segment.seen import Seen
from florence2_sam2.server.segment.shapes import Shape

# Boxes per call of the mask decoder: 300 boxes must not need 300 boxes' activations at once.
BOXES_AT_ONCE = 32


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
        with clock(timings, "decode"):
            picture = known if known is not None else await self.run(load)
        width, height = picture.size
        seen = Seen(models or self.models, self.memory, picture, request.options.priority, self.run)
        outcome = Outcome(width, height, request.caption, "caller", [], [], timings)
        watcher.started(outcome)

        embedding: asyncio.Task[Features] | None = None
        try:
            if self.overlap_sam2 and request.options.boxes is None:
                embedding = asyncio.create_task(_ahead(seen))
            await find(request, seen, outcome, leave_if_cancelled, watcher)
            drop_degenerate(outcome.candidates, width, height)
            drop_large(outcome.candidates, width, height, request.area_threshold)
            watcher.boxes(outcome)
            if outcome.kept:
                leave_if_cancelled()
                chunks = _chunks(outcome.kept)
                with clock(timings, "embed"):
                    if not all(seen.remembers_masks(boxes) for _, boxes in chunks):
                        await (embedding or seen.sam2_features())
                        embedding = None
                leave_if_cancelled()
                seen_boxes = 0
                with clock(timings, "masks"):
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
                with clock(timings, "postprocess"):
                    if _is_chosen_at_once(outcome, request):
                        _choose_and_upsample(outcome, request, leave_if_cancelled)
                    else:
                        await self.run(_choose_and_upsample, outcome, request, leave_if_cancelled)
        finally:
            if embedding is not None:
                embedding.cancel()
        leave_if_cancelled()
        return outcome


def _chunks(candidates: list[Candidate]) -> list[tuple[list[Candidate], Floats]]:
    """Candidates that go through the mask decoder together, and their boxes [N,4]."""
    parts = [candidates[at : at + BOXES_AT_ONCE] for at in range(0, len(candidates), BOXES_AT_ONCE)]
    return [(part, np.array([candidate.box for candidate in part], np.float32)) for part in parts]


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


async def _ahead(seen: Seen) -> Features:
    with records.span("embed_ahead"):
        return await seen.sam2_features()
