"""What a soak asks about: pictures of every size and format, and settings that are heavy or wrong."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from bench.quality.scenes import draw

SEED = 9_000_000  # of the scenes; other benches' are others
# Width and height of the pictures, and how they are saved.
SIZES = ((320, 320), (320, 240), (240, 320), (640, 480), (64, 48), (1024, 768))
FILES = (
    ("JPEG", "RGB"),
    ("JPEG", "RGB"),
    ("JPEG", "L"),
    ("PNG", "RGBA"),
    ("WEBP", "RGB"),
    ("BMP", "RGB"),
    ("GIF", "P"),
)
PHRASES = ("a cup", "a red apple", "a book", "a table", "a dog", "a green leaf")
FORMATS = ("rle", "coco", "geojson", "masks", "preview")
# What takes most: every step, everything kept, every form of the answer.
ALL = {"area_threshold": 1.0, "confidence_threshold": 0.0, "nms_threshold": 1.0, "polygon_precision": 0.0}
MOST_BOXES, MOST_SAM2_BOXES = 40, 5
HEAVY: tuple[dict[str, Any], ...] = (
    {"tiles": 2, "num_beams": 3, "formats": FORMATS, **ALL},
    {
        "boxes": [[n / 99, n / 99, 0.9, 0.9] for n in range(MOST_BOXES)],
        "normalized": True,
        "formats": FORMATS,
        **ALL,
    },
    {"output_mask": True, "num_beams": 3, **ALL},
)
# Wrong settings, and the field that the answer has to name.
WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"area_threshold": 2.0}, "area_threshold"),
    ({"confidence_threshold": float("nan")}, "confidence_threshold"),
    ({"nms_threshold": -1.0}, "nms_threshold"),
    ({"polygon_precision": float("inf")}, "polygon_precision"),
    ({"caption": "x" * 5000}, "caption"),
    ({"num_beams": 99}, "options.num_beams"),
    ({"phrases": []}, "options.phrases"),
    ({"tiles": 0}, "options.tiles"),
    ({"caption": "a cup", "phrases": ["a cup"]}, "options"),
)


def pictures(count: int, seed: int = SEED) -> list[bytes]:
    """Files of several sizes and formats, each of another scene."""
    made = []
    for number in range(count):
        size = SIZES[number % len(SIZES)]
        form, mode = FILES[number % len(FILES)]
        image = Image.fromarray(draw(number, seed=seed).image).resize(size).convert(mode)
        file = io.BytesIO()
        image.save(file, form)
        made.append(file.getvalue())
    return made


def is_large(number: int) -> bool:
    """Whether picture `number` has the largest size."""
    return SIZES[number % len(SIZES)] == max(SIZES)
