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

from florence2_sam2.client import calls, errors, events, images, many, models, request, streams
from florence2_sam2.client.results import Segmentation

P = TypeVar("P", bound=images.Picture)


class AsyncSegmenter(calls.Caller):
    """`Segmenter` for asyncio: the same methods, awaited. Cancelling a task cancels the server's work.

    async with AsyncSegmenter("grpc://localhost:8001") as segmenter:
        one, two = await asyncio.gather(segmenter.segment("1.jpg"), segmenter.segment("2.jpg"))
    """

    _opened: Any = None

    async def segment(
        self,
        image: images.Picture,
        *,
        timeout: calls.Timeout = calls.CLIENT_DEFAULT,
        **settings: Unpack[request.Settings],
    ) -> Segmentation:
        """As `Segmenter.segment`."""
        encoded = await _encoded(image)
        inputs, outputs = request.to_inputs(encoded, settings), request.wanted_outputs(settings)
        answer = await self._infer(request.MODEL, inputs, outputs, timeout)
        return calls.understood(calls.segmentation, answer, encoded)

    async def florence2(
        self,
        image: images.Picture,
        task: str = models.DEFAULT_TASK,
        text: str = "",
        *,
        timeout: calls.Timeout = calls.CLIENT_DEFAULT,
        **settings: Unpack[models.Florence2Settings],
    ) -> models.Florence2Answer:
        """As `Segmenter.florence2`."""
        inputs = models.florence2_inputs(await _encoded(image), task, text, settings)
        answer = await self._infer(models.FLORENCE2, inputs, models.outputs(models.FLORENCE2), timeout)
        return calls.understood(models.florence2_answer, answer)

    async def sam2(
        self,
        image: images.Picture,
        boxes: Sequence[Sequence[float]] | npt.NDArray[Any],
        *,
        timeout: calls.Timeout = calls.CLIENT_DEFAULT,
    ) -> models.Sam2Answer:
        """As `Segmenter.sam2`."""
        inputs = models.sam2_inputs(await _encoded(image), boxes)
        answer = await self._infer(models.SAM2, inputs, models.outputs(models.SAM2), timeout)
        return calls.understood(models.sam2_answer, answer)

    async def stream(
        self,
        image: images.Picture,
        *,
        timeout: calls.Timeout = calls.CLIENT_DEFAULT,
        **settings: Unpack[request.Settings],
    ) -> AsyncGenerator[events.Event, None]:
        """As `Segmenter.stream`, for `async for`."""
        call = events.Call.of(await _encoded(image), settings)
        limit = calls.seconds(timeout, self.timeout)
        told = streams.awaited(call, self._client(), self._metadata, str(self.address), limit)
        async with contextlib.aclosing(told):
            async for event in told:
                yield event

    def segment_each(
        self,
        pictures: Iterable[P] | AsyncIterable[P],
        *,
        concurrency: int = many.CONCURRENCY,
        timeout: calls.Timeout = calls.CLIENT_DEFAULT,
        **settings: Unpack[request.Settings],
    ) -> AsyncIterator[many.Done[P, Segmentation]]:
        """As `Segmenter.segment_each`, for `async for`; the iterable may be asynchronous."""
        images.require_several(pictures)
        request.require_known(settings)

        async def one(picture: P) -> Segmentation:
            return await self.segment(picture, timeout=timeout, **settings)

        return many.each_awaited(one, pictures, concurrency)

    async def segment_all(
        self,
        pictures: Iterable[P] | AsyncIterable[P],
        *,
        concurrency: int = many.CONCURRENCY,
        timeout: calls.Timeout = calls.CLIENT_DEFAULT,
        **settings: Unpack[request.Settings],
    ) -> list[many.Done[P, Segmentation]]:
        """As `Segmenter.segment_all`."""
        each = self.segment_each(pictures, concurrency=concurrency, timeout=timeout, **settings)
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
        inputs: list[InferInput],
        outputs: list[InferRequestedOutput],
        timeout: calls.Timeout,
    ) -> Any:
        limit = calls.seconds(timeout, self.timeout)
        try:
            return await self._client().infer(
                model, inputs, outputs=outputs, client_timeout=limit, headers=self._metadata
            )
        except InferenceServerException as error:
            raise errors.from_triton(error, str(self.address), limit) from None

    def _client(self) -> Any:
        # A channel of grpc.aio belongs to the event loop that runs when it is made: not before the first
        # call.
        if self._opened is None:
            self._opened = tritonclient.grpc.aio.InferenceServerClient(**self._arguments)
        return self._opened


async def _encoded(image: images.Picture) -> images.Encoded:
    return await asyncio.to_thread(images.encode, image)  # reading and packing must not hold up the loop
