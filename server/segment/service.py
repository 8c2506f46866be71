"""One `segment` call from raw inputs to the answer: admission, loading the picture, the pipeline, the mask's URL."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict

from florence2_sam2.server import records
from florence2_sam2.server.errors import Cancelled
from florence2_sam2.server.inputs.fetch import fetch_image
from florence2_sam2.server.inputs.pictures import data_url
from florence2_sam2.server.metrics import Metrics
from florence2_sam2.server.segment import noted
from florence2_sam2.server.segment.admission import Gate
from florence2_sam2.server.segment.answer import Answer, Json, MaskUrl, build_answer, is_known
from florence2_sam2.server.segment.described import FAILED, STORED
from florence2_sam2.server.segment.events import Event, Teller
from florence2_sam2.server.segment.fetches import Fetches
from florence2_sam2.server.segment.loading import Loader, is_data_url
from florence2_sam2.server.segment.memory import Memory
from florence2_sam2.server.segment.models import Models, Picture, Run
from florence2_sam2.server.segment.outcome import Outcome, Watcher
from florence2_sam2.server.segment.pipeline import Pipeline
from florence2_sam2.server.segment.request import RawInputs, SegmentRequest, parse_request
from florence2_sam2.server.segment.turns import Turns
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
        self._loader = Loader(settings, self._memory, models.input_size)
        self._pipeline = Pipeline(models, run, settings.overlap_sam2, self._memory)
        self._turns = Turns(settings.bulk_beside, settings.bulk_runs)
        self._gate = Gate(settings.max_in_flight, settings.max_queue, settings.queue_seconds, self._turns)
        self._fetches = Fetches(settings.max_fetches)

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
        called = time.perf_counter()
        with records.span("check"):
            request = parse_request(inputs, self._settings)
            noted.asked(request)
            priority = request.options.priority
            self._gate.check(priority)  # before anything is fetched for a call that will be refused
        source, fetch_seconds = await self._fetch(request)
        async with self._place(priority) as place:
            known = self._loader.known(request, source)
            pictures: list[Picture] = [known] if known is not None else []

            def load() -> Picture:
                pictures.append(self._loader.load(request, source))
                return pictures[0]

            loop = asyncio.get_running_loop()
            watcher = Watcher() if tell is None else Teller(request, tell, records.request_id())

            def found(index: int, item: Json) -> None:  # in a worker thread
                loop.call_soon_threadsafe(watcher.found, index, item)

            def leave_if_cancelled() -> None:
                if cancelled():
                    raise Cancelled("the caller has gone")

            models = place.models(self._models)
            outcome = await self._pipeline(request, load, cancelled, watcher, models, known)
            outcome.timings_ms["decode"] += 1e3 * fetch_seconds
            build = functools.partial(
                build_answer,
                outcome,
                request,
                pictures[0],
                self._models.identities,
                self._mask_url,
                None if tell is None else found,
                leave_if_cancelled,
            )
            with records.span("answer"):
                answer = build() if tell is None and is_known(outcome, request) else await self._run(build)
            answer.result.update(noted.answered(outcome))
            self._remember(pictures[0], outcome)
            self._count(outcome)
            self._metrics.observe("segment_duration_seconds", time.perf_counter() - called, priority=priority)
            return answer

    def is_alone(self) -> bool:
        """Whether one call at most is worked on. Those that fetch or wait take nobody's cores."""
        return self._gate.inside <= 1

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return self._gate.depth

    def measure(self) -> None:
        """Set the numbers that are states or counted elsewhere: who waits, who was refused, what the memory keeps."""
        for priority, waiting in self._gate.depths().items():
            self._metrics.set("segment_waiting", waiting, priority=priority)
            # There before the first call: autoscalers take a missing number for a fault.
            self._metrics.add("segment_waiting_seconds_total", 0.0, priority=priority)
        self._metrics.set("segment_stopped", self._turns.stopped)
        self._metrics.set("segment_fetching", self._fetches.under_way)
        for reason, count in (self._gate.refused + self._fetches.refused).items():
            self._metrics.set("segment_refused_total", count, reason=reason)
        self._metrics.set("memory_bytes", self._memory.bytes)
        for how, count in asdict(self._memory.counts).items():
            self._metrics.set("memory_results_total", count, how=how)

    async def _fetch(self, request: SegmentRequest) -> tuple[bytes, float]:
        """The encoded picture, and the seconds that fetching it took.

        A fetch holds no place: twenty slow web servers are nobody else's misfortune.
        """
        if request.image is not None:
            return request.image, 0.0
        url = request.image_url or ""
        if is_data_url(url):
            return b"", 0.0  # it is in the URL
        began = time.perf_counter()
        with records.span(records.FETCH, **noted.where(url)):
            data = await self._fetches.run(lambda: fetch_image(url, self._settings))
        return data, time.perf_counter() - began

    @asynccontextmanager
    async def _place(self, priority: str) -> AsyncIterator[Turns.Call]:
        """Wait for a place, and of a bulk call for its turn, and hold it.

        Raises:
            Overloaded: as `Gate.enter`.
        """
        async with AsyncExitStack() as entered:
            came = time.perf_counter()
            with records.span("wait"):
                place = await entered.enter_async_context(self._gate.enter(priority))
                waited = time.perf_counter() - came
                self._metrics.add("segment_waiting_seconds_total", waited, priority=priority)
                await place.turn()
            records.note(**{records.WAITED: round(time.perf_counter() - came, 4)})
            yield place

    def _remember(self, picture: Picture, outcome: Outcome) -> None:
        self._loader.remember(picture)
        for candidate in outcome.candidates:
            if candidate.shape is not None:
                self._memory.keep(candidate.shape_key, candidate.shape, candidate.shape.nbytes)

    def _count(self, outcome: Outcome) -> None:
        for stage, milliseconds in outcome.timings_ms.items():
            self._metrics.add("segment_stage_seconds_total", milliseconds / 1e3, stage=stage)
        self._metrics.add("segment_objects_total", len(outcome.kept))
        for candidate in outcome.dropped:
            self._metrics.add("segment_filtered_total", reason=str(candidate.reason))

    def _mask_url(self, png: bytes) -> MaskUrl:
        """Where the mask can be had, until when, and what the caller should know about it."""
        if self._store is None:
            return MaskUrl(data_url(png))
        try:
            stored = self._store.put(png)
            self._metrics.add("masks_stored_total", how=STORED)
            return MaskUrl(stored.url, stored.expires)
        except StoreError as error:
            self._metrics.add("masks_stored_total", how=FAILED)
            return MaskUrl(data_url(png), None, f"mask_url: {error}; the mask is in the answer itself")
