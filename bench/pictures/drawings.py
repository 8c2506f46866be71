"""What each setting does, as a strip of answers about one drawn scene. Their numbers were chosen by looking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from bench.pictures.strips import Panel, boxed, grey, outline, points_of, strip
from florence2_sam2.client import Segmentation, Segmenter
from florence2_sam2.training.demo import HEIGHT, WIDTH
from florence2_sam2.training.scenes import Scene, draw_scene

SEED = 9_200_000  # far from the seeds of the training's, the evaluation's and the demo's scenes
THREE, FOUR = 420, 316  # widths of panels in a strip of three or four, pixels
WHEEL = [450, 192, 480, 230]  # of the car of scene 308
OFF: dict[str, Any] = {"area_threshold": 1, "confidence_threshold": 0, "nms_threshold": 1}


def scene(number: int) -> Scene:
    """Scene `number`, of the demo's size."""
    return draw_scene(np.random.default_rng(SEED + number), WIDTH, HEIGHT)


def picture(number: int) -> Image.Image:
    return Image.fromarray(scene(number).image)


def kept(result: Segmentation) -> str:
    """How many objects, for a title."""
    count = len(result.objects)
    return f"{count} object{'' if count == 1 else 's'}"


def _values(
    client: Segmenter, image: Image.Image, name: str, values: tuple[float, ...], **others: Any
) -> Image.Image:
    """One panel for each value of a setting."""
    panels = []
    for value in values:
        result = client.segment(image, **{**others, name: value})
        panels.append(Panel(f"{name} {value:g}: {kept(result)}", result.overlay()))
    return strip(panels, THREE)


def sources(client: Segmenter) -> Image.Image:
    """What to look for."""
    chosen = scene(42)
    image = Image.fromarray(chosen.image)
    caption, butterfly, mushroom = "a yellow key and a red tree", "a red butterfly", "a white mushroom"
    asked: list[tuple[str, dict[str, Any]]] = [
        ("no setting: Florence-2 writes a caption", {}),
        (f'caption="{caption}"', {"caption": caption}),
        (f'phrases=["{butterfly}", "{mushroom}"]', {"phrases": [butterfly, mushroom]}),
        ("boxes=[one of my own]", {"boxes": [box_of(chosen, "a gray hammer")]}),
    ]
    panels = [Panel(title, client.segment(image, **settings).overlay()) for title, settings in asked]
    return strip(panels, THREE, columns=2)


def box_of(chosen: Scene, phrase: str) -> list[float]:
    """The true box of the first thing of that phrase."""
    return next(thing.box.tolist() for thing in chosen.objects if thing.phrase == phrase)


def area_threshold(client: Segmenter) -> Image.Image:
    return _values(client, picture(44), "area_threshold", (0.05, 0.3, 1))


def confidence_threshold(client: Segmenter) -> Image.Image:
    return _values(client, picture(44), "confidence_threshold", (0, 0.8, 0.95))


def nms_threshold(client: Segmenter) -> Image.Image:
    """True boxes, and a second one of a butterfly that is a little off."""
    chosen = scene(9)
    image = Image.fromarray(chosen.image)
    boxes = [thing.box.tolist() for thing in chosen.objects]
    second = [x + d for x, d in zip(boxes[1], (-14, -10, 6, -8), strict=True)]
    panels = []
    for value in (1, 0.5, 0.1):
        result = client.segment(image, boxes=[*boxes, second], nms_threshold=value)
        panels.append(Panel(f"nms_threshold {value:g}: {kept(result)}", boxed(result, image)))
    return strip(panels, THREE)


def nms_forms(client: Segmenter) -> Image.Image:
    """True boxes, two of which overlap, and one of a part of the car."""
    chosen = scene(308)
    image = Image.fromarray(chosen.image)
    boxes = [*(thing.box.tolist() for thing in chosen.objects), WHEEL]
    panels = []
    for form in ("box", "mask", "containment"):
        result = client.segment(image, boxes=boxes, nms=form, nms_threshold=0.1)
        panels.append(Panel(f"nms {form}: {kept(result)}", boxed(result, image)))
    return strip(panels, THREE)


def polygon_precision(client: Segmenter) -> Image.Image:
    chosen = scene(42)
    image = Image.fromarray(chosen.image)
    x1, y1, x2, y2 = (round(value) for value in box_of(chosen, "a yellow key"))
    side = max(x2 - x1, y2 - y1) + 12
    left, top = (x1 + x2 - side) // 2, (y1 + y2 - side) // 2
    panels = []
    for precision in (0, 0.002, 0.005, 0.02):
        result = client.segment(image, boxes=[[x1, y1, x2, y2]], polygon_precision=precision, **OFF)
        polygons = result.objects[0].polygons
        shown = outline(image, polygons, (left, top, left + side, top + side), 4)
        panels.append(Panel(f"polygon_precision {precision:g}: {points_of(polygons)} points", shown))
    return strip(panels, FOUR)


def output_mask(client: Segmenter) -> Image.Image:
    image = picture(13)
    plain = client.segment(image)
    mask = client.segment(image, output_mask=True)
    inverted = client.segment(image, output_mask=True, invert_mask=True)
    return strip(
        [
            Panel("polygons", plain.overlay()),
            Panel("output_mask", grey(mask.mask())),
            Panel("output_mask, invert_mask", grey(inverted.mask())),
        ],
        THREE,
    )


def tiles(client: Segmenter) -> Image.Image:
    """Four scenes beside each other, so that a thing is half as large as elsewhere."""
    rows = [np.hstack([scene(number).image for number in row]) for row in ((9, 41), (43, 27))]
    image = Image.fromarray(np.vstack(rows))
    panels = []
    for number in (1, 2):
        result = client.segment(image, task="detection", tiles=number, num_beams=1, nms="containment")
        panels.append(Panel(f"tiles {number}: {kept(result)}", result.overlay()))
    return strip(panels, 636)


DRAWINGS: Mapping[str, Callable[[Segmenter], Image.Image]] = {
    "sources": sources,
    "area-threshold": area_threshold,
    "confidence-threshold": confidence_threshold,
    "nms-threshold": nms_threshold,
    "nms-forms": nms_forms,
    "polygon-precision": polygon_precision,
    "output-mask": output_mask,
    "tiles": tiles,
}
