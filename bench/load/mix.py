"""Requests of every kind, right and wrong, and what each must end with."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import itertools
import json
import random
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.load.asked import FORMATS, HEAVY, MOST_BOXES, MOST_SAM2_BOXES, PHRASES, WRONG, is_large
from bench.load.sites import Sites
from florence2_sam2.client import AsyncSegmenter, DeadlineExceeded, Finished, InvalidRequest, Segmentation

LIMIT_SECONDS = 1800.0  # of a call; a soak that hangs is to end
SHORT_SECONDS = 0.05  # of one whose time is not enough


class Unexpected(Exception):
    """A call has ended otherwise than it must."""


@dataclass
class Tally:
    """How many calls of each kind there were, and in words those that ended otherwise than they must."""

    calls: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class Mix:
    """Calls to one server. `sites`: has the same `pictures` at its URLs. Belongs to one event loop."""

    def __init__(self, grpc: str, http: str, pictures: Sequence[bytes], sites: Sites) -> None:
        self.tally = Tally()
        self._grpc, self._http, self._pictures, self._sites = grpc, http, pictures, sites
        self._segmenter = AsyncSegmenter(grpc, timeout=LIMIT_SECONDS, retries=0)
        self._known: dict[int, object] = {}

    async def close(self) -> None:
        await self._segmenter.close()

    async def fill(self, at_once: int) -> None:
        """Make the server take what it will ever need: the heaviest calls, that many at once. A process keeps what it
        had at its busiest moment, and left to chance that moment may come late."""
        large = [number for number in range(len(self._pictures)) if is_large(number)]
        numbers = list(itertools.islice(itertools.cycle(large), at_once))
        segmenter, files = self._segmenter, self._pictures
        calls: list[Callable[[int], Awaitable[Any]]] = [
            *(functools.partial(self._heavy, settings) for settings in HEAVY),
            lambda number: segmenter.segment(self._sites.url(number), **HEAVY[0]),
            lambda number: asyncio.to_thread(self._post, self._http_body(files[number])),
            lambda number: self._streamed(number, **HEAVY[0]),
            lambda number: segmenter.sam2(files[number], [[0, 0, 1000, 700]] * MOST_SAM2_BOXES),
            lambda number: segmenter.florence2(files[number], "<OD>", num_beams=3),
        ]
        for call in calls:
            await asyncio.gather(*map(call, numbers))

    async def one(self, random_: random.Random) -> None:
        """A call of a random kind; counted, and judged."""
        kind = random_.choices(list(KINDS), weights=list(KINDS.values()))[0]
        self.tally.calls[kind.__name__.strip("_")] += 1
        try:
            await kind(self, random_)
        except Exception as error:
            self.tally.faults.append(
                f"{kind.__name__.strip('_')}: {type(error).__name__}: {str(error)[:300]}"
            )

    # -- right ones

    async def _plain(self, random_: random.Random) -> None:
        number = self._number(random_)
        self._same(number, await self._segmenter.segment(self._pictures[number]))

    async def _settings(self, random_: random.Random) -> None:
        settings: dict[str, Any] = {
            "area_threshold": random_.choice([0.3, 1.0]),
            "confidence_threshold": random_.random(),
            "nms_threshold": random_.choice([0.0, 0.5, 1.0]),
            "polygon_precision": random_.choice([0.0, 0.001, 0.05]),
            "num_beams": random_.randint(1, 3),
            "nms": random_.choice(["box", "mask", "containment"]),
            "tiles": random_.choice([1, 1, 1, 2]),
            "priority": random_.choice(["interactive", "bulk"]),
        }
        await self._segmenter.segment(self._picture(random_), **settings)

    async def _formats(self, random_: random.Random) -> None:
        formats = random_.sample(FORMATS, random_.randint(1, len(FORMATS)))
        view = random_.choice(["full", "compact"])
        await self._segmenter.segment(self._picture(random_), formats=formats, view=view)

    async def _mask(self, random_: random.Random) -> None:
        answer = await self._segmenter.segment(
            self._picture(random_), output_mask=True, invert_mask=random_.random() < 0.5
        )
        if not answer.mask_png or answer.mask().shape != (answer.height, answer.width):
            raise Unexpected("the mask is missing, or of another size than the picture")

    async def _sources(self, random_: random.Random) -> None:
        boxes = [
            [random_.random() * 0.5, random_.random() * 0.5, 0.9, 0.9]
            for _ in range(random_.randint(1, MOST_BOXES))
        ]
        source: dict[str, Any] = random_.choice(
            [
                {"caption": " and ".join(random_.sample(PHRASES, 3))},
                {"phrases": random_.sample(PHRASES, 2)},
                {"boxes": boxes, "normalized": True},
                {"task": "detection"},
            ]
        )
        await self._segmenter.segment(self._picture(random_), **source)

    async def _models(self, random_: random.Random) -> None:
        if random_.random() < 0.5:
            await self._segmenter.florence2(self._picture(random_), random_.choice(["<OD>", "<CAPTION>"]))
        else:
            boxes = [[4, 4, 40, 40]] * random_.randint(1, MOST_SAM2_BOXES)
            await self._segmenter.sam2(self._picture(random_), boxes)

    async def _url(self, random_: random.Random) -> None:
        number = self._number(random_)
        self._same(number, await self._segmenter.segment(self._sites.url(number)))

    async def _new_connection(self, random_: random.Random) -> None:
        number = self._number(random_)
        async with AsyncSegmenter(self._grpc, timeout=LIMIT_SECONDS, retries=0) as segmenter:
            self._same(number, await segmenter.segment(self._pictures[number]))

    async def _stream(self, random_: random.Random) -> None:
        number = self._number(random_)
        self._same(number, await self._streamed(number))

    async def _http_call(self, random_: random.Random) -> None:
        status, body = await asyncio.to_thread(self._post, self._http_body(self._picture(random_)))
        if status != 200 or not isinstance(json.loads(body["result"])["objects"], list):
            raise Unexpected(f"status {status}: {str(body)[:200]}")

    # -- wrong ones

    async def _wrong_setting(self, random_: random.Random) -> None:
        settings, named = random_.choice(WRONG)
        await self._refused(self._picture(random_), named, **settings)

    async def _wrong_picture(self, random_: random.Random) -> None:
        whole = self._picture(random_)
        await self._refused(random_.choice([b"<html></html>", b"", whole[: len(whole) // 3]]), "image")

    async def _wrong_url(self, random_: random.Random) -> None:
        await self._refused(self._sites.url("nothing"), "image_url")

    async def _wrong_http(self, random_: random.Random) -> None:
        status, body = await asyncio.to_thread(self._post, {"image_base64": "%%%"})
        if status != 400 or not str(body.get("error")).startswith("image_base64: "):
            raise Unexpected(f"status {status}: {str(body)[:200]}")

    # -- those that are given up

    async def _cancelled(self, random_: random.Random) -> None:
        call = asyncio.create_task(self._segmenter.segment(self._picture(random_)))
        await asyncio.sleep(random_.uniform(0, 0.4))
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call

    async def _left_stream(self, random_: random.Random) -> None:
        events = self._segmenter.stream(self._picture(random_))
        async with contextlib.aclosing(events):
            for _ in range(random_.randint(1, 4)):
                await anext(events, None)

    async def _out_of_time(self, random_: random.Random) -> None:
        with contextlib.suppress(DeadlineExceeded):  # unless the memory has the answer
            await self._segmenter.segment(self._picture(random_), num_beams=3, timeout=SHORT_SECONDS)

    # -- helpers

    def _number(self, random_: random.Random) -> int:
        return random_.randrange(len(self._pictures))

    def _picture(self, random_: random.Random) -> bytes:
        return self._pictures[self._number(random_)]

    async def _heavy(self, settings: dict[str, Any], number: int) -> None:
        await self._segmenter.segment(self._pictures[number], **settings)

    async def _streamed(self, number: int, **settings: Any) -> Segmentation:
        """The answer at a stream's end."""
        last = None
        async for event in self._segmenter.stream(self._pictures[number], **settings):
            last = event
        if not isinstance(last, Finished):
            raise Unexpected("the stream ended before its answer")
        return last.result

    def _same(self, number: int, answer: Segmentation) -> None:
        """The same call has the same answer whatever runs beside it."""
        told = (answer.caption, [(item.label, item.box) for item in answer.objects])
        if self._known.setdefault(number, told) != told:
            raise Unexpected(f"picture {number} is answered with {told}, before with {self._known[number]}")

    async def _refused(self, picture: str | bytes, named: str, **settings: Any) -> None:
        try:
            await self._segmenter.segment(picture, **settings)
        except InvalidRequest as error:
            if not (error.field or "").startswith(named):
                raise Unexpected(f"{named} is wrong, the answer says: {error}") from None
            return
        raise Unexpected(f"a wrong {named} was taken")

    @staticmethod
    def _http_body(picture: bytes) -> dict[str, Any]:
        return {"image_base64": base64.b64encode(picture).decode()}

    def _post(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and JSON of a call over HTTP, on a connection of its own."""
        url = f"http://{self._http}/v2/models/segment_http/generate"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(
                urllib.request.Request(url, json.dumps(body).encode()), timeout=LIMIT_SECONDS
            ) as got:
                return got.status, json.load(got)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


# Kind → how often, of 100.
KINDS: dict[Callable[[Mix, random.Random], Awaitable[None]], int] = {
    Mix._plain: 20,
    Mix._settings: 16,
    Mix._formats: 8,
    Mix._mask: 5,
    Mix._sources: 10,
    Mix._models: 4,
    Mix._url: 4,
    Mix._new_connection: 4,
    Mix._stream: 6,
    Mix._http_call: 6,
    Mix._wrong_setting: 4,
    Mix._wrong_picture: 2,
    Mix._wrong_url: 1,
    Mix._wrong_http: 2,
    Mix._cancelled: 4,
    Mix._left_stream: 2,
    Mix._out_of_time: 2,
}
