"""Small files that would cost a careless server gigabytes or minutes, for tests that they do not."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from picture_files import PNG_SIGNATURE, encoded, png_chunk
from PIL import Image


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return PNG_SIGNATURE + header + b"".join(chunks) + png_chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def tiff(*entries: tuple[int, int, int, int], first: int = 8) -> bytes:
    rows = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", first, len(entries)) + rows + bytes(4)


def riff(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


# To be refused from the header: more pixels than any server should decode.
TOO_LARGE = {
    "PNG of a kilobyte": png(50_000, 50_000, png_chunk(b"IDAT", zlib.compress(bytes(600_000)))),
    "PNG of 100 megapixels": png(10_000, 10_000, png_chunk(b"IDAT", zlib.compress(bytes(100_000)))),
    "PNG of 2³¹ a side": png(2**31 - 1, 2**31 - 1),
    "JPEG": jpeg(65_000, 65_000),
    "WebP, lossy": riff(
        b"VP8 " + struct.pack("<I", 10) + b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383)
    ),
    "WebP, lossless": riff(b"VP8L" + struct.pack("<IBI", 5, 0x2F, 16383 | 16383 << 14) + b"\0"),
    "WebP, extended": riff(b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\xff\xff\xff\xff\xff"),
    "GIF": b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0),
    "GIF with a frame larger than its screen": (
        b"GIF89a"
        + struct.pack("<HHBBB", 1, 1, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0)
        + b"\x08\0;"
    ),
    "BMP": b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 50_000, -50_000, 1, 24, 0) + bytes(20),
    "TIFF": tiff((256, 4, 1, 50_000), (257, 4, 1, 50_000), (259, 3, 1, 5)),
    "TIFF with a tile larger than itself": tiff(
        (256, 4, 1, 8), (257, 4, 1, 8), (259, 3, 1, 5), (322, 4, 1, 2**20), (323, 4, 1, 2**20)
    ),
}


def around_the_pixels() -> dict[str, bytes]:
    """Pictures of 8×8 pixels that are nearly all metadata, each made to cost a decoder dearly."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    zipped = zlib.compress(bytes(50 * 2**20))
    head, tail = encoded(image, "PNG")[:33], encoded(image, "PNG")[33:]
    start, rest = encoded(image, "JPEG")[:2], encoded(image, "JPEG")[2:]
    exif = b"\xff\xe1" + struct.pack(">H", 40) + b"Exif\0\0" + bytes(32)
    gif = encoded(image, "GIF")
    table = 13 + (3 << (gif[10] & 7) + 1)
    text = png_chunk(b"zTXt", b"k\0\0" + zipped)
    profile = png_chunk(b"iCCP", b"k\0\0" + zipped)
    return {
        "PNG with a text bomb": head + text * 20 + tail,
        "PNG with a profile bomb": head + profile + tail,
        "PNG of ten thousand texts": head + png_chunk(b"tEXt", b"k\0" + bytes(100)) * 10_000 + tail,
        "JPEG of many EXIF blocks": start + exif * 10_000 + rest,
        "GIF of many comments": gif[:table] + b"\x21\xfe\xff" + bytes([65] * 255) + b"\0" + gif[table:],
        "TIFF whose tags all hold the whole file": overlapping_tiff(),
    }


def overlapping_tiff() -> bytes:
    entries = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    entries += [(278, 4, 1, 8), (279, 4, 1, 64)]
    entries += [(40_000 + tag, 7, 2**20, 8) for tag in range(2000)]
    rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    pixels = bytes(2**20)
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(pixels))
        + pixels
        + struct.pack("<H", len(entries))
        + rows
        + bytes(4)
    )


def many_scans() -> bytes:
    data = encoded(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 5000 + data[-2:]


def run_length_coded() -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, 4000, 4000, 1, 8, 1, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + bytes(1024) + b"\x01\x01" * 2**20


def busy_work() -> dict[str, bytes]:
    """What would keep a decoder busy for long, by words of the sentence that refuses it."""
    return {
        "bytes": png(100, 100, png_chunk(b"IDAT", bytes(33 * 2**20))),
        "scans": many_scans(),
        "chunks": png(8, 8, png_chunk(b"IDAT", b"") * 70_000),
        "run-length": run_length_coded(),
        "segments": b"\xff\xd8" + b"\xff\xe1\0\x02" * 2**20,
        "JPEG of more": b"\xff\xd8" + b"\xff" * 2**22,
        "GIF of more": b"GIF89a\1\0\1\0" + bytes(3) + b"\x21\xfe" + b"\1A" * 2**22,
        "is a damaged GIF": b"GIF89a\1\0\1\0" + bytes(3) + b"\x21\xfe\0" * 2**20,
        "WebP of more": riff(b"VP8X" + struct.pack("<I", 10) + bytes(10), b"JUNK\0\0\0\0" * 2**20),
    }
