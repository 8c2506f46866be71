"""What the encoders receive: exact size, layout and frame, whatever the picture's shape."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from florence2_sam2.server import resize
from florence2_sam2.server.manifest import ImageSpec
from florence2_sam2.server.preprocess import to_model_frame, to_pixels

SPEC = ImageSpec(
    height=24, width=40, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resample="bicubic"
)


@pytest.mark.parametrize("shape", [(24, 40), (1, 1), (1, 4000), (4000, 1), (100, 37)])
@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_any_picture_becomes_contiguous_bytes_of_the_exact_size(
    shape: tuple[int, int], resample: str
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    spec = ImageSpec(24, 40, SPEC.mean, SPEC.std, resample)  # type: ignore[arg-type]
    values = to_pixels(picture, spec)
    assert values.shape == (1, 3, 24, 40)
    assert values.dtype == np.uint8
    assert values.flags.c_contiguous
    way = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[resample]
    resized = np.asarray(Image.fromarray(picture).resize((40, 24), way)).transpose(2, 0, 1)
    # SAM2's bilinear kernel rounds its weights otherwise than Pillow's: a level up or down, here and there.
    assert np.abs(values[0].astype(int) - resized).max() <= (0 if resample == "bicubic" else 1)


def test_read_only_and_sliced_pictures_are_taken() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    picture.flags.writeable = False
    whole = to_pixels(picture[::2, ::2], SPEC)
    assert np.array_equal(whole, to_pixels(picture[::2, ::2].copy(), SPEC))


def test_boxes_are_scaled_into_the_encoders_frame() -> None:
    spec = ImageSpec(1024, 1024, SPEC.mean, SPEC.std, "bilinear")
    boxes = np.array([[0, 0, 1280, 853], [128, 85.3, 640, 426.5]], np.float32)
    scaled = to_model_frame(boxes, 1280, 853, spec)
    assert scaled.dtype == np.float32
    assert np.allclose(scaled, [[0, 0, 1024, 1024], [102.4, 102.4, 512, 512]], atol=1e-4)
    assert to_model_frame(np.zeros((0, 4), np.float32), 5, 7, spec).shape == (0, 4)


def test_boxes_are_left_as_they_were() -> None:
    boxes = np.ones((2, 4), np.float32)
    to_model_frame(boxes, 10, 10, SPEC)
    assert np.array_equal(boxes, np.ones((2, 4), np.float32))


@pytest.mark.parametrize(("width", "height"), [(97, 61), (61, 97), (640, 3), (3, 640)])
def test_rows_are_resized_together_or_alone_alike(
    monkeypatch: pytest.MonkeyPatch, width: int, height: int
) -> None:
    rgb = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    whole = resize.resize_bilinear(rgb, 32, 48)
    monkeypatch.setattr(resize, "_PIXELS", 7 * width)
    assert np.array_equal(resize.resize_bilinear(rgb, 32, 48), whole)
    monkeypatch.setattr(resize, "_PIXELS", 1)
    assert np.array_equal(resize.resize_bilinear(rgb, 32, 48), whole)
