"""`florence2`: any Florence-2 task on a picture, or on the features that `florence2_vision_encoder` made of one.

All requests decode together in one engine (see `florence2_sam2.server.florence2`).
"""

import asyncio
import json
import time
from dataclasses import replace

from florence2_sam2.server import florence2_ahead, manifest, records
from florence2_sam2.server.errors import Overloaded
from florence2_sam2.server.florence2 import Florence2
from florence2_sam2.server.florence2_features import asked_about, encoded
from florence2_sam2.server.florence2_options import parse_options
from florence2_sam2.server.inputs.pictures import decode_picture
from florence2_sam2.server.preprocess import to_pixels
from florence2_sam2.server.priority import give_way
from florence2_sam2.server.settings import Settings
from florence2_sam2.server.triton import bls, tensors
from florence2_sam2.server.triton.async_model import AsyncModel


class TritonPythonModel(AsyncModel):
    health_output = "info"

    async def start(self):
        self.settings = Settings.from_environment()
        self.spec = manifest.Florence2.read(self.folder)
        give_way(self.settings.decoder_niceness)
        self.florence2 = Florence2(self.folder, self.spec, max_rows=self.settings.decoder_rows)
        self.ahead = florence2_ahead.Ahead(self.submit)
        for name in ("decoder_requests_total", "tokens_total"):
            self.metrics.add(name, 0)

    async def health(self):
        pulse = self.florence2.pulse()
        if not pulse.alive:
            raise Overloaded("florence2 is not well: its decoder has ended")
        own = await super().health()
        return {
            **own,
            "waiting": self.florence2.load()["waiting"],
            "progress": own["progress"] + pulse.rounds,
            "decoder_still": pulse.still,
        }

    def measure(self):
        load = self.florence2.load()
        self.metrics.set("decoder_waiting", load["waiting"])
        self.metrics.set("decoder_rows", load["rows"])
        work = self.florence2.work()
        self.metrics.set("decoder_steps_total", work.steps)
        self.metrics.set("decoder_step_rows_total", work.rows)
        self.metrics.set("decoder_busy_seconds_total", work.seconds)
        for ended in ("taken", "given_up"):
            self.metrics.set("decoder_ahead_total", getattr(self.ahead, ended), ended=ended)

    async def stop(self):
        self.florence2.close()

    async def answer(self, call):
        request = call.request
        task = tensors.text_input(request, "task") or "<MORE_DETAILED_CAPTION>"
        text = tensors.text_input(request, "text") or ""
        options = parse_options(tensors.bytes_input(request, "options") or b"")
        features, size = await asked_about(request, self.encode)
        call.check()

        def progress(token_ids):  # in the decoder's thread, which has other things to do
            if call.listened:
                self.loop.call_soon_threadsafe(self.tell, call, token_ids)

        told = progress if call.has_line else None
        alone = bls.ALONE in call.parameters or (not call.has_line and self.is_alone())
        mark = call.parameters.get(florence2_ahead.PARAMETER)
        question = florence2_ahead.Question(task, text, size, options)
        came = time.perf_counter()
        running, began = self.ahead.take(mark, question, call.cancelled) or (
            self.submit(features, question, call.cancelled, told, alone),
            came,
        )
        answer = await asyncio.wrap_future(running)
        if call.listened and not answer.regions:  # the whole text, ahead of the answer
            call.say({"text": answer.text, "whole": True})
        if isinstance(mark, str) and answer.text and not answer.regions:
            next_one = replace(question, task=florence2_ahead.GROUNDING, text=answer.text)
            self.ahead.begin(mark, features, next_one)
        self.metrics.add("decoder_requests_total")
        self.metrics.add("tokens_total", len(answer.token_ids))
        records.parts(began, answer.timings_ms, came)
        records.note(task=task, tokens=len(answer.token_ids))
        for part, milliseconds in answer.timings_ms.items():
            self.metrics.add("decoder_seconds_total", milliseconds / 1e3, part=part)
        regions = json.dumps([region.as_json() for region in answer.regions], ensure_ascii=False)
        info = json.dumps(
            {**answer.info(), "model": self.spec.identity(), "request_id": call.record.request_id},
            ensure_ascii=False,
        )
        return [
            tensors.bytes_output("text", answer.text.encode()),
            tensors.bytes_output("regions", regions.encode()),
            tensors.array_output("token_ids", answer.token_ids),
            tensors.array_output("token_log_probabilities", answer.token_log_probabilities),
            tensors.bytes_output("info", info.encode()),
        ]

    def submit(self, features, question, cancelled, told=None, alone=True):
        task, text, size, options = question.task, question.text, question.size, question.options
        return self.florence2.submit(features, task, text, size, options, cancelled, told, alone)

    def tell(self, call, token_ids):
        if text := self.florence2.words(token_ids):
            call.say({"text": text})

    async def encode(self, image):
        picture = await self.in_pool(decode_picture, image, self.settings, "image")
        pixels = await self.in_pool(to_pixels, picture, self.spec.image)
        features = await encoded(pixels, self.is_alone(), self.settings.features_on_gpu)
        return features, (picture.shape[1], picture.shape[0])
