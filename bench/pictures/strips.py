"""Pictures side by side with a line of text above each, and what is drawn on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from florence2_sam2.client import Polygon, Segmentation

GAP, LETTERS, HEAD = 10, 17, 28
PAPER, INK = "white", "black"
_LINE, _DOT = (255, 64, 0), (0, 70, 255)
_BOX, _FRAME = (20, 20, 20), (150, 150, 150)


@dataclass(frozen=True)
class Panel:
    """One picture of a strip, RGB or grey, and the line above it."""

    title: str
    image: Image.Image


def strip(panels: Sequence[Panel], width: int, columns: int = 0) -> Image.Image:
    """All panels at `width` pixels each, in rows of `columns` (0: all in one)."""
    columns = columns or len(panels)
    font = ImageFont.load_default(size=LETTERS)
    scaled = [_scaled(panel.image.convert("RGB"), width) for panel in panels]
    height = max(image.height for image in scaled)
    rows = -(-len(panels) // columns)
    size = columns * (width + GAP) - GAP, rows * (HEAD + height + GAP) - GAP
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for index, (panel, image) in enumerate(zip(panels, scaled, strict=True)):
        left, top = index % columns * (width + GAP), index // columns * (HEAD + height + GAP)
        pen.text((left + 2, top + 3), panel.title, fill=INK, font=font)
        sheet.paste(image, (left, top + HEAD))
        pen.rectangle(
            (left, top + HEAD, left + image.width - 1, top + HEAD + image.height - 1), outline=_FRAME
        )
    return sheet


def _scaled(image: Image.Image, width: int) -> Image.Image:
    if image.width == width:
        return image
    return image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)


def boxed(result: Segmentation, picture: Image.Image) -> Image.Image:
    """The overlay, on a picture that has each object's box."""
    marked = picture.copy()
    pen = ImageDraw.Draw(marked)
    for thing in result.objects:
        x1, y1, x2, y2 = thing.pixel_box()
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=_BOX, width=max(1, round(picture.width / 320)))
    return result.overlay(marked)


def outline(
    picture: Image.Image, polygons: Sequence[Polygon], window: tuple[int, int, int, int], scale: int
) -> Image.Image:
    """A part of the picture, x1 y1 x2 y2, enlarged, with the rings and their points."""
    x1, y1, x2, y2 = window
    size = ((x2 - x1) * scale, (y2 - y1) * scale)
    shown = picture.crop(window).resize(size, Image.Resampling.NEAREST)
    pale = Image.blend(shown, Image.new("RGB", size, "white"), 0.45)
    pen = ImageDraw.Draw(pale)
    for ring in (ring for polygon in polygons for ring in (polygon.exterior, *polygon.holes)):
        points = [((x - x1) * scale, (y - y1) * scale) for x, y in ring]
        pen.line([*points, points[0]], fill=_LINE, width=3)
        for x, y in points:
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_DOT)
    return pale


def points_of(polygons: Sequence[Polygon]) -> int:
    """How many points the rings have."""
    return sum(len(ring) for polygon in polygons for ring in (polygon.exterior, *polygon.holes))


def grey(mask: npt.NDArray[np.bool_]) -> Image.Image:
    """A mask as it is answered."""
    return Image.fromarray(mask.astype(np.uint8) * 255)
