"""`Segmenter` and its twin `AsyncSegmenter`: the same methods, blocking and awaited."""

from __future__ import annotations

import asyncio
import enum
import json
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, Unpack

import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

from florence2_sam2.client import errors, images, many, request
from florence2_sam2.client.connection import parse_address
from florence2_sam2.client.results import Segmentation

_POLL_SECONDS = 0.2


class _ClientDefault(enum.Enum):
    CLIENT_DEFAULT = "the client's"


CLIENT_DEFAULT: Final = _ClientDefault.CLIENT_DEFAULT
Timeout: TypeAlias = float | _ClientDefault | None


class Segmenter:
    """A connection to a server's `segment` model. One may be used from many threads.

        with Segmenter("grpc://localhost:8001") as segmenter:
            result = segmenter.segment("rock.jpg", area_threshold=1)
            result.overlay().save("rock-objects.png")

    Args:
        url: `grpc://host:8001`, `grpcs://host` for TLS, or plain `host:8001`. Nothing is connected to yet.
        timeout: seconds that a call may take; None: no limit.

    Raises:
        ValueError: `url` is no address of a gRPC server.
    """

    def __init__(self, url: str, *, timeout: float | None = 120.0) -> None:
        self.address = parse_address(url)
        self.timeout = timeout
        self._client = tritonclient.grpc.InferenceServerClient(
            self.address.target, ssl=self.address.tls, channel_args=self.address.channel_options
        )

    def segment(
        self,
        image: images.Picture,
        *,
        timeout: Timeout = CLIENT_DEFAULT,
        **settings: Unpack[request.Settings],
    ) -> Segmentation:
        """Find and outline the objects in one picture.

        Only the settings that are given are sent; what each means is said in `Settings`, and the server's
        defaults are in the answer's `parameters`.

        Args:
            image: path, `http(s)://` or `data:` URL (the server fetches it), bytes, open file, Pillow
                image, or uint8 array, RGB [H,W,3] or grey [H,W].
            timeout: seconds for this call, None for no limit; the client's when it is not given.
            settings: `caption`, `area_threshold`, `confidence_threshold`, `nms_threshold`,
                `polygon_precision`, `output_mask`, `formats`, `view`, `nms`, `task`, `phrases`, `boxes`,
                `num_beams`, `max_new_tokens`, `invert_mask`, `normalized`,
                `tiles`, `reduced_decode`, `priority`.

        Raises:
            SegmenterError: see `florence2_sam2.client.errors` for the kinds.
            OSError, TypeError, ValueError: the picture or a setting is unusable before anything is sent.
        """
        encoded = images.encode(image)
        inputs = request.to_inputs(encoded, settings)
        limit = _seconds(timeout, self.timeout)
        try:
            answer = self._client.infer(
                request.MODEL,
                inputs,
                outputs=request.wanted_outputs(settings),
                client_timeout=limit,
            )
        except InferenceServerException as error:
            raise errors.from_triton(error, str(self.address), limit) from None
        return _read(answer, encoded)

    def segment_each(
        self,
        pictures: Iterable[images.Picture],
        *,
        concurrency: int = many.CONCURRENCY,
        timeout: Timeout = CLIENT_DEFAULT,
        **settings: Unpack[request.Settings],
    ) -> Iterator[many.Done[images.Picture, Segmentation]]:
        """Segment one picture after the other of any iterable, an endless one too, `concurrency` at once.

        Gives a `Done` for each picture, in order: its `result`, or the `error` that it alone failed with. Pictures are
        taken from the iterable, in a thread of its own, a few ahead of what the caller has read.

        Raises:
            ValueError: `concurrency` is less than 1.
            TypeError: a setting that does not exist, or one picture in place of several.
            Exception: what the iterable raises, after the answers to the pictures before.
        """
        images.require_several(pictures)
        request.require_known(settings)

        def one(picture: images.Picture) -> Segmentation:
            return self.segment(picture, timeout=timeout, **settings)

        return many.each(one, pictures, concurrency)

    def segment_all(
        self,
        pictures: Iterable[images.Picture],
        *,
        concurrency: int = many.CONCURRENCY,
        timeout: Timeout = CLIENT_DEFAULT,
        **settings: Unpack[request.Settings],
    ) -> list[many.Done[images.Picture, Segmentation]]:
        """`segment_each` of a list, as a list: `[done.unwrap() for done in segmenter.segment_all(paths)]`."""
        return list(self.segment_each(pictures, concurrency=concurrency, timeout=timeout, **settings))

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Return when the server answers and its `segment` model is loaded.

        Raises:
            CannotConnect: nothing answered within `timeout` seconds.
            DeadlineExceeded: a server answered, but was not ready within that time.
        """
        deadline = time.monotonic() + timeout
        while True:
            left = max(deadline - time.monotonic(), 0.01)
            failure: Exception | None = None
            try:
                if self._client.is_server_ready(client_timeout=left) and self._client.is_model_ready(
                    request.MODEL, client_timeout=left
                ):
                    return
            except InferenceServerException as error:
                failure = errors.from_triton(error, str(self.address))
            if time.monotonic() + _POLL_SECONDS > deadline:
                raise _not_ready(failure, str(self.address), timeout)
            time.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """Close the connection. Calls in flight fail."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncSegmenter:
    """`Segmenter` for asyncio: the same methods, awaited. Cancelling a task cancels the server's work.

    async with AsyncSegmenter("grpc://localhost:8001") as segmenter:
        one, two = await asyncio.gather(segmenter.segment("1.jpg"), segmenter.segment("2.jpg"))
    """

    def __init__(self, url: str, *, timeout: float | None = 120.0) -> None:
        self.address = parse_address(url)
        self.timeout = timeout
        self._opened: Any = None

    async def segment(
        self,
        image: images.Picture,
        *,
        timeout: Timeout = CLIENT_DEFAULT,
        **settings: Unpack[request.Settings],
    ) -> Segmentation:
        """As `Segmenter.segment`."""
        encoded = await asyncio.to_thread(
            images.encode, image
        )  # reading and packing must not hold up the loop
        inputs = request.to_inputs(encoded, settings)
        limit = _seconds(timeout, self.timeout)
        try:
            answer = await self._client().infer(
                request.MODEL,
                inputs,
                outputs=request.wanted_outputs(settings),
                client_timeout=limit,
            )
        except InferenceServerException as error:
            raise errors.from_triton(error, str(self.address), limit) from None
        return _read(answer, encoded)

    def segment_each(
        self,
        pictures: Iterable[images.Picture] | AsyncIterable[images.Picture],
        *,
        concurrency: int = many.CONCURRENCY,
        timeout: Timeout = CLIENT_DEFAULT,
        **settings: Unpack[request.Settings],
    ) -> AsyncIterator[many.Done[images.Picture, Segmentation]]:
        """As `Segmenter.segment_each`, for `async for`; the iterable may be asynchronous."""
        images.require_several(pictures)
        request.require_known(settings)

        async def one(picture: images.Picture) -> Segmentation:
            return await self.segment(picture, timeout=timeout, **settings)

        return many.each_awaited(one, pictures, concurrency)

    async def segment_all(
        self,
        pictures: Iterable[images.Picture] | AsyncIterable[images.Picture],
        *,
        concurrency: int = many.CONCURRENCY,
        timeout: Timeout = CLIENT_DEFAULT,
        **settings: Unpack[request.Settings],
    ) -> list[many.Done[images.Picture, Segmentation]]:
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
                    client_timeout=left
                ) and await self._client().is_model_ready(request.MODEL, client_timeout=left):
                    return
            except InferenceServerException as error:
                failure = errors.from_triton(error, str(self.address))
            if time.monotonic() + _POLL_SECONDS > deadline:
                raise _not_ready(failure, str(self.address), timeout)
            await asyncio.sleep(_POLL_SECONDS)

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

    def _client(self) -> Any:
        # A channel of grpc.aio belongs to the event loop that runs when it is made: not before the first
        # call.
        if self._opened is None:
            self._opened = tritonclient.grpc.aio.InferenceServerClient(
                self.address.target, ssl=self.address.tls, channel_args=self.address.channel_options
            )
        return self._opened


def _seconds(timeout: Timeout, default: float | None) -> float | None:
    return default if isinstance(timeout, _ClientDefault) else timeout


def _not_ready(failure: Exception | None, address: str, timeout: float) -> Exception:
    if isinstance(failure, (errors.CannotConnect, errors.ModelNotFound)):
        return failure
    return errors.DeadlineExceeded(f"{address} was not ready to segment after {timeout:g} s")


def _read(answer: Any, picture: images.Encoded) -> Segmentation:
    """The typed answer from tritonclient's InferResult."""
    try:
        body = json.loads(answer.as_numpy("result").item())
        mask = answer.as_numpy("mask_png")
        return Segmentation.from_json(body, b"" if mask is None else mask.item(), picture.data)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise errors.ServerError(
            f"the server's answer has another form than this client knows: {error!r}"
        ) from error
