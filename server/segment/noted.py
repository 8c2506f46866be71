"""What is noted of a `segment` call for log and traces: sizes and numbers, nothing of what it says or shows."""

from __future__ import annotations

from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from florence2_sam2.server import records
from florence2_sam2.server.segment.loading import is_data_url
from florence2_sam2.server.segment.outcome import Outcome
from florence2_sam2.server.segment.request import SegmentRequest


def asked(request: SegmentRequest) -> None:
    """What is known of a call that has been checked."""
    record = records.current()
    if record is None or not record.keeps:
        return
    url = request.image_url or ""
    if request.image is not None:
        records.note(source="image", image_bytes=len(request.image))
    elif is_data_url(url):
        records.note(source="data_url", image_bytes=len(url))
    else:
        records.note(source="url", image_host=where(url).get("host"))
    if request.caption:
        records.note(caption_bytes=len(request.caption.encode()))
    records.note(priority=request.options.priority)


def where(url: str) -> dict[str, Any]:
    """The scheme and the host of a URL: the rest of it may be a secret."""
    try:
        parts = urlsplit(url)
        return {"method": "GET", "scheme": parts.scheme[:10], "host": (parts.hostname or "")[:253]}
    except ValueError:
        return {}


def answered(outcome: Outcome) -> dict[str, Any]:
    """Note what has come out; what the answer says of the call itself."""
    records.note(
        width=outcome.width,
        height=outcome.height,
        caption_source=outcome.caption_source,
        objects=len(outcome.kept),
        filtered=dict(Counter(str(candidate.reason) for candidate in outcome.dropped)),
    )
    request_id = records.request_id()
    return {} if request_id is None else {"request_id": request_id}
