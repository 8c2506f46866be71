"""The chunks of a PNG that make pixels, with their checksums, and whether they hold all rows.

Pillow checks neither the checksums of pixel data nor that there is enough of it: what is missing it shows as black.
Chunk names and sizes are those of the PNG specification, third edition.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable

from florence2_sam2.server.inputs import exif

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_MAX_CHUNKS = 16_384  # a 32 MiB file in the 8 KiB chunks that libpng writes has 4096
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# First column, first row, and steps of the seven passes of Adam7.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_BLOCK = 2**20


class DamagedPng(ValueError):
    """The chunks are broken. The message completes "the picture …"."""


def pixels_alone(data: bytes, check: Callable[[int, int], None]) -> tuple[bytes, int, int, int]:
    """(file, width, height, orientation): a PNG without metadata and further frames.

    Args:
        data: a file that begins with `SIGNATURE`.
        check: called with the declared (width, height); raises to refuse.

    Raises:
        DamagedPng: a chunk is cut off, missing, or has a wrong checksum.
        struct.error: the file ends within the header of a chunk.
    """
    if data[12:16] != b"IHDR":
        raise DamagedPng("is a damaged PNG: its header chunk is missing")
    width, height = struct.unpack_from(">II", data, 16)
    check(width, height)
    view = memoryview(data)
    kept: list[memoryview] = [view[:8]]
    orientation = exif.UPRIGHT
    position = 8
    for _ in range(_MAX_CHUNKS):
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise DamagedPng("is cut off: the PNG ends before its last chunk")
        if name in _KEPT:
            (expected,) = struct.unpack_from(">I", data, end - 4)
            if zlib.crc32(view[position + 4 : end - 4]) != expected:
                raise DamagedPng(f"is a damaged PNG: the checksum of chunk {name.decode()} is wrong")
            kept.append(view[position:end])
        elif name == b"eXIf":
            orientation = exif.orientation(data[position + 8 : end - 4])
        if name == b"IEND":
            return b"".join(kept), width, height, orientation
        position = end
    raise DamagedPng(f"is a PNG of more than {_MAX_CHUNKS} chunks: save it again")


def has_all_rows(data: bytes) -> bool:
    """Whether the pixel data of a file from `pixels_alone` unpacks to as many bytes as its size needs."""
    missing = _unpacked_size(data)
    unpacker = zlib.decompressobj()
    position = 8
    while position < len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        packed = data[position + 8 : position + 8 + length] if name == b"IDAT" else b""
        while packed and missing > 0:
            missing -= len(unpacker.decompress(packed, _BLOCK))
            packed = unpacker.unconsumed_tail
        position += 12 + length
    return missing <= 0


def _unpacked_size(data: bytes) -> int:
    """Bytes of all rows, each with its filter byte; of an interlaced PNG those of all passes."""
    width, height, bits, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    size = 0
    for left, top, right, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = math.ceil((width - left) / right), math.ceil((height - top) / down)
        if columns > 0 and rows > 0:
            size += rows * (1 + math.ceil(columns * bits * _CHANNELS[colour] / 8))
    return size
