"""The line that says how far a picture is: in words, within the terminal, and not needed for the answer."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from florence2_sam2.cli.watching import StatusLine, segment_watched, status
from florence2_sam2.client import (
    BoxesFound,
    CaptionText,
    CaptionWritten,
    Event,
    Finished,
    FoundBox,
    InvalidRequest,
    MasksMade,
    ModelNotFound,
    Started,
)

BOX = FoundBox("cat", (0, 0, 1, 1), 0.1, 0.5, None)
EVENTS: list[tuple[Event, str]] = [
    (Started(640, 480), "640×480: looking"),
    (CaptionText("A cat"), "writing the caption: A cat"),
    (CaptionWritten("A cat.", "florence2"), "grounding: A cat."),
    (BoxesFound((BOX, FoundBox("table", (0, 0, 1, 1), 1.0, 0.5, "area"))), "2 boxes, 1 of them for SAM2"),
    (MasksMade(1, 1), "masks: 1 of 1"),
]


class Told:
    """A client whose stream is given."""

    def __init__(self, *events: Event | Exception) -> None:
        self.events = events

    def stream(self, picture: str, **settings: Any) -> Iterator[Event]:
        for event in self.events:
            if isinstance(event, Exception):
                raise event
            yield event

    def segment(self, picture: str, **settings: Any) -> str:
        return f"plainly {picture} {settings}"


@pytest.mark.parametrize(("event", "said"), EVENTS, ids=lambda value: type(value).__name__)
def test_what_is_said(event: Event, said: str) -> None:
    assert status(event) == said


def test_the_line_is_written_over_and_cleared() -> None:
    stream = io.StringIO()
    answer = object()
    told = Told(*(event for event, _ in EVENTS), Finished(answer))  # type: ignore[arg-type]
    assert segment_watched(told, "a.jpg", StatusLine(stream)) is answer  # type: ignore[arg-type]
    assert stream.getvalue().split("\r\033[K") == ["", *(said for _, said in EVENTS), "done", ""]


def test_a_server_without_streams_is_asked_plainly() -> None:
    told: Any = Told(ModelNotFound("no segment_stream"))
    assert (
        segment_watched(told, "a.jpg", StatusLine(io.StringIO()), nms="mask")
        == "plainly a.jpg {'nms': 'mask'}"
    )


def test_an_error_clears_the_line() -> None:
    stream = io.StringIO()
    told: Any = Told(Started(1, 1), InvalidRequest("caption: no"))
    with pytest.raises(InvalidRequest):
        segment_watched(told, "a.jpg", StatusLine(stream))
    assert stream.getvalue().endswith("\r\033[K")


def test_of_a_long_text_the_end_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    stream = io.StringIO()
    StatusLine(stream).show("writing the caption: one\ntwo three")
    line = stream.getvalue().removeprefix("\r\033[K")
    assert len(line) == 19
    assert line.startswith("…")
    assert line.endswith("one two three")
