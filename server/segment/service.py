"""One `segment` call from raw inputs to the answer: admission, loading the picture, the pipeline, the mask's URL."""

from __future__ import annotations

import functools
from collections.abc import Callable

from florence2_sam2.server.inputs.data_url import decode_data_url
from florence2_sam2.server.inputs.fetch import fetch_image
from florence2_sam2.server.inputs.pictures import data_url, decode_picture
from florence2_sam2.server.segment.admission import Gate
from florence2_sam2.server.segment.answer import Answer, build_answer
from florence2_sam2.server.segment.models import Models, Pixels
from florence2_sam2.server.segment.pipeline import Pipeline, Run
from florence2_sam2.server.segment.request import RawInputs, SegmentRequest, parse_request
from florence2_sam2.server.settings import Settings
from florence2_sam2.server.store import MaskStore, StoreError


class SegmentService:
    """What one server needs to answer `segment` calls. Belongs to one event loop."""

    def __init__(self, models: Models, run: Run, settings: Settings, store: MaskStore | None = None) -> None:
        self._models = models
        self._run = run
        self._settings = settings
        self._store = store
        self._pipeline = Pipeline(models, run, settings.overlap_sam2)
        self._gate = Gate(settings.max_in_flight, settings.max_queue)

    async def __call__(self, inputs: RawInputs, cancelled: Callable[[], bool]) -> Answer:
        """Answer one call.

        Raises:
            ServiceError: as `server/errors.py` says; everything else is a bug.
        """
        request = parse_request(inputs, self._settings)
        async with self._gate.enter(request.options.priority):
            pixels: list[Pixels] = []

            def load() -> Pixels:
                pixels.append(_load(request, self._settings))
                return pixels[0]

            outcome = await self._pipeline(request, load, cancelled)
            build = functools.partial(
                build_answer, outcome, request, pixels[0], self._models.identities, self._mask_url
            )
            return await self._run(build)

    def _mask_url(self, png: bytes) -> tuple[str, str | None]:
        """Where the mask can be had, and what the caller should know about it."""
        if self._store is None:
            return data_url(png), None
        try:
            return self._store.put(png), None
        except StoreError as error:
            return data_url(png), f"mask_url: {error}; the mask is in the answer itself"


def _load(request: SegmentRequest, settings: Settings) -> Pixels:
    """The picture's pixels, from the bytes or from where the URL points."""
    if request.image is not None:
        return decode_picture(request.image, settings, "image")
    url = request.image_url or ""
    if url[:5].lower() == "data:":
        data = decode_data_url(url, settings)
    else:
        data = fetch_image(url, settings)
    return decode_picture(data, settings, "image_url")
