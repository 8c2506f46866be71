"""One gRPC stream a call: blocking, and for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from florence2_sam2.client import errors, events
from florence2_sam2.client.attempts import Attempts, Link
from florence2_sam2.client.calls import understood

# Ask Triton to end a failed stream with the error's status; otherwise it sends the message alone.
_WITH_STATUS = {"triton_grpc_error": "true"}
_GRACE_SECONDS = 5.0  # the channel ends a call at its deadline; this is for one that has not


@dataclass(frozen=True)
class Way:
    """How the servers are reached. `arguments`: of tritonclient's InferenceServerClient."""

    arguments: Mapping[str, Any]
    metadata: Mapping[str, str]
    address: str
    link: Link

    def headers(self, call: events.Call) -> dict[str, str]:
        return {**self.metadata, **call.known.headers, **_WITH_STATUS}


def blocking(
    call: events.Call, way: Way, limit: float | None, closed: threading.Event
) -> Generator[events.Event, None, None]:
    """The events of a call. Leaving early cancels it at the server. One that breaks is made again, and its events go on
    where they were.

    Args:
        limit: seconds.
        closed: set when nothing must be tried again.

    Raises:
        SegmenterError: as `errors` says.
    """
    trying, told = Attempts(way.link, call.encoded.left(limit)), _Told()
    while True:
        try:
            with (
                call.known.on_errors(),
                contextlib.closing(_blocking_once(call, way, limit, trying.left())) as attempt,
            ):
                for event in filter(told.is_news, attempt):
                    trying.succeeded()
                    yield event
            return
        except errors.SegmenterError as error:
            pause = trying.pause(error)
            if pause is None:
                raise
        told.from_the_beginning()
        if closed.wait(pause):
            raise errors.RequestCancelled("the client has been closed")


def _blocking_once(
    call: events.Call, way: Way, limit: float | None, left: float | None
) -> Generator[events.Event, None, None]:
    # tritonclient's InferenceServerClient has one stream at a time, so each call makes one; gRPC shares the connection.
    client = tritonclient.grpc.InferenceServerClient(**way.arguments)
    responses: queue.SimpleQueue[tuple[Any, InferenceServerException | None]] = queue.SimpleQueue()
    reader = _Reader(call, way.address, limit)
    try:
        client.start_stream(
            lambda result, error: responses.put((result, error)),
            stream_timeout=left,
            headers=way.headers(call),
        )
        with contextlib.suppress(InferenceServerException):  # it has failed already: `responses` says why
            client.async_stream_infer(
                events.MODEL, call.inputs, outputs=call.outputs, request_id=call.known.request_id
            )
        while not reader.ended:
            try:
                response = responses.get(timeout=None if left is None else left + _GRACE_SECONDS)
            except queue.Empty:
                raise errors.from_status("DEADLINE_EXCEEDED", "", way.address, limit) from None
            event = reader.read(*response)
            if event is not None:
                yield event
    finally:
        # Triton 2.51 may never be done with a request whose stream is cancelled as its last response is sent (and then
        # takes a minute to stop): what has ended is left to end.
        client.stop_stream(cancel_requests=not reader.ended)
        client.close()


async def awaited(
    call: events.Call, client: Any, way: Way, limit: float | None
) -> AsyncGenerator[events.Event, None]:
    """As `blocking`, of an open InferenceServerClient of tritonclient.grpc.aio."""
    trying, told = Attempts(way.link, call.encoded.left(limit)), _Told()
    while True:
        try:
            with call.known.on_errors():
                once = _awaited_once(call, client, way, limit, trying.left())
                async with contextlib.aclosing(once) as attempt:
                    async for event in attempt:
                        if told.is_news(event):
                            trying.succeeded()
                            yield event
            return
        except errors.SegmenterError as error:
            pause = trying.pause(error)
            if pause is None:
                raise
        told.from_the_beginning()
        await asyncio.sleep(pause)


async def _awaited_once(
    call: events.Call, client: Any, way: Way, limit: float | None, left: float | None
) -> AsyncGenerator[events.Event, None]:
    async def one() -> AsyncIterator[dict[str, Any]]:
        yield {
            "model_name": events.MODEL,
            "inputs": call.inputs,
            "outputs": call.outputs,
            "request_id": call.known.request_id,
        }

    responses = client.stream_infer(one(), stream_timeout=left, headers=way.headers(call))
    reader = _Reader(call, way.address, limit)
    last: events.Event | None = None
    try:
        async for response in responses:
            event = reader.read(*response)
            if reader.ended:  # the stream's own end is waited for: see `_blocking_once`
                last = event
            elif event is not None:
                yield event
    except grpc.RpcError as error:
        raise errors.from_status(error.code().name, error.details() or "", way.address, limit) from None
    finally:
        if not reader.ended:
            responses.cancel()
    if last is None:
        raise errors.ServerError(f"{way.address} ended the stream before the answer", "UNKNOWN")
    yield last


class _Told:
    """How far a call has been told. When it is made again, what has been told already is no news."""

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None
        self._behind: tuple[int, int] | None = None

    def from_the_beginning(self) -> None:
        """The same events come again."""
        self._behind = self._last

    def is_news(self, event: events.Event) -> bool:
        place = events.place(event)
        if self._behind is not None and place <= self._behind:
            return False
        self._last, self._behind = place, None
        return True


class _Reader:
    """Reads the responses of one call in their order."""

    def __init__(self, call: events.Call, address: str, limit: float | None) -> None:
        self._call, self._address, self._limit = call, address, limit
        self._started: events.Started | None = None
        self.ended = False

    def read(self, response: Any, error: InferenceServerException | None) -> events.Event | None:
        if error is not None:
            raise errors.from_triton(error, self._address, self._limit)
        event: events.Event | None = understood(self._call.read, response, self._started)
        if isinstance(event, events.Started):
            self._started = event
        self.ended = isinstance(event, events.Finished)
        return event
