"""A server that is about to end refuses calls for as long as it finishes others: that costs a client no call."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from kserve_peer import ANSWER, Refusal, serving

from florence2_sam2.client import AsyncSegmenter, Segmenter, ServerOverloaded
from florence2_sam2.client.errors import from_status

UNLOADED = "Request for unknown model: 'segment' has no available versions"
CALLS = 40


def stopping(until: threading.Event | None = None, refusals: list[int] | None = None) -> Any:
    """A reply of a server that refuses everything, until the event is set if there is one."""

    def reply(_: Any) -> Any:
        if until is not None and until.is_set():
            return ANSWER, b""
        if refusals is not None:
            refusals.append(1)
        raise Refusal(grpc.StatusCode.NOT_FOUND, UNLOADED)

    return reply


def test_calls_go_to_the_others_with_a_single_retry() -> None:
    refused: list[int] = []
    with (
        serving(stopping(refusals=refused)) as ending,
        serving() as other,
        Segmenter([ending.address, other.address], retries=1) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        answers = list(pool.map(lambda _: client.segment(b"picture"), range(CALLS)))
    assert [answer.width for answer in answers] == [12] * CALLS
    assert len(refused) > CALLS / 4  # it was asked in its turn
    assert len(other.received) == CALLS


def test_so_do_those_of_an_asynchronous_client() -> None:
    async def ask(addresses: list[str]) -> list[int]:
        async with AsyncSegmenter(addresses, retries=1) as client:
            answers = await asyncio.gather(*(client.segment(b"picture") for _ in range(CALLS)))
        return [answer.width for answer in answers]

    with serving(stopping()) as ending, serving() as other:
        assert asyncio.run(ask([ending.address, other.address])) == [12] * CALLS


def test_a_single_one_is_waited_for() -> None:
    over = threading.Event()
    with serving(stopping(over)) as peer, Segmenter(peer.address, retries=1) as client:
        threading.Timer(1.5, over.set).start()
        began = time.monotonic()
        assert client.segment(b"picture").width == 12
        assert time.monotonic() - began > 1


@pytest.mark.parametrize("options", [{"retries": 0}, {"reconnect": 1}])
def test_not_for_longer_than_the_caller_wants(options: dict[str, Any]) -> None:
    with serving(stopping()) as peer, Segmenter(peer.address, **options) as client:
        began = time.monotonic()
        with pytest.raises(ServerOverloaded, match="is stopping") as caught:
            client.segment(b"picture")
        assert caught.value.stopping
        assert time.monotonic() - began < 5


def test_a_full_server_sends_a_call_on_to_the_next_one() -> None:
    def full(_: Any) -> Any:
        raise Refusal(grpc.StatusCode.UNAVAILABLE, "the server is full: 40 requests wait already")

    with (
        serving(full) as busy,
        serving() as free,
        Segmenter([busy.address, free.address], retries=2) as client,
    ):
        answers = [client.segment(b"picture") for _ in range(10)]
    assert [answer.width for answer in answers] == [12] * 10
    assert len(busy.received) >= 3
    assert len(free.received) == 10


def test_a_full_server_is_asked_again_only_so_often() -> None:
    sent = itertools.count()

    def full(_: Any) -> Any:
        next(sent)
        raise Refusal(grpc.StatusCode.UNAVAILABLE, "40 requests wait already")

    with serving(full) as peer, Segmenter(peer.address, retries=2) as client:
        with pytest.raises(ServerOverloaded) as caught:
            client.segment(b"picture")
        assert not caught.value.stopping
    assert next(sent) == 3


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("NOT_FOUND", UNLOADED),
        ("UNKNOWN", "Request for unknown model: 'segment_stream' has no available versions"),
        ("UNAVAILABLE", "Server not ready"),
        (
            "UNAVAILABLE",
            "Server is stopping, scheduler for model has stopped accepting new inference requests",
        ),
        ("CANCELLED", "the server is stopping"),
    ],
)
def test_its_words_are_known(code: str, message: str) -> None:
    error = from_status(code, message, "grpc://a:1")
    assert isinstance(error, ServerOverloaded)
    assert error.stopping


def test_a_caption_with_such_words_is_none_of_them() -> None:
    error = from_status("INVALID_ARGUMENT", "caption: must not say that the server is stopping", "grpc://a:1")
    assert error.code == "INVALID_ARGUMENT"
