"""`segment_stream` through the real server: its events, its last word, its errors, and what leaving early does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from florence2_sam2.client import (
    AsyncSegmenter,
    BoxesFound,
    CaptionText,
    CaptionWritten,
    DeadlineExceeded,
    Event,
    Finished,
    InvalidRequest,
    MasksMade,
    ObjectDone,
    Segmentation,
    Segmenter,
    Started,
)
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.training.demo import demo_scene

pytestmark = pytest.mark.server

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "demo.jpg"
# Takes seconds: the picture and 16 parts of it are encoded and grounded, one after the other.
LONG: dict[str, Any] = {"tiles": 4, "num_beams": 8}
ORDER = [Started, CaptionText, CaptionWritten, BoxesFound, MasksMade, ObjectDone, Finished]


def unlike(number: int) -> bytes:
    """The demo's picture in other bytes: nothing is remembered of it."""
    return PICTURE.read_bytes() + bytes([number])


@pytest.fixture(scope="module")
def client(server: EmbeddedServer) -> Iterator[Segmenter]:
    with Segmenter(server.grpc_address) as opened:
        yield opened


def same(one: Segmentation, other: Segmentation) -> bool:
    def of(result: Segmentation) -> dict[str, Any]:
        return {name: value for name, value in result.raw.items() if name not in ("timings_ms", "request_id")}

    return of(one) == of(other) and one.mask_png == other.mask_png


