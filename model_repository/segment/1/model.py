"""`segment`: a picture in, labelled polygons or a flattened mask out (see `florence2_sam2.server.segment`)."""

import json

import numpy as np

from florence2_sam2.server.segment.described import describe
from florence2_sam2.server.segment.request import THRESHOLDS
from florence2_sam2.server.segment.service import SegmentService
from florence2_sam2.server.segment.triton_models import TritonModels
from florence2_sam2.server.settings import Settings
from florence2_sam2.server.store import open_store
from florence2_sam2.server.triton import health, tensors
from florence2_sam2.server.triton.async_model import AsyncModel

TEXTS = ("image", "image_url", "caption", "options")
NUMBERS = (*THRESHOLDS, "polygon_precision")


class TritonPythonModel(AsyncModel):
    async def start(self):
        settings = Settings.from_environment()
        models = self.models = TritonModels(
            self.repository, self.in_pool, lambda: self.segment.is_alone(), settings.features_on_gpu
        )
        describe(self.metrics, settings, models.identities)
        self.segment = SegmentService(models, self.in_pool, settings, open_store(settings), self.metrics)

    async def stop(self):
        self.models.close()

    async def health(self):
        own = {**await super().health(), "waiting": self.segment.waiting}
        return health.with_parts(own, await health.ask("florence2", "info"))

    def measure(self):
        self.segment.measure()

    async def answer(self, call):
        request = call.request
        inputs = {name: tensors.bytes_input(request, name) for name in TEXTS}
        inputs |= {name: tensors.array_input(request, name, np.float32, [1]) for name in NUMBERS}
        inputs["output_mask"] = tensors.array_input(request, "output_mask", np.bool_, [1])
        answer = await self.segment(inputs, call.cancelled, call.say if call.listened else None)
        result = json.dumps(answer.result, ensure_ascii=False, separators=(",", ":"))
        return [
            tensors.bytes_output("result", result.encode()),
            tensors.bytes_output("mask_png", answer.mask_png),
            tensors.array_output("boxes", answer.boxes),
            tensors.array_output("scores", answer.scores),
            tensors.bytes_output("labels", *(label.encode() for label in answer.labels)),
        ]
