"""Pictures and boxes in the form that the encoders take, as transformers' processors prepare them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from florence2_sam2.server.manifest import ImageSpec
from florence2_sam2.server.resize import resize_bilinear


def to_pixel_values(rgb: NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.float32]:
    """A picture uint8 [H, W, 3], RGB, as float32 [1, 3, spec.height, spec.width], contiguous.

    Resized antialiased with the aspect ignored, then (x / 255 - mean) / std for each channel, computed as one
    multiplication and one addition in float32.
    """
    planes = _resized(rgb, spec)
    mean = np.array(spec.mean, np.float64)
    std = np.array(spec.std, np.float64)
    scale = (1 / (255 * std)).astype(np.float32)
    shift = (-mean / std).astype(np.float32)
    values = np.empty((1, 3, spec.height, spec.width), np.float32)
    for channel, plane in enumerate(planes):
        out = values[0, channel]
        np.multiply(plane, scale[channel], out=out)
        out += shift[channel]
    return values


def _resized(rgb: NDArray[np.uint8], spec: ImageSpec) -> Sequence[NDArray[np.uint8]]:
    """The three planes uint8 [height, width], by the kernel of the checkpoint's own processor.

    Florence-2's is Pillow's bicubic, SAM2's is torchvision's bilinear.
    """
    if spec.resample == "bilinear":
        return list(resize_bilinear(rgb, spec.width, spec.height))
    image = Image.fromarray(rgb)
    if image.size != (spec.width, spec.height):
        image = image.resize((spec.width, spec.height), Image.Resampling.BICUBIC)
    return [np.asarray(plane) for plane in image.split()]


def to_model_frame(
    boxes: NDArray[np.float32], width: int, height: int, spec: ImageSpec
) -> NDArray[np.float32]:
    """Boxes float32 [N, 4] (x1, y1, x2, y2) in pixels of a width×height picture, in the encoder's frame.

    Scaling only, as `Sam2Processor._normalize_coordinates` does; the half pixel that SAM2's prompt encoder
    adds is part of the exported graph.
    """
    factors = np.array([spec.width / width, spec.height / height] * 2, np.float32)
    return boxes * factors
