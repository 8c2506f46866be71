"""What a call tells of itself while it is answered: `segment_stream`'s events, each a JSON object.

    {"event": "started", "image": {"width": …, "height": …}, "request_id": …}
                                                                  the picture has been read
    {"event": "text", "text": …}                                  the caption as far as it is written; may change again
    {"event": "caption", "caption": …, "caption_source": …}       as in the answer
    {"event": "boxes", "boxes": [{"label": …, "box": …, "area_ratio": …, "grounding_score": …, "reason": …}, …]}
                                                                  what was found; a reason: why it goes no further
    {"event": "masks", "done": …, "of": …}                        boxes that SAM2 has seen
    {"event": "object", "index": …, "object": {…}}                as in the answer's `objects`
    {"event": "result", "result": {…}}                            the answer, the last event

Each comes only if there is something to tell: no text of a caller's own caption, no masks where no box is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from florence2_sam2.server.segment.answer import found_boxes
from florence2_sam2.server.segment.outcome import Outcome, Watcher
from florence2_sam2.server.segment.request import SegmentRequest

Event = dict[str, Any]


class Teller(Watcher):
    """Turns what a call's stages see into events for `tell`."""

    reads_along = True

    def __init__(
        self, request: SegmentRequest, tell: Callable[[Event], None], request_id: str | None = None
    ) -> None:
        self._request, self._tell, self._request_id = request, tell, request_id

    def started(self, outcome: Outcome) -> None:
        size = {"width": outcome.width, "height": outcome.height}
        named = {} if self._request_id is None else {"request_id": self._request_id}
        self._tell({"event": "started", "image": size} | named)

    def text(self, text: str) -> None:
        self._tell({"event": "text", "text": text})

    def caption(self, outcome: Outcome) -> None:
        self._tell({"event": "caption", "caption": outcome.caption, "caption_source": outcome.caption_source})

    def boxes(self, outcome: Outcome) -> None:
        self._tell({"event": "boxes", "boxes": found_boxes(outcome, self._request.options.normalized)})

    def masks(self, done: int, of: int) -> None:
        self._tell({"event": "masks", "done": done, "of": of})

    def found(self, index: int, item: dict[str, Any]) -> None:
        self._tell({"event": "object", "index": index, "object": item})
