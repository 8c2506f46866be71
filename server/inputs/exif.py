"""The orientation tag of an EXIF block, and nothing else of it.

Pillow reads EXIF eagerly in some formats and not at all in others, and turns TIFFs itself in some versions.
Reading the one tag here gives all formats and versions the same answer.
"""

from __future__ import annotations

import struct

UPRIGHT = 1
_ORIENTATION = 0x0112
_SHORT = 3
_PREFIX = b"Exif\0\0"


def orientation(block: bytes) -> int:
    """Orientation 1 … 8 of an EXIF block, in the numbers of TIFF 6.0; 1 when it has none or is damaged.

    Args:
        block: a TIFF header and its first directory, with or without the `Exif\\0\\0` prefix of JPEG and
            WebP.
    """
    tiff = block.removeprefix(_PREFIX)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return UPRIGHT
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    if start + 2 > len(tiff):
        return UPRIGHT
    (count,) = struct.unpack_from(order + "H", tiff, start)
    for entry in range(start + 2, min(start + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind, length, value = struct.unpack_from(order + "HHIH", tiff, entry)
        if tag == _ORIENTATION:
            return value if kind == _SHORT and length == 1 and 1 <= value <= 8 else UPRIGHT
    return UPRIGHT
