"""Each gRPC status becomes one kind of error, over a real channel, and the two kinds of UNAVAILABLE stay apart."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import grpc
import pytest
from kserve_peer import ANSWER, Refusal, serving

from florence2_sam2.client import (
    AsyncSegmenter,
    CannotConnect,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    RequestCancelled,
    Segmentation,
    Segmenter,
    SegmenterError,
    ServerError,
    ServerOverloaded,
)
from florence2_sam2.client.errors import from_status


def segment(address: str, asynchronous: bool, **settings: Any) -> Segmentation:
    if not asynchronous:
        with Segmenter(address) as segmenter:
            return segmenter.segment(b"picture", **settings)

    async def call() -> Segmentation:
        async with AsyncSegmenter(address) as segmenter:
            return await segmenter.segment(b"picture", **settings)

    return asyncio.run(call())


def refused(code: grpc.StatusCode, message: str, asynchronous: bool = False) -> SegmenterError:
    def reply(_: Any) -> Any:
        raise Refusal(code, message)

    with serving(reply) as peer, pytest.raises(SegmenterError) as caught:
        segment(peer.address, asynchronous, timeout=2)
    return caught.value


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.UNAVAILABLE, ServerOverloaded),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.CANCELLED, RequestCancelled),
        (grpc.StatusCode.NOT_FOUND, ModelNotFound),
        (grpc.StatusCode.INTERNAL, ServerError),
        (grpc.StatusCode.UNKNOWN, ServerError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ServerError),
    ],
)
def test_one_kind_for_each_code(
    code: grpc.StatusCode, kind: type[SegmenterError], asynchronous: bool
) -> None:
    error = refused(code, "the queue of 32 is full", asynchronous)
    assert type(error) is kind
    assert (error.message, str(error), error.code) == (
        "the queue of 32 is full",
        "the queue of 32 is full",
        code.name,
    )
    assert error.__cause__ is None
    assert error.__suppress_context__


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("area_threshold: a number from 0 to 1 is needed, got nan", "area_threshold"),
        ("options.boxes[3]: four finite numbers are needed", "options.boxes[3]"),
        ("options.Formats: unknown key", "options.Formats"),
        ("the request is wrong: very", None),
        ("no field here", None),
    ],
)
def test_an_invalid_request_names_its_field(message: str, field: str | None) -> None:
    error = refused(grpc.StatusCode.INVALID_ARGUMENT, message)
    assert isinstance(error, InvalidRequest)
    assert error.field == field


@pytest.mark.parametrize("asynchronous", [False, True])
def test_nobody_listening(asynchronous: bool) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        with pytest.raises(
            CannotConnect, match=f"no connection to grpc://127.0.0.1:{bound.getsockname()[1]}"
        ):
            segment(f"127.0.0.1:{bound.getsockname()[1]}", asynchronous)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_server_that_goes_away_during_the_call(asynchronous: bool) -> None:
    """A listener that reads the request and hangs up, as a killed server's kernel does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            for _ in range(20):  # gRPC may try again on a new connection
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.recv(100)
                connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        with pytest.raises(CannotConnect):
            segment(f"127.0.0.1:{listener.getsockname()[1]}", asynchronous, timeout=10)
    thread.join(0.1)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_slow_answer_is_not_waited_for(asynchronous: bool) -> None:
    answered = threading.Event()

    def reply(_: Any) -> Any:
        answered.wait(5)
        return ANSWER, b""

    with serving(reply) as peer:
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"did not answer in time: the timeout is 0.2 s$"):
            segment(peer.address, asynchronous, timeout=0.2)
        assert time.monotonic() - start < 2
        answered.set()


@pytest.mark.parametrize("code", ["DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN"])
def test_the_end_of_the_time_as_the_channel_puts_it(code: str) -> None:
    """Seen with Triton's server, which at the same moment ended the call of its own."""
    error = from_status(code, "Stream removed (Deadline Exceeded)", "grpc://a:1", 120.0)
    assert type(error) is DeadlineExceeded
    assert str(error) == "grpc://a:1 did not answer in time: the timeout is 120 s"
    assert str(from_status("DEADLINE_EXCEEDED", "", "grpc://a:1")) == "grpc://a:1 did not answer in time"


def test_the_timeout_of_the_client_holds_where_the_call_has_none() -> None:
    def reply(_: Any) -> Any:
        time.sleep(0.6)
        return ANSWER, b""

    with serving(reply) as peer, Segmenter(peer.address, timeout=0.2) as segmenter:
        with pytest.raises(DeadlineExceeded):
            segmenter.segment(b"picture")
        assert segmenter.segment(b"picture", timeout=None).width == 12


def test_a_cancelled_task_ends_the_call() -> None:
    gone, answered = threading.Event(), threading.Event()

    def reply(_: Any) -> Any:
        gone.set()
        answered.wait(5)
        return ANSWER, b""

    async def cancel(address: str) -> None:
        async with AsyncSegmenter(address) as segmenter:
            task = asyncio.create_task(segmenter.segment(b"picture"))
            await asyncio.to_thread(gone.wait, 5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            answered.set()
            assert (await segmenter.segment(b"picture")).width == 12

    with serving(reply) as peer:
        asyncio.run(cancel(peer.address))


@pytest.mark.parametrize("body", [{}, [], {"image": {"width": 1, "height": 1}}, {**ANSWER, "objects": [{}]}])
def test_an_answer_that_is_not_understood_is_an_error(body: Any) -> None:
    with serving(lambda _: (body, b"")) as peer, pytest.raises(ServerError, match="another form"):
        segment(peer.address, asynchronous=False)


@pytest.mark.parametrize(
    ("code", "said", "kind", "message"),
    [
        (
            grpc.StatusCode.NOT_FOUND,
            "Request for unknown model: 'segment' has no available versions",
            ServerOverloaded,
            "is stopping or loading its models",
        ),
        (
            grpc.StatusCode.UNKNOWN,
            "Request for unknown model: 'segment_stream' has no available versions",
            ServerOverloaded,
            "is stopping or loading its models",
        ),
        (
            grpc.StatusCode.INTERNAL,
            "Failed to increase the shared memory pool size for key 'prefix_2f51a0' to 9437184 bytes. If you are"
            " running Triton inside docker, use '--shm-size' flag to control the shared memory region size. Error: No"
            " space left on device",
            ServerOverloaded,
            "is short of shared memory, try again later",
        ),
        (
            grpc.StatusCode.NOT_FOUND,
            "Request for unknown model: 'segment' is not found",
            ModelNotFound,
            "is not found",
        ),
        (
            grpc.StatusCode.CANCELLED,
            "DEADLINE_EXCEEDED: the call took too long",
            DeadlineExceeded,
            "the call took too long",
        ),
    ],
    ids=[
        "a server that stops",
        "one that is asked for a stream",
        "no room",
        "a server without the model",
        "a deadline that a model noticed",
    ],
)
def test_what_triton_says_in_other_words(
    code: grpc.StatusCode, said: str, kind: type[SegmenterError], message: str
) -> None:
    error = refused(code, said, asynchronous=False)
    assert type(error) is kind
    assert error.message.endswith(message)
    assert not error.message.startswith("DEADLINE")