def test_events_in_order_and_the_same_answer(client: Segmenter) -> None:
    events = list(client.stream(unlike(1), num_beams=8))
    steps = [ORDER.index(type(event)) for event in events]
    assert steps == sorted(steps)
    assert set(steps) == set(range(len(ORDER)))
    last = events[-1]
    assert isinstance(last, Finished)
    assert same(last.result, client.segment(unlike(1), num_beams=8))
    assert [event.object for event in events if isinstance(event, ObjectDone)] == list(last.result.objects)
    written = [event.text for event in events if isinstance(event, CaptionText)]
    assert written
    assert last.result.caption
    assert all(text and last.result.caption.startswith(text[: len(text) // 2]) for text in written)
    (boxes,) = (event.boxes for event in events if isinstance(event, BoxesFound))
    found = [(item.label, item.box) for item in (*last.result.objects, *last.result.filtered)]
    assert sorted((item.label, item.box) for item in boxes) == sorted(found)
    assert all(item.grounding_score for item in boxes)


def test_an_inverted_mask_and_fractions(client: Segmenter) -> None:
    settings: dict[str, Any] = {"output_mask": True, "invert_mask": True, "normalized": True}
    *_, last = client.stream(PICTURE, **settings)
    assert isinstance(last, Finished)
    assert last.result.mask_png
    assert same(last.result, client.segment(PICTURE, **settings))


def test_wrong_requests_have_the_same_error(client: Segmenter) -> None:
    for settings in ({"area_threshold": 2}, {"caption": "a", "phrases": ["b"]}, {"num_beams": 99}):
        with pytest.raises(InvalidRequest) as plain:
            client.segment(PICTURE, **settings)
        with pytest.raises(InvalidRequest) as streamed:
            list(client.stream(PICTURE, **settings))
        assert streamed.value.message == plain.value.message
        assert streamed.value.field == plain.value.field
    with pytest.raises(InvalidRequest, match=r"^image: "):
        list(client.stream(b"no picture"))
    with pytest.raises(TypeError):
        client.stream(PICTURE, colour="red")  # type: ignore[call-arg]


def encoded(server: EmbeddedServer) -> float:
    """Pictures that Florence-2's encoder has seen."""
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics") as page:
        lines = page.read().decode().splitlines()
    name = 'nv_inference_count{model="florence2_vision_encoder"'
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def comes_to_rest(server: EmbeddedServer, before: float) -> bool:
    """Whether the work has stopped long before its 17 pictures."""
    time.sleep(0.5)
    now = encoded(server)
    time.sleep(0.7)
    return now == encoded(server) and now - before < 12


def test_who_leaves_the_loop_ends_the_work(client: Segmenter, server: EmbeddedServer) -> None:
    before = encoded(server)
    with contextlib.closing(client.stream(unlike(2), **LONG)) as events:
        assert any(isinstance(event, CaptionWritten) for event in events)
    assert comes_to_rest(server, before)


def test_a_plain_call_that_is_given_up_ends_the_work_too(server: EmbeddedServer) -> None:
    before = encoded(server)

    async def ask() -> None:
        async with AsyncSegmenter(server.grpc_address) as client:
            call = asyncio.create_task(client.segment(unlike(3), **LONG))
            while encoded(server) < before + 2:
                await asyncio.sleep(0.02)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call

    asyncio.run(asyncio.wait_for(ask(), 20))
    assert comes_to_rest(server, before)


def test_a_deadline_ends_both(client: Segmenter, server: EmbeddedServer) -> None:
    before, began = encoded(server), time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"the timeout is 0\.5 s"):
        list(client.stream(unlike(4), timeout=0.5, **LONG))
    assert time.monotonic() - began < 2
    assert comes_to_rest(server, before)


def test_one_who_leaves_does_not_stop_another(client: Segmenter) -> None:
    """Both wait for the same work, which is done once."""
    results: list[Segmentation] = []
    stayer = threading.Thread(target=lambda: results.append(client.segment(unlike(5), **LONG)))
    with contextlib.closing(client.stream(unlike(5), **LONG)) as leaver:
        assert isinstance(next(leaver), Started)
        stayer.start()
        assert any(isinstance(event, CaptionWritten) for event in leaver)
    stayer.join(30)
    assert results
    assert same(results[0], client.segment(unlike(5), **LONG))


def test_who_joins_a_plain_call_hears_its_caption_too(client: Segmenter) -> None:
    """What that call began, it began for nobody to read along."""
    for number in range(50, 60):  # on a slow machine the caption may be written before the stream comes
        plain = threading.Thread(target=client.segment, args=[unlike(number)], kwargs={"num_beams": 8})
        plain.start()
        time.sleep(0.02)
        events = list(client.stream(unlike(number), num_beams=8))
        plain.join(30)
        if any(isinstance(event, CaptionText) for event in events):
            break
    else:
        raise AssertionError("no text was told")


def test_many_at_once_and_asyncio(server: EmbeddedServer) -> None:
    phrases = [thing.phrase for thing in demo_scene().objects]

    async def one(client: AsyncSegmenter, phrase: str) -> list[Event]:
        return [event async for event in client.stream(PICTURE, phrases=[phrase])]

    async def ask() -> list[list[Event]]:
        async with AsyncSegmenter(server.grpc_address) as client:
            return await asyncio.gather(*(one(client, phrase) for phrase in phrases))

    for phrase, events in zip(phrases, asyncio.run(ask()), strict=True):
        last = events[-1]
        assert isinstance(last, Finished)
        assert {item.label for item in (*last.result.objects, *last.result.filtered)} == {phrase}


def test_asyncio_has_the_same_errors(server: EmbeddedServer) -> None:
    async def ask(timeout: float = 10, **settings: Any) -> None:
        async with AsyncSegmenter(server.grpc_address) as client:
            async for _ in client.stream(unlike(6), timeout=timeout, **settings):
                pass

    with pytest.raises(InvalidRequest, match=r"^area_threshold: a number from 0 to 1"):
        asyncio.run(ask(area_threshold=2))
    with pytest.raises(DeadlineExceeded, match=r"the timeout is 0\.4 s"):
        asyncio.run(ask(0.4, **LONG))


def sse(server: EmbeddedServer, body: dict[str, Any]) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        f"http://{server.http_address}/v2/models/segment_stream/generate_stream", json.dumps(body).encode()
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith("data:")]
    return [json.loads(line.removeprefix("data:")) for line in lines]


def test_over_http(client: Segmenter, server: EmbeddedServer) -> None:
    picture = base64.b64encode(PICTURE.read_bytes()).decode()
    told = [json.loads(part["event"]) for part in sse(server, {"image_base64": picture})]
    assert [told[0]["event"], told[-1]["event"]] == ["started", "result"]
    plain = client.segment(PICTURE, formats=())
    assert Segmentation.from_json(told[-1]["result"]).objects == plain.objects


def test_over_http_a_mask_is_a_url_and_every_line_is_text(client: Segmenter, server: EmbeddedServer) -> None:
    picture = base64.b64encode(PICTURE.read_bytes()).decode()
    last = sse(server, {"image_base64": picture, "output_mask": True})[-1]
    assert last["mask_png"] == ""
    result = Segmentation.from_json(json.loads(last["event"])["result"])
    assert result.mask_png
    assert result.mask_png == client.segment(PICTURE, output_mask=True).mask_png


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "image_base64: exactly one of image_base64 and image_url"),
        ({"image_base64": "%"}, "image_base64: this is no base64"),
        ({"image_base64": "AAAA"}, "image_base64: "),
        ({"image_base64": "AAAA", "colour": 1}, "colour: unknown field"),
    ],
)
def test_over_http_mistakes_are_named(server: EmbeddedServer, wrong: dict[str, Any], message: str) -> None:
    try:
        told = json.dumps(sse(server, wrong))
    except urllib.error.HTTPError as error:
        told = error.read().decode()
    assert message in told
