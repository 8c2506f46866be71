"""A call's record has its stages, nested as they were; work that calls share belongs to the one that has begun it."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from florence2_sam2.server import records
from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.records import MOST_SPANS, Record
from florence2_sam2.server.segment.memory import Memory


def names(record: Record) -> list[tuple[str, str | None]]:
    """Spans with the names of those that they are parts of."""
    return [
        (span.name, None if span.parent is None else record.spans[span.parent].name) for span in record.spans
    ]


def test_spans_are_parts_of_those_in_which_they_begin() -> None:
    record = Record("segment", "id", keeps=True)

    async def call() -> None:
        records.enter(record)
        with records.span("caption"), records.span("florence2", tokens=3):
            records.parts(time.perf_counter(), {"waiting": 1.0, "decoding": 2.0})
        with records.span("ground"):
            await asyncio.gather(*(asyncio.create_task(part(name)) for name in ("a", "b")))
        records.note(objects=3, caption=None)

    async def part(name: str) -> None:
        with records.span(name):
            await asyncio.sleep(0)

    asyncio.run(call())
    record.close()
    assert names(record) == [
        ("caption", None),
        ("florence2", "caption"),
        ("waiting", "florence2"),
        ("decoding", "florence2"),
        ("ground", None),
        ("a", "ground"),
        ("b", "ground"),
    ]
    waiting, decoding = record.spans[2:4]
    assert waiting.end == decoding.begin == pytest.approx(waiting.begin + 0.001)
    assert record.spans[1].attributes == {"tokens": 3}
    assert record.facts.keys() == {"objects", "stages_ms"}
    assert record.facts["stages_ms"].keys() == {"caption", "ground"}


def test_a_span_says_what_it_has_failed_with() -> None:
    record = Record("segment", "id", keeps=True)
    records.enter(record)
    for error in (InvalidRequest("image", "it is none"), asyncio.CancelledError(), ZeroDivisionError()):
        with pytest.raises(type(error)), records.span("check"):
            raise error
    assert [span.code for span in record.spans] == ["INVALID_ARGUMENT", "CANCELLED", "INTERNAL"]


def test_what_goes_on_when_the_call_ends_ends_with_it() -> None:
    record = Record("segment", "id", keeps=True)
    record.begin("masks", None, {})
    record.close()
    assert record.spans[0].code == "CANCELLED"
    assert record.begin("more", None, {}) is None


def test_nothing_is_kept_where_nobody_wants_it() -> None:
    record = Record("segment", "id")
    records.enter(record)
    with records.span("caption") as index:
        records.note(objects=1)
        records.count_memory("kept")
    assert (index, record.spans, record.facts, record.memory.total()) == (None, [], {}, 0)
    assert records.request_id() == "id"


def test_a_call_with_very_many_parts_keeps_the_first() -> None:
    record = Record("segment", "id", keeps=True)
    records.enter(record)
    for _ in range(MOST_SPANS + 5):
        with records.span("masks"):
            pass
    other = Record("florence2", "id", keeps=True)
    other.begin("waiting", None, {})
    record.adopt(other.told(), 0, as_own=False)
    assert len(record.spans) == MOST_SPANS


def test_what_another_model_has_told_becomes_a_part() -> None:
    inner = Record("segment", "id", keeps=True)
    with_parts = inner.begin("caption", None, {})
    inner.end(inner.begin("florence2", with_parts, {"tokens": 9}))
    inner.end(with_parts)
    inner.facts["objects"] = 2
    told = json.loads(json.dumps(inner.told()))
    for as_own in (True, False):
        outer = Record("segment_http", "id", keeps=True)
        outer.end(outer.begin("before", None, {}))
        index = outer.begin("segment", None, {})
        outer.adopt(told, index, as_own)
        outer.end(index)
        outer.close()
        assert names(outer)[1:] == [("segment", None), ("caption", "segment"), ("florence2", "caption")]
        assert outer.spans[-1].attributes == {"tokens": 9}
        assert outer.facts.get("objects") == (2 if as_own else None)
        assert outer.spans[1].attributes == ({} if as_own else {"objects": 2})
        # The log's stages are those of the model that does the work.
        assert outer.facts["stages_ms"].keys() == ({"caption"} if as_own else {"before", "segment"})


def test_what_was_done_before_the_call_is_no_part_of_it() -> None:
    record = Record("florence2", "id", keeps=True)
    records.enter(record)
    records.parts(10.0, {"waiting": 500.0, "encoding": 1000.0, "decoding": 2000.0}, not_before=11.0)
    spans = [(span.name, span.begin, span.end) for span in record.spans]
    assert spans == [("waiting", 11.0, 11.0), ("encoding", 11.0, 11.5), ("decoding", 11.5, 13.5)]


def test_shared_work_is_a_part_of_the_call_that_has_begun_it() -> None:
    memory = Memory(0)
    first, second = Record("segment", "first", keeps=True), Record("segment", "second", keeps=True)
    ids = []

    async def work(_: object) -> int:
        with records.span("florence2"):
            ids.append(records.request_id())
            await asyncio.sleep(0.01)
        return 1

    async def call(record: Record) -> None:
        records.enter(record)
        with records.span("caption"):
            assert await memory.recall("key", work, lambda _: 1) == 1

    async def both() -> None:
        await asyncio.gather(*(asyncio.create_task(call(record)) for record in (first, second)))

    asyncio.run(both())
    assert ids == ["first"]
    assert names(first) == [("caption", None), ("florence2", "caption")]
    assert names(second) == [("caption", None)]
    assert (dict(first.memory), dict(second.memory)) == ({"made": 1}, {"joined": 1})
