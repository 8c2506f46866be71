"""`AsyncSegmenter`, `Segmenter` for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import numpy.typing as npt
import tritonclient.grpc.aio
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from florence2_sam2.client import (
    attempts,
    calls,
    errors,
    events,
    images,
    many,
    marks,
    models,
    request,
    streams,
    threads,
)
from florence2_sam2.client.results import Segmentation

P = TypeVar("P", bound=images.Picture)

_FETCHES = 16  # URLs that are fetched at once


class AsyncSegmenter(calls.Caller):
    """`Segmenter` for asyncio: the same methods, awaited. Cancelling a task cancels the server's work.

    async with AsyncSegmenter("grpc://localhost:8001") as segmenter:
        one, two = await asyncio.gather(segmenter.segment("1.jpg"), segmenter.segment("2.jpg"))
    """

    _opened: Any = None

    def _open(self) -> None:
        self._threads = threads.Threads(_FETCHES)

    async def segment(
        self,
        image: images.Picture,
        *,
        timeout: calls.Timeout = calls.CLIENT_DEFAULT,
        fetch: calls.Fetch | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
        **settings: Unpack[request.Settings],
    ) -> Segmentation:
        """As `Segmenter.segment`."""
        known = marks.Marks.of(request_id, traceparent)
        with known.on_errors():
            encoded = await self._encoded(image, fetch, timeout)
            inputs, outputs = request.to_inputs(encoded, settings), request.wanted_outputs(settings)
            answer = await self._infer(request.MODEL, encoded, inputs, outputs, timeout, known)
            return calls.understood(calls.segmentation, answer, encoded)

    async def florence2(
        self,
        image: images.Picture,
        task: str = models.DEFAULT_TASK,
        text: str = "",
        *,
        timeout: calls.Timeout = calls.CLIENT_DEFAULT,
        fetch: calls.Fetch | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
        **settings: Unpack[models.Florence2Settings],
    ) -> models.Florence2Answer:
        """As `Segmenter.florence2`."""
        known = marks.Marks.of(request_id, traceparent)
        with known.on_errors():
            encoded = await self._encoded(image, fetch, timeout)
            inputs = models.florence2_inputs(encoded, task, text, settings)
            outputs = models.outputs(models.FLORENCE2)
            answer = await self._infer(models.FLORENCE2, encoded, inputs, outputs, timeout, known)
            return calls.understood(models.florence2_answer, answer)

    async def sam2(
        self,
        image: images.Picture,
        boxes: Sequence[Sequence[float]] | npt.NDArray[Any],
        *,
        timeout: calls.Timeout = calls.CLIENT_DEFAULT,
        fetch: calls.Fetch | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> models.Sam2Answer:
        """As `Segmenter.sam2`."""
        known = marks.Marks.of(request_id, traceparent)
        with known.on_errors():
            encoded = await self._encoded(image, fetch, timeout)
            inputs = models.sam2_inputs(encoded, boxes)
            outputs = models.outputs(models.SAM2)
            answer = await self._infer(models.SAM2, encoded, inputs, outputs, timeout, known)
            return calls.understood(models.sam2_answer, answer)

    async def stream(
        self,
        image: images.Picture,
        *,
        timeout: calls.Timeout = calls.CLIENT_DEFAULT,
        fetch: calls.Fetch | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
        **settings: Unpack[request.Settings],
    ) -> AsyncGenerator[events.Event, None]:
        """As `Segmenter.stream`, for `async for`."""
        known = marks.Marks.of(request_id, traceparent)
        with known.on_errors():
            call = events.Call.of(await self._encoded(image, fetch, timeout), settings, known)
        limit = calls.seconds(timeout, self.timeout)
        way = streams.Way(self._arguments, self._metadata, str(self.address), self._link)
        told = streams.awaited(call, self._client(), way, limit)
        async with contextlib.aclosing(told):
            async for event in told:
                yield event

    def segment_each(
        self,
        pictures: Iterable[P] | AsyncIterable[P],
        *,
        concurrency: int = many.CONCURRENCY,
        timeout: calls.Timeout = calls.CLIENT_DEFAULT,
        fetch: calls.Fetch | None = None,
        **settings: Unpack[request.Settings],
    ) -> AsyncIterator[many.Done[P, Segmentation]]:
        """As `Segmenter.segment_each`, for `async for`; the iterable may be asynchronous."""
        images.require_several(pictures)
        request.require_known(settings)
        self._fetching(fetch, timeout)  # a mistake in `fetch` is no picture's

        async def one(picture: P) -> Segmentation:
            return await self.segment(picture, timeout=timeout, fetch=fetch, **settings)

        return many.each_awaited(one, pictures, concurrency)

    async def segment_all(
        self,
        pictures: Iterable[P] | AsyncIterable[P],
        *,
        concurrency: int = many.CONCURRENCY,
        timeout: calls.Timeout = calls.CLIENT_DEFAULT,
        fetch: calls.Fetch | None = None,
        **settings: Unpack[request.Settings],
    ) -> list[many.Done[P, Segmentation]]:
        """As `Segmenter.segment_all`."""
        each = self.segment_each(pictures, concurrency=concurrency, timeout=timeout, fetch=fetch, **settings)
        return [done async for done in each]

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """As `Segmenter.wait_until_ready`."""
        deadline = time.monotonic() + timeout
        while True:
            left = max(deadline - time.monotonic(), 0.01)
            failure: Exception | None = None
            try:
                if await self._client().is_server_ready(
                    headers=self._metadata, client_timeout=left
                ) and await self._client().is_model_ready(
                    request.MODEL, headers=self._metadata, client_timeout=left
                ):
                    return
            except InferenceServerException as error:
                failure = errors.from_triton(error, str(self.address))
            if time.monotonic() + calls.POLL_SECONDS > deadline:
                raise calls.not_ready(failure, str(self.address), timeout)
            await asyncio.sleep(calls.POLL_SECONDS)

    async def close(self) -> None:
        """Close the connection. Calls in flight fail."""
        if self._opened is not None:
            await self._opened.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _infer(
        self,
        model: str,
        encoded: images.Encoded,
        inputs: list[InferInput],
        outputs: list[InferRequestedOutput],
        timeout: calls.Timeout,
        known: marks.Marks,
    ) -> Any:
        limit = calls.seconds(timeout, self.timeout)
        trying = attempts.Attempts(self._link, encoded.left(limit))
        while True:
            try:
                answer = await self._client().infer(
                    model,
                    inputs,
                    outputs=outputs,
                    request_id=known.request_id,
                    client_timeout=trying.left(),
                    headers={**self._metadata, **known.headers},
                )
            except InferenceServerException as raised:
                error = errors.from_triton(raised, str(self.address), limit)
            else:
                trying.succeeded()
                return answer
            pause = trying.pause(error)
            if pause is None:
                raise error from None
            await asyncio.sleep(pause)

    def _client(self) -> Any:
        # A channel of grpc.aio belongs to the event loop that runs when it is made: not before the first
        # call.
        if self._opened is None:
            self._opened = tritonclient.grpc.aio.InferenceServerClient(**self._arguments)
        return self._opened

    async def _encoded(
        self, image: images.Picture, fetch: calls.Fetch | None, timeout: calls.Timeout
    ) -> images.Encoded:
        """`images.encode`, which must not hold up the loop: it reads, packs, and fetches."""
        fetching = self._fetching(fetch, timeout)
        if fetching is None or not images.is_url(image):
            return await asyncio.to_thread(images.encode, image)
        try:
            return await self._threads.run(lambda: images.encode(image, fetching), fetching.deadline)
        except TimeoutError:
            raise errors.DeadlineExceeded(images.TIME_IS_UP) from None
