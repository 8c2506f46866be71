"""Florence-2's part of the call: a caption, where the caller gives none, and the boxes of its phrases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from florence2_sam2.server.florence2_ahead import GROUNDING
from florence2_sam2.server.segment.candidates import Candidate
from florence2_sam2.server.segment.models import Generated, GenerationOptions, Region, Written
from florence2_sam2.server.segment.outcome import Outcome, Watcher, clock
from florence2_sam2.server.segment.request import SegmentRequest
from florence2_sam2.server.segment.seen import Seen
from florence2_sam2.server.segment.tiles import tile_windows, to_picture

CAPTION = "<MORE_DETAILED_CAPTION>"
DETECTION = "<OD>"
CALLERS_LABEL = "object"  # what the caller's own boxes are called


async def find(
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
        outcome.candidates = [Candidate(CALLERS_LABEL, (x1, y1, x2, y2)) for x1, y1, x2, y2 in boxes.tolist()]
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
            with clock(outcome.timings_ms, "caption"):
                reader = told if watcher.reads_along else None
                written = await seen.generate(CAPTION, "", generation, leave_if_cancelled, reader)
            told(Written(written.text, whole=True))
            outcome.warnings += written.warnings
        else:
            watcher.caption(outcome)
    leave_if_cancelled()
    with clock(outcome.timings_ms, "ground"):
        if task == GROUNDING and not outcome.caption and options.phrases is None:
            outcome.warnings.append(
                "caption: Florence-2 wrote an empty caption, so there is nothing to ground"
            )
            return
        text = outcome.caption if task == GROUNDING else ""
        _take(outcome, await seen.generate(task, text, generation, leave_if_cancelled))
        for window in tile_windows(*size, options.tiles):
            leave_if_cancelled()
            found = await seen.window(window).generate(task, text, generation, leave_if_cancelled)
            _take(outcome, to_picture(found, window, size))


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


def _candidate(region: Region) -> Candidate:
    return Candidate(region.label, region.box, grounding_score=region.score, reason=region.dropped)
