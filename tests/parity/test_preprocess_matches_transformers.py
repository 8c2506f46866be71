"""Pictures and boxes reach the encoders as transformers' processors would hand them over."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from florence2_sam2.server.manifest import ImageSpec
from florence2_sam2.server.preprocess import to_model_frame, to_pixels

pytestmark = pytest.mark.parity

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SHAPES = [(160, 160), (100, 300), (427, 640), (1, 1), (1, 400), (400, 1), (37, 1000)]


def pictures(shape: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """One of noise and one smooth."""
    height, width = shape
    rng = np.random.default_rng(height * 4001 + width)
    coarse = rng.integers(0, 256, (5, 7, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return [rng.integers(0, 256, (height, width, 3), np.uint8), np.asarray(smooth)]


def values(picture: NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.float32]:
    """What the first step of an encoder's graph makes of the server's pixels."""
    import torch

    from florence2_sam2.export.normalisation import Normalisation

    return Normalisation(spec)(torch.from_numpy(to_pixels(picture, spec))).numpy()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [160, 768])
def test_florence2_pixel_values_equal_the_processors(shape: tuple[int, int], side: int) -> None:
    """Florence-2's image processor is CLIP's, resizing with PIL; its settings here are the released checkpoints'."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor: Any = CLIPImageProcessorPil(
        size={"height": side, "width": side},
        resample=Image.Resampling.BICUBIC,
        do_center_crop=False,
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    spec = ImageSpec(side, side, MEAN, STD, "bicubic")
    for picture in pictures(shape):
        wanted = processor(Image.fromarray(picture), return_tensors="np")["pixel_values"]
        assert np.abs(values(picture, spec) - wanted).max() <= 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_sam2_pixel_values_are_the_processors(shape: tuple[int, int]) -> None:
    """`Sam2ImageProcessor` resizes bytes with torchvision, which calls this `interpolate`."""
    import torch

    spec = ImageSpec(1024, 1024, MEAN, STD, "bilinear")
    for picture in pictures(shape):
        tensor = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
        resized = torch.nn.functional.interpolate(
            tensor, (1024, 1024), mode="bilinear", antialias=True, align_corners=False
        )
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        wanted = ((resized.float() / 255 - mean) / std).numpy()
        assert np.abs(values(picture, spec) - wanted).max() <= 1e-5


def test_boxes_equal_the_processors() -> None:
    import torch
    from transformers.models.sam2.processing_sam2 import Sam2Processor

    rng = np.random.default_rng(0)
    spec = ImageSpec(1024, 1024, MEAN, STD, "bilinear")
    for width, height in [(1280, 853), (1, 1), (4000, 3), (333, 777)]:
        boxes = (rng.random((50, 4)) * [width, height, width, height]).astype(np.float32)
        wanted = Sam2Processor._normalize_coordinates(
            SimpleNamespace(), 1024, torch.from_numpy(boxes), (height, width), is_bounding_box=True
        ).numpy()
        assert np.abs(to_model_frame(boxes, width, height, spec) - wanted).max() <= 1e-4
