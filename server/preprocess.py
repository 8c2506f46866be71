"""Pictures and boxes in the form that the encoders take, as transformers' processors prepare them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from florence2_sam2.server.manifest import ImageSpec
from florence2_sam2.server.resize import resize_bilinear


def to_pixels(rgb: NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.uint8]:
    """A picture uint8 [H, W, 3], RGB, as uint8 [1, 3, spec.height, spec.width], contiguous.

    Resized antialiased with the aspect ignored, by the kernel of the checkpoint's own processor: Florence-2's is
    Pillow's bicubic, SAM2's is torchvision's bilinear. Both give bytes. The encoder's graph normalises them.
    """
    if spec.resample == "bilinear":
        return resize_bilinear(rgb, spec.width, spec.height)[None]
    image = Image.fromarray(rgb)
    if image.size != (spec.width, spec.height):
        image = image.resize((spec.width, spec.height), Image.Resampling.BICUBIC)
    planes: NDArray[np.uint8] = np.stack([np.asarray(plane) for plane in image.split()])
    return planes[None]


def to_model_frame(
    boxes: NDArray[np.float32], width: int, height: int, spec: ImageSpec
) -> NDArray[np.float32]:
    """Boxes float32 [N, 4] (x1, y1, x2, y2) in pixels of a width×height picture, in the encoder's frame.

    Scaling only, as `Sam2Processor._normalize_coordinates` does; the half pixel that SAM2's prompt encoder
    adds is part of the exported graph.
    """
    factors = np.array([spec.width / width, spec.height / height] * 2, np.float32)
    return boxes * factors
