"""`segment_http`: the thin HTTP front of `segment`, for JSON clients of Triton's generate endpoint.

It takes base64 where `segment` takes raw bytes, answers with the one output `result` (the endpoint returns every output
and unwraps arrays), and refuses fields it does not know: the endpoint would turn them into parameters without a word.
"""

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.segment.http import FIELDS, check_sources, decode_base64, refuse_unknown
from florence2_sam2.server.triton import bls, tensors
from florence2_sam2.server.triton.async_model import AsyncModel


class TritonPythonModel(AsyncModel):
    async def answer(self, call):
        request = call.request
        refuse_unknown(request.parameters())
        given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        check_sources(given)
        inputs = {name: array for name, array in given.items() if name in FIELDS}
        if (encoded := tensors.bytes_input(request, "image_base64")) is not None:
            inputs["image"] = tensors.bytes_array([decode_base64(encoded)])
        try:
            answer = await bls.call("segment", inputs, ["result"])
        except InvalidRequest as refused:
            if refused.field == "image":
                raise InvalidRequest("image_base64", refused.problem) from None
            raise
        return [tensors.bytes_output("result", answer["result"][0])]
