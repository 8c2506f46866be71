"""One picture on a terminal: a line that says how far the server is with it."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO, Unpack

from florence2_sam2.client import (
    BoxesFound,
    CaptionText,
    CaptionWritten,
    Event,
    Finished,
    MasksMade,
    ModelNotFound,
    ObjectDone,
    Segmentation,
    Segmenter,
    Settings,
    Started,
)


def status(event: Event) -> str:
    """What goes on, in a few words."""
    match event:
        case Started():
            return f"{event.width}×{event.height}: looking"
        case CaptionText():
            return f"writing the caption: {event.text}"
        case CaptionWritten():
            return f"grounding: {event.caption}"
        case BoxesFound():
            left = sum(box.reason is None for box in event.boxes)
            return f"{len(event.boxes)} boxes, {left} of them for SAM2"
        case MasksMade():
            return f"masks: {event.done} of {event.of}"
        case ObjectDone():
            return f"object {event.index + 1}"
        case Finished():
            return "done"


class StatusLine:
    """The terminal's last line, written over and over."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    def show(self, text: str) -> None:
        """The text, its beginning left out where it is too long: news is at its end."""
        width = shutil.get_terminal_size().columns - 1
        line = " ".join(text.split())
        if len(line) > width:
            line = "…" + line[-(width - 1) :]
        self._write(f"\r\033[K{line}")

    def clear(self) -> None:
        self._write("\r\033[K")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def segment_watched(
    segmenter: Segmenter, picture: str, line: StatusLine, **settings: Unpack[Settings]
) -> Segmentation:
    """As `segmenter.segment`, with what goes on on `line`; a server without streams is asked plainly.

    Raises:
        As `Segmenter.segment`.
    """
    try:
        for event in segmenter.stream(picture, **settings):
            line.show(status(event))
            if isinstance(event, Finished):
                return event.result
        raise AssertionError("a stream ends with its answer, or an error")
    except ModelNotFound:
        return segmenter.segment(picture, **settings)
    finally:
        line.clear()
