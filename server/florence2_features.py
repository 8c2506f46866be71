"""A picture's features as `florence2` takes them: in memory of its own, or where they lie on a GPU."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.generation.decoder import ImageFeatures
from florence2_sam2.server.generation.device_memory import borrowed
from florence2_sam2.server.triton import bls, tensors

if TYPE_CHECKING:
    from triton_python_backend_utils import InferenceRequest, Tensor

NAME = "image_features"


def given_features(request: InferenceRequest) -> ImageFeatures | None:
    """The request's own, FP32 [1,T,D]; None if it has none.

    Raises:
        InvalidRequest: another dtype or number of axes.
    """
    on_gpu = tensors.gpu_input(request, NAME)
    if on_gpu is not None:
        return _where_they_lie(on_gpu)
    features = tensors.array_input(request, NAME, np.float32, [1, None, None])
    return None if features is None else tensors.owned(features)


async def asked_about(
    request: InferenceRequest, encode: Callable[[bytes], Awaitable[tuple[ImageFeatures, tuple[int, int]]]]
) -> tuple[ImageFeatures, tuple[int, int] | None]:
    """The request's features FP32 [1,T,D], and the (width, height) of its picture or None.

    Args:
        encode: gives both of a picture's file.

    Raises:
        InvalidRequest: it has no picture, or two, or a size that is not its features'; and as `encode`.
    """
    image = tensors.bytes_input(request, "image")
    features = given_features(request)
    size = tensors.array_input(request, "image_size", np.int32, [2])
    if features is not None and image is None:
        return features, None if size is None else (int(size[0]), int(size[1]))
    if image is None or features is not None:
        raise InvalidRequest("image", "exactly one of image and image_features is needed")
    if size is not None:
        raise InvalidRequest("image_size", "goes with image_features only, image has its own size")
    return await encode(image)


async def encoded(pixels: NDArray[np.uint8], alone: bool, on_gpu: bool) -> ImageFeatures:
    """What `florence2_vision_encoder` makes of a picture's `pixels`.

    Args:
        alone: whether nothing else is under way, as far as is known.
        on_gpu: whether they stay on a GPU.

    Raises:
        ServiceError: as `bls.call`.
    """
    answer = await bls.call_for_tensors(
        "florence2_vision_encoder", {"pixels": pixels}, [NAME], alone=alone, on_gpu=on_gpu
    )
    return _where_they_lie(answer[NAME])


def _where_they_lie(tensor: Tensor) -> ImageFeatures:
    """What a tensor on a GPU lends lives no longer than the request or the answer that it came in."""
    return tensors.owned(tensor.as_numpy()) if tensor.is_cpu() else borrowed(tensor)
