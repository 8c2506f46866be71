"""Grounding on overlapping tiles: small objects on a large picture fill more of a tile than of the picture."""

from __future__ import annotations

import dataclasses

from florence2_sam2.server.segment.models import Generated, Region

OVERLAP = 0.25  # of a tile's side: an object of up to this size lies whole in at least one tile

Window = tuple[int, int, int, int]  # xyxy in pixels of the picture


def tile_windows(width: int, height: int, tiles: int) -> list[Window]:
    """`tiles`×`tiles` windows that cover the picture and overlap by `OVERLAP`; none when `tiles` is 1."""
    if tiles == 1:
        return []
    columns, rows = _spans(width, tiles), _spans(height, tiles)
    return [(x1, y1, x2, y2) for y1, y2 in rows for x1, x2 in columns]


def _spans(length: int, tiles: int) -> list[tuple[int, int]]:
    side = length / (tiles - (tiles - 1) * OVERLAP)
    starts = [round(index * side * (1 - OVERLAP)) for index in range(tiles)]
    return [(start, max(start + 1, min(length, round(start + side)))) for start in starts if start < length]


def to_picture(found: Generated, window: Window, size: tuple[int, int]) -> Generated:
    """Move a tile's regions into the picture's frame.

    A box that touches a side of the tile which is no side of the picture is a fragment of something that another
    tile, or the whole picture, shows better: it is dropped as "tile_border".
    """
    x0, y0, x1, y1 = window
    width, height = size
    # Location bins are 1/1000 of the side, and a box that ends at the border ends in the last bin.
    slack_x, slack_y = max(1.0, (x1 - x0) / 500), max(1.0, (y1 - y0) / 500)

    def moved(region: Region) -> Region:
        left, top, right, bottom = region.box
        box = (left + x0, top + y0, right + x0, bottom + y0)
        cut = (
            (x0 > 0 and left <= slack_x)
            or (y0 > 0 and top <= slack_y)
            or (x1 < width and box[2] >= x1 - slack_x)
            or (y1 < height and box[3] >= y1 - slack_y)
        )
        return dataclasses.replace(
            region, box=box, dropped=region.dropped or ("tile_border" if cut else None)
        )

    return dataclasses.replace(found, regions=tuple(moved(region) for region in found.regions))
