"""What is no whole picture is refused with a sentence that says so, and never decoded in part."""

from __future__ import annotations

import io
import re
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.inputs.pictures import decode_picture
from florence2_sam2.server.settings import Settings

SETTINGS = Settings()


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))


FILES = {
    "JPEG": encoded(noise(), "JPEG"),
    "progressive JPEG": encoded(noise(), "JPEG", progressive=True),
    "PNG": encoded(noise(), "PNG"),
    "WebP": encoded(noise(), "WEBP"),
    "lossless WebP": encoded(noise(), "WEBP", lossless=True),
    "BMP": encoded(noise(), "BMP"),
    "GIF": encoded(noise(), "GIF"),
    "TIFF": encoded(noise(), "TIFF"),
    "LZW TIFF": encoded(noise(), "TIFF", compression="tiff_lzw"),
    "JPEG TIFF": encoded(noise(), "TIFF", compression="jpeg"),
    "BigTIFF": encoded(noise(), "TIFF", big_tiff=True),
}


def refusal(data: bytes, limits: Settings = SETTINGS, field: str = "image") -> str:
    with pytest.raises(InvalidRequest) as caught:
        decode_picture(data, limits, field)
    assert caught.value.field == field
    message = caught.value.message
    assert message.startswith(f"{field}: ")
    assert "\n" not in message
    assert "PIL" not in message
    assert "/" not in message
    return message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"\xff", "send a JPEG, PNG"),
        (b"\xff\xd8", "send a JPEG, PNG"),
        (b"\xff\xd8\xff", "cut off"),
        (b"\x00" * 1000, "send a JPEG, PNG"),
        (bytes(range(256)) * 8, "send a JPEG, PNG"),
        (b"\n <!DOCTYPE html><html><body>Not found</body></html>", "web page"),
        (b"<html></html>", "web page"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"></svg>', "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"data:image/png;base64,iVBORw0KGgo=", "image_url"),
        (b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk", "base64"),
        (b"%PDF-1.4\n%", "send a JPEG, PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "send a JPEG, PNG"),
        (b"P6\n1 1\n255\n\0\0\0", "send a JPEG, PNG"),
        (encoded(noise(), "ICO"), "send a JPEG, PNG"),
        (encoded(noise(), "PPM"), "send a JPEG, PNG"),
        (encoded(noise(), "JPEG2000"), "send a JPEG, PNG"),
    ],
)
def test_what_is_no_picture_of_a_served_format(data: bytes, words: str) -> None:
    assert words in refusal(data)


@pytest.mark.parametrize("percent", [1, 10, 50, 90, 97])
@pytest.mark.parametrize("form", FILES)
def test_a_truncated_file_is_refused(form: str, percent: int) -> None:
    data = FILES[form]
    message = refusal(data[: len(data) * percent // 100])
    assert re.search("cut off|damaged", message)


@pytest.mark.parametrize("form", FILES)
def test_the_last_bytes_matter(form: str) -> None:
    """One byte less is refused, unless it is one that no pixel depends on."""
    whole = decode_picture(FILES[form], SETTINGS)
    for cut in range(1, 24):
        try:
            pixels = decode_picture(FILES[form][:-cut], SETTINGS)
        except InvalidRequest:
            continue
        assert np.array_equal(pixels, whole)


@pytest.mark.parametrize("chunk", [b"IHDR", b"PLTE", b"IDAT", b"IEND"])
def test_a_wrong_checksum_is_refused(chunk: bytes) -> None:
    data = bytearray(encoded(noise().quantize(16), "PNG"))
    at = data.index(chunk)
    length = int.from_bytes(data[at - 4 : at], "big")
    data[at + 4 + length] ^= 1
    assert f"checksum of chunk {chunk.decode()} is wrong" in refusal(bytes(data))


def test_a_changed_pixel_byte_is_refused_in_a_png() -> None:
    data = bytearray(FILES["PNG"])
    data[len(data) // 2] ^= 0x40
    assert "checksum" in refusal(bytes(data))


def png_of_rows(rows: int, interlaced: bool, colour: int = 2) -> bytes:
    """A black PNG of 10×10 pixels with data for only so many of its rows."""
    body = bytes(rows * (1 + 10 * {2: 3, 6: 4}[colour]))
    header = struct.pack(">IIBBBBB", 10, 10, 8, colour, 0, 0, interlaced)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(body)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("colour", [2, 6])
def test_a_png_whose_pixel_data_ends_early_is_refused(interlaced: bool, colour: int) -> None:
    assert "damaged" in refusal(png_of_rows(9, interlaced, colour))
    # The passes of an interlaced picture have more rows, and so more filter bytes.
    assert decode_picture(png_of_rows(11, interlaced, colour), SETTINGS).shape == (10, 10, 3)


def zero_sized() -> dict[str, bytes]:
    png = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 5, 8, 2, 0, 0, 0))
    jpeg = bytearray(FILES["JPEG"])
    header = jpeg.index(b"\xff\xc0")
    jpeg[header + 5 : header + 7] = b"\0\0"
    bmp = bytearray(FILES["BMP"])
    bmp[18:22] = b"\0\0\0\0"
    gif = b"GIF89a" + struct.pack("<HHBBB", 0, 0, 0, 0, 0) + b"\x3b"
    return {"PNG": png, "JPEG": bytes(jpeg), "BMP": bytes(bmp), "GIF": gif, "TIFF": tiff(width=0)}


def tiff(width: int = 8, bits: int = 8, kind: int = 1, photometric: int = 1) -> bytes:
    """An uncompressed grey TIFF, 8 rows high."""
    entries = [
        (256, width),
        (257, 8),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, 8),
    ]
    entries += [(279, width * bits), (339, kind)]
    pixels = bytes(8 * 8 * 8)
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    header = b"II*\0" + struct.pack("<I", 8 + len(pixels))
    return header + pixels + struct.pack("<H", len(entries)) + rows + bytes(4)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "TIFF"])
