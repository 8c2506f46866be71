"""Odd but legal pictures decode to what a viewer shows."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from picture_files import Pixels, encoded, oriented
from PIL import Image

from florence2_sam2.server.inputs.pictures import decode_picture
from florence2_sam2.server.settings import Settings

SETTINGS = Settings()


def decode(data: bytes) -> Pixels:
    pixels = decode_picture(data, SETTINGS)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    return pixels


def pillow(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture
def scene() -> Image.Image:
    """Smooth, so that JPEG keeps it, and without any symmetry."""
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(coarse).resize((112, 80), Image.Resampling.BICUBIC)


FORMS: list[tuple[str, dict[str, Any]]] = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True, "subsampling": 0}),
    ("JPEG", {"keep_rgb": True}),
    ("JPEG", {"comment": b"a" * 1000, "icc_profile": b"no profile"}),
    ("PNG", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("BMP", {}),
    ("GIF", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "jpeg"}),
    ("TIFF", {"compression": "packbits", "big_tiff": True}),
    ("TIFF", {"compression": "tiff_adobe_deflate"}),
]


@pytest.mark.parametrize(("form", "options"), FORMS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_format_decodes_as_pillow_does(
    scene: Image.Image, form: str, options: dict[str, Any], mode: str
) -> None:
    data = encoded(scene.convert(mode), form, **options)
    assert np.array_equal(decode(data), pillow(data))


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_thin_pictures(size: tuple[int, int], form: str) -> None:
    image = Image.new("RGB", size, (250, 120, 10))
    pixels = decode(encoded(image, form))
    assert pixels.shape == (size[1], size[0], 3)
    assert np.abs(pixels.astype(int) - (250, 120, 10)).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "LZW"])
def test_exif_orientation_is_applied(scene: Image.Image, form: str, orientation: int) -> None:
    upright = np.asarray(scene)
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "JPEG": ("JPEG", {"quality": 100, "subsampling": 0}),
        "WEBP": ("WEBP", {"lossless": True}),
        "LZW": ("TIFF", {"compression": "tiff_lzw"}),
    }
    kind, options = kinds.get(form, (form, {}))
    data = oriented(upright, orientation, kind, **options)
    pixels = decode(data)
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).max() <= (8 if form == "JPEG" else 0)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage garbage",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0\0\0\0\0",  # orientation 9
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x01\0\0\0\x06\0\0\0\0\0\0\0",  # of type text
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03",
    ],
)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_is_ignored(scene: Image.Image, form: str, exif: bytes) -> None:
    data = encoded(scene, form, exif=exif)
    assert decode(data).shape == (80, 112, 3)


def ramp16() -> NDArray[np.uint16]:
    return np.linspace(0, 65535, 256 * 4).astype(np.uint16).reshape(4, 256)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(form: str) -> None:
    data = encoded(Image.fromarray(ramp16()), form)
    assert np.array_equal(decode(data), np.repeat((ramp16() >> 8)[..., None], 3, axis=2))


def test_sixteen_bit_grey_of_the_other_byte_order() -> None:
    image = Image.frombytes("I;16B", (256, 4), ramp16().astype(">u2").tobytes())
    assert np.array_equal(decode(encoded(image, "TIFF"))[..., 0], ramp16() >> 8)


@pytest.mark.parametrize("form", [".png", ".tiff"])
def test_sixteen_bit_colour_keeps_its_upper_bits(form: str) -> None:
    bgr = np.stack([ramp16(), ramp16()[:, ::-1], ramp16() // 2], axis=-1)
    ok, data = cv2.imencode(form, bgr)
    assert ok
    assert np.array_equal(decode(data.tobytes()), (bgr[..., ::-1] >> 8))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "GIF"])
def test_one_bit_is_black_and_white(form: str) -> None:
    bits = np.random.default_rng(1).integers(0, 2, (9, 13)).astype(bool)
    pixels = decode(encoded(Image.fromarray(bits), form))
    assert np.array_equal(pixels, np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_transparent_pictures_lie_on_white(mode: str, form: str) -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (100, 100, 100, 255))
    image.putpixel((2, 0), (0, 0, 0, 128))
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    pixels = decode(encoded(image.convert(mode), form, **options))
    assert pixels[0].tolist() == [[255] * 3, [100] * 3, [127] * 3]


def test_palette_with_one_transparent_colour_lies_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    for form in ("PNG", "GIF"):
        pixels = decode(encoded(image, form, transparency=0))
        assert pixels[0].tolist() == [[255, 255, 255], [40, 50, 60]]


def test_palette_with_levels_of_transparency_lies_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 40, 50, 60])
    image.putpixel((1, 0), 1)
    pixels = decode(encoded(image, "PNG", transparency=b"\x80\xff"))
    assert pixels[0].tolist() == [[127] * 3, [40, 50, 60]]


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_png_with_a_transparent_colour_lies_on_white(mode: str) -> None:
    colours: dict[str, Any] = {"L": (7, 9), "RGB": ((7, 8, 9), (9, 8, 7)), "I;16": (700, 0xABCD)}
    clear, solid = colours[mode]
    image = Image.new(mode, (2, 1), clear)
    image.putpixel((1, 0), solid)
    pixels = decode(encoded(image, "PNG", transparency=clear))
    assert pixels[0, 0].tolist() == [255] * 3
    assert pixels[0, 1].tolist() == {"L": [9] * 3, "RGB": [9, 8, 7], "I;16": [0xAB] * 3}[mode]


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_has_the_colours_of_print(form: str) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    data = encoded(image, form)
    assert np.abs(decode(data).astype(int) - (255, 0, 0)).max() <= 4
    assert np.array_equal(decode(data), pillow(data))


@pytest.mark.parametrize("transform", [0, 1])
def test_adobes_segment_decides_how_colours_are_stored(scene: Image.Image, transform: int) -> None:
    data = encoded(scene, "JPEG", subsampling=0)
    jfif = 4 + int.from_bytes(data[4:6], "big")
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0" + bytes([transform])
    data = data[:2] + adobe + data[jfif:]
    assert np.array_equal(decode(data), pillow(data))
    is_rgb = np.abs(decode(data).astype(int) - np.asarray(scene)).mean() > 30
    assert is_rgb == (transform == 0)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_counts(form: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3  # type: ignore[attr-defined]
    pixels = decode(data)
    assert pixels.shape == (10, 20, 3)
    assert np.array_equal(pixels, np.broadcast_to(np.uint8([255, 0, 0]), (10, 20, 3)))


def test_what_follows_the_picture_is_ignored(scene: Image.Image) -> None:
    """Telephones put a film, and cameras a second picture, behind the first."""
    for form in ("JPEG", "PNG", "GIF"):
        data = encoded(scene, form)
        assert np.array_equal(decode(data + encoded(scene.rotate(90), "JPEG")), decode(data))


def test_upside_down_bmp(scene: Image.Image) -> None:
    data = bytearray(encoded(scene, "BMP"))
    height = int.from_bytes(data[22:26], "little", signed=True)
    data[22:26] = (-height).to_bytes(4, "little", signed=True)
    assert np.array_equal(decode(bytes(data)), np.asarray(scene)[::-1])
