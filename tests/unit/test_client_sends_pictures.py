"""Every form a caller may hold a picture in reaches the server as the same picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from florence2_sam2.client.images import Encoded, decode, encode

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)


def png(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


FILE = png(Image.fromarray(PIXELS))


def pixels(data: bytes | None) -> np.ndarray:
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(data)))


def test_files_travel_undecoded(tmp_path: Path) -> None:
    path = tmp_path / "a picture.bin"
    path.write_bytes(b"whatever the server makes of it")
    with path.open("rb") as file:
        forms = [path, str(path), path.read_bytes(), bytearray(path.read_bytes()), file]
        assert [encode(form).data for form in forms] == [b"whatever the server makes of it"] * 5


@pytest.mark.parametrize("url", ["http://host/a.png", "HTTPS://host/a.png", "data:image/png;base64,AAAA"])
def test_urls_are_left_to_the_server(url: str) -> None:
    assert encode(url) == Encoded(url=url)


@pytest.mark.parametrize("array", [PIXELS, PIXELS[..., 0], PIXELS[:, ::-1], np.asfortranarray(PIXELS)])
def test_arrays_lose_nothing(array: np.ndarray) -> None:
    assert np.array_equal(pixels(encode(array).data), array)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pillow_images_lose_nothing(mode: str) -> None:
    image = (
        Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(PIXELS)
    )
    image = image if mode == "I;16" else image.convert(mode)
    data = encode(image).data
    assert data is not None
    sent = Image.open(io.BytesIO(data))
    assert np.array_equal(np.asarray(sent.convert(image.mode)), np.asarray(image))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV"])
def test_modes_png_lacks_become_rgb(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    assert np.array_equal(pixels(encode(image).data), np.asarray(image.convert("RGB")))


def test_32_bit_images_keep_16_bits() -> None:
    values = np.array([[0, 256, 65535]], dtype=np.int32)
    assert pixels(encode(Image.fromarray(values)).data).tolist() == values.tolist()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pillow_image_is_sent_as_upright_as_its_file(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = png(Image.fromarray(PIXELS), exif=exif)
    opened = Image.open(io.BytesIO(file))
    sent = Image.open(io.BytesIO(encode(opened).data or b""))
    assert 0x0112 not in sent.getexif()
    assert np.array_equal(np.asarray(sent), np.asarray(decode(file)))
    assert np.array_equal(np.asarray(decode(opened)), np.asarray(decode(file)))
    assert decode(file).size == ((11, 7) if orientation < 5 else (7, 11))


def test_decoding_puts_transparency_on_white_and_scales_16_bits() -> None:
    clear = Image.new("RGBA", (1, 1), (10, 20, 30, 0))
    assert decode(clear).getpixel((0, 0)) == (255, 255, 255)
    deep = Image.fromarray(np.array([[0, 128 * 257, 65535]], dtype=np.uint16))
    assert np.asarray(decode(deep))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("picture", "error", "words"),
    [
        (42, TypeError, "int is no picture"),
        (None, TypeError, "NoneType is no picture"),
        (io.StringIO("text"), TypeError, "binary mode"),
        (PIXELS.astype(np.float32) / 255, ValueError, "float32"),
        (PIXELS[0, 0], ValueError, r"shape \[3\]"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, r"shape \[4, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"shape \[0, 4, 3\]"),
        (Image.new("F", (2, 2)), ValueError, "mode F"),
        ("no/such/file.png", FileNotFoundError, "no/such/file.png"),
    ],
)
def test_what_is_no_picture_is_refused_before_anything_is_sent(
    picture: object, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        encode(picture)  # type: ignore[arg-type]


def test_nothing_is_fetched_to_be_drawn_on() -> None:
    with pytest.raises(ValueError, match="does not fetch"):
        decode("http://127.0.0.1:1/a.png")
