"""What stands before `segment`: a request with base64 in it becomes one of `segment`'s own."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.segment import http
from florence2_sam2.server.settings import Settings
from florence2_sam2.server.triton import bls, tensors

if TYPE_CHECKING:
    from triton_python_backend_utils import InferenceRequest

_settings = functools.cache(Settings.from_environment)


async def ask_segment(
    request: InferenceRequest, outputs: Sequence[str], heard: bls.Heard | None = None
) -> dict[str, NDArray[Any]]:
    """`segment`'s answer to the request of a front model; `heard` gets its events.

    Raises:
        ServiceError: as `segment`; InvalidRequest also for a field that is no input.
    """
    http.refuse_unknown(request.parameters())
    given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    inputs = {name: array for name, array in given.items() if name in http.FIELDS}
    encoded = tensors.bytes_input(request, "image_base64")
    if "image" not in given:
        http.check_sources(given)
    elif encoded is not None:
        raise InvalidRequest("image", "image and image_base64 were given, one of them is needed")
    if encoded is not None:
        inputs["image"] = tensors.bytes_array([http.decode_base64(encoded, _settings().max_image_bytes)])
    elif "image" in given:
        inputs["image"] = given["image"]
    try:
        return await bls.call_with_line("segment", inputs, outputs, heard, hands_on=True)
    except InvalidRequest as refused:
        if refused.field == "image" and encoded is not None:
            raise InvalidRequest("image_base64", refused.problem) from None
        raise
