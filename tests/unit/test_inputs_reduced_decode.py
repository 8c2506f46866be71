"""A JPEG decoded at a reduced size shows the same picture, keeps its size, and never falls below what is asked for."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.inputs.pictures import decode_picture, decode_reduced
from florence2_sam2.server.segment.models import Picture
from florence2_sam2.server.settings import Settings

SETTINGS = Settings()


def encoded(width: int, height: int, form: str = "JPEG", orientation: int = 1) -> bytes:
    """A smooth picture without symmetry."""
    x, y = np.linspace(0, 1, width), np.linspace(0, 1, height)[:, None]
    planes = [255 * (x + 0 * y), 255 * (y + 0 * x), 127 + 127 * np.sin(5 * x + 3 * y)]
    image = Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, form, exif=exif, **({"quality": 95} if form == "JPEG" else {}))
    return file.getvalue()


def shape(data: bytes, *at_least: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height of the pixels, and of the picture."""
    pixels, size = decode_reduced(data, SETTINGS, "image", (at_least[0], at_least[1]))
    return (pixels.shape[1], pixels.shape[0]), size


@pytest.mark.parametrize(
    ("size", "at_least", "pixels"),
    [
        ((2400, 1600), (512, 512), (1200, 800)),  # a quarter would have 400 rows
        ((2400, 1600), (300, 400), (600, 400)),
        ((2400, 1600), (100, 100), (300, 200)),  # an eighth is the smallest there is
        ((2401, 1603), (300, 400), (601, 401)),
        ((2400, 1600), (1500, 1500), (2400, 1600)),
        ((3000, 90), (100, 100), (3000, 90)),  # one side is too short already
        ((64, 48), (512, 512), (64, 48)),
    ],
)
def test_the_smallest_that_has_both_sides(
    size: tuple[int, int], at_least: tuple[int, int], pixels: tuple[int, int]
) -> None:
    assert shape(encoded(*size), *at_least) == (pixels, size)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_the_same_picture_upright(orientation: int) -> None:
    data = encoded(1600, 800, orientation=orientation)
    whole = decode_picture(data, SETTINGS)
    pixels, size = decode_reduced(data, SETTINGS, "image", (200, 200))
    assert size == whole.shape[1::-1]
    assert pixels.shape == (whole.shape[0] // 4, whole.shape[1] // 4, 3)
    means = whole.reshape(pixels.shape[0], 4, pixels.shape[1], 4, 3).mean(axis=(1, 3))
    assert np.abs(pixels - means).max() < 6
    assert np.ptp(means, axis=(0, 1)).min() > 200


def test_the_sides_asked_for_are_those_of_the_upright_picture() -> None:
    assert shape(encoded(800, 3200, orientation=6), 1600, 200) == ((1600, 400), (3200, 800))
    assert shape(encoded(800, 3200, orientation=6), 200, 800) == ((3200, 800), (3200, 800))


@pytest.mark.parametrize("form", ["PNG", "WebP", "BMP", "TIFF"])
def test_other_formats_are_decoded_in_full(form: str) -> None:
    assert shape(encoded(1600, 800, form), 100, 100) == ((1600, 800), (1600, 800))


def test_what_is_refused_is_refused() -> None:
    data = encoded(1600, 800)
    with pytest.raises(InvalidRequest, match="cut off"):
        decode_reduced(data[: len(data) // 2], SETTINGS, "image", (100, 100))
    with pytest.raises(InvalidRequest, match="1600×800 pixels"):
        decode_reduced(data, Settings(max_pixels=10_000), "image", (100, 100))


def pixels_of(data: bytes, at_least: int) -> Picture:
    pixels, size = decode_reduced(data, SETTINGS, "image", (at_least, at_least))
    return Picture.of(pixels, data, size)


def test_parts_of_it_and_its_full_size() -> None:
    data = encoded(1600, 800)
    whole, reduced = pixels_of(data, 800), pixels_of(data, 200)
    assert (whole.size, reduced.size) == ((1600, 800), (1600, 800))
    assert reduced.pixels.shape == (200, 400, 3)
    assert whole.full() is whole.pixels
    assert reduced.full().shape == (800, 1600, 3)
    assert difference(reduced.full(), whole.pixels) < 3
    box = (401, 203, 1200, 797)
    part, reduced_part = whole.window(box), reduced.window(box)
    assert part.size == reduced_part.size == (799, 594)
    # 401 / 4 and 203 / 4 are no whole numbers: what a pixel is a part of belongs to it
    np.testing.assert_array_equal(reduced_part.pixels, reduced.pixels[50:200, 100:300])


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(int) - other).mean())
