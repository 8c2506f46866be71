"""What of a picture file the decoder gets to see.

Each walker reads one file format's structure, hands the declared size to `check` before anything is
allocated, and answers with a file reduced to what makes pixels: one frame, no metadata. Decoders are easily
kept busy for minutes, or fed gigabytes, by what surrounds the pixels (text chunks, thousands of EXIF segments
or scans, overlapping tags, further frames); what is not handed on cannot do that.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from florence2_sam2.server.inputs import exif, png, tiff

Format = Literal["JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF"]
SizeCheck = Callable[[int, int], None]

# Walking is Python, so the number of steps is bounded too.
_MAX_JPEG_SEGMENTS = 16_384  # a profile has at most 255, and nothing else comes near
_MAX_GIF_BLOCKS = 2**18  # of up to 255 bytes; an encoder fills all but the last
_MAX_GIF_EXTENSIONS = 4096
_MAX_WEBP_CHUNKS = 2**14  # an animation has one for each frame
_MAX_JPEG_SCANS = 50  # progressive encoders write ten to twenty; each costs a pass over the whole picture
_MAX_RLE_BYTES = 2**20  # Pillow decodes these in Python, two bytes at a time


class DamagedPicture(ValueError):
    """The file's structure is broken or of a form that is not supported. Completes "the picture …"."""


@dataclass(frozen=True)
class Picture:
    """An encoded picture of one frame without metadata; `width` and `height` are before `orientation`."""

    format: Format
    data: bytes
    width: int
    height: int
    orientation: int = exif.UPRIGHT


