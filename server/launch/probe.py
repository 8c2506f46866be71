"""Ready means: a real request has been answered. Triton's own READY also holds when a model's process is
dead.
"""

from __future__ import annotations

import io
from collections.abc import Collection

import numpy as np
import tritonclient.grpc as grpc
from numpy.typing import NDArray
from PIL import Image

from florence2_sam2.server.launch.connection import connect
from florence2_sam2.server.launch.errors import StartError

SECONDS = 120.0


def probe(address: str, models: Collection[str], seconds: float = SECONDS) -> None:
    """One inference through every part that is loaded.

    Args:
        address: host:port of gRPC.
        models: names of the loaded models.

    Raises:
        StartError: a request failed.
    """
    client = connect(address)
    try:
        for model, inputs in _requests(models):
            try:
                client.infer(model, inputs, client_timeout=seconds)
            except grpc.InferenceServerException as error:
                raise StartError(f"the first request to {model} failed: {error.message()}") from None
    finally:
        client.close()


def _requests(models: Collection[str]) -> list[tuple[str, list[grpc.InferInput]]]:
    """What to ask: two calls of `segment` reach every model, since four tokens name no box; without it the ensemble
    `sam2` reaches its four."""
    if "segment" in models:
        return [
            ("segment", [_bytes("image", _picture()), _bytes("options", options)])
            for options in (b'{"max_new_tokens": 4}', b'{"boxes": [[8, 8, 40, 40]]}')
        ]
    if "sam2" in models:
        return [
            ("sam2", [_bytes("image", _picture()), _floats("boxes", np.array([[8, 8, 40, 40]], np.float32))])
        ]
    return []


def _picture() -> bytes:
    """A small PNG with one dark square."""
    pixels = np.full((64, 64, 3), 230, np.uint8)
    pixels[16:48, 16:48] = (60, 60, 160)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _bytes(name: str, value: bytes) -> grpc.InferInput:
    tensor = grpc.InferInput(name, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([value], np.object_))
    return tensor


def _floats(name: str, value: NDArray[np.float32]) -> grpc.InferInput:
    tensor = grpc.InferInput(name, list(value.shape), "FP32")
    tensor.set_data_from_numpy(value)
    return tensor
