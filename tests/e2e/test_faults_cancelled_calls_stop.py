"""A call that nobody waits for any more: the work on it stops within a stage, and the next call begins at once."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from activity import Activity
from bystanders import processes
from calls import picture, png
from PIL import Image

from florence2_sam2.client import (
    AsyncSegmenter,
    BoxesFound,
    CaptionText,
    CaptionWritten,
    DeadlineExceeded,
    Event,
    MasksMade,
    ObjectDone,
    Segmenter,
)
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.settings import Settings

pytestmark = pytest.mark.server

PICTURE = (Path(__file__).resolve().parents[2] / "docs" / "pictures" / "demo.jpg").read_bytes()
LARGE = png(picture(1600, 1200))
# Takes seconds: the picture and 16 parts of it are encoded and grounded, one after the other.
LONG: dict[str, Any] = {"tiles": 4, "num_beams": 8}
ENCODER, DECODER = "florence2_vision_encoder", "sam2_mask_decoder"
BOXES = np.array(
    [[200 + number, 200, 1000, 900] for number in range(300)], float
)  # ten calls of the mask decoder
OFF: dict[str, Any] = {"area_threshold": 1, "confidence_threshold": 0, "nms_threshold": 1}


def limit(usual: float) -> float:
    """Seconds for a stage of the small checkpoints and a moment to notice (0.1 s for each model that has called
    another), and for the next call to begin. On a machine that does other things too: as `usual`, what a call needs to
    begin, tells.
    """
    return max(0.5, 5 * usual)


def unlike(data: bytes = PICTURE) -> bytes:
    """The same picture in other bytes: nothing is remembered of it."""
    return data + os.urandom(8)


@pytest.fixture(scope="module")
def client(server: EmbeddedServer) -> Iterator[Segmenter]:
    with Segmenter(server.grpc_address) as opened:
        yield opened


@pytest.fixture
def activity(server: EmbeddedServer) -> Activity:
    """Of the server, which does nothing yet."""
    watched = Activity(processes(server), server.metrics_address)
    watched.seconds_until_rest()
    return watched


def seconds_to_begin(client: Segmenter) -> float:
    """Until an ordinary call is through everything that it could have to wait for: a place, threads, rows."""
    began = time.monotonic()
    with contextlib.closing(client.stream(unlike(), num_beams=1)) as events:
        assert any(isinstance(event, CaptionText | CaptionWritten) for event in events)
        return time.monotonic() - began


@dataclass(frozen=True)
class Stage:
    """`event`: the stage has begun. `spared`: whose runs are spared, all but so many of so many."""

    event: type[Event]
    picture: bytes
    settings: dict[str, Any]
    spared: str
    runs: tuple[int, int]


STAGES = {
    "caption": Stage(CaptionText, PICTURE, LONG, ENCODER, (1, 17)),
    "grounding": Stage(CaptionWritten, PICTURE, LONG, ENCODER, (3, 17)),
    "SAM2's encoder": Stage(BoxesFound, LARGE, {"boxes": BOXES, **OFF}, DECODER, (2, 10)),
    "mask decoder": Stage(MasksMade, LARGE, {"boxes": BOXES, **OFF}, DECODER, (3, 10)),
    "answer": Stage(ObjectDone, LARGE, {"boxes": BOXES[:100], **OFF}, DECODER, (4, 4)),
}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_leaving_a_stream_stops_the_work(client: Segmenter, activity: Activity, stage: Stage) -> None:
    def leave() -> None:
        with contextlib.closing(client.stream(unlike(stage.picture), **stage.settings)) as events:
            assert any(isinstance(event, stage.event) for event in events)

    usual = seconds_to_begin(client)

    def runs_and_rest() -> tuple[float, float]:
        before = activity.runs(stage.spared)
        with activity.given_up("segment_stream", "segment"):
            leave()
            rest = activity.seconds_until_rest()
        return activity.runs(stage.spared) - before, rest

    tries = [runs_and_rest() for _ in range(3)]  # all of them on a machine that is busy otherwise too
    assert min(runs for runs, _ in tries) <= stage.runs[0], tries
    assert max(runs for runs, _ in tries) <= max(stage.runs[0], stage.runs[1] / 2), tries
    assert min(rest for _, rest in tries) < limit(usual), tries

    def leave_and_begin() -> float:
        leave()
        return seconds_to_begin(client)

    assert min(leave_and_begin(), leave_and_begin()) < limit(usual)


Ask = Callable[[AsyncSegmenter], Awaitable[Any]]


def given_up(address: str, ask: Ask, when: Callable[[], bool]) -> None:
    """Cancel a call as soon as `when` says so."""

    async def run() -> None:
        async with AsyncSegmenter(address) as client:
            task = asyncio.ensure_future(ask(client))
            while not await asyncio.to_thread(when):
                assert not task.done(), "the call was over too early"
                await asyncio.sleep(0.01)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(asyncio.wait_for(run(), 30))


def after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def test_decoding_a_large_picture(client: Segmenter, server: EmbeddedServer, activity: Activity) -> None:
    """60 megapixels: half a second and more. That stage ends, none follows, and nobody waits for it."""
    file = io.BytesIO()
    Image.new("RGB", (10_000, 6000), (90, 120, 60)).save(file, "PNG", compress_level=1)
    large = file.getvalue()
    events: list[Event] = []

    async def ask(asking: AsyncSegmenter) -> None:
        async for event in asking.stream(large):
            events.append(event)

    usual = seconds_to_begin(client)
    before = activity.runs(ENCODER)
    with activity.given_up("segment_stream", "segment"):
        given_up(server.grpc_address, ask, after(0.2))
        assert seconds_to_begin(client) < limit(usual)
        assert activity.seconds_until_rest() < 3 * limit(usual)
    assert not events, "the picture had been read already"
    assert activity.runs(ENCODER) - before == 1  # the other call's


def test_the_vision_encoder(client: Segmenter, server: EmbeddedServer, activity: Activity) -> None:
    """Of 17 runs the one that has begun ends."""
    usual = seconds_to_begin(client)
    before = activity.runs(ENCODER)

    def ask(asking: AsyncSegmenter) -> Awaitable[Any]:
        return asking.segment(unlike(), tiles=4, phrases=["the table"], num_beams=1)

    with activity.given_up("segment"):
        given_up(server.grpc_address, ask, lambda: activity.runs(ENCODER) - before >= 2)
        done = activity.runs(ENCODER)
        rest = activity.seconds_until_rest()
    assert rest < 2 * limit(usual)
    assert done - before < 12
    assert activity.runs(ENCODER) - done <= 3


def test_generation_stops_within_a_token(
    client: Segmenter, server: EmbeddedServer, activity: Activity
) -> None:
    long = {"num_beams": 8, "min_new_tokens": 600, "max_new_tokens": 600}
    began = time.monotonic()
    client.florence2(PICTURE, **long)
    whole = time.monotonic() - began

    def ask(asking: AsyncSegmenter) -> Awaitable[Any]:
        return asking.florence2(PICTURE, **long)

    with activity.given_up("florence2"):
        given_up(server.grpc_address, ask, after(0.3 * whole))
        rest = activity.seconds_until_rest()
        assert rest < max(0.5, 0.1 * whole)  # not what is left of it


@pytest.mark.parametrize("way", ["call", "stream"])
def test_a_deadline_of_50_ms_on_a_job_of_seconds(client: Segmenter, activity: Activity, way: str) -> None:
    def ask() -> float:
        began = time.monotonic()
        call = client.segment if way == "call" else lambda *a, **k: list(client.stream(*a, **k))
        with pytest.raises(DeadlineExceeded, match=r"the timeout is 0\.05 s"):
            call(unlike(), timeout=0.05, **LONG)
        return time.monotonic() - began

    usual = seconds_to_begin(client)
    before = activity.runs(ENCODER)
    with activity.given_up("segment"):
        took = sorted(ask() for _ in range(5))
        rest = activity.seconds_until_rest()
    assert rest < 3 * limit(usual)  # a stage of each of the five ends; whole they would take 10 s and more
    assert took[0] < 0.1, took
    assert took[2] < 0.2, took
    assert activity.runs(ENCODER) - before <= 15  # of 85


@pytest.fixture
def never_sending() -> Iterator[tuple[str, list[socket.socket]]]:
    """The address of a web server that takes connections and sends nothing, and the connections."""
    taken: list[socket.socket] = []

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                taken.append(listener.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", taken


def test_fetching_from_a_server_that_sends_nothing(never_sending: tuple[str, list[socket.socket]]) -> None:
    """However many have given up, each of which takes up to ten seconds more, the next call begins at once."""
    address, taken = never_sending
    with EmbeddedServer(settings=Settings(url_allow=(address,))) as server:
        activity = Activity(processes(server), server.metrics_address)
        with Segmenter(server.grpc_address) as client:
            usual = seconds_to_begin(client)

            async def ask(asking: AsyncSegmenter) -> None:
                urls = [f"http://{address}/{number}.png" for number in range(8)]
                await asyncio.gather(*(asking.segment(url) for url in urls))

            with activity.given_up("segment"):
                given_up(server.grpc_address, ask, lambda: len(taken) == 8)
                assert seconds_to_begin(client) < limit(usual)
            for connection in taken:  # the server's end waits for what is being fetched
                connection.close()