def sniff(data: bytes) -> Format | None:
    """The format by the file's first bytes; None when it is not one that is served."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(png.SIGNATURE):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if data.startswith(b"BM"):
        return "BMP"
    return None


def read(data: bytes, check: SizeCheck) -> Picture | None:
    """Reduce a picture file to its first frame; None when the format is not served.

    Args:
        data: the whole file.
        check: called with (width, height) as soon as the file has declared them; raises to refuse.

    Raises:
        DamagedPicture: the file's structure is broken.
    """
    kind = sniff(data)
    if kind is None:
        return None
    try:
        return _WALKERS[kind](data, check)
    except (struct.error, IndexError):
        raise DamagedPicture(f"is cut off: it ends within the header of the {kind}") from None
    except (png.DamagedPng, tiff.DamagedTiff) as error:
        raise DamagedPicture(str(error)) from None


def _png(data: bytes, check: SizeCheck) -> Picture:
    return Picture("PNG", *png.pixels_alone(data, check))


_JPEG_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # Huffman or arithmetic coding, sequential or progressive
_JPEG_OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF}  # lossless and hierarchical
_JPEG_TABLES = {0xC4, 0xCC, 0xDB, 0xDD}  # DHT, DAC, DQT, DRI
_JPEG_APP0, _JPEG_APP1, _JPEG_APP14 = 0xE0, 0xE1, 0xEE
_JPEG_SCAN = 0xDA


def _jpeg(data: bytes, check: SizeCheck) -> Picture:
    view = memoryview(data)
    kept: list[memoryview] = [view[:2]]
    size: tuple[int, int] | None = None
    orientation: int | None = None
    position = 2
    for _ in range(_MAX_JPEG_SEGMENTS):
        position = data.find(b"\xff", position)
        if position < 0:
            raise DamagedPicture("is cut off: the JPEG ends within its header")
        marker = data[position + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # fill bytes, and markers without a length
            position += 1 if marker == 0xFF else 2
            continue
        if marker == 0xD9:
            raise DamagedPicture("is a damaged JPEG: it ends before its pixels")
        end = position + 2 + struct.unpack_from(">H", data, position + 2)[0]
        if end > len(data):
            raise DamagedPicture("is cut off: the JPEG ends within its header")
        segment = view[position:end]
        if marker in _JPEG_OTHER_FRAMES:
            raise DamagedPicture("is a lossless or hierarchical JPEG: save it as an ordinary JPEG or a PNG")
        if marker in _JPEG_FRAMES:
            if size is not None:
                raise DamagedPicture("is a damaged JPEG: it has two headers")
            height, width = struct.unpack_from(">HH", data, position + 5)
            check(width, height)
            size = width, height
        if marker == _JPEG_SCAN:
            break
        if marker == _JPEG_APP1 and segment[4:10].tobytes() == b"Exif\0\0" and orientation is None:
            orientation = exif.orientation(bytes(segment[4:]))
        # JFIF and Adobe segments decide how colours are stored.
        elif marker in _JPEG_FRAMES | _JPEG_TABLES | {_JPEG_APP14} or (
            marker == _JPEG_APP0 and segment[4:8].tobytes() == b"JFIF"
        ):
            kept.append(segment)
        position = end
    else:
        raise DamagedPicture(f"is a JPEG of more than {_MAX_JPEG_SEGMENTS} segments: save it again")
    if size is None:
        raise DamagedPicture("is a damaged JPEG: it has no header")
    # Within coded pixels 0xff is followed by 0 or a restart marker, so the first end marker is the picture's.
    last = data.find(b"\xff\xd9", position)
    last = len(data) if last < 0 else last + 2
    if data.count(b"\xff\xda", position, last) > _MAX_JPEG_SCANS:
        raise DamagedPicture(f"is a JPEG of more than {_MAX_JPEG_SCANS} scans: save it again")
    kept.append(view[position:last])
    return Picture("JPEG", b"".join(kept), *size, orientation or exif.UPRIGHT)


def _webp(data: bytes, check: SizeCheck) -> Picture:
    first = data[12:16]
    if first == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif first == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif first == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise DamagedPicture("is a damaged WebP: its header chunk is missing")
    check(width, height)
    if struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        raise DamagedPicture("is cut off: the WebP is shorter than it says")
    return Picture("WebP", data, width, height, _webp_orientation(data) if first == b"VP8X" else exif.UPRIGHT)


def _webp_orientation(data: bytes) -> int:
    position = 12
    for _ in range(_MAX_WEBP_CHUNKS):
        if position + 8 > len(data):
            return exif.UPRIGHT
        name, length = struct.unpack_from("<4sI", data, position)
        if name == b"EXIF":
            return exif.orientation(data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    raise DamagedPicture(f"is a WebP of more than {_MAX_WEBP_CHUNKS} chunks: save it again")


def _gif(data: bytes, check: SizeCheck) -> Picture:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    check(width, height)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    head = data[:position]
    control = b""
    for _ in range(_MAX_GIF_EXTENSIONS):
        if data[position] != 0x21:  # an extension
            break
        end = _gif_blocks_end(data, position + 2)
        if data[position + 1] == 0xF9 and data[position + 2] == 4:
            # Transparency is kept; how the frame is disposed of concerns the next one.
            control = b"\x21\xf9\x04" + bytes([data[position + 3] & 1]) + data[position + 4 : position + 8]
        position = end
    if data[position] != 0x2C:
        raise DamagedPicture("is a damaged GIF: it has no frame")
    left, top, frame_width, frame_height, flags = struct.unpack_from("<HHHHB", data, position + 1)
    # A frame that sticks out makes the picture larger.
    width, height = max(width, left + frame_width), max(height, top + frame_height)
    check(width, height)
    pixels = position + 10 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    end = _gif_blocks_end(data, pixels + 1)
    return Picture("GIF", b"".join((head, control, data[position:end], b"\x3b")), width, height)


def _gif_blocks_end(data: bytes, position: int) -> int:
    """Position after a chain of sub-blocks."""
    for _ in range(_MAX_GIF_BLOCKS):
        length = data[position]
        position += 1 + length
        if not length:
            return position
    raise DamagedPicture(f"is a GIF of more than {_MAX_GIF_BLOCKS} blocks: save it again")


def _bmp(data: bytes, check: SizeCheck) -> Picture:
    (header_size,) = struct.unpack_from("<I", data, 14)
    if header_size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        compression = 0
    else:
        width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    check(width, abs(height))
    if compression in (1, 2) and len(data) > _MAX_RLE_BYTES:
        raise DamagedPicture("is a run-length coded BMP of more than 1 MiB: save it as a PNG")
    return Picture("BMP", data, width, abs(height))


def _tiff(data: bytes, check: SizeCheck) -> Picture:
    return Picture("TIFF", *tiff.first_page(data, check))


_WALKERS: dict[Format, Callable[[bytes, SizeCheck], Picture]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WebP": _webp,
    "BMP": _bmp,
    "GIF": _gif,
    "TIFF": _tiff,
}
