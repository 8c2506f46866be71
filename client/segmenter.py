"""`Segmenter`, the blocking client. Its twin `AsyncSegmenter` has the same methods, awaited."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import numpy.typing as npt
import tritonclient.grpc
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
)
from florence2_sam2.client.results import Segmentation

P = TypeVar("P", bound=images.Picture)


class Segmenter(calls.Caller):
    """A connection to a server's `segment` model. One may be used from many threads.

        with Segmenter("grpc://localhost:8001") as segmenter:
            result = segmenter.segment("rock.jpg", area_threshold=1)
            result.overlay().save("rock-objects.png")

    See `florence2_sam2.client.calls.Caller` for the arguments.
    """

    def _open(self) -> None:
        self._closed = threading.Event()
        self._client = tritonclient.grpc.InferenceServerClient(**self._arguments)

    def segment(
        self,
        image: images.Picture,
        *,
        timeout: calls.Timeout = calls.CLIENT_DEFAULT,
        fetch: calls.Fetch | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
        **settings: Unpack[request.Settings],
    ) -> Segmentation:
        """Find and outline the objects in one picture.

        Only the settings that are given are sent; what each means is said in `Settings`, and the server's
        defaults are in the answer's `parameters`.

        Args:
            image: path, `http(s)://` or `data:` URL, bytes, open file, Pillow image, or uint8 array,
                RGB [H,W,3] or grey [H,W].
            timeout: seconds for this call, None for no limit; the client's when it is not given.
            fetch: who fetches a URL: "server", under its own policy, or "client", by the client's `url_rules`. The
                client's own, which is "server" by default, when it is not given.
            request_id: what the call is known by in answer, errors and the server's logs, at most 128 characters of
                printable ASCII; made here when it is not given.
            traceparent: the caller's span, as W3C's header says it, which the server's traces continue; the span of
                OpenTelemetry that is active here when it is not given.
            settings: `caption`, `area_threshold`, `confidence_threshold`, `nms_threshold`,
                `polygon_precision`, `output_mask`, `formats`, `view`, `nms`, `task`, `phrases`, `boxes`,
                `num_beams`, `max_new_tokens`, `invert_mask`, `normalized`,
                `tiles`, `reduced_decode`, `priority`.

        Raises:
            SegmenterError: see `florence2_sam2.client.errors` for the kinds. A URL that the client may not fetch, or
                behind which it finds no picture, is an `InvalidRequest` with the field `image`.
            OSError, TypeError, ValueError: the picture or a setting is unusable before anything is sent.
        """
        known = marks.Marks.of(request_id, traceparent)
        with known.on_errors():
            encoded = images.encode(image, self._fetching(fetch, timeout))
            inputs, outputs = request.to_inputs(encoded, settings), request.wanted_outputs(settings)
            answer = self._infer(request.MODEL, encoded, inputs, outputs, timeout, known)
            return calls.understood(calls.segmentation, answer, encoded)

    def florence2(
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
        """Florence-2 alone, with any of its tasks: `segmenter.florence2("sign.jpg", "<OCR>").text`.

        Args:
            image: as `segment`'s, as are `request_id` and `traceparent`; a URL only with `fetch="client"`, since this
                model fetches none.
            task: `<CAPTION>`, `<DETAILED_CAPTION>`, `<MORE_DETAILED_CAPTION>`, `<OD>`, `<DENSE_REGION_CAPTION>`,
                `<REGION_PROPOSAL>`, `<CAPTION_TO_PHRASE_GROUNDING>`, `<REFERRING_EXPRESSION_SEGMENTATION>`,
                `<REGION_TO_SEGMENTATION>`, `<OPEN_VOCABULARY_DETECTION>`, `<REGION_TO_CATEGORY>`,
                `<REGION_TO_DESCRIPTION>`, `<OCR>`, `<OCR_WITH_REGION>`, `<REGION_TO_OCR>`.
            text: what some tasks take: a caption, a phrase, or a region as four `<loc_…>`.
            settings: `num_beams`, `max_new_tokens`, `min_new_tokens`, `phrases`, `priority`.

        Raises:
            As `segment`; ValueError for a URL that is left to the server.
        """
        known = marks.Marks.of(request_id, traceparent)
        with known.on_errors():
            encoded = images.encode(image, self._fetching(fetch, timeout))
            inputs = models.florence2_inputs(encoded, task, text, settings)
            outputs = models.outputs(models.FLORENCE2)
            answer = self._infer(models.FLORENCE2, encoded, inputs, outputs, timeout, known)
            return calls.understood(models.florence2_answer, answer)

    def sam2(
        self,
        image: images.Picture,
        boxes: Sequence[Sequence[float]] | npt.NDArray[Any],
        *,
        timeout: calls.Timeout = calls.CLIENT_DEFAULT,
        fetch: calls.Fetch | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> models.Sam2Answer:
        """SAM2 alone: one mask and score for each box [[x1, y1, x2, y2], …] in pixels of the upright picture.

        Args:
            image: as `segment`'s, as are `request_id` and `traceparent`; a URL only with `fetch="client"`, since this
                model fetches none.

        Raises:
            As `segment`; ValueError for a URL that is left to the server, or boxes of another shape.
        """
        known = marks.Marks.of(request_id, traceparent)
        with known.on_errors():
            encoded = images.encode(image, self._fetching(fetch, timeout))
            inputs = models.sam2_inputs(encoded, boxes)
            outputs = models.outputs(models.SAM2)
            answer = self._infer(models.SAM2, encoded, inputs, outputs, timeout, known)
            return calls.understood(models.sam2_answer, answer)

    def stream(
        self,
        image: images.Picture,
        *,
        timeout: calls.Timeout = calls.CLIENT_DEFAULT,
        fetch: calls.Fetch | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
        **settings: Unpack[request.Settings],
    ) -> Generator[events.Event, None, None]:
        """`segment`, told while it goes on: `for event in segmenter.stream("rock.jpg", area_threshold=1): …`

        Gives the caption as it is written, then the boxes, then each object as it is done, and last a `Finished` with
        what `segment` answers (see `florence2_sam2.client.events`). Whoever leaves the loop before cancels the work.

        Args:
            as `segment`'s.

        Raises:
            As `segment`: before anything is sent when it is called, where a URL is fetched too, the others from the
            loop.
        """
        known = marks.Marks.of(request_id, traceparent)
        with known.on_errors():
            call = events.Call.of(images.encode(image, self._fetching(fetch, timeout)), settings, known)
        limit = calls.seconds(timeout, self.timeout)
        way = streams.Way(self._arguments, self._metadata, str(self.address), self._link)
        return streams.blocking(call, way, limit, self._closed)

    def segment_each(
        self,
        pictures: Iterable[P],
        *,
        concurrency: int = many.CONCURRENCY,
        timeout: calls.Timeout = calls.CLIENT_DEFAULT,
        fetch: calls.Fetch | None = None,
        **settings: Unpack[request.Settings],
    ) -> Iterator[many.Done[P, Segmentation]]:
        """Segment one picture after the other of any iterable, an endless one too, `concurrency` at once.

        Gives a `Done` for each picture, in order: its `result`, or the `error` that it alone failed with. Pictures are
        taken from the iterable, in a thread of its own, a few ahead of what the caller has read.

        Raises:
            ValueError: `concurrency` is less than 1, or `fetch` neither "server" nor "client".
            TypeError: a setting that does not exist, or one picture in place of several.
            Exception: what the iterable raises, after the answers to the pictures before.
        """
        images.require_several(pictures)
        request.require_known(settings)
        self._fetching(fetch, timeout)  # a mistake in `fetch` is no picture's

        def one(picture: P) -> Segmentation:
            return self.segment(picture, timeout=timeout, fetch=fetch, **settings)

        return many.each(one, pictures, concurrency)

    def segment_all(
        self,
        pictures: Iterable[P],
        *,
        concurrency: int = many.CONCURRENCY,
        timeout: calls.Timeout = calls.CLIENT_DEFAULT,
        fetch: calls.Fetch | None = None,
        **settings: Unpack[request.Settings],
    ) -> list[many.Done[P, Segmentation]]:
        """`segment_each` of a list, as a list: `[done.unwrap() for done in segmenter.segment_all(paths)]`."""
        each = self.segment_each(pictures, concurrency=concurrency, timeout=timeout, fetch=fetch, **settings)
        return list(each)

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
                if self._client.is_server_ready(
                    headers=self._metadata, client_timeout=left
                ) and self._client.is_model_ready(request.MODEL, headers=self._metadata, client_timeout=left):
                    return
            except InferenceServerException as error:
                failure = errors.from_triton(error, str(self.address))
            if time.monotonic() + calls.POLL_SECONDS > deadline:
                raise calls.not_ready(failure, str(self.address), timeout)
            time.sleep(calls.POLL_SECONDS)

    def close(self) -> None:
        """Close the connection. Calls in flight fail."""
        self._closed.set()
        self._client.close()

    def _infer(
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
                answer = self._client.infer(
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
            if pause is None or self._closed.wait(pause):
                raise error from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
