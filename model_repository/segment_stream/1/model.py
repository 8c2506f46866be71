"""`segment_stream`: `segment`, which tells how far it is, for streams of gRPC and Triton's generate_stream endpoint.

Each response has one event (see `florence2_sam2.server.segment.events`); the last one has the answer.
"""

import json

from florence2_sam2.server.segment.front import ask_segment
from florence2_sam2.server.triton import tensors
from florence2_sam2.server.triton.async_model import AsyncModel
from florence2_sam2.server.triton.health import FRONT_SECONDS, ask


class TritonPythonModel(AsyncModel):
    health_output = "event"

    async def health(self):
        return await ask("segment", "result", FRONT_SECONDS)

    async def answer(self, call):
        def heard(event):
            told = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
            call.send_part([tensors.bytes_output("event", told.encode())])

        answer = await ask_segment(call.request, ["result", "mask_png"], heard)
        # Who can send bytes can receive them; over HTTP they would stand in a line of JSON, which they make no text.
        raw = any(tensor.name() == "image" for tensor in call.request.inputs())
        return [
            tensors.bytes_output("event", b'{"event":"result","result":%b}' % answer["result"][0]),
            tensors.bytes_output("mask_png", answer["mask_png"][0] if raw else b""),
        ]