def test_a_size_of_zero_is_refused(form: str) -> None:
    assert "has no pixels" in refusal(zero_sized()[form])


def test_samples_that_eight_bits_cannot_show_are_refused() -> None:
    assert decode_picture(tiff(), SETTINGS).shape == (8, 8, 3)
    for data in (
        tiff(bits=32, kind=3),
        tiff(bits=64, kind=3),
        tiff(bits=32),
        tiff(bits=16, kind=2),
        tiff(bits=12),
    ):
        assert "float, signed or wide samples" in refusal(data)
    assert "float" in refusal(encoded(Image.new("F", (4, 4)), "TIFF"))
    assert "float" in refusal(encoded(Image.new("I", (4, 4)), "TIFF"))
    assert "colour space" in refusal(tiff(photometric=8))


def test_a_lossless_jpeg_is_refused_by_name() -> None:
    data = FILES["JPEG"].replace(b"\xff\xc0", b"\xff\xc3", 1)
    assert "lossless" in refusal(data)


def test_sizes_over_a_limit_are_refused_with_the_limit() -> None:
    png = FILES["PNG"]  # 96×64
    assert decode_picture(png, Settings(max_pixels=96 * 64, max_side=96, max_image_bytes=len(png))).size
    message = refusal(png, Settings(max_pixels=96 * 64 - 1))
    assert "96×64" in message
    assert str(96 * 64 - 1) in message
    assert "95 a side" in refusal(png, Settings(max_side=95))
    message = refusal(png, Settings(max_image_bytes=len(png) - 1))
    assert f"{len(png)} bytes" in message
    assert f"up to {len(png) - 1}" in message


def test_the_limit_may_lie_above_pillows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for form in ("JPEG", "PNG", "BMP", "GIF"):
        assert decode_picture(FILES[form], SETTINGS).shape == (64, 96, 3)


def test_the_message_names_the_field_that_was_used() -> None:
    assert refusal(b"", field="image_url").startswith("image_url: ")


@pytest.mark.parametrize("start", [2**32, 2**63, 2**64 - 1])
def test_a_bigtiffs_directory_beyond_the_file(start: int) -> None:
    data = bytearray(FILES["BigTIFF"])
    data[8:16] = struct.pack("<Q", start)
    assert "cut off" in refusal(bytes(data))


@settings(max_examples=300, deadline=2000)
@given(
    form=st.sampled_from(sorted(FILES)),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    front=st.sampled_from([40, 400, 10**9]),
)
def test_a_damaged_file_is_decoded_or_refused(form: str, edits: list[tuple[float, int]], front: int) -> None:
    data = bytearray(FILES[form])
    for place, value in edits:
        data[int(place * min(front, len(data)))] = value
    try:
        pixels = decode_picture(bytes(data), SETTINGS)
    except InvalidRequest as error:
        assert error.message.startswith("image: ")
    else:
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3


@settings(max_examples=200, deadline=1000)
@given(
    start=st.sampled_from(
        [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8X", b"GIF89a", b"II*\0", b"BM"]
    ),
    rest=st.binary(max_size=200),
)
def test_random_bytes_are_refused(start: bytes, rest: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_picture(start + rest, Settings(max_pixels=10_000))
