"""The server's pipeline in one process: the same service, with models that are called instead of asked.

Everything of `server/segment/` runs as it is, admission, memory and answer included. What `triton_models.py` sends to
other models is a plain call here: no Triton, no BLS, no shared memory, no gRPC.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bench.speed.components import threads_of
from bench.speed.fixed_boxes import FixedBoxes
from florence2_sam2.client import Segmentation
from florence2_sam2.client.images import encode
from florence2_sam2.server import manifest
from florence2_sam2.server.florence2 import Florence2
from florence2_sam2.server.florence2_options import Florence2Options
from florence2_sam2.server.leaf import MaskDecoderModel
from florence2_sam2.server.onnx_session import open_session
from florence2_sam2.server.preprocess import to_model_frame, to_pixels
from florence2_sam2.server.segment.models import (
    Features,
    Floats,
    Generated,
    GenerationOptions,
    Pixels,
    Region,
    Run,
    Sam2Maps,
    Tell,
    largest,
)
from florence2_sam2.server.segment.service import SegmentService
from florence2_sam2.server.settings import Settings

MAPS = ("image_embeddings", "high_res_features_0", "high_res_features_1")
FEW_BOXES = "sam2_mask_decoder, few boxes"
GROUNDING = "<CAPTION_TO_PHRASE_GROUNDING>"


class DirectModels:
    """Implements the pipeline's `Models` with sessions of its own."""

    def __init__(self, repository: Path, run: Run, settings: Settings) -> None:
        self._run = run
        self._spec = manifest.read_florence2(repository)
        self._sam2 = manifest.read_sam2(repository)
        self.identities: dict[str, dict[str, Any]] = {
            "florence2": dict(self._spec.identity()),
            "sam2": dict(self._sam2.identity()),
        }
        self.input_size = largest(self._spec.image, self._sam2.image)
        self._sessions = {
            name: open_session(path, intra_op_threads=threads_of(path))
            for name in ("florence2_vision_encoder", "sam2_image_encoder", "sam2_mask_decoder")
            for path in [manifest.version_folder(repository, name) / "model.onnx"]
        }
        masks = manifest.version_folder(repository, "sam2_mask_decoder") / "model.onnx"
        self._sessions[FEW_BOXES] = open_session(masks)
        folder = manifest.version_folder(repository, "florence2")
        self.florence2 = Florence2(folder, self._spec, max_rows=settings.decoder_rows)
        # Waiting for a network holds none of the service's own threads, as waiting for BLS does not.
        self._calls = ThreadPoolExecutor(8, "calls")

    async def image_features(self, picture: Pixels) -> Features:
        pixels = await self._run(to_pixels, picture, self._spec.image)
        (features,) = await self._infer("florence2_vision_encoder", ["image_features"], {"pixels": pixels})
        return features

    async def generate(
        self,
        features: Features,
        size: tuple[int, int],
        task: str,
        text: str,
        options: GenerationOptions,
        tell: Tell,
    ) -> Generated:
        given = Florence2Options(
            options.num_beams,
            options.max_new_tokens,
            phrases=options.phrases if task == GROUNDING else None,
            priority="bulk" if options.priority == "bulk" else "interactive",
        )
        assert isinstance(features, np.ndarray)
        answer = await asyncio.wrap_future(
            self.florence2.submit(features, task, text, size, given, alone=True)
        )
        rows = [region.as_json() for region in answer.regions]
        regions = [Region.from_json(row) for row in rows if "box" in row]
        return Generated(answer.text, tuple(regions), tuple(answer.warnings))

    async def sam2_pixels(self, picture: Pixels) -> Pixels:
        return await self._run(to_pixels, picture, self._sam2.image)

    async def sam2_features(self, pixels: Pixels) -> Features:
        return Sam2Maps(*await self._infer("sam2_image_encoder", MAPS, {"pixels": pixels}))

    async def masks(self, features: Features, boxes: Floats, size: tuple[int, int]) -> tuple[Floats, Floats]:
        assert isinstance(features, Sam2Maps)
        feeds = dict(zip(MAPS, features.arrays(), strict=True))
        feeds["boxes"] = to_model_frame(boxes, *size, self._sam2.image)
        which = FEW_BOXES if len(boxes) < MaskDecoderModel.FEWEST else "sam2_mask_decoder"
        logits, scores = await self._infer(which, ["mask_logits", "scores"], feeds)
        return logits, scores

    async def _infer(self, model: str, outputs: Sequence[str], feeds: dict[str, Any]) -> list[Any]:
        session = self._sessions[model]
        loop = asyncio.get_running_loop()
        arrays: list[Any] = await loop.run_in_executor(self._calls, lambda: session.run(list(outputs), feeds))
        return arrays


class FixedDirectModels(FixedBoxes, DirectModels):
    """The same, with the boxes of `fixed_boxes.py`."""


class Direct:
    """One service on one event loop, asked as a client asks the server: a file's bytes in, the typed answer out."""

    def __init__(self, repository: Path, fixed: bool, memory_bytes: int = 0) -> None:
        settings = Settings(memory_bytes=memory_bytes)
        pool = ThreadPoolExecutor(os.cpu_count() or 1, "work")  # as AsyncModel's
        self._loop = asyncio.new_event_loop()

        async def run(function: Callable[..., Any], *arguments: Any) -> Any:
            return await self._loop.run_in_executor(pool, lambda: function(*arguments))

        models = (FixedDirectModels if fixed else DirectModels)(repository, run, settings)
        self._service = SegmentService(models, run, settings)

    def segment(self, picture: bytes, **settings: Any) -> tuple[float, Segmentation]:
        """Seconds and answer. The settings are those of `Segmenter.segment`, `formats` and `num_beams` among them."""
        start = time.perf_counter()
        answer = self._loop.run_until_complete(self._service(inputs_of(picture, settings), lambda: False))
        text = json.dumps(answer.result, ensure_ascii=False, separators=(",", ":"))  # as segment's model.py
        read = Segmentation.from_json(json.loads(text), answer.mask_png, encode(picture).data)
        return time.perf_counter() - start, read


def inputs_of(picture: bytes, settings: dict[str, Any]) -> dict[str, Any]:
    """A file's bytes and settings of `Segmenter.segment` as inputs of `segment`: bytes, and arrays of shape [1]."""
    inputs: dict[str, Any] = {"image": picture}
    options = dict(settings)
    if "caption" in options:
        inputs["caption"] = options.pop("caption").encode()
    for name in ("area_threshold", "confidence_threshold", "nms_threshold", "polygon_precision"):
        if name in options:
            inputs[name] = np.array([options.pop(name)], np.float32)
    if "output_mask" in options:
        inputs["output_mask"] = np.array([options.pop("output_mask")], np.bool_)
    if options:
        inputs["options"] = json.dumps(options).encode()
    return inputs
