"""`segment_http`: the thin HTTP front of `segment`, for JSON clients of Triton's generate endpoint.

It takes base64 where `segment` takes raw bytes, answers with the one output `result` (the endpoint returns every output
and unwraps arrays), and refuses fields it does not know: the endpoint would turn them into parameters without a word.
"""

from florence2_sam2.server.segment.front import ask_segment
from florence2_sam2.server.triton import tensors
from florence2_sam2.server.triton.async_model import AsyncModel
from florence2_sam2.server.triton.health import FRONT_SECONDS, ask


class TritonPythonModel(AsyncModel):
    names_code = True

    async def health(self):
        return await ask("segment", "result", FRONT_SECONDS)

    async def answer(self, call):
        answer = await ask_segment(call.request, ["result"])
        return [tensors.bytes_output("result", answer["result"][0])]
