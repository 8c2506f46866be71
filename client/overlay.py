"""Draw objects on their picture with Pillow: transparent colour, an outline, a label on a legible box."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

FILL_OPACITY = 0.42
_GOLDEN = 0.61803398875  # steps of the golden ratio around the colour circle keep neighbours far apart

Colour = tuple[int, int, int]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Layer:
    """One object to draw: its mask bool [H,W], and what is written beside it."""

    label: str | None
    score: float | None
    mask: npt.NDArray[np.bool_]


def colours(count: int) -> list[Colour]:
    """`count` colours, told apart easily and bright enough for any picture."""
    chosen = []
    for index in range(count):
        hue = (0.58 + index * _GOLDEN) % 1
        saturation, value = (0.85, 1.0) if index % 2 == 0 else (0.65, 0.92)
        red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
        chosen.append((round(red * 255), round(green * 255), round(blue * 255)))
    return chosen


def draw(picture: Image.Image, layers: Sequence[Layer]) -> Image.Image:
    """`picture` (RGB) with `layers` on it, as a new picture of the same size.

    Line width and letters grow with the picture, so that a thumbnail and a poster look alike. Larger objects
    are
    drawn first: a small one on top of a large one stays visible. Labels avoid each other where there is room.
    """
    shown = picture.convert("RGB")
    unit = max(1.0, (picture.width * picture.height) ** 0.5 / 400)  # one "hair" in pixels
    order = sorted(range(len(layers)), key=lambda index: -int(layers[index].mask.sum()))
    palette = colours(len(layers))
    for index in order:
        _tint(shown, layers[index].mask, palette[index], round(unit))
    font = ImageFont.load_default(size=max(9.0, 8 * unit))
    taken: list[tuple[int, int, int, int]] = []
    pen = ImageDraw.Draw(shown)
    for index in reversed(order):
        _write(pen, shown.size, layers[index], palette[index], font, unit, taken)
    return shown


def _tint(shown: Image.Image, mask: npt.NDArray[np.bool_], colour: Colour, width: int) -> None:
    """Blend the colour into the mask and draw its edge, holes included, just inside it."""
    box = Image.fromarray(mask).getbbox()
    if box is None:
        return
    inside = mask[box[1] : box[3], box[0] : box[2]]
    solid = Image.new("RGB", (inside.shape[1], inside.shape[0]), colour)
    region = shown.crop(box)
    region.paste(Image.blend(region, solid, FILL_OPACITY), mask=Image.fromarray(inside))
    region.paste(solid, mask=Image.fromarray(inside & ~_eroded(inside, width)))
    shown.paste(region, box[:2])


def _eroded(mask: npt.NDArray[np.bool_], width: int) -> npt.NDArray[np.bool_]:
    """Pixels whose neighbours up to `width` away in x and y are all in the mask; beyond its border nothing is."""
    window = 2 * width + 1
    eroded = np.pad(mask, width)
    for _ in range(2):  # along y, then (turned) along x
        length = 1
        while length < window:  # runs of `length` pixels, joined to longer ones
            step = min(length, window - length)
            eroded = eroded[:-step] & eroded[step:]
            length += step
        eroded = eroded.T
    return eroded


def _write(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    layer: Layer,
    colour: Colour,
    font: Font,
    unit: float,
    taken: list[tuple[int, int, int, int]],
) -> None:
    """The label above the object's highest point, else where the first free place near it is."""
    bounds = Image.fromarray(layer.mask).getbbox()
    if layer.label is None or bounds is None:
        return
    pad = round(2 * unit)
    text = _shortened(
        pen, layer.label, "" if layer.score is None else f" {layer.score:.2f}", font, 0.8 * size[0]
    )
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = round(right - left) + 2 * pad, round(bottom - top) + 2 * pad
    peak = int(np.flatnonzero(layer.mask[bounds[1]]).mean()) - width // 2
    rows = (bounds[1] - height - pad, bounds[1] + pad, bounds[3] + pad, (bounds[1] + bounds[3] - height) // 2)
    places = [_inside(x, y, width, height, size) for y in rows for x in (peak, bounds[0], bounds[2] - width)]
    place = next((p for p in places if not any(_overlap(p, other) for other in taken)), places[0])
    taken.append(place)
    pen.rounded_rectangle(place, radius=round(1.5 * unit), fill=colour)
    # ITU-R BT.601 luma: dark letters on light colours, light ones on dark.
    luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    pen.text(
        (place[0] + pad - left, place[1] + pad - top),
        text,
        font=font,
        fill="black" if luma > 140 else "white",
    )


def _shortened(pen: ImageDraw.ImageDraw, label: str, score: str, font: Font, width: float) -> str:
    """Label and score on one line of at most `width` pixels, the label cut as far as it must be."""
    for length in range(len(label), 0, -1):
        text = label[:length] + ("…" if length < len(label) else "") + score
        if pen.textlength(text, font=font) <= width:
            return text
    return label[:1] + score


def _inside(x: float, y: float, width: int, height: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    left = round(max(0, min(x, size[0] - 1 - width)))
    top = round(max(0, min(y, size[1] - 1 - height)))
    return left, top, left + width, top + height


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
