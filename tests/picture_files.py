"""Picture files for tests: whole ones of every format, odd ones, broken ones, and what is no picture at all."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112  # EXIF's tag


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """The picture as a file; `form` and `options` are Pillow's."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def noise() -> Image.Image:
    """96×64 random colours, RGB."""
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

# No picture of a format that is served, each with words of the sentence that says so.
NO_PICTURES: list[tuple[bytes, str]] = [
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
]


def with_wrong_checksum(chunk: bytes) -> bytes:
    """A PNG with a palette, the checksum of whose `chunk` (IHDR, PLTE, IDAT, IEND) is wrong."""
    data = bytearray(encoded(noise().quantize(16), "PNG"))
    at = data.index(chunk)
    length = int.from_bytes(data[at - 4 : at], "big")
    data[at + 4 + length] ^= 1
    return bytes(data)


def with_a_wrong_byte() -> bytes:
    """A PNG in whose coded pixels one bit is another."""
    data = bytearray(FILES["PNG"])
    data[len(data) // 2] ^= 0x40
    return bytes(data)


def png_of_rows(rows: int, interlaced: bool, colour: int = 2) -> bytes:
    """A black PNG of 10×10 pixels with data for only so many of its rows."""
    body = bytes(rows * (1 + 10 * {2: 3, 6: 4}[colour]))
    header = struct.pack(">IIBBBBB", 10, 10, 8, colour, 0, 0, interlaced)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(body)), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(png_chunk(*chunk) for chunk in chunks)


def zero_sized() -> dict[str, bytes]:
    """Files whose headers say that a side has no pixels, by format."""
    png = PNG_SIGNATURE + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 5, 8, 2, 0, 0, 0))
    jpeg = bytearray(FILES["JPEG"])
    header = jpeg.index(b"\xff\xc0")
    jpeg[header + 5 : header + 7] = b"\0\0"
    bmp = bytearray(FILES["BMP"])
    bmp[18:22] = b"\0\0\0\0"
    gif = b"GIF89a" + struct.pack("<HHBBB", 0, 0, 0, 0, 0) + b"\x3b"
    return {"PNG": png, "JPEG": bytes(jpeg), "BMP": bytes(bmp), "GIF": gif, "TIFF": grey_tiff(width=0)}


def grey_tiff(width: int = 8, bits: int = 8, kind: int = 1, photometric: int = 1) -> bytes:
    """An uncompressed TIFF of one sample a pixel, 8 rows high. `kind`: 1 unsigned, 2 signed, 3 float."""
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


def too_wide_samples() -> dict[str, bytes]:
    """TIFFs of samples that eight bits cannot show."""
    return {
        "float32": grey_tiff(bits=32, kind=3),
        "float64": grey_tiff(bits=64, kind=3),
        "32 bits": grey_tiff(bits=32),
        "signed 16 bits": grey_tiff(bits=16, kind=2),
        "12 bits": grey_tiff(bits=12),
        "Pillow's float": encoded(Image.new("F", (4, 4)), "TIFF"),
        "Pillow's int32": encoded(Image.new("I", (4, 4)), "TIFF"),
    }


def stored(upright: Pixels, orientation: int) -> Pixels:
    """How a camera stores a picture: EXIF says which sides of the picture row 0 and column 0 are (TIFF 6.0)."""
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright[:, ::-1].transpose(1, 0, 2),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright[::-1].transpose(1, 0, 2),
    }
    return np.ascontiguousarray(turned[orientation])


def oriented(upright: Pixels, orientation: int, form: str, **options: Any) -> bytes:
    """A file that shows `upright` to those who heed its EXIF orientation; `form` and `options` are Pillow's."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(Image.fromarray(stored(upright, orientation)), form, exif=exif, **options)
