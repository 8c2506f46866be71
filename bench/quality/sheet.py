"""A contact sheet of the worst scenes: picture, truth, answer, and in words what went wrong."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from bench.quality import scenes
from bench.quality.run import Judged
from florence2_sam2.client import Segmentation
from florence2_sam2.client.overlay import Layer, draw
from florence2_sam2.training.scenes import Scene

SIDE = 320  # a panel's width and height in pixels: as large as the scenes are
GAP = 10
COLUMNS = 2
LETTERS = 15
_LINE = 20
_MAX_LINES = 11
_PANELS = ("picture", "truth", "answer")


def worst(judged: Sequence[Judged], beams: int, count: int = 20) -> list[Judged]:
    """The scenes with the most faults end to end, then with the most boxes not grounded, then the poorest masks."""

    def badness(one: Judged) -> tuple[float, float, float]:
        whole = one.end_to_end[beams]
        lost = sum(m.value == 0 for m in one.grounding[beams])
        poor = sum(1 - m.value for m in one.masks) / max(1, len(one.masks))
        return -(len(whole.missed) + len(whole.wrong)), -lost, -poor

    return sorted((j for j in judged if not j.held_out), key=badness)[:count]


def contact_sheet(judged: Sequence[Judged], beams: int, seed: int = scenes.SEED) -> Image.Image:
    """The given scenes in two columns, RGB."""
    tiles = [_tile(j, beams, scenes.draw(j.number, False, seed)) for j in judged]
    lines = [tiles[i : i + COLUMNS] for i in range(0, len(tiles), COLUMNS)]
    width = COLUMNS * (_tile_width() + GAP) + GAP
    sheet = Image.new("RGB", (width, sum(max(t.height for t in line) + GAP for line in lines) + GAP), "white")
    top = GAP
    for line in lines:
        for column, tile in enumerate(line):
            sheet.paste(tile, (GAP + column * (_tile_width() + GAP), top))
        top += max(t.height for t in line) + GAP
    return sheet


def _tile_width() -> int:
    return len(_PANELS) * SIDE + (len(_PANELS) - 1) * GAP


def _tile(judged: Judged, beams: int, scene: Scene) -> Image.Image:
    """Three panels in a row, and the text below them."""
    picture = Image.fromarray(scene.image)
    answer = Segmentation.from_json(judged.answers[beams], picture=scene.image)
    truth = draw(picture, [Layer(t.phrase, None, t.mask) for t in scene.objects])
    panels = [
        picture,
        _boxed(truth, [t.box for t in scene.objects]),
        _boxed(answer.overlay(), [o.box for o in answer.objects]),
    ]
    text = _text(judged, beams)
    tile = Image.new("RGB", (_tile_width(), SIDE + 2 * _LINE + len(text) * _LINE), (244, 244, 244))
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default(size=LETTERS)
    for index, (name, panel) in enumerate(zip(_PANELS, panels, strict=True)):
        left = index * (SIDE + GAP)
        heading = f"scene {judged.number}: {name}" if index == 0 else name
        pen.text((left + 4, 1), heading, fill="black", font=font)
        tile.paste(panel, (left, _LINE))
    for number, (line, colour) in enumerate(text):
        pen.text((4, SIDE + _LINE + 6 + number * _LINE), line, fill=colour, font=font)
    return tile


def _boxed(picture: Image.Image, boxes: Iterable[ArrayLike]) -> Image.Image:
    """The picture with boxes xyxy in white. In place."""
    pen = ImageDraw.Draw(picture)
    for box in boxes:
        left, top, right, bottom = np.asarray(box, float).tolist()
        pen.rectangle((left, top, right - 1, bottom - 1), outline="white")
    return picture


def _text(judged: Judged, beams: int) -> list[tuple[str, str]]:
    """Lines with their colours; too long an account ends with how much is left out."""
    whole = judged.end_to_end[beams]
    faults = Counter(f.text for f in (*whole.missed, *whole.wrong))
    entries = [
        (f"true: {judged.caption}", "black"),
        (f"said: {judged.answers[beams]['caption']}", "#003c9c"),
        *((text if n == 1 else f"{text} ({n} times)", "#b00000") for text, n in faults.items()),
    ]
    letters = int(_tile_width() / (LETTERS * 0.49))
    lines = [(line, colour) for text, colour in entries for line in textwrap.wrap(text, letters) or [""]]
    if len(lines) > _MAX_LINES:
        left_out = len(lines) - _MAX_LINES + 1
        lines = [*lines[: _MAX_LINES - 1], (f"... and {left_out} lines more", "#b00000")]
    return lines
