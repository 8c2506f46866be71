"""A call's events come in order, say what is known by then, and end in what the answer says."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import numpy as np
import pytest

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.segment.models import Region
from florence2_sam2.server.segment.pipeline import BOXES_AT_ONCE
from florence2_sam2.server.segment.service import SegmentService
from florence2_sam2.server.settings import Settings
from tests.unit.test_segment_pipeline_filters import HEIGHT, PICTURE, WIDTH, DrawnModels, in_thread

CAT = Region("cat", (10, 10, 60, 60), score=0.5)
TABLE = Region("table", (0, 0, 200, 90), score=0.25)


def events_of(
    monkeypatch: pytest.MonkeyPatch, models: DrawnModels, **inputs: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    models.input_size = (64, 64)
    monkeypatch.setattr("florence2_sam2.server.segment.loading.Loader.load", lambda *_: PICTURE)
    heard: list[dict[str, Any]] = []

    async def ask() -> dict[str, Any]:
        service = SegmentService(models, in_thread, Settings())
        answer = await service({"image": b"x", **inputs}, lambda: False, heard.append)
        return answer.result

    return heard, asyncio.run(ask())


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


def test_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    models = DrawnModels([CAT, TABLE, Region("dog", (80, 20, 130, 70))])
    events, result = events_of(monkeypatch, models)
    assert names(events) == ["started", "text", "caption", "boxes", "masks", "object", "object"]
    started, text, caption, boxes, masks, *objects = events
    assert started["image"] == result["image"] == {"width": WIDTH, "height": HEIGHT}
    assert text["text"] == "A"
    assert (caption["caption"], caption["caption_source"]) == ("A cat.", "florence2")
    assert [(b["label"], b["reason"], b["grounding_score"]) for b in boxes["boxes"]] == [
        ("cat", None, 0.5),
        ("table", "area", 0.25),
        ("dog", None, None),
    ]
    assert boxes["boxes"][0]["box"] == [10, 10, 60, 60]
    assert (masks["done"], masks["of"]) == (2, 2)
    assert [event["object"] for event in objects] == result["objects"]
    assert [event["index"] for event in objects] == [0, 1]


def test_a_callers_caption_is_not_written_and_boxes_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    events, _ = events_of(monkeypatch, DrawnModels([CAT]), caption=b"a cat")
    assert names(events) == ["started", "caption", "boxes", "masks", "object"]
    assert events[1]["caption_source"] == "caller"
    events, _ = events_of(monkeypatch, DrawnModels([]), options=b'{"boxes": [[1, 1, 50, 50]]}')
    assert names(events) == ["started", "boxes", "masks", "object"]


def test_masks_are_told_chunk_by_chunk_and_nothing_left_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    regions = [Region("a", (x, 0, x + 2, 50)) for x in range(BOXES_AT_ONCE + 1)]
    events, _ = events_of(monkeypatch, DrawnModels(regions), nms_threshold=np.ones(1, np.float32))
    told = [(event["done"], event["of"]) for event in events if event["event"] == "masks"]
    assert told == [(BOXES_AT_ONCE, BOXES_AT_ONCE + 1), (BOXES_AT_ONCE + 1, BOXES_AT_ONCE + 1)]
    events, _ = events_of(monkeypatch, DrawnModels([TABLE]))
    assert names(events) == ["started", "text", "caption", "boxes"]


@pytest.mark.parametrize("settings", [{"options": b'{"view": "compact"}'}, {"output_mask": np.ones(1, bool)}])
def test_an_object_is_told_in_full_whatever_the_answers_form(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    events, result = events_of(monkeypatch, DrawnModels([CAT]), **settings)
    told = events[-1]["object"]
    assert told["label"] == "cat"
    assert ("polygons" in told) == ("output_mask" not in settings)
    assert ("objects" in result) == ("output_mask" in settings)


def test_coordinates_are_normalized_if_the_answers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    events, result = events_of(monkeypatch, DrawnModels([CAT]), options=b'{"normalized": true}')
    told = next(event for event in events if event["event"] == "boxes")["boxes"][0]["box"]
    assert told == result["objects"][0]["box"]
    assert max(told) < 1


def test_a_wrong_request_has_no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest):
        events_of(monkeypatch, DrawnModels([]), options=b"{")


def test_a_call_may_be_given_up_before_each_mask_and_each_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of large ones take seconds."""
    monkeypatch.setattr("florence2_sam2.server.segment.loading.Loader.load", lambda *_: PICTURE)

    def asked(count: int) -> int:
        models = DrawnModels([Region("a", (9 * number, 10, 9 * number + 8, 60)) for number in range(count)])
        models.input_size = (64, 64)
        times = itertools.count()
        asyncio.run(SegmentService(models, in_thread, Settings())({"image": b"x"}, lambda: next(times) < 0))
        return next(times)

    assert asked(20) == asked(10) + 10 + 10
