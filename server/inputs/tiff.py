"""The first page of a TIFF as a TIFF of its own: a new directory, of the tags that make pixels, at its end.

A TIFF is a graph of offsets: tags may overlap, repeat the whole file a thousand times, point to further
directories, or back. The new directory has none of that, no orientation (see `first_page`), and no second
page. Tag numbers and field types are those of TIFF 6.0 and of BigTIFF.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from florence2_sam2.server.inputs import exif

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
ORIENTATION, SAMPLES, SAMPLE_FORMAT = 274, 277, 339
TILE_WIDTH, TILE_HEIGHT = 322, 323
STRIPS, TILES = (273, 279), (324, 325)  # offsets and lengths

_KEPT = {
    *(WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, SAMPLE_FORMAT),
    *(TILE_WIDTH, TILE_HEIGHT, *STRIPS, *TILES),
    266,  # bit order within bytes
    278,  # rows per strip
    284,  # planar or interleaved
    *(292, 293),  # options of fax coding
    317,  # predictor
    320,  # palette
    338,  # meaning of extra samples
    *(347, 512, 513, 514, 515, 517, 518, 519, 520, 521),  # JPEG tables
    *(529, 530, 531, 532),  # YCbCr
}
# Field types by number, in the letters of `struct`. Floats are not among them: no kept tag has any.
_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i"}
_TYPES |= {13: "I", 16: "Q", 17: "q", 18: "Q"}  # BigTIFF
_MAX_VALUES = 2**18  # of one tag: the offsets of 16×16 tiles of 64 megapixels


class DamagedTiff(ValueError):
    """The directory is broken, or the samples are of a kind that is not served. Completes "the picture …"."""


def first_page(data: bytes, check: Callable[[int, int], None]) -> tuple[bytes, int, int, int]:
    """(file, width, height, orientation) of the first page; width and height are before the orientation.

    Args:
        data: a TIFF or BigTIFF file.
        check: called with the declared (width, height), and with those of a tile; raises to refuse.

    Raises:
        DamagedTiff: see there.
        struct.error: the file ends within the directory.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    entries = _directory(data, order, big)

    def value(tag: int, default: int) -> int:
        if tag not in entries:
            return default
        numbers = _numbers(data, order, entries[tag])
        return numbers[0] if numbers else default

    width, height = value(WIDTH, 0), value(HEIGHT, 0)
    check(width, height)
    if TILE_WIDTH in entries:
        check(value(TILE_WIDTH, 0), value(TILE_HEIGHT, 0))
    bits = set(_numbers(data, order, entries[BITS])) if BITS in entries else {1}
    kinds = set(_numbers(data, order, entries[SAMPLE_FORMAT])) if SAMPLE_FORMAT in entries else {1}
    if not kinds <= {1, 4} or not bits <= {1, 2, 4, 8, 16}:  # unsigned or undefined
        raise DamagedTiff("is a TIFF of float, signed or wide samples: save it with 8 or 16 bits unsigned")
    photometric = value(PHOTOMETRIC, 0)
    if photometric not in (0, 1, 2, 3, 5, 6) or (photometric == 0 and bits == {16}):
        raise DamagedTiff("is a TIFF in a colour space that is not supported: save it as grey, RGB or CMYK")

    _check_strips(data, order, entries)
    orientation = value(ORIENTATION, exif.UPRIGHT)
    kept = {tag: entry for tag, entry in entries.items() if tag in _KEPT}
    page = _with_directory(data, order, big, kept)
    return page, width, height, orientation if 1 <= orientation <= 8 else exif.UPRIGHT


# A directory entry: field type, count, and where the values are in the file.
_Entry = tuple[int, int, int]


def _directory(data: bytes, order: str, big: bool) -> dict[int, _Entry]:
    if big:
        (start,) = struct.unpack_from(order + "Q", data, 8)
        if start > len(data):  # also: more than Python takes for an offset
            raise DamagedTiff("is cut off: the TIFF ends before its directory")
        (count,) = struct.unpack_from(order + "Q", data, start)
        first, step, inline = start + 8, 20, 8
    else:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        first, step, inline = start + 2, 12, 4
    entries: dict[int, _Entry] = {}
    for position in range(first, first + min(count, 65_536) * step, step):
        tag, kind, length = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, position)
        if kind not in _TYPES or tag in entries or tag not in _KEPT | {ORIENTATION}:
            continue
        if length > _MAX_VALUES:
            raise DamagedTiff(f"is a TIFF of more than {_MAX_VALUES} strips or tiles: save it again")
        at = position + step - inline
        if length * _width(kind) > inline:
            (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, at)
            if at + length * _width(kind) > len(data):
                raise DamagedTiff("is cut off: the TIFF ends before its pixels")
        entries[tag] = kind, length, at
    return entries


def _width(kind: int) -> int:
    return struct.calcsize("=" + _TYPES[kind])


def _numbers(data: bytes, order: str, entry: _Entry) -> tuple[int, ...]:
    kind, length, at = entry
    return struct.unpack_from(f"{order}{length}{_TYPES[kind][0]}", data, at)


def _check_strips(data: bytes, order: str, entries: dict[int, _Entry]) -> None:
    """Refuse strips and tiles that lie outside the file: decoders would go on into what is appended to it."""
    for offsets, lengths in (STRIPS, TILES):
        if offsets in entries and lengths in entries:
            extents = zip(
                _numbers(data, order, entries[offsets]), _numbers(data, order, entries[lengths]), strict=False
            )
            if any(offset + length > len(data) for offset, length in extents):
                raise DamagedTiff("is cut off: the TIFF ends before its pixels")


def _with_directory(data: bytes, order: str, big: bool, entries: dict[int, _Entry]) -> bytes:
    """The file with a directory of `entries` at its end, in place of all that it had."""
    start = len(data) + len(data) % 2
    inline = 8 if big else 4
    rows = [struct.pack(order + ("Q" if big else "H"), len(entries))]
    for tag, (kind, length, at) in sorted(entries.items()):
        size = length * _width(kind)
        where = data[at : at + size].ljust(inline, b"\0") if size <= inline else _pointer(order, big, at)
        rows.append(struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, length) + where)
    rows.append(_pointer(order, big, 0))
    header = data[:8] + _pointer(order, big, start) if big else data[:4] + _pointer(order, big, start)
    return b"".join((header, data[len(header) :].ljust(start - len(header), b"\0"), *rows))


def _pointer(order: str, big: bool, at: int) -> bytes:
    return struct.pack(order + ("Q" if big else "I"), at)
