"""Small files that would cost gigabytes or minutes cost next to nothing.

They are decoded in a process of their own, whose peak of memory is then known.
"""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

MAX_SECONDS = 0.1
MAX_GROWTH = 50 * 2**20

_DECODE = """
import pickle, resource, sys, time
from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.inputs.pictures import decode_picture
from florence2_sam2.server.settings import Settings

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

small, files = pickle.load(sys.stdin.buffer)
settings = Settings()
decode_picture(small, settings)
costs = {}
for name, data in files.items():
    before, start = peak(), time.process_time()
    try:
        outcome = str(decode_picture(data, settings).shape)
    except InvalidRequest as error:
        outcome = error.message
    costs[name] = outcome, time.process_time() - start, peak() - before
sys.stdout.buffer.write(pickle.dumps(costs))
"""

Cost = tuple[str, float, int]


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def costs(files: dict[str, bytes]) -> dict[str, Cost]:
    """(outcome, seconds of the processor, bytes by which the peak grew) of decoding each file in a fresh process."""
    small = encoded(Image.new("RGB", (8, 8)), "JPEG")
    done = subprocess.run(
        [sys.executable, "-c", _DECODE],
        input=pickle.dumps((small, files)),
        capture_output=True,
        check=True,
        timeout=120,
    )
    answers: dict[str, Cost] = pickle.loads(done.stdout)
    return answers


def assert_cheap(cost: Cost, words: str) -> None:
    outcome, seconds, growth = cost
    assert words in outcome
    assert seconds < MAX_SECONDS
    assert growth < MAX_GROWTH


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IEND", b"")


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


@pytest.fixture(scope="module")
def too_large() -> dict[str, Cost]:
    return costs(TOO_LARGE)


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_size_over_the_limit_is_refused_from_the_header(name: str, too_large: dict[str, Cost]) -> None:
    assert_cheap(too_large[name], "this server takes up to")


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


def test_what_surrounds_the_pixels_costs_nothing() -> None:
    for cost in costs(around_the_pixels()).values():
        assert_cheap(cost, "(8, 8, 3)")


def test_what_keeps_a_decoder_busy_is_refused() -> None:
    answers = costs(
        {
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
    )
    for word, cost in answers.items():
        assert_cheap(cost, word)
