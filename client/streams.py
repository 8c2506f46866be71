"""One gRPC stream a call: blocking, and for asyncio."""

from __future__ import annotations

import queue
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from typing import Any

import grpc
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from florence2_sam2.client import errors, events
from florence2_sam2.client.calls import understood

# Ask Triton to end a failed stream with the error's status; otherwise it sends the message alone.
_WITH_STATUS = {"triton_grpc_error": "true"}
_GRACE_SECONDS = 5.0  # the channel ends a call at its deadline; this is for one that has not


def blocking(
    call: events.Call,
    arguments: Mapping[str, Any],
    metadata: Mapping[str, str],
    address: str,
    limit: float | None,
) -> Generator[events.Event, None, None]:
    """The events of a call. Leaving early cancels it at the server.

    Args:
        arguments: of tritonclient's InferenceServerClient. It has one stream at a time, so each call makes one; gRPC
            shares their connection.
        limit: seconds.

    Raises:
        SegmenterError: as `errors` says.
    """
    client = tritonclient.grpc.InferenceServerClient(**arguments)
    responses: queue.SimpleQueue[tuple[Any, InferenceServerException | None]] = queue.SimpleQueue()
    reader = _Reader(call, address, limit)
    try:
        client.start_stream(
            lambda result, error: responses.put((result, error)),
            stream_timeout=limit,
            headers={**metadata, **_WITH_STATUS},
        )
        client.async_stream_infer(events.MODEL, call.inputs, outputs=call.outputs)
        while not reader.ended:
            try:
                response = responses.get(timeout=None if limit is None else limit + _GRACE_SECONDS)
            except queue.Empty:
                raise errors.from_status("DEADLINE_EXCEEDED", "", address, limit) from None
            event = reader.read(*response)
            if event is not None:
                yield event
    finally:
        # Triton 2.51 may never be done with a request whose stream is cancelled as its last response is sent (and then
        # takes a minute to stop): what has ended is left to end.
        client.stop_stream(cancel_requests=not reader.ended)
        client.close()


async def awaited(
    call: events.Call, client: Any, metadata: Mapping[str, str], address: str, limit: float | None
) -> AsyncGenerator[events.Event, None]:
    """As `blocking`, of an open InferenceServerClient of tritonclient.grpc.aio."""

    async def one() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": events.MODEL, "inputs": call.inputs, "outputs": call.outputs}

    responses = client.stream_infer(one(), stream_timeout=limit, headers={**metadata, **_WITH_STATUS})
    reader = _Reader(call, address, limit)
    last: events.Event | None = None
    try:
        async for response in responses:
            event = reader.read(*response)
            if reader.ended:  # the stream's own end is waited for: see `blocking`
                last = event
            elif event is not None:
                yield event
    except grpc.RpcError as error:
        raise errors.from_status(error.code().name, error.details() or "", address, limit) from None
    finally:
        if not reader.ended:
            responses.cancel()
    if last is None:
        raise errors.ServerError(f"{address} ended the stream before the answer", "UNKNOWN")
    yield last


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
