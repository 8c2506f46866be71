"""A server that is restarted costs a client time and no call; one that was never there, or stays away, is told soon."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from kserve_peer import ANSWER, Refusal, serving

from florence2_sam2.client import AsyncSegmenter, CannotConnect, Segmenter, SegmenterError, ServerOverloaded
from florence2_sam2.client.errors import from_status

STUB = (
    "Failed to process the request(s) for model instance 'segment_0_0', message:"
    " Stub process 'segment_0_0' is not healthy."
)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


@contextmanager
def back_after(seconds: float, port: int) -> Iterator[None]:
    """A server at that port from then on."""
    over = threading.Event()

    def serve() -> None:
        if not over.wait(seconds):
            with serving(port=port):
                over.wait(30)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_call_waits_while_the_server_is_restarted() -> None:
    with serving() as peer:
        client = Segmenter(peer.address, retries=1)
        client.segment(b"picture")
    with client, back_after(1.5, port_of(peer.address)):
        began = time.monotonic()
        assert client.segment(b"picture").width == 12
        assert time.monotonic() - began > 1


def test_so_does_an_asynchronous_one() -> None:
    async def ask() -> None:
        with serving() as peer:
            client = AsyncSegmenter(peer.address, retries=1)
            await client.segment(b"picture")
        async with client:
            with back_after(1.5, port_of(peer.address)):
                answers = await asyncio.gather(*(client.segment(b"picture") for _ in range(4)))
        assert [answer.width for answer in answers] == [12] * 4

    asyncio.run(ask())


def failing(client: Segmenter, **settings: Any) -> float:
    """Seconds until a call was told that there is no server."""
    began = time.monotonic()
    with pytest.raises(CannotConnect):
        client.segment(b"picture", **settings)
    return time.monotonic() - began


def test_a_server_that_was_never_there_is_not_waited_for() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        with Segmenter(f"127.0.0.1:{bound.getsockname()[1]}") as client:
            assert failing(client) < 5


def test_one_that_stays_away_is_waited_for_once() -> None:
    with serving() as peer:
        client = Segmenter(peer.address, reconnect=2)
        client.segment(b"picture")
    with client:
        assert 1.5 < failing(client) < 6
        assert failing(client) < 1.5
        with serving(port=port_of(peer.address)):
            client.wait_until_ready(10)
            client.segment(b"picture")
        assert 1.5 < failing(client) < 6


@pytest.mark.parametrize("options", [{"reconnect": 0}, {"retries": 0}])
def test_who_does_not_want_to_wait_does_not(options: dict[str, Any]) -> None:
    with serving() as peer:
        client = Segmenter(peer.address, **options)
        client.segment(b"picture")
    with client:
        assert failing(client) < 2


def test_the_timeout_holds_while_waiting() -> None:
    with serving() as peer:
        client = Segmenter(peer.address)
        client.segment(b"picture")
    with client:
        assert failing(client, timeout=1) < 1.5


def test_closing_ends_the_wait() -> None:
    with serving() as peer:
        client = Segmenter(peer.address)
        client.segment(b"picture")
    threading.Timer(0.7, client.close).start()
    assert failing(client) < 3


def test_a_request_that_kills_its_server_is_not_sent_for_ever() -> None:
    died, over, sent = threading.Event(), threading.Event(), itertools.count()

    def reply(request: Any) -> Any:
        if b"poison" in request.raw_input_contents[0]:
            next(sent)
            died.set()
            over.wait(30)  # the answer never comes
        return ANSWER, b""

    def launcher(port: int) -> None:
        while not over.is_set():
            with serving(reply, port):
                died.wait(30)
            died.clear()

    with serving() as peer:
        client = Segmenter(peer.address, timeout=30)
        client.segment(b"picture")
    thread = threading.Thread(target=launcher, args=(port_of(peer.address),))
    thread.start()
    try:
        with client, pytest.raises(CannotConnect) as caught:
            client.segment(b"poison")
        assert caught.value.broke
        assert next(sent) == 3  # once, and twice again
    finally:
        over.set()
        died.set()
        thread.join()


def refusing(count: int, code: grpc.StatusCode, message: str) -> Any:
    left = itertools.count()

    def reply(_: Any) -> Any:
        if next(left) < count:
            raise Refusal(code, message)
        return ANSWER, b""

    return reply


def test_a_part_that_has_died_is_waited_for() -> None:
    with (
        serving(refusing(2, grpc.StatusCode.INTERNAL, STUB)) as peer,
        Segmenter(peer.address) as client,
    ):
        began = time.monotonic()
        assert client.segment(b"picture").width == 12
        assert time.monotonic() - began > 1.5  # the launcher needs a moment to see it
    with (
        serving(refusing(1, grpc.StatusCode.INTERNAL, STUB)) as peer,
        Segmenter(peer.address, retries=0) as client,
        pytest.raises(ServerOverloaded, match=r"a part of .* has died; it is being restarted") as caught,
    ):
        client.segment(b"picture")
    assert caught.value.code == "UNAVAILABLE"
    assert "segment_0_0" not in caught.value.message


SIZE = {"event": "started", "image": {"width": 12, "height": 8}}
TEXTS = [{"event": "text", "text": text} for text in ("The", "The im", "The image", "The image shows")]
CAPTION = {"event": "caption", "caption": ANSWER["caption"], "caption_source": "florence2"}
MASKS = [{"event": "masks", "done": done, "of": 64} for done in (32, 64)]
OBJECTS = [{"event": "object", "index": index, "object": ANSWER["objects"][0]} for index in range(3)]
WHOLE = [SIZE, *TEXTS, CAPTION, {"event": "boxes", "boxes": []}, *MASKS, *OBJECTS]


def breaking(*after: int) -> Any:
    """Streams that break after so many events; those that follow are whole."""
    breaks = iter(after)

    def tell(_: Any) -> Iterator[dict[str, Any]]:
        count = next(breaks, None)
        if count is None:
            yield from [*WHOLE, {"event": "result", "result": ANSWER}]
        else:
            yield from WHOLE[:count]
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    return tell


def told(address: str, awaited: bool, **options: Any) -> list[Any]:
    if not awaited:
        with Segmenter(address, **options) as client:
            return list(client.stream(b"picture"))

    async def ask() -> list[Any]:
        async with AsyncSegmenter(address, **options) as client:
            return [event async for event in client.stream(b"picture")]

    return asyncio.run(ask())


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("after", [(0,), (1,), (3,), (8,), (10,), (12,), (3, 0), (8, 3)])
def test_a_stream_goes_on_where_it_was(after: tuple[int, ...], awaited: bool) -> None:
    with serving() as peer:
        peer.tell = breaking()
        undisturbed = told(peer.address, awaited)
        assert len(undisturbed) == len(WHOLE) + 1
        peer.tell = breaking(*after)
        assert told(peer.address, awaited) == undisturbed
        assert len(peer.received) == 1 + len(after) + 1


@pytest.mark.parametrize("awaited", [False, True])
def test_a_stream_is_not_made_again_for_ever(awaited: bool) -> None:
    with serving() as peer:
        for retries in (0, 2):
            peer.received.clear()
            peer.tell = breaking(3, 3, 3, 3)
            with pytest.raises(CannotConnect):
                told(peer.address, awaited, retries=retries)
            assert len(peer.received) == 1 + retries


@pytest.mark.parametrize(
    ("code", "message", "kind", "mark"),
    [
        (
            "UNAVAILABLE",
            "failed to connect to all addresses; last error: Connection refused",
            CannotConnect,
            False,
        ),
        (
            "UNAVAILABLE",
            "connections to all backends failing; last error: UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed",
            CannotConnect,
            False,
        ),
        ("UNAVAILABLE", "Socket closed", CannotConnect, True),
        ("UNAVAILABLE", "recvmsg:Connection reset by peer", CannotConnect, True),
        ("UNAVAILABLE", "Cancelling all calls", CannotConnect, True),
        ("INTERNAL", STUB, ServerOverloaded, True),
        ("INTERNAL", "Failed to obtain the health mutex.", ServerOverloaded, True),
        (
            "UNAVAILABLE",
            "a part of the server (sam2_image_encoder) has died; it is being restarted, try again",
            ServerOverloaded,
            True,
        ),
        ("UNAVAILABLE", "the server is full", ServerOverloaded, False),
    ],
)
def test_what_was_sent_and_what_restarts_is_known(
    code: str, message: str, kind: type[SegmenterError], mark: bool
) -> None:
    error = from_status(code, message, "grpc://a:1")
    assert type(error) is kind
    assert getattr(error, "broke" if kind is CannotConnect else "restarting") is mark
