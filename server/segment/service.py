"""One `segment` call from raw inputs to the answer: admission, loading the picture, the pipeline, the mask's URL."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from dataclasses import asdict

from florence2_sam2.server.inputs.data_url import decode_data_url
from florence2_sam2.server.inputs.fetch import fetch_image
from florence2_sam2.server.inputs.pictures import data_url, decode_picture, decode_reduced
from florence2_sam2.server.metrics import Metrics
from florence2_sam2.server.segment.admission import Gate
from florence2_sam2.server.segment.answer import Answer, Json, build_answer
from florence2_sam2.server.segment.events import Event, Teller
from florence2_sam2.server.segment.memory import Memory
from florence2_sam2.server.segment.models import Models, Picture
from florence2_sam2.server.segment.pipeline import Outcome, Pipeline, Run, Watcher
from florence2_sam2.server.segment.request import RawInputs, SegmentRequest, parse_request
from florence2_sam2.server.settings import Settings
from florence2_sam2.server.store import MaskStore, StoreError


class SegmentService:
    """What one server needs to answer `segment` calls. Belongs to one event loop."""

    def __init__(
        self,
        models: Models,
        run: Run,
        settings: Settings,
        store: MaskStore | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._models = models
        self._run = run
        self._settings = settings
        self._store = store
        self._metrics = metrics or Metrics()
        self._memory = Memory(settings.memory_bytes)
        self._pipeline = Pipeline(models, run, settings.overlap_sam2, self._memory)
        self._gate = Gate(settings.max_in_flight, settings.max_queue)

    async def __call__(
        self,
        inputs: RawInputs,
        cancelled: Callable[[], bool],
        tell: Callable[[Event], None] | None = None,
    ) -> Answer:
        """Answer one call. `tell` gets its events, all but the last, on the event loop.

        Raises:
            ServiceError: as `server/errors.py` says; everything else is a bug.
        """
        request = parse_request(inputs, self._settings)
        came = time.perf_counter()
        async with self._gate.enter(request.options.priority):
            waited = time.perf_counter() - came
            self._metrics.add("segment_waiting_seconds_total", waited, priority=request.options.priority)
            pictures: list[Picture] = []

            def load() -> Picture:
                pictures.append(_load(request, self._settings, self._models.input_size))
                return pictures[0]

            loop = asyncio.get_running_loop()
            watcher = Watcher() if tell is None else Teller(request, tell)

            def found(index: int, item: Json) -> None:  # in a worker thread
                loop.call_soon_threadsafe(watcher.found, index, item)

            outcome = await self._pipeline(request, load, cancelled, watcher)
            build = functools.partial(
                build_answer,
                outcome,
                request,
                pictures[0],
                self._models.identities,
                self._mask_url,
                None if tell is None else found,
            )
            answer = await self._run(build)
            self._count(outcome)
            return answer

    def measure(self) -> None:
        """Set the numbers that are states: who waits, and what the memory keeps."""
        self._metrics.set("segment_waiting", self._gate.depth)
        self._metrics.set("memory_bytes", self._memory.bytes)
        for how, count in asdict(self._memory.counts).items():
            self._metrics.set("memory_results_total", count, how=how)

    def _count(self, outcome: Outcome) -> None:
        for stage, milliseconds in outcome.timings_ms.items():
            self._metrics.add("segment_stage_seconds_total", milliseconds / 1e3, stage=stage)
        self._metrics.add("segment_objects_total", len(outcome.kept))
        for candidate in outcome.dropped:
            self._metrics.add("segment_filtered_total", reason=str(candidate.reason))

    def _mask_url(self, png: bytes) -> tuple[str, str | None]:
        """Where the mask can be had, and what the caller should know about it."""
        if self._store is None:
            return data_url(png), None
        try:
            return self._store.put(png), None
        except StoreError as error:
            return data_url(png), f"mask_url: {error}; the mask is in the answer itself"


def _load(request: SegmentRequest, settings: Settings, input_size: tuple[int, int]) -> Picture:
    """The picture, from the bytes or from where the URL points."""
    field, url = "image", request.image_url or ""
    if request.image is not None:
        data = request.image
    else:
        field = "image_url"
        is_data = url[:5].lower() == "data:"
        data = decode_data_url(url, settings) if is_data else fetch_image(url, settings)
    if not request.options.reduced_decode:
        return Picture.of(decode_picture(data, settings, field), data)
    tiles = request.options.tiles  # each of which is resized to the models' size
    pixels, size = decode_reduced(data, settings, field, (tiles * input_size[0], tiles * input_size[1]))
    return Picture.of(pixels, data, size)
