"""Pictures and boxes with known geometry for the tests of the contract, whatever the checkpoint knows."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
from PIL import Image, ImageDraw

from florence2_sam2.client import Segmentation, Segmenter
from florence2_sam2.server.launch.embedded import EmbeddedServer

WIDTH, HEIGHT = 200, 100
OFF: dict[str, Any] = {"area_threshold": 1, "confidence_threshold": 0, "nms_threshold": 1}


def scene() -> Image.Image:
    """200×100: a red disc within (20, 20, 80, 80) and a blue square at (120, 30, 160, 70) on grey."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (150, 150, 150))
    pen = ImageDraw.Draw(image)
    pen.ellipse((22, 22, 77, 77), fill=(215, 35, 35))
    pen.rectangle((121, 31, 158, 68), fill=(35, 80, 215))
    return image


DISC = [20, 20, 80, 80]
SQUARE = [120, 30, 160, 70]


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


SCENE = png(scene())


def segment(server: EmbeddedServer, image: Any = SCENE, **settings: Any) -> Segmentation:
    """The call with these settings and no others: without the run lengths that the client asks for by itself."""
    with Segmenter(server.grpc_address, timeout=60) as segmenter:
        return segmenter.segment(image, **{"formats": (), **settings})


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks; 1 for two empty ones."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def raw(server: EmbeddedServer, tensors: dict[str, tuple[str, Any]], outputs: list[str] | None = None) -> Any:
    """One request of exactly these tensors, name → (datatype, array); tritonclient's InferResult or its exception."""
    client = grpc.InferenceServerClient(server.grpc_address)
    try:
        inputs = []
        for name, (datatype, array) in tensors.items():
            tensor = grpc.InferInput(name, list(array.shape), datatype)
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        wanted = [grpc.InferRequestedOutput(name) for name in outputs] if outputs else None
        return client.infer("segment", inputs, outputs=wanted, client_timeout=60)
    finally:
        client.close()


def text(*values: bytes | str) -> tuple[str, Any]:
    """A BYTES tensor [N]."""
    array = np.empty(len(values), np.object_)
    array[:] = [value.encode() if isinstance(value, str) else value for value in values]
    return "BYTES", array
